"""Locating each turn's own characters in a rendered chat.

A template may strip, fold, reorder, drop or repeat a turn's content, so a turn can be found neither
by its text (a user may write what the assistant answers) nor by the length of the preceding text.
So the chat is rendered a second time with invisible marks (private-use characters) around the
words of every turn. Without the marks that text must equal the first one exactly; then the marks'
positions are reliable, and otherwise nothing is known. Each word has its own pair of marks: a
template may write one twice (a tool's name again before its result), and only the first
occurrence belongs to the turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdharness.harness.chat.rendering import (
    REASONING,
    Extras,
    Message,
    Span,
    as_turn,
    render,
    template_source,
)
from kdharness.harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLANES = (0xF0000, 0x100000)
_PLANE_SIZE = 0xFFFD
# What a template may look for in content (reasoning, tool calls): its own tags are not marked.
_TAG = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,40}\]")


@dataclass(frozen=True)
class Located:
    """The positions of each message's words in a text, in order of appearance.

    `words[i]` are the spans of message i that the text shows, each word once; `again[i]` are
    repetitions; `given[i]` is the number of words in the message. `heads` and `tails` are the parts
    of a content before its first and after its last marked word (tags, whitespace). `unsaid` are
    the messages whose content, without reasoning, is not shown completely.
    """

    words: list[list[Span]]
    again: list[list[Span]]
    given: list[int]
    heads: list[str]
    tails: list[str]
    unsaid: frozenset[int]

    def whole(self, index: int) -> Span | None:
        """Return the span from a message's first to its last word; None if none is shown."""
        spans = self.words[index]
        return (min(s for s, _ in spans), max(e for _, e in spans)) if spans else None

    def before(self, place: int, index: int) -> int:
        """Return the end of the last word before `place` that is not message `index`'s."""
        return max((e for s, e in self._others(index) if s < place), default=0)

    def after(self, place: int, index: int, end: int) -> int:
        """Return the start of the next word from `place` not of message `index`, else `end`."""
        return min((s for s, _ in self._others(index) if s >= place), default=end)

    def _others(self, index: int) -> Iterator[Span]:
        for i, (words, again) in enumerate(zip(self.words, self.again, strict=True)):
            if i != index:
                yield from words
                yield from again


def locate(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    text: str | None,
    *,
    prompt: bool,
    extras: Extras,
) -> tuple[str, Located] | None:
    """Find the words of every message in a chat's rendering.

    Args:
        tokenizer: has the template.
        messages: the chat.
        text: its rendering, when it is known.
        prompt: whether an assistant turn is opened at the end.
        extras: further template inputs.

    Returns:
        The rendering and the positions, or None if the template treats marked words differently,
        or refuses the chat.
    """
    try:
        if text is None:
            text = render(tokenizer, messages, prompt=prompt, extras=extras)
        base = _free_plane(text, messages)
        if base is None:
            return None
        for names in (True, False):
            marker = _Marker(base, names, template_source(tokenizer, extras))
            marked = [marker.message(i, m) for i, m in enumerate(messages)]
            if 2 * len(marker.owners) > _PLANE_SIZE:
                return None
            try:
                shown = render(tokenizer, marked, prompt=prompt, extras=extras)
            except DataError:
                continue
            if re.sub(_marks(base), "", shown) == text:
                return text, marker.places(shown)
            if not any(m.get("tool_calls") for m in messages):
                return None
    except DataError:
        pass
    return None


def _free_plane(text: str, messages: Sequence[Message]) -> int | None:
    """Return a plane of private-use characters that the chat does not contain."""
    everything = text + "".join(str(m.get("content")) for m in messages)
    for base in _PLANES:
        if not re.search(_marks(base), everything):
            return base
    return None


def _marks(base: int) -> str:
    """Return a regex that matches one mark."""
    return f"[{chr(base)}-{chr(base + _PLANE_SIZE)}]"


class _Marker:
    """Inserts marks into messages and locates them in a rendering."""

    def __init__(self, base: int, names: bool, source: str) -> None:
        """With `names`, mark the names of called tools too (some templates look at those)."""
        self.base = base
        self.names = names
        self.source = source
        self.owners: list[int] = []
        self.heads: list[str] = []
        self.tails: list[str] = []
        self.said: set[int] = set()
        self.keys: set[int] = set()

    def message(self, index: int, message: Message) -> dict[str, Any]:
        """Return a copy with marks around its words."""
        turn = as_turn(message)
        content, head, tail = self.content(index, turn["content"])
        self.heads.append(head)
        self.tails.append(tail)
        turn["content"] = content
        for name in REASONING:
            if isinstance(turn.get(name), str):
                turn[name] = self.word(index, turn[name])
                break
        if turn.get("tool_calls"):
            turn["tool_calls"] = [self.call(index, call) for call in turn["tool_calls"]]
        return turn

    def content(self, index: int, content: str) -> tuple[str, str, str]:
        """Mark the text between tags; return it with what is outside of all marks."""
        parts = self.split(content)
        spoken = [i for i in range(0, len(parts), 2) if parts[i].strip()]
        if not spoken:
            return (self.word(index, content), "", "") if content.strip() else (content, "", "")
        head = "".join(parts[: spoken[0]]) + _leading(parts[spoken[0]])
        tail = _trailing(parts[spoken[-1]]) + "".join(parts[spoken[-1] + 1 :])
        thought = max((i for i, part in enumerate(parts) if "</think>" in part), default=-1)
        for i in spoken:
            parts[i] = self.word(index, parts[i])
            if i > thought:
                self.said.add(len(self.owners) - 1)
        return "".join(parts), head, tail

    def split(self, content: str) -> list[str]:
        """Split into alternating texts and template tags, beginning and ending with a text."""
        parts, last = [], 0
        for tag in _TAG.finditer(content):
            if tag.group() in self.source:
                parts += [content[last : tag.start()], tag.group()]
                last = tag.end()
        return [*parts, content[last:]]

    def word(self, index: int, text: str) -> str:
        """Put marks inside the whitespace at both ends."""
        bare = text.strip()
        if not bare:
            return text
        opened, closed = self.marks(index)
        return f"{_leading(text)}{opened}{bare}{closed}{_trailing(text)}"

    def marks(self, index: int) -> tuple[str, str]:
        """Return the two marks of a new word of a message."""
        code = min(2 * len(self.owners), _PLANE_SIZE - 1)
        self.owners.append(index)
        return chr(self.base + code), chr(self.base + code + 1)

    def call(self, index: int, call: Mapping[str, Any]) -> dict[str, Any]:
        """Return a tool call with marks in its name and arguments."""
        function = dict(call["function"])
        if self.names:
            function["name"] = self.word(index, str(function["name"]))
        arguments = function.get("arguments")
        # Arguments that are JSON text are marked as a whole, outside of the text.
        key = self.marks(index)[0] if isinstance(arguments, dict) else ""
        self.keys |= {len(self.owners) - 1} if key else set()
        function["arguments"] = self.leaves(index, arguments, key)
        return {**call, "function": function}

    def leaves(self, index: int, value: object, key: str) -> Any:
        """Put marks around every text in a value, and one before each key.

        All keys have the same mark, so that a template that sorts them gets the same order.
        """
        if isinstance(value, str):
            return self.word(index, value)
        if isinstance(value, list):
            return [self.leaves(index, part, key) for part in value]
        if isinstance(value, dict):
            return {f"{key}{k}": self.leaves(index, v, key) for k, v in value.items()}
        return value

    def places(self, shown: str) -> Located:
        """Return the marked words' spans in the text without marks."""
        count = len(self.heads)
        words: list[list[Span]] = [[] for _ in range(count)]
        again: list[list[Span]] = [[] for _ in range(count)]
        opened: dict[int, int] = {}
        located: set[int] = set()
        for seen, mark in enumerate(re.finditer(_marks(self.base), shown)):
            code, position = ord(mark.group()) - self.base, mark.start() - seen
            word = code // 2
            if word in self.keys:
                words[self.owners[word]].append((position, position))
            elif code % 2 == 0:
                opened[word] = position
            elif word in opened:
                spans = again if word in located else words
                spans[self.owners[word]].append((opened.pop(word), position))
                located.add(word)
        given = [0] * count
        for word, owner in enumerate(self.owners):
            given[owner] += word not in self.keys
        unsaid = frozenset(self.owners[word] for word in self.said - located)
        return Located(words, again, given, self.heads, self.tails, unsaid)


def _leading(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _trailing(text: str) -> str:
    return text[len(text.rstrip()) :]
