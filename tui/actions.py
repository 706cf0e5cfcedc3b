"""The app's actions: send requests to workers, start runs, export. Slow parts run in threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from textual.screen import Screen

from kdharness import tui
from kdharness.harness import store as stores
from kdharness.harness.config.summary import models_of
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import effective_status, find_run, runs_at_work
from kdharness.harness.types import Method, Request, Run, RunStatus
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.detached import start_detached
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.tables import format_rows
from kdharness.harness.util.text import safe_text
from kdharness.tui import screens
from kdharness.tui.commands import cli_words
from kdharness.tui.keys import with_keys
from kdharness.tui.queueing import Queueing
from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.viewmodels.rows import Column
from kdharness.tui.viewmodels.selection import Selection

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.tui.protocol import AppProtocol
    from kdharness.tui.settings import AppSettings
    from kdharness.tui.widgets.chart import Plane

TABLE_FORMATS = {".csv": "csv", ".json": "json", ".md": "md"}
PICTURES = (".svg",)


class Actions(Queueing):
    """The app's actions, which screens call by name."""

    if TYPE_CHECKING:
        settings: AppSettings

        @property
        def store(self) -> Store:
            """See the app."""

        async def action_go(self, place: str) -> None:
            """See the app."""

    def complain(self, message: str) -> None:
        """Show an error notification."""
        self.notify(safe_text(message, 600), severity="error", timeout=12, markup=False)

    def tell(self, message: str) -> None:
        """Show a notification."""
        self.notify(message, timeout=4, markup=False)

    def with_keys(self, text: str) -> str:
        """Return a text with the keys that the settings give to the actions it names."""
        return with_keys(text, self.settings.keys)

    # ------------------------------------------------------------ runs

    def open_run(self, run: str) -> None:
        """Open the screen of one run, with the curves of the selected ones overlaid."""
        self.push_screen(screens.RunScreen(run))

    def open_checkpoint(self, name: str) -> None:
        """Open the run that created a checkpoint."""
        checkpoint = self.store.checkpoint(name)
        if checkpoint is not None and checkpoint.run and self.store.run(checkpoint.run):
            self.open_run(checkpoint.run)
        else:
            self.tell(f"{name} was not created by a run in this store")

    def open_new(self, config: Mapping[str, object] | None = None, base: str = "") -> None:
        """Open the form of a new run, from an existing config or from a preset."""
        try:
            self.push_screen(screens.NewRunScreen(config, base))
        except ConfigError as error:  # the run of a package that is gone or broken
            self.complain(f"{base}: {error}")

    def care(self, what: str, names: Sequence[str]) -> None:
        """Delete, rename, tag or annotate runs or checkpoints."""
        screens.care_for(cast("AppProtocol", self), what, names)

    async def open_evaluate(self, checkpoints: Sequence[str] = ()) -> None:
        """Open the form of an evaluation, which keeps its state."""
        await self.action_go("evaluate")
        if isinstance(self.screen, screens.EvaluateScreen):
            self.screen.choose(checkpoints)

    async def evaluate_run(self, run: Run) -> None:
        """Evaluate a run's checkpoint; that of a running one can be waited for in the queue."""
        trains = run.method not in (Method.EVAL, Method.SWEEP)
        if run.checkpoint or (trains and effective_status(run).is_live):
            await self.open_evaluate([run.checkpoint or run.id])
        else:
            self.notify(f"{run.id} has no checkpoint", severity="warning", markup=False)

    async def check_judge(self, spec: str) -> None:
        """Go to the judges, and ask to check this one."""
        await self.action_go("judges")
        check = getattr(self.screen, "check", None)
        if check is not None:
            check(spec)

    async def open_experiment(self, name: str) -> None:
        """Open the experiments, with the one of this name selected."""
        await self.action_go("experiments")
        if isinstance(self.screen, screens.ExperimentsScreen):
            self.screen.choose(self.paths.sweeps / f"{name}.yaml")

    def start_run(self, config: Any) -> None:
        """Start a worker in a thread, and open the run when it has started."""
        self.tell("starting …")
        form = self.screen

        def work() -> str:
            from kdharness.harness.runs import launch

            return launch.start(self.paths, config).id

        def started(run: str) -> None:
            if isinstance(form, PlaceScreen):
                form.has_started()
            if self.screen is not form:
                # The user has moved to another screen in the meantime.
                self.tell(f"{run} has started")
            elif not self.is_installed(form):
                self.switch_screen(screens.RunScreen(run))
            else:
                self.push_screen(screens.RunScreen(run))

        self.in_thread(work, started)

    def ask_to_start(
        self,
        question: str,
        known: str,
        config: object,
        plan: Callable[[Paths, Any], list[str]] | None,
    ) -> None:
        """Ask to start a run; details that take longer to compute are added when they arrive.

        It starts only once they are known and without an error.
        """
        dialog = screens.Confirm(
            question,
            f"{known}\n\nestimating …" if plan else known,
            waits=plan is not None,
            can_wait=any(effective_status(run).is_live for run in self.store.live_runs()),
        )

        form = self.screen

        def planned(lines: list[str]) -> None:
            problem = next((line for line in lines if line.startswith("✗")), "")
            if isinstance(form, PlaceScreen):
                form.plan_told(problem.removeprefix("✗ "))
            dialog.tell("\n".join([known, "", *lines]), stops=bool(problem))

        def failed(message: str) -> None:
            planned([f"✗ {message}"])

        def answered(yes: bool | None) -> None:
            if yes:
                self.start_run(config)
            elif dialog.later:
                self.queue_run(form, config)

        self.push_screen(dialog, answered)
        if plan is not None:
            self.in_thread(lambda: plan(self.paths, config), planned, failed=failed)

    def is_installed(self, screen: Screen[Any]) -> bool:
        """Return whether a screen is kept when the user leaves it."""
        return screen in self._installed_screens.values()

    def choose_runs(
        self,
        take: Callable[[list[str]], None],
        *,
        marked: Sequence[str] = (),
        but: str = "",
        only: Collection[RunStatus] = (),
    ) -> None:
        """Let the user mark runs in a list, of some states only."""
        rows = [
            {"id": run.id, "method": run.method, "models": models_of(run.config)}
            for run in self.store.runs()
            if run.id != but
            and (
                effective_status(run) in only
                if only
                else run.method not in (Method.EVAL, Method.SWEEP)
            )
        ]
        columns = [
            Column("id", "run", 14, grow=1),
            Column("method", "kind", 5),
            Column("models", "models", 20, grow=2),
        ]

        def chosen(names: list[str] | None) -> None:
            if names is not None:
                take(names)

        self.push_screen(screens.Choose("Runs", rows, columns, many=True, marked=marked), chosen)

    async def open_transcripts(self, first: str, second: str, bench: str, item: str = "") -> None:
        """Select two checkpoints if others are compared, and open their answers at an item."""
        now = self.compared()
        if (now.base, now.other) != (first, second):
            now = Selection((first, second))
        self.select(now)
        await self.action_go("transcripts")
        show = getattr(self.screen, "open", None)
        if show is not None:
            show(bench, item)

    def pause_or_resume(self, run: str) -> None:
        """Ask a run to pause, or resume it."""

        def work() -> str:
            from kdharness.harness.runs import launch

            with stores.Store(self.paths.store) as store:
                status = effective_status(find_run(store, run))
            if status in (RunStatus.RUNNING, RunStatus.STARTING):
                launch.ask(self.paths, run, Request.PAUSE)
                return f"{run} will pause after this step"
            launch.resume(self.paths, run)
            return f"{run} resumed"

        self.in_thread(work, self.tell)

    def stop_run(self, run: str) -> None:
        """Ask a run to stop with a checkpoint, after confirmation."""

        def work() -> str:
            from kdharness.harness.runs import launch

            launch.ask(self.paths, run, Request.STOP)
            return f"{run} will stop after saving a checkpoint"

        def answered(yes: bool | None) -> None:
            if yes:
                self.in_thread(work, self.tell)

        detail = "It saves a checkpoint first and can be resumed later ({runs.pause:p} on Runs)."
        stored = self.store.run(run)
        if stored is not None and stored.method == Method.SWEEP:
            detail = (
                "Current runs save a checkpoint first; all can be resumed later "
                "({runs.pause:p} on Runs)."
            )
        elif self.demo_is_running and run.startswith("demo-"):
            detail += (
                "\n\nThe demo ends with it. {runs.demo:D} on Runs continues the demo with this run."
            )
        elif owner := self._experiment_of(run):
            again = "{experiments.start:s} on Experiments ({runs.experiments:w})"
            detail += f"\n\n{owner} ends with it. {again} continues both."
        self.push_screen(screens.Confirm(f"Stop {run}?", self.with_keys(detail)), answered)

    def _experiment_of(self, run: str) -> str:
        """Return the running experiment that waits for this run."""
        sweeps = (sweep for sweep in self.store.runs("sweep") if sweep.status.is_live)
        return next((sweep.id for sweep in sweeps if run in runs_at_work(sweep)), "")

    @property
    def demo_is_running(self) -> bool:
        """Whether a demo that was started from the app has not ended."""
        return self.demo_process is not None and self.demo_process.poll() is None

    def ask_to_start_demo(self) -> None:
        """Ask before the demo takes the machine for minutes."""
        if self.demo_is_running:
            self.tell("the demo is already running")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.start_demo()
                if isinstance(self.screen, PlaceScreen):
                    self.screen.store_changed()

        begun = any(run.id.startswith("demo-") for run in self.store.runs())
        detail = (
            "It trains, aligns and scores a real small model in 11 runs: 8 minutes on two cores "
            "with AMX, about 14 without. They appear on Runs, and each can be paused "
            "({runs.pause:p}) or stopped ({runs.stop:X})."
        )
        if begun:
            detail += "\n\nFinished runs are kept: it continues with the first that is not."
        self.push_screen(screens.Confirm("Run the demo?", self.with_keys(detail)), answered)

    def start_demo(self) -> None:
        """Run the demo in a separate process, which outlives the app."""
        self.paths.home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *cli_words(self.paths.home, "demo")]
        with (self.paths.home / "demo.log").open("wb") as sink:
            self.demo_process = start_detached(command, sink)
        self.tell("the demo has started: about 10 minutes on two cores")

    def demo_lines(self) -> list[str]:
        """Return the last lines of a demo started from the app."""
        if self.demo_process is None:
            return []
        try:
            text = (self.paths.home / "demo.log").read_text("utf-8", "replace")
        except OSError:
            return []
        lines = [line for line in text.splitlines() if line.strip()][-5:]
        if self.demo_process.poll() not in (None, 0):
            text = "(the demo ended before its last run: {runs.demo:D} continues it)"
            lines.append(self.with_keys(text))
        return lines or ["starting …"]

    # ------------------------------------------------------------ exports

    def export_table(
        self, stem: str, rows: Sequence[dict[str, object]], columns: Sequence[str]
    ) -> None:
        """Ask for a file name, and write the rows in the format of its extension."""

        def write(path: Path) -> None:
            plain = [
                {k: v for k, v in row.items() if not isinstance(v, (dict, set))} for row in rows
            ]
            text = format_rows(plain, columns, TABLE_FORMATS[path.suffix])
            atomic_write_text(path, text + "\n")

        self._ask_path(f"{stem}.csv", tuple(TABLE_FORMATS), f"{len(rows)} rows", write)

    def export_text(self, name: str, text: str) -> None:
        """Ask for a file name, and write a config there; existing files are not replaced."""

        def write(path: Path) -> None:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)

        self._ask_path(name, (".yaml", ".yml"), "the config", write)

    def export_file(self, name: str, endings: Sequence[str], write: Callable[[Path], None]) -> None:
        """Ask for a file name, and let `write` fill it."""
        self._ask_path(name, endings, "the text", write)

    def export_curves(
        self,
        stem: str,
        series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
        title: str,
        x_label: str,
        log: bool,
    ) -> None:
        """Ask for a file name, and draw the curves there."""

        def write(path: Path) -> None:
            tui.save_curves(path, series, title, x_label=x_label, log=log)

        self._ask_path(f"{stem}.svg", PICTURES, "the chart", write)

    def export_plane(self, stem: str, plane: Plane) -> None:
        """Ask for a file name, and draw the plane there."""

        def write(path: Path) -> None:
            tui.save_plane(path, plane)

        self._ask_path(f"{stem}.svg", PICTURES, "the chart", write)

    def _ask_path(
        self, name: str, endings: Sequence[str], what: str, write: Callable[[Path], None]
    ) -> None:
        def check(text: str) -> str:
            path = local_path(text)
            if path.suffix not in endings:
                return f"use one of the extensions {', '.join(endings)}"
            if exists(path.parent, folder=True):
                return ""
            return f"no such folder: {safe_text(str(path.parent), 200)}"

        def take(text: str | None) -> None:
            if text:
                path = local_path(text)
                self.in_thread(lambda: write(path), lambda _: self.tell(f"wrote {path}"))

        help_text = f"Save {what} to a file; the extension sets the format: {', '.join(endings)}"
        self.push_screen(screens.Ask(f"Save {what}", name, help_text, check), take)
