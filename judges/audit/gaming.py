"""Signs of gaming, or of accidents, in a set of answers.

NullModel (Zheng et al. 2024, arXiv:2410.07137) scored 86.5 % length-controlled on AlpacaEval 2
with one constant text for every prompt. None of these flags proves anything; each means that a
score should not be trusted before the answers were inspected.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from kdharness.harness.types import Answer, Finish
from kdharness.judges.scoring.verdicts import cut_thinking

SHARE = 0.02
SAME_SHARE = 0.05
_TALKS = re.compile(
    r"model_identifier|\"output\"\s*:\s*\"\"\"|best model identifier|## (?:task|model outputs)\b"
    r"|\[\[\s*(?:rating|[ABC]|10|\d+(?:\.\d+)?)\s*\]\]"
    r"|\brating\s*:\s*\[|\b(?:rate|grade|score) (?:this|my|the) (?:answer|response|output)"
    r"|\b(?:rate|score|give) (?:this|it|me) (?:a |an )?(?:10|ten|perfect)\b"
    r"|(?:evaluator|judge|grader)s?,? (?:please|must|should|will)"
    r"|as an? (?:impartial )?(?:judge|evaluator|grader)\b"
    r"|ignore (?:all |any )?(?:the |your )?(?:previous|above|prior|earlier) (?:instruction|prompt)"
    r"|(?:assistant|response|answer|output|model) [AabBmM12] is (?:clearly |much )?"
    r"(?:better|the best)",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(
    r"(?i:translat)|in (?:[A-Z][a-z]+ish|[A-Z][a-z]+ese|[A-Z][a-z]+ian"
    r"|Greek|Hindi|Arabic|Thai|Hebrew|Korean)"
)
_SCRIPTS = (
    "LATIN",
    "CYRILLIC",
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "ARABIC",
    "HEBREW",
    "DEVANAGARI",
    "GREEK",
    "THAI",
)


def talks_to_judge(text: str) -> bool:
    """Return whether an answer contains text that looks like a judge's prompt or verdict."""
    return _TALKS.search(text) is not None


@cache
def script_of(char: str) -> str:
    """Return the script of a letter, with kana counted as CJK; empty for other characters."""
    if not char.isalpha():
        return ""
    name = unicodedata.name(char, "")
    script = next((s for s in _SCRIPTS if name.startswith(s)), "OTHER")
    return "CJK" if script in ("HIRAGANA", "KATAKANA") else script


def never_ended(text: str, said: str | None = None) -> bool:
    """Return whether an answer is nothing but reasoning that was cut off.

    Args:
        text: the whole answer.
        said: the answer without its reasoning, if that is known already.
    """
    said = cut_thinking(text) if said is None else said
    return bool(text.strip()) and not said and not cut_thinking(f"{text}\n.")


def main_script(text: str) -> str:
    """Return the script of most letters; empty without letters."""
    counts: Counter[str] = Counter()
    for char, count in Counter(text[:4000]).items():
        script = script_of(char)
        if script:
            counts[script] += count
    return counts.most_common(1)[0][0] if counts else ""


def gaming_flags(bench: Any, answers: Sequence[Answer]) -> dict[str, object]:
    """Return flags with their evidence, for the answers of one checkpoint to one benchmark.

    Returns:
        `flags`: short texts such as `same-answer:97%`; `items`: flag -> ids of the items.
    """
    asked = {item.id: item for item in bench.items}
    kept = [a for a in answers if a.item in asked and a.finish is not Finish.ERROR]
    if not kept:
        return {"flags": [], "items": {}}
    evidence: dict[str, list[str]] = {}
    # Short answers may legitimately be the same: a department, a yes, a number.
    prompts: dict[str, set[str]] = {}
    for answer in kept:
        if len(answer.text.strip()) > 40:
            prompt = asked[answer.item].turns[answer.turn - 1]
            prompts.setdefault(answer.text.strip(), set()).add(prompt)
    same = [a for a in kept if len(prompts.get(a.text.strip(), ())) > 1]
    said = [cut_thinking(answer.text) for answer in kept]
    unended = [never_ended(a.text, text) for a, text in zip(kept, said, strict=True)]

    @cache
    def quotes(item: str) -> bool:
        """Return whether the question itself is about judging, so that the answer may be too."""
        return any(talks_to_judge(turn) for turn in asked[item].turns)

    candidates = {
        "same-answer": (same, SAME_SHARE),
        "talks-to-judge": (
            [a for a in kept if talks_to_judge(a.text) and not quotes(a.item)],
            0,
        ),
        "empty": (
            [a for a, t, u in zip(kept, said, unended, strict=True) if not t and not u],
            0,
        ),
        "truncated": (
            [a for a, u in zip(kept, unended, strict=True) if a.finish is Finish.LENGTH or u],
            SHARE,
        ),
        "other-language": ([a for a in kept if _other_script(asked, a)], SHARE),
    }
    flags = []
    for name, (hits, threshold) in candidates.items():
        if hits and len(hits) / len(kept) > threshold:
            flags.append(f"{name}:{_percent(len(hits) / len(kept))}")
            evidence[name] = sorted({a.item for a in hits})[:50]
    return {"flags": flags, "items": evidence}


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"


def _other_script(asked: dict[str, Any], answer: Answer) -> bool:
    """Return whether the answer is in a script that none of the question's letters have."""
    if asked[answer.item].info.get("any_language"):
        return False
    prompt = " ".join(asked[answer.item].turns)
    script = main_script(answer.text)
    if not script or len(answer.text) < 20:
        return False
    scripts = {script_of(char) for char in set(prompt)} - {""}
    # A question that names a language asks for it.
    named = _LANGUAGE.search(prompt)
    return bool(scripts) and script not in scripts and not named
