"""The spans of a rendered chat that its assistant writes.

A turn begins where the generation prompt ends and stops with its end of turn. If a template is
prefix-stable (rendering more turns only appends text), that is the difference of two renderings.
Other templates (reasoning dropped or added by position, prompts that open a reasoning block, tools
that move) are handled by marks around each turn's words (`probes`). Ambiguous chats are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kdharness.harness.chat.probes import Located, locate
from kdharness.harness.chat.rendering import REASONING, Extras, Message, Span, render
from kdharness.harness.chat.traits import common_start, template_traits, token_marks, whole_tokens
from kdharness.harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNTOLD = "the chat template rewrites this chat so that assistant turn {number} cannot be located"
_INSIDE = (
    "the chat template writes another turn into assistant turn {number} (before its content, as "
    "some do with tool results)"
)
_BEGUN = (
    "the prompt gives the beginning of assistant turn {number}, and the chat template does not "
    "render that turn as it is written"
)
_ANSWER_ALONE = "end the prompt with the user's turn, and write the whole answer as the completion"
_NOT_CUT = "this answer is truncated: remove the row"
_ONE_EACH = "set train: false on that turn, or make a separate row of each answer"


@dataclass(frozen=True)
class Spans:
    """The trained spans of a chat's text, with counts for reports.

    `empty`: answers without content, which are not trained on. `unshown`: answers whose reasoning
    the template omits.
    """

    spans: list[Span]
    empty: int = 0
    unshown: int = 0


def is_empty_turn(message: Message) -> bool:
    """Return whether an assistant turn has no content, tool calls or reasoning of its own."""
    begun = str(message.get("prefill") or "")
    if message.get("tool_calls") or (not begun and any(message.get(name) for name in REASONING)):
        return False
    content = message.get("content")
    return content is None or not str(content).removeprefix(begun).strip()


class Chat:
    """A chat with its rendering; finds the assistant's turns in it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Message],
        text: str,
        extras: Extras,
    ) -> None:
        """Take the rendering of all `messages` as `text`."""
        self.tokenizer = tokenizer
        self.messages = messages
        self.text = text
        self.extras = extras
        self.traits = template_traits(tokenizer, extras)

    @cached_property
    def places(self) -> Located | None:
        """The spans of each message's words; None if they cannot be located."""
        located = locate(self.tokenizer, self.messages, self.text, prompt=False, extras=self.extras)
        return located[1] if located else None

    def trained(self, truncated: bool, marks: Sequence[Span] | None = None) -> Spans:
        """Return the spans to train on.

        Args:
            truncated: generation of the last answer was truncated, so its end of turn must not be
                learnt.
            marks: the spans that the template itself marks as the assistant's, if it does.

        Raises:
            DataError: a turn that cannot be located.
        """
        spans: list[Span] = []
        empty = unshown = 0
        turns = [i for i, m in enumerate(self.messages) if m["role"] == "assistant"]
        for number, index in enumerate(turns):
            message = self.messages[index]
            if message.get("train", True) is False:
                continue
            if is_empty_turn(message):
                empty += 1
                continue
            if "</think>" in str(message.get("content")) or any(map(message.get, REASONING)):
                unshown += self._leaves_out(index)
                if self._not_shown(index):
                    empty += 1
                    continue
            cut = truncated and index == len(self.messages) - 1
            if marks is None:
                found = [self._turn(index, number, cut)]
            elif len(marks) == len(turns):
                found = [self._cut(index, number, marks[number]) if cut else marks[number]]
            else:
                found = self._within(self._turn(index, number, cut), marks)
            spans += self._continued(index, number, found) if message.get("prefill") else found
        return Spans(spans, empty, unshown)

    def _continued(self, index: int, number: int, found: Sequence[Span]) -> list[Span]:
        """Return the spans of a turn without its beginning, which its prompt has given."""
        message = self.messages[index]
        content, given = str(message["content"]), str(message["prefill"])
        start, end = (found[0][0], found[-1][1]) if found else (0, 0)
        # Some templates strip what they are given.
        place = self.text.find(content.strip(), start, end)
        if place < 0 or not content.strip():
            raise DataError(_BEGUN.format(number=number + 1), hint=_ANSWER_ALONE)
        first = place + max(0, len(given) - (len(content) - len(content.lstrip())))
        return self._within((first, end), found)

    @staticmethod
    def _within(turn: Span, marks: Sequence[Span]) -> list[Span]:
        both = [(max(turn[0], a), min(turn[1], b)) for a, b in marks]
        return [(start, end) for start, end in both if start < end]

    def _leaves_out(self, index: int) -> bool:
        return self.places is not None and len(self.places.words[index]) < self.places.given[index]

    def _not_shown(self, index: int) -> bool:
        """Return whether an answer is reasoning only, of which the text shows nothing."""
        content = str(self.messages[index].get("content") or "")
        alone = not content.rpartition("</think>")[2].strip() and not self._calls(index)
        return alone and self.places is not None and not self.places.words[index]

    def _turn(self, index: int, number: int, cut: bool) -> Span:
        """Return the span of one turn, from its generation prompt to its end of turn."""
        start, end = self._start_by_prefix(index), None
        if start is not None:
            start = self._past_header(index, start)
        if start is not None and self.traits.closed:
            end = self._end_by_prefix(index, start)
        if start is None or end is None:
            start, end = self._by_words(index, number, start)
        end = start + len(self.text[start:end].rstrip())
        return self._cut(index, number, (start, end)) if cut else (start, end)

    def _past_header(self, index: int, start: int) -> int:
        """Return the start of a turn whose role the template writes without a generation prompt.

        Some templates never write one, some omit it only after a tool's result.
        """
        header = self.traits.unopened
        if header.strip():
            whole = self.places.whole(index) if self.places else None
            position = self.text.rfind(header, start, whole[0] if whole else start + len(header))
            return position + len(header) if position >= 0 else start
        header = self.traits.header
        if header.strip() and self.text.startswith(header, start):
            whole = self.places.whole(index) if self.places else None
            if whole and start + len(header) <= whole[0]:
                return start + len(header)
        return start

    # ------------------------------------------------------------ by prefix

    def _rendered(self, count: int, *, prompt: bool) -> str | None:
        """Render the first turns alone; None where the template refuses so few."""
        if count == len(self.messages) and not prompt:
            return self.text
        if count == 0:
            return None
        try:
            return render(self.tokenizer, self.messages[:count], prompt=prompt, extras=self.extras)
        except DataError:
            return None

    def _start_by_prefix(self, index: int) -> int | None:
        before = self._rendered(index, prompt=True)
        return len(before) if before and self.text.startswith(before) else None

    def _end_by_prefix(self, index: int, start: int) -> int | None:
        after = self._rendered(index + 1, prompt=False)
        fits = after is not None and len(after) >= start and self.text.startswith(after)
        return len(after) if after is not None and fits else None

    # ------------------------------------------------------------ by words

    def _by_words(self, index: int, number: int, start: int | None) -> Span:
        places = self.places
        whole = places.whole(index) if places else None
        if places is None or whole is None:
            raise DataError(_UNTOLD.format(number=number + 1), hint=_ONE_EACH)
        first, last = whole
        if places.after(first, index, last) < last:
            raise DataError(
                _INSIDE.format(number=number + 1),
                hint="remove the content of turns that call tools, or set train: false on them",
            )
        floor = places.before(first, index)
        if start is None:
            start = self._start_by_words(index, first, floor)
        tail = places.tails[index].rstrip()
        if tail and not self._calls(index) and self.text.startswith(tail, last):
            last += len(tail)
        end = self._end_by_words(index, last, places.after(last, index, len(self.text)))
        if not floor <= min(start, first) <= last <= end:
            raise DataError(_UNTOLD.format(number=number + 1), hint=_ONE_EACH)
        return min(start, first), end

    def _calls(self, index: int) -> bool:
        return bool(self.messages[index].get("tool_calls"))

    def _start_by_words(self, index: int, first: int, floor: int) -> int:
        """Find where the generation prompt ends in the text between two turns' words.

        The prompt may close the previous turn differently, and may open a reasoning block that
        the turn does not show: only the part of the header that both share is used.
        """
        between = self.text[floor:first]
        asked = self._prompt_tail(index)
        if asked and between.startswith(asked):
            return floor + len(asked)
        header = self.traits.header
        for size in range(len(header), 0, -1):
            part = header[:size]
            position = between.rfind(part)
            if position >= 0 and part.strip() and part == _whole_tags(header, part):
                return floor + position + size
        shared = _whole_tags(between, common_start(between, asked or ""))
        if shared.strip():
            return floor + len(shared)
        head = self.places.heads[index].lstrip() if self.places else ""
        start = first - len(head) if head and between.endswith(head) else first
        blank = self.traits.unopened
        return start - len(blank) if blank.isspace() and between.endswith(blank + head) else start

    def _prompt_tail(self, index: int) -> str | None:
        """Return what follows the last words in the prompt that this turn answers."""
        if index == 0:
            return None
        located = locate(
            self.tokenizer, self.messages[:index], None, prompt=True, extras=self.extras
        )
        if located is None:
            return None
        text, places = located
        ends = [end for spans in places.words for _, end in spans]
        return text[max(ends) :] if ends else None

    def _end_by_words(self, index: int, last: int, limit: int) -> int:
        """Find where the end of turn after a turn's last word stops."""
        rest = self.text[last:limit]
        bare = rest.lstrip()
        skipped = last + len(rest) - len(bare)
        known = [self.traits.end_mid, self.traits.end_last]
        if index == len(self.messages) - 1:
            known.reverse()
        if not self._calls(index):
            for end in known:
                if end.strip() and bare.startswith(end.lstrip()):
                    return skipped + len(end.lstrip())
        located = locate(
            self.tokenizer, self.messages[: index + 1], None, prompt=False, extras=self.extras
        )
        whole = located[1].whole(index) if located else None
        if located is None or whole is None:
            return last
        tokens = token_marks(self.tokenizer)
        tail = located[0][whole[1] :].rstrip().removesuffix(self.traits.after)
        if index == len(self.messages) - 1:
            rest = rest.rstrip().removesuffix(self.traits.after)
        shared = whole_tokens(tokens, rest, common_start(rest, tail))
        # A turn that others follow may be rendered differently from the same turn at the end.
        for text in (shared, rest) if len(shared) < len(tail.rstrip()) else (shared,):
            for end in known:
                position = text.find(end.lstrip()) if end.strip() else -1
                if position >= 0:
                    return last + position + len(end.lstrip())
        return last + len(shared.rstrip())

    def _cut(self, index: int, number: int, span: Span) -> Span:
        """Return the span of a turn without its end of turn."""
        content = str(self.messages[index].get("content") or "").strip()
        start, end = span
        position = self.text.rfind(content, start, end) if content else -1
        if position >= 0 and not self._calls(index):
            return start, position + len(content)
        whole = self.places.whole(index) if self.places else None
        if whole is None:
            raise DataError(_UNTOLD.format(number=number + 1), hint=_NOT_CUT)
        return start, max(start, min(whole[1], end))


def _whole_tags(text: str, part: str) -> str:
    """Return `part`, a prefix of `text`, without an incomplete word or tag at its end."""
    for match in re.finditer(r"<[^<>\s]{1,60}>|\w+", text):
        if match.start() < len(part) < match.end():
            return part[: match.start()]
    return part
