"""Choices that a text rejects: "not A", "rather than A or B", "no la A", "Aではなく". Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from kdharness.judges.scoring.choice_groups import Mention, goes_on, groups_of

REACH = 60
"""Characters before a choice that may reject it."""

_NOT = (
    r"(?:\b(?:not|never|neither|nor|cannot|unlike|nicht|kein(?:e|en)?|weder|не|ни|non|pas|ni|niet|"
    r"geen|inte|não|nem|né|nie|ani|bukan|không phải|ليس|ليست|وليس|rather than|instead of|"
    r"as opposed to|in contrast to|statt|anstatt|plutôt que|au lieu de|en lugar de|en vez de|"
    r"em vez de|invece di|piuttosto che)|n['’]t)[:：]?\s+"
)
# "no" rejects a choice in Spanish; in English, "There is no evidence" does not speak of one.
_NO = r"(?:[,;–—-]\s*|\b(?:y|e|and|but)\s+)no[^\S\n]+|\bno\s+(?=(?:es|la|el|las|los)\s)"
_FILL = (
    r"(?:(?:be|es|est|è|é|ist|the|an?|la|le|les|el|los|las|il|lo|die|der|das|den|dem|het|de|os?|as|"
    r"option|choice|answer|letter|opción|respuesta|réponse|lettre|risposta|opzione|lettera|"
    r"resposta|opção|letra|alternativa|antwort)\s+|[ld]['’])*"
)
_BEFORE = re.compile(
    rf"(?:(?:{_NOT}|{_NO}){_FILL}[(\"'`*\[]*|[不没沒非未无無]是?|不[选選]|排除|ไม่)\Z", re.IGNORECASE
)
_AFTER = re.compile(
    r"[*_`\"')\]]{0,4}\s?(?:では?な(?:く|し|い(?!か|で))|じゃな(?:く|い(?!か|で))|[이가] ?아[니닌])"
)


def is_denied(text: str, start: int, end: int) -> bool:
    """Return whether the words around a choice reject it."""
    before = text[max(0, start - REACH) : start]
    return _BEFORE.search(before) is not None or _AFTER.match(text, end) is not None


def deny_together(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Return the mentions in order, with what "not A or B" and "not A, B, C" reject as well.

    In "not A, B" the comma may also end the rejection, as it does in "not A, B is right".
    """
    result: list[Mention] = []
    for group in groups_of(text, sorted(mentions, key=lambda mention: mention.start)):
        denied = False
        for place, mention in enumerate(group):
            if denied and not mention.denied:
                gap = text[group[place - 1].end : mention.start].strip()
                denied = (len(group) > 2 or gap != ",") and not goes_on(text, mention.end)
            denied = denied or mention.denied
            result.append(replace(mention, denied=denied))
    return result
