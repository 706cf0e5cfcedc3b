"""Reports on what was read from a source, with warnings about what a model cannot learn."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdharness.harness.chat.end_tokens import end_of_turn, pieces, stopping_tokens
from kdharness.harness.chat.rendering import DAY, template_source
from kdharness.harness.chat.template import CHATML, render
from kdharness.harness.chat.traits import TemplateTraits, template_traits
from kdharness.harness.errors import DataError
from kdharness.trainers.data.control_tokens import added_beginning, control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Report:
    """Counts of what was read from one source.

    Rows: `cut` at max_length, `dropped` without a labelled token, `straddling` if an answer's
    first token starts inside the prompt, `endless` if the labels do not end with a token that ends
    generation, `lost` the dropped ones whose answer lies beyond max_length, `forged` with control
    tokens in their text, `unbegun` without the token that the tokenizer puts before texts. Answers:
    `empty` ones, `unshown` ones whose reasoning the template drops, and `ended` ones that were
    written with their end of turn. `unread` counts ignored fields by name.
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
    lost: int = 0
    forged: int = 0
    first_forged: str = ""
    unbegun: int = 0
    ended: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    unread_turns: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return a one-line summary for the log."""
        share = self.labelled / max(self.tokens, 1)
        return (
            f"{self.path} ({self.kind}): {self.rows} rows, {self.tokens} tokens "
            f"({share:.0%} labelled, longest {self.longest}); {self.cut} cut, "
            f"{self.dropped} dropped without a labelled token{self._empty()}{self._unread()}"
        )

    def losses(self) -> str:
        """Return the numbers of dropped rows and empty answers."""
        return f"{self.dropped} dropped{self._empty()}"

    def _empty(self) -> str:
        if not self.empty:
            return ""
        answers = "1 empty answer" if self.empty == 1 else f"{self.empty} empty answers"
        return f", {answers} not trained"

    def _unread(self) -> str:
        parts = [", ".join(sorted(names)) for names in (self.unread, self.unread_turns)]
        text = f"; ignored fields: {parts[0]}" if parts[0] else ""
        return text + (f"; ignored fields of turns: {parts[1]}" if parts[1] else "")


@dataclass(frozen=True)
class Template:
    """How a tokenizer's template and files end an answer.

    `stops` end generation in any program; `ends` are these and the template's own end-of-turn
    token, at which kdharness also stops. `control` finds control tokens in a text, `beginning` is
    the token that the tokenizer itself puts before a text.
    """

    tokenizer: Any
    traits: TemplateTraits
    stops: frozenset[int]
    ends: frozenset[int]
    control: re.Pattern[str]
    beginning: int | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Template:
        """Read a tokenizer and its template."""
        stops, own = stopping_tokens(tokenizer), end_of_turn(tokenizer)
        ends = stops if own is None else stops | {own}
        traits = template_traits(tokenizer)
        control = control_tokens(tokenizer, traits.end_token)
        beginning = added_beginning(tokenizer)
        return cls(tokenizer, traits, frozenset(stops), frozenset(ends), control, beginning)

    def warnings(self, report: Report) -> list[str]:
        """Return warnings about what a model cannot learn from these rows."""
        ending = self.ending(report)
        return [*([ending] if ending else []), *self.shapes(report), *self.texts(report)]

    def ending(self, report: Report) -> str:
        """Return a warning about how these rows' answers end; empty if there is none."""
        if report.endless:
            return (
                f"in {_rows(report.endless, report.rows)} the labelled part does not end with "
                f"a token that ends generation, so the model will not learn to stop: {self._why()}"
            )
        if not self.ends <= self.stops:
            name = self.traits.end_token
            return (
                f"answers end with {name!r}, which is not an EOS token of the checkpoint "
                f"({self._stops()}): kdharness stops there, other programs only if configured to"
            )
        return ""

    def shapes(self, report: Report) -> list[str]:
        """Return warnings about what the template does around answers."""
        messages = []
        if report.straddling:
            messages.append(
                f"in {_rows(report.straddling, report.rows)} the first token of an answer "
                f"starts inside the prompt{self._blank()}: training and generation tokenize the "
                "text differently there"
            )
        if self.traits.unopened.strip():
            messages.append(
                "the chat template has no generation prompt: it writes "
                f"{self.traits.unopened.strip()!r} before an answer, which is not trained "
                "on and will be missing at generation"
            )
        if "strftime_now" in template_source(self.tokenizer):
            messages.append(
                f"the chat template writes the date: here that is always {DAY:%d %b %Y}, so that "
                "runs and scores of different days agree; other programs write today's"
            )
        if report.unshown:
            answers = "1 answer" if report.unshown == 1 else f"{report.unshown} answers"
            messages.append(
                f"the chat template drops the reasoning of {answers}, which is not trained on"
            )
        return messages

    def texts(self, report: Report) -> list[str]:
        """Return warnings about tokens that stand in texts, or are missing before them."""
        messages = []
        if report.forged:
            messages.append(
                f"in {_rows(report.forged, report.rows)} control tokens of this tokenizer stand "
                f"in the text (first {report.first_forged}), which the model reads as the "
                "beginning or end of a turn: remove them from texts, and do not render rows "
                "with a chat template beforehand"
            )
        if report.ended:
            answers = "1 answer was" if report.ended == 1 else f"{report.ended} answers were"
            messages.append(
                f"{answers} written with {self.traits.end_token!r} at the end, which the chat "
                "template writes itself: it was removed from the text"
            )
        if report.unbegun and self.beginning is not None:
            name = self.tokenizer.convert_ids_to_tokens(self.beginning)
            messages.append(
                f"in {_rows(report.unbegun, report.rows)} the text does not begin with {name!r}, "
                "which this tokenizer puts before other texts: many such models expect it, but "
                "the chat template does not write bos_token"
            )
        return messages

    def _why(self) -> str:
        end = self.traits.end_last.strip()
        if not end:
            which = "the last" if self.traits.end_mid.strip() else "an"
            return f"the chat template adds none after {which} answer; use one that does"
        if not self.traits.end_token:
            count = pieces(self.tokenizer, end)
            fix = (
                "use the model's own template"
                if self.tokenizer.chat_template == CHATML
                else "add it to the tokenizer"
            )
            return (
                f"the template's end of turn {end!r} is not a token of this tokenizer (split "
                f"into {count}), and generation still ends only at {self._stops()}; "
                f"{fix}, or choose a template whose end of turn is a token"
            )
        return f"the template's end of turn {end!r} is not labelled"

    def _stops(self) -> str:
        names = self.tokenizer.convert_ids_to_tokens(sorted(self.stops))
        return ", ".join(repr(name) for name in names) or "none is set"

    def _blank(self) -> str:
        try:
            text = render(self.tokenizer, [{"role": "user", "content": "a"}], prompt=True)
        except DataError:
            return ""
        return " (the generation prompt ends with a space)" if text.endswith(" ") else ""


def _rows(some: int, of: int) -> str:
    return f"{some} of {of} rows" if of != 1 else "the one row"
