"""Where an answer ends in the text of a model that runs on. Pure.

Some models go on behind the token that ends their turn, or invent the next question. What comes
after is not part of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MOST_TURNS = 5
"""Maximum number of invented turns at which an answer may end."""

_END_TOKEN = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|start_header_id|end|endoftext|end_of_text|return)\|>"
    r"|</s>|<eos>|<end_of_turn>|<start_of_turn>|<｜end▁of▁sentence｜>"
)
_QUOTES = "`'\""
_TURN = re.compile(r"^[ \t#*_>]{0,8}(?P<who>User|Human|Question)[*_]{0,3}:", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*\Z")


@dataclass(frozen=True)
class Before:
    """The text before a line that may begin an invented turn.

    Attributes:
        is_likely: whether the turn is invented if an answer comes before it in any form. If not,
            the text may weigh a question of its own or quote a conversation.
    """

    text: str
    is_likely: bool


def before_end_token(text: str, wanted: Sequence[str] = ()) -> str:
    """Return the text before the first token that ends a turn.

    Args:
        wanted: references and choices; a token that is part of one of them ends nothing, nor does a
            quoted one (`</s>`) or `</s>` where it closes `<s>`.
    """
    kept = {token for other in wanted for token in _END_TOKEN.findall(other)}
    struck = text.find("<s>", 1)
    position, said = 0, False
    for token in _END_TOKEN.finditer(text):
        said = said or bool(text[position : token.start()].strip())
        position = token.end()
        closes = token[0] == "</s>" and 0 < struck < token.start()
        if said and not closes and token[0] not in kept and not _is_quoted(text, token):
            return text[: token.start()]
    return text


def before_next_turns(text: str, wanted: Sequence[str] = ()) -> Iterator[Before]:
    """Yield the text before each line that may begin an invented turn, shortest first.

    Such a line begins with `User:`, `Human:` or `Question:`. Whether an answer comes before it is
    for the caller to tell: a text may repeat its question, or quote a conversation. Text that ends
    with a colon introduces what follows.
    """
    if any(_TURN.search(other) for other in wanted):
        return
    for count, turn in enumerate(_TURN.finditer(text)):
        if count == MOST_TURNS:
            return
        above = text[: turn.start()]
        before = above.rstrip()
        if before and not before.rstrip("*_ ").endswith((":", "：")):
            divided = turn["who"] != "Question" or _BLANK_LINE.search(above[len(before) :])
            yield Before(before, bool(divided) and not _TURN.match(text.lstrip()))


def _is_quoted(text: str, token: re.Match[str]) -> bool:
    """Return whether a token is between two quotation marks of a kind."""
    before, after = text[token.start() - 1 : token.start()], text[token.end() : token.end() + 1]
    return before == after != "" and before in _QUOTES
