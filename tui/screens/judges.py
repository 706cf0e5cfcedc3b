"""Judges and their report cards."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, ClassVar, cast

from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget

from kdharness.harness.analysis.judge_cards import people_rows
from kdharness.harness.config.evaluation import SPECS, parse_spec, plain_http_warning
from kdharness.harness.config.settings import default_judges
from kdharness.harness.errors import ConfigError, JudgeError
from kdharness.harness.util.text import age, figure, safe_text
from kdharness.tui import commands
from kdharness.tui.screens.base import ListPlace
from kdharness.tui.screens.dialogs import Ask, Confirm
from kdharness.tui.viewmodels.judges import can_be_called, card_words, judge_names
from kdharness.tui.viewmodels.marks import interval_text
from kdharness.tui.viewmodels.rows import Column, Line, Part, Row
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView


class JudgesScreen(ListPlace):
    """Judges used or checked here, and their report cards."""

    place = "judges"
    title_text = "Judges"
    about = (
        "All judges that were used, checked or set as default. {judges.check:c} tests a judge on "
        "answers of known quality and writes its report card; {judges.other:a} checks a judge by "
        "its SPEC. A judge without a card is untested: its scores are flagged †."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "check", "Check", id="judges.check"),
        Binding("a", "other", "Check another", id="judges.other"),
    ]

    def body(self) -> Iterable[Widget]:
        """Yield the list and the card."""
        yield Listing(
            [
                Column("id", "judge", 26, grow=2),
                Column("card", "card", 20, grow=1),
                Column("verdicts", "verdicts", 8, right=True, leave=1),
                Column("checked", "checked", 8, right=True),
            ],
            self.cell,
            id="list",
            opens=False,
            empty=self.harness.with_keys(
                "no judge yet: set one in settings.yaml, or press {judges.other:a}"
            ),
        )
        yield TextView(id="card")

    def on_mount(self) -> None:
        """Read the judges; there are few, so no thread is needed."""
        super().on_mount()
        self.busy: set[str] = set()
        self.problem = ""
        self.seen = self.harness.version
        self.store_changed()

    def store_changed(self) -> None:
        """Read cards and judgments again: other processes write them."""
        store = self.harness.store
        self.cards = store.cards()
        names = judge_names(self.cards, self._defaults(), store.judgment_groups())
        now = self.harness.now()
        rows = []
        for name, count in sorted(names.items()):
            card = self.cards.get(name)
            made = card.get("created") if card else None
            words = "being checked …" if name in self.busy else card_words(card)
            rows.append(
                {
                    "id": name,
                    "card": words,
                    "verdicts": count,
                    "checked": age(now - made) if made else "",
                }
            )
        self.listing().set_rows(rows)
        self._tell(self.listing().row)

    def _defaults(self) -> list[str]:
        """Return the judges of the settings; complain once about each way they are invalid."""
        before, self.problem = self.problem, ""
        try:
            return default_judges(self.harness.paths)
        except ConfigError as error:
            self.problem = str(error)
        if self.problem != before:
            self.harness.complain(self.problem)
        return []

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return the parts of one cell."""
        value = str(row[column.key])
        if column.key == "card":
            good = value.startswith(("tested", "nothing"))
            return [(value, "good" if good else "warn")]
        return [(value, "strong" if column.key == "id" else "dim")]

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        self._tell(event.row)

    def _tell(self, row: Row | None) -> None:
        judge = str(row["id"]) if row else ""
        none = self.harness.with_keys("no report card: press {judges.check:c} to create one")
        card = self.cards.get(judge)
        lines = [[(none, "dim")]] if card is None else card_lines(card)
        view = self.query_one("#card", TextView)
        view.set_lines(lines)

        def show(rows: list[dict[str, object]]) -> None:
            current = self.listing().row
            if rows and current is not None and current["id"] == judge:
                view.set_lines([*people_lines(rows), *lines])

        # In a thread: numpy takes longer to import than a card to draw.
        self.read(lambda store: people_rows(store, judge), show, what="people")

    def action_check(self) -> None:
        """Test the judge on answers of known quality."""
        row = self.listing().row
        if row is not None:
            self.check(str(row["id"]))

    def action_other(self) -> None:
        """Ask for a SPEC and check that judge."""

        def wrong(text: str) -> str:
            try:
                parse_spec(text)
            except ConfigError as error:
                return str(error)
            return ""

        def take(text: str | None) -> None:
            if text:
                self.check(text)

        self.app.push_screen(Ask("Check a judge", "", SPECS, wrong), take)

    def check(self, spec: str) -> None:
        """Check a judge in a separate process: judges load what the app must not."""
        if not can_be_called(spec):
            self.harness.complain(
                f"{spec} cannot be checked: its verdicts were imported, there is no model to ask"
            )
            return

        def work() -> str:
            done = commands.run_command(
                self.harness.paths.home, "judge", "check", spec, "--format", "json"
            )
            if done.returncode:
                raise JudgeError(done.stderr.strip().splitlines()[-1] if done.stderr else "failed")
            return spec

        def ended(message: str) -> None:
            self.busy.discard(spec)
            self.store_changed()
            self.harness.complain(message)

        def finished(_: str) -> None:
            self.busy.discard(spec)
            self.store_changed()
            self.harness.tell(f"the report card of {spec} is ready")

        def answered(yes: bool | None) -> None:
            if yes:
                self.busy.add(spec)
                self.store_changed()
                self.harness.in_thread(work, finished, failed=ended)

        detail = "This sends about 150 short requests; a paid model costs a few cents."
        if warning := plain_http_warning(spec):
            detail += f" Warning: {warning}."
        self.app.push_screen(Confirm(f"Check {spec}?", detail), answered)


def people_lines(rows: Iterable[dict[str, object]]) -> list[Line]:
    """Return a judge's agreement with people as lines."""
    lines: list[Line] = []
    for row in rows:
        value, low, high = (cast("float | None", row[key]) for key in ("value", "low", "high"))
        ends = f"  {figure(low, 2)} to {figure(high, 2)}" if low is not None else ""
        count = f"{ends}  n {row['n']}"
        lines.append([(f"{row['check']}: ", ""), (figure(value, 2), "strong"), (count, "dim")])
    return [*lines, []]


def card_lines(card: dict[str, Any]) -> list[Line]:
    """Return a report card as lines, with its shares drawn."""
    lines: list[Line] = [[(card_words(card), "warn" if card.get("labels") else "good")], []]
    checks = {
        **card.get("checks", {}),
        **{f"ratings: {k.replace('_', ' ')}": v for k, v in card.get("ratings", {}).items()},
    }
    expected = card.get("expected", {})
    checks |= {f"expected: {k.replace('_', ' ')}": v for k, v in expected.items()}
    for name, value in checks.items():
        label = f"  {safe_text(str(name).replace('_', ' '), 40):<34}"
        share = value.get("share") if isinstance(value, dict) else value
        if isinstance(value, dict) and isinstance(share, (int, float)):
            low, high = value.get("low"), value.get("high")
            low, high = (share if low is None else low), (share if high is None else high)
            drawn = interval_text(low, share, high, 0.0, 1.0, 24)
            lines.append(
                [
                    (label, ""),
                    (f"{share:5.0%} ", "strong"),
                    (drawn, "series-1"),
                    (f"  n {value.get('n', '')}", "dim"),
                ]
            )
        elif isinstance(share, (int, float)) and not isinstance(share, bool):
            text = f"{share:5.0%}" if 0 <= share <= 1 else f"{share:.3g}"
            lines.append([(label, ""), (text, "strong")])
        elif share is not None and not isinstance(value, dict):
            lines.append([(label, ""), (safe_text(str(share), 60), "")])
    for name in ("calls", "failed", "context", "logprobs"):
        if name in card:
            lines.append([(f"  {name:<34}", "dim"), (safe_text(str(card[name]), 40), "dim")])
    if "created" in card:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(card["created"]))
        lines.append([(f"  {'checked':<34}", "dim"), (when, "dim")])
    return lines
