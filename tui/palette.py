"""The command palette: the screen's actions, and runs and checkpoints by name."""

from __future__ import annotations

from collections.abc import Callable

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from kdharness.tui.actions import Actions

WIDTH = 30
"""Cells up to the second column."""
Command = tuple[str, str, Callable[[], object]]


class Commands(Provider):
    """Actions in the order of the help page; runs and checkpoints once something is typed."""

    names: tuple[Command, ...] = ()

    async def startup(self) -> None:
        """Read the names once, not for every key."""
        app = self.app
        if isinstance(app, Actions):
            runs = [
                (f"Run: {run.id}", f"{run.method}, {run.status.value}", _opener(app, run.id))
                for run in app.store.runs()
            ]
            marks = [
                (f"Mark: {c.name}", "select this checkpoint", _marker(app, c.name))
                for c in reversed(app.store.checkpoints())
            ]
            self.names = (*runs, *marks)

    def actions(self) -> list[Command]:
        """Return the actions of the screen."""
        found = self.app.get_system_commands(self.screen)
        return [(command.title, command.help, command.callback) for command in found]

    async def discover(self) -> Hits:
        """Yield the actions before anything is typed."""
        for title, about, run in self.actions():
            yield DiscoveryHit(_line(title, about), run, text=title)

    async def search(self, query: str) -> Hits:
        """Yield what matches."""
        matcher = self.matcher(query)
        for title, about, run in (*self.actions(), *self.names):
            if (score := matcher.match(title)) > 0:
                yield Hit(score, _line(matcher.highlight(title), about), run, text=title)


def _line(title: str | Content, about: str) -> Content:
    """Return an entry of one line: half as many would fit with the key below each."""
    gap = " " * max(WIDTH - len(title), 2)
    return Content.assemble(title, gap, (about, "dim"))


def _opener(app: Actions, run: str) -> Callable[[], object]:
    return lambda: app.open_run(run)


def _marker(app: Actions, name: str) -> Callable[[], object]:
    return lambda: app.toggle_selected(name)
