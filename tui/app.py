"""The terminal app: screens on top of the store.

It shows what the store contains, polls SQLite's change counter once a second, and repaints what
changed. Runs are separate processes: closing the app leaves them running. torch, transformers and
openai are never loaded here (a test checks that).
"""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from kdharness.harness import store as stores
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.store.first_page import first_page
from kdharness.harness.types import Run
from kdharness.harness.util.text import safe_text
from kdharness.tui import screens, viewmodels
from kdharness.tui.actions import Actions
from kdharness.tui.choices import Choices
from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.screens.caring import CARE, Caring
from kdharness.tui.screens.runs import RunsScreen
from kdharness.tui.settings import read_settings, save_theme
from kdharness.tui.themes import THEMES
from kdharness.tui.viewmodels.machine import Sampler
from kdharness.tui.widgets.bars import PLACES

if TYPE_CHECKING:
    from textual.command import Provider

    from kdharness.harness.store import Store
    from kdharness.tui.protocol import AppProtocol
    from kdharness.tui.viewmodels.drawings import Around

POLL_SECONDS = 1.0
SCREENS_CSS = Path(screens.__file__).with_name("screens.tcss")


MOVES = frozenset(
    f"list.{name}"
    for name in ("up", "down", "page-up", "page-down", "first", "last", "left", "right")
) | {"app.back"}
"""Actions that the palette lists last."""

PLACE_SCREENS = {
    "leaderboard": "leaderboard:LeaderboardScreen",
    "tradeoff": "tradeoff:TradeOffScreen",
    "compare": "compare:CompareScreen",
    "transcripts": "transcripts:TranscriptsScreen",
    "evaluate": "evaluate:EvaluateScreen",
    "experiments": "experiments:ExperimentsScreen",
    "judges": "judges:JudgesScreen",
    "assets": "assets:AssetsScreen",
    "doctor": "doctor:DoctorScreen",
    "queue": "queue:QueueScreen",
}
"""Screens are imported when first opened, so that the first paint does not wait for them."""


def palette_provider() -> type[Provider]:
    """Import the palette's provider when it is opened."""
    module = importlib.import_module("kdharness.tui.palette")
    provider: type[Provider] = module.Commands
    return provider


def make_screen(place: str) -> Screen[Any]:
    """Import and create the screen of a place."""
    module, name = PLACE_SCREENS[place].split(":")
    screen: Screen[Any] = getattr(
        importlib.import_module(f"kdharness.tui.screens.{module}"), name
    )()
    return screen


class HarnessApp(Choices, Actions):
    """The kdharness app."""

    TITLE = "kdharness"
    CSS_PATH = "kdharness.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS: ClassVar[set[Any]] = {palette_provider}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,f1", "help", "Help", key_display="?", id="app.help"),
        Binding(
            "colon,ctrl+p",
            "command_palette",
            "Commands",
            key_display=":",
            show=False,
            id="app.commands",
        ),
        Binding("escape", "back", "Back", show=False, id="app.back"),
        Binding("q", "leave", "Quit", id="app.quit"),
        *(
            Binding(
                f"{digit},f{int(digit) + 1}", f"go('{name}')", title, show=False, id=f"app.{name}"
            )
            for digit, name, title, _ in PLACES
        ),
        Binding("Q", "go('queue')", "Queue", show=False, id="app.queue"),
        Binding("t", "next_theme", "Theme", show=False, id="app.theme"),
        Binding("n", "new_run", "New run", show=False, id="app.new"),
        Binding("x", "swap", "Swap A and B", show=False, id="app.swap"),
    ]

    def __init__(
        self,
        paths: Paths,
        *,
        clock: Callable[[], float] = time.time,
        first: Sequence[Run] | None = None,
    ) -> None:
        self.paths = paths
        self.first = list(first) if first is not None else first_page(paths)
        self.settings = read_settings(paths)
        self.take_settings(self.settings)
        # Under NO_COLOR only the terminal's own colours may be used.
        plain = bool(os.environ.get("NO_COLOR"))
        super().__init__(ansi_color=True if plain else None)
        self.now = clock
        self.sampler = Sampler(paths.home)
        self.version = 0
        self._store: Store | None = None
        self._counter = -1
        self._minute = -1
        self._coloured = (-1, -1)
        self._colours: dict[str, str] = {}
        for theme in THEMES.values():
            self.register_theme(theme)
        self.theme = "ansi" if plain else self.settings.theme
        self.set_keymap(self.settings.keys)
        self.rings = self.settings.rings

    # ------------------------------------------------------------ the store

    @property
    def store(self) -> Store:
        """The connection of the screen's own thread; workers open their own."""
        if self._store is None:
            self._store = stores.Store(self.paths.store)
        return self._store

    def refresh_css(self, animate: bool = True) -> None:
        """Restyle everything; before the first screen, which parses the styles, set variables."""
        if self.screen_stack:
            super().refresh_css(animate)
        else:
            self.stylesheet.set_variables(self.get_css_variables())

    def on_mount(self) -> None:
        """Paint first, then load what following the store needs."""
        if self.settings.problem:
            self.notify(self.settings.problem, severity="warning", timeout=15, markup=False)
        self.call_after_refresh(self._load_store)

    def _load_store(self) -> None:
        """Run the slow imports in threads, so that keys work in the meantime."""
        if not gc.isenabled():  # since the command started
            gc.freeze()  # the collector need not go through what was imported
            gc.enable()

        def more() -> None:
            for name in ("harness.runs.launch", "harness.config.training"):
                importlib.import_module(f"kdharness.{name}")
            for place in ("leaderboard", "tradeoff"):  # most likely to be opened next
                importlib.import_module(f"kdharness.tui.screens.{place}")

        def store() -> None:
            importlib.import_module("kdharness.harness.store")

        def follow(_: None) -> None:
            self.follow_store()
            # Else the first screen that has them would make the app parse all of its styles.
            self.stylesheet.read(SCREENS_CSS)
            self.in_thread(more)
            if self.paths.settings.is_file():
                self.in_thread(self._check_settings, self._tell_problems)

        self.in_thread(store, follow)

    def _check_settings(self) -> list[str]:
        """Return what commands refuse in the settings, and keys that do not work."""
        commands = importlib.import_module("kdharness.harness.config.settings")
        keys = importlib.import_module("kdharness.tui.key_check") if self.settings.keys else None
        problems: list[str] = keys.key_problems(self.settings.keys) if keys else []
        try:
            commands.load_settings(self.paths)
        except ConfigError as error:
            # What the app itself could not read was told at the first paint.
            problems += [] if self.settings.problem else [str(error)]
        return problems

    def _tell_problems(self, problems: list[str]) -> None:
        for problem in problems:
            self.notify(safe_text(problem, 400), severity="warning", timeout=15, markup=False)

    def follow_store(self) -> None:
        """Start to poll the store; the app may have quit while the store was imported."""
        if not self.screen_stack:
            return
        self._counter = self.store.data_version()
        self.begin_news()
        self.keep_queue()
        self.version += 1
        self.set_interval(POLL_SECONDS, self.follow)
        if isinstance(self.screen, PlaceScreen):
            self.screen.seen = self.version
            self.screen.while_here(self.screen.store_changed)

    def follow(self) -> None:
        """Notify the active screen when the store has changed.

        The timer may fire once more after a quitting app has removed its screens.
        """
        if not self.screen_stack:
            return
        counter = self.store.data_version()
        place = self.screen
        self.look_for_news(counter != self._counter)
        if counter != self._counter:
            self._counter = counter
            self.version += 1
            self.select(self.selection.settled(self.store))
            if isinstance(place, PlaceScreen):
                place.seen = self.version
                place.while_here(place.store_changed)
        if isinstance(place, PlaceScreen):
            place.while_here(place.tick)

    def minute_passed(self) -> bool:
        """Return whether the minute has changed since the last call."""
        minute = int(self.now() // 60)
        passed, self._minute = minute != self._minute, minute
        return passed

    def run_colours(self) -> dict[str, str]:
        """Return the colour role of each training run, the same on every screen."""
        state = self.store.runs_state()
        if state != self._coloured:
            self._coloured, self._colours = (
                state,
                viewmodels.run_colours(self.store.training_order()),
            )
        return self._colours

    def around(self, rows: int) -> Around:
        """Return what is the same for every run that a pane shows."""
        return viewmodels.Around(self.now(), rows, self.run_colours(), tuple(self.primary.values()))

    def on_unmount(self) -> None:
        """Close the connection; runs continue."""
        if self._store is not None:
            self._store.close()

    # ------------------------------------------------------------ navigation

    def get_default_screen(self) -> Screen[Any]:
        """Return the Runs screen."""
        screen = RunsScreen()
        self.install_screen(screen, "runs")
        return screen

    async def action_go(self, place: str) -> None:
        """Go to another screen; each keeps its state while the app is open."""
        if place != "runs" and place not in PLACE_SCREENS:
            return
        while len(self.screen_stack) > (1 if place == "runs" else 2):
            await self.pop_screen()
        if getattr(self.screen, "place", "") == place:
            return
        if not self.is_screen_installed(place):
            self.install_screen(make_screen(place), place)
        if len(self.screen_stack) == 1:
            await self.push_screen(place)
        else:
            await self.switch_screen(place)

    def action_act(self, action: str) -> None:
        """Run an action that was clicked, once the click was handled."""
        self.call_later(self.run_action, action)

    async def action_back(self) -> None:
        """Leave the filter, then the screen, then go to Runs."""
        screen = self.screen
        if isinstance(screen, PlaceScreen) and screen.leave_filter():
            return
        if len(self.screen_stack) > 1:
            await self.pop_screen()
        elif getattr(screen, "place", "") != "runs":
            await self.action_go("runs")

    def action_leave(self) -> None:
        """Close the app; runs continue in their own processes."""
        self.exit()

    def action_help(self) -> None:
        """Show the screen's help page and keys."""
        screen = self.screen
        place = screen if isinstance(screen, PlaceScreen) else None
        title = place.title_text if place else "Help"
        about = self.with_keys(place.about) if place else ""
        legend = place.legend() if place else ()
        text = screens.help_text(about, screens.key_lines(screen), legend)
        self.push_screen(screens.TextDialog(title or "Help", text))

    def action_new_run(self) -> None:
        """Open the form of a new run."""
        self.open_new()

    def action_next_theme(self) -> None:
        """Switch to the next theme and save it."""
        names = list(THEMES)
        self.use_theme(names[(names.index(self.theme) + 1) % len(names)])

    def use_theme(self, name: str) -> None:
        """Switch to a theme and save it."""
        self.theme = name
        try:
            save_theme(self.paths, name)
        except (ConfigError, OSError) as error:
            self.notify(f"theme not saved: {error}", severity="warning", markup=False)
        self.notify(f"theme: {name}", timeout=2, markup=False)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Yield the commands of the palette: all actions available here."""
        lines = screens.key_lines(screen)
        # What every list has comes after the screen's own; nobody moves the cursor by the palette.
        for (keys, what, _), active in sorted(
            lines, key=lambda line: (line[0][2] in MOVES, line[0][2].startswith("list."))
        ):
            action, node = active.binding.action, active.node
            yield SystemCommand(what, f"key {keys}", lambda a=action, n=node: self.run_action(a, n))
        if getattr(screen, "place", "") not in ("runs", "experiments"):
            yield SystemCommand(
                "Experiments",
                self.with_keys("key {runs.experiments:w} on Runs"),
                lambda: self.run_action("go('experiments')"),
            )
        subject = screen.subject() if isinstance(screen, Caring) else ""
        for what, title in CARE.items():
            yield SystemCommand(
                f"{title} …",
                "Choose which",
                lambda what=what: screens.choose_and_care(self, what, subject),
            )
        for name in THEMES:
            yield SystemCommand(
                f"Theme: {name}",
                "Switch the theme and save it",
                lambda name=name: self.use_theme(name),
            )


def _as_screens_see_it(app: HarnessApp) -> AppProtocol:
    """Let the type checker compare the app with the protocol of its screens."""
    return app


def run_app(paths: Paths) -> None:
    """Open the app on a home; return when it is closed.

    Raises:
        KDHarnessError: the store cannot be opened, or failed while the app was open.
    """
    # Exported by some shells, these would hide later changes of the terminal's size.
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    # Rows that do not fit on the screen are loaded after the first paint.
    app = HarnessApp(paths, first=first_page(paths, shutil.get_terminal_size().lines))
    app.run()
    if app.trouble is not None:
        raise app.trouble
    if app.return_code:
        sys.exit(app.return_code)
