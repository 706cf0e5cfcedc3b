"""What was read from a source, and warnings about what a model cannot learn from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kdharness.harness.chat.end_tokens import end_of_turn, pieces, stopping_tokens
from kdharness.harness.chat.template import CHATML, render
from kdharness.harness.chat.traits import Habits, habits
from kdharness.harness.errors import DataError


@dataclass
class Report:
    """What was read from one source.

    Rows: `cut` by max_length, `dropped` without a labelled token, `straddling` where an answer's
    first token begins in the prompt, `endless` whose labels don't end in a token that ends
    generation. Answers: `empty` ones, and `unshown` ones whose thoughts the template leaves out.
    `unread` counts fields by name.
    """

    path: str
    kind: str
    rows: int = 0
    tokens: int = 0
    labelled: int = 0
    cut: int = 0
    dropped: int = 0
    longest: int = 0
    empty: int = 0
    unshown: int = 0
    straddling: int = 0
    endless: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    unread_turns: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Write one sentence for the log."""
        share = self.labelled / max(self.tokens, 1)
        return (
            f"{self.path} ({self.kind}): {self.rows} rows, {self.tokens} tokens "
            f"({share:.0%} labelled, longest {self.longest}); {self.cut} cut, "
            f"{self.dropped} dropped without a labelled token{self._empty()}{self._unread()}"
        )

    def losses(self) -> str:
        """Count dropped rows and empty answers."""
        return f"{self.dropped} dropped{self._empty()}"

    def _empty(self) -> str:
        if not self.empty:
            return ""
        answers = "1 empty answer" if self.empty == 1 else f"{self.empty} empty answers"
        return f", {answers} not trained"

    def _unread(self) -> str:
        parts = [", ".join(sorted(names)) for names in (self.unread, self.unread_turns)]
        text = f"; fields not read: {parts[0]}" if parts[0] else ""
        return text + (f"; fields of turns not read: {parts[1]}" if parts[1] else "")


@dataclass(frozen=True)
class Template:
    """What a tokenizer's template and files say about the end of an answer.

    `stops` end generation wherever the checkpoint is used; `ends` are these and the template's
    own end of turn, at which kdharness stops too.
    """

    tokenizer: Any
    habits: Habits
    stops: frozenset[int]
    ends: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> Template:
        """Look at a tokenizer with its template."""
        stops, own = stopping_tokens(tokenizer), end_of_turn(tokenizer)
        ends = stops if own is None else stops | {own}
        return cls(tokenizer, habits(tokenizer), frozenset(stops), frozenset(ends))

    def warnings(self, report: Report) -> list[str]:
        """Say what a model cannot learn from these rows."""
        told = []
        if report.endless:
            told.append(
                f"in {_rows(report.endless, report.rows)} the labelled part does not end with "
                f"a token that ends generation, so the model does not learn to stop: {self._why()}"
            )
        elif not self.ends <= self.stops:
            name = self.habits.end_token
            told.append(
                f"answers end with {name!r}, which is not the checkpoint's end of "
                f"sequence ({self._stops()}): kdharness stops there, other programs only "
                "if they are told to"
            )
        if report.straddling:
            told.append(
                f"in {_rows(report.straddling, report.rows)} an answer's first token "
                f"begins in the prompt{self._blank()}: training and generation split the "
                "text there differently"
            )
        if self.habits.unopened.strip():
            told.append(
                "the chat template has no generation prompt: it writes "
                f"{self.habits.unopened.strip()!r} before an answer, which is not learnt "
                "and which generation will miss"
            )
        if report.unshown:
            answers = "1 answer" if report.unshown == 1 else f"{report.unshown} answers"
            told.append(f"the chat template leaves out thoughts of {answers}, which are not learnt")
        return told

    def _why(self) -> str:
        end = self.habits.end_last.strip()
        if not end:
            which = "the last" if self.habits.end_mid.strip() else "an"
            return f"the chat template writes none after {which} answer; use one that does"
        if not self.habits.end_token:
            count = pieces(self.tokenizer, end)
            mend = (
                "use the model's own template"
                if self.tokenizer.chat_template == CHATML
                else "add it to the tokenizer"
            )
            return (
                f"the template's end of turn {end!r} is no token of this tokenizer and is "
                f"split into {count}, and generation still ends at {self._stops()} alone; "
                f"{mend}, or choose a template whose end of turn is a token"
            )
        return f"the template's end of turn {end!r} is not among what is labelled"

    def _stops(self) -> str:
        names = self.tokenizer.convert_ids_to_tokens(sorted(self.stops))
        return ", ".join(repr(name) for name in names) or "none is set"

    def _blank(self) -> str:
        try:
            text = render(self.tokenizer, [{"role": "user", "content": "a"}], prompt=True)
        except DataError:
            return ""
        return " (the generation prompt ends in a blank)" if text.endswith(" ") else ""


def _rows(some: int, of: int) -> str:
    return f"{some} of {of} rows" if of != 1 else "the one row"
