"""The app's interface for screens. Screens know this protocol; the app knows the screens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdharness.harness.paths import Paths
from kdharness.harness.types import Run, RunStatus

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.tui.threads import Done, Work
    from kdharness.tui.viewmodels.drawings import Around
    from kdharness.tui.viewmodels.machine import Sampler
    from kdharness.tui.viewmodels.selection import Selection
    from kdharness.tui.widgets.chart import Plane


class AppProtocol(Protocol):
    """The app as seen by its screens. `version` grows with every write to the store."""

    paths: Paths
    version: int
    now: Callable[[], float]
    first: list[Run]
    selection: Selection
    primary: dict[str, str]
    sampler: Sampler
    keep: float
    group: str
    columns: tuple[str, ...]
    hidden: tuple[str, ...]

    @property
    def store(self) -> Store:
        """The connection of the screen's own thread; workers open their own."""
        ...

    def complain(self, message: str) -> None:
        """Show an error notification."""
        ...

    def tell(self, message: str) -> None:
        """Show a notification."""
        ...

    def with_keys(self, text: str) -> str:
        """Return a text with the keys that the settings give to the actions it names."""
        ...

    def read(self, name: str, work: Work, show: Done) -> None:
        """Read something for the screen; requests with the same name run one at a time."""
        ...

    def in_thread(
        self, work: Work, done: Done | None = None, *, failed: Callable[[str], Any] | None = None
    ) -> None:
        """Run slow work in a thread; errors a user can fix are shown, not raised."""
        ...

    def open_run(self, run: str) -> None:
        """Open the screen of one run, with the curves of the selected ones overlaid."""
        ...

    @property
    def screen(self) -> Any:
        """The screen on top."""
        ...

    def pop_screen(self) -> Any:
        """Close the screen on top."""
        ...

    def switch_screen(self, screen: Any) -> Any:
        """Replace the screen on top."""
        ...

    def follow(self) -> None:
        """Notify the active screen when the store has changed."""
        ...

    def enqueue(self, runs: Sequence[str]) -> None:
        """Let stopped runs wait until nothing else runs, in this order."""
        ...

    def care(self, what: str, names: Sequence[str]) -> None:
        """Delete, rename, tag or annotate runs or checkpoints."""
        ...

    def rename_selected(self, names: Mapping[str, str]) -> None:
        """Let the selection follow new names."""
        ...

    def open_checkpoint(self, name: str) -> None:
        """Open the run that created a checkpoint."""
        ...

    def open_new(self, config: Mapping[str, Any] | None = None, base: str = "") -> None:
        """Open the form of a new run, from an existing config or from a preset."""
        ...

    async def open_evaluate(self, checkpoints: Sequence[str] = ()) -> None:
        """Open the form of an evaluation, which keeps its state."""
        ...

    async def evaluate_run(self, run: Run) -> None:
        """Evaluate a run's checkpoint; that of a running one can be waited for in the queue."""
        ...

    async def check_judge(self, spec: str) -> None:
        """Go to the judges, and ask to check this one."""
        ...

    async def open_experiment(self, name: str) -> None:
        """Open the experiments, with the one of this name selected."""
        ...

    async def open_transcripts(self, first: str, second: str, bench: str, item: str = "") -> None:
        """Select two checkpoints if others are compared, and open their answers at an item."""
        ...

    def ask_to_start(
        self, question: str, known: str, config: Any, plan: Callable[[Paths, Any], list[str]] | None
    ) -> None:
        """Ask to start a run; details that take longer to compute are added when they arrive."""
        ...

    def set_keep(self, keep: float) -> None:
        """Ask for another retention in every answer, and save it."""
        ...

    def set_group(self, group: str) -> None:
        """Group runs by something else, and save it."""
        ...

    def set_columns(self, first: Sequence[str], hidden: Sequence[str]) -> None:
        """Order and hide columns of the leaderboard, and save it."""
        ...

    def run_colours(self) -> dict[str, str]:
        """Return the colour role of each training run, the same on every screen."""
        ...

    def around(self, rows: int) -> Around:
        """Return what is the same for every run that a pane shows."""
        ...

    def choose_runs(
        self,
        take: Callable[[list[str]], None],
        *,
        marked: Sequence[str] = (),
        but: str = "",
        only: Collection[RunStatus] = (),
    ) -> None:
        """Let the user mark runs in a list."""
        ...

    def choose_checkpoints(
        self, take: Callable[[list[str]], None], *, marked: Sequence[str] = ()
    ) -> None:
        """Let the user mark checkpoints in a list."""
        ...

    def select(self, selection: Selection) -> None:
        """Replace the selection on every screen."""
        ...

    def set_primary(self, axis: str, label: str) -> None:
        """Let a metric lead every screen for the domain or the general axis, and save it."""
        ...

    def toggle_selected(self, name: str) -> None:
        """Add a checkpoint, or a run that will make one, or remove it."""
        ...

    def compared(self) -> Selection:
        """Return what is compared: the selection, or else the newest pair that shares scores."""
        ...

    def action_select_checkpoints(self) -> None:
        """Let the user choose the checkpoints that every screen shows."""
        ...

    def pause_or_resume(self, run: str) -> None:
        """Ask a run to pause, or resume it."""
        ...

    def stop_run(self, run: str) -> None:
        """Ask a run to stop with a checkpoint, after confirmation."""
        ...

    @property
    def demo_is_running(self) -> bool:
        """Whether a demo that was started from the app has not ended."""
        ...

    def ask_to_start_demo(self) -> None:
        """Ask before the demo takes the machine for minutes."""
        ...

    def demo_lines(self) -> list[str]:
        """Return the last lines of a demo started from the app."""
        ...

    def export_table(
        self, stem: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]
    ) -> None:
        """Ask for a file name, and write the rows in the format of its extension."""
        ...

    def export_text(self, name: str, text: str) -> None:
        """Ask for a file name, and write a config there; existing files are not replaced."""
        ...

    def export_file(self, name: str, endings: Sequence[str], write: Callable[[Path], None]) -> None:
        """Ask for a file name, and let `write` fill it."""
        ...

    def export_curves(
        self,
        stem: str,
        series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
        title: str,
        x_label: str,
        log: bool,
    ) -> None:
        """Ask for a file name, and draw the curves there."""
        ...

    def export_plane(self, stem: str, plane: Plane) -> None:
        """Ask for a file name, and draw the plane there."""
        ...

    async def action_go(self, place: str) -> None:
        """Go to another screen; each keeps its state while the app is open."""
        ...

    def minute_passed(self) -> bool:
        """Return whether the minute has changed since the last call."""
        ...

    def push_screen(self, screen: Any, callback: Callable[[Any], Any] | None = None) -> Any:
        """Show another screen on top; `callback` receives its result."""
        ...
