"""What screens may ask of the app. Screens know this protocol; the app knows the screens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdharness.harness.paths import Paths
from kdharness.harness.types import Run

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.tui.threads import Done, Work
    from kdharness.tui.widgets.chart import Plane


class AppProtocol(Protocol):
    """The app as its screens see it. `version` grows with every write to the store."""

    paths: Paths
    home: Path
    version: int
    now: Callable[[], float]
    first: list[Run]

    @property
    def store(self) -> Store:
        """The connection of the screen's own thread; workers open their own."""
        ...

    def complain(self, message: str) -> None:
        """Say what went wrong."""
        ...

    def tell(self, message: str) -> None:
        """Say what was done."""
        ...

    def read(self, name: str, work: Work, show: Done) -> None:
        """Read something for the screen; of requests under one name, one at a time."""
        ...

    def in_thread(
        self, work: Work, done: Done | None = None, *, failed: Callable[[str], Any] | None = None
    ) -> None:
        """Do something slow; what the user can mend is told, not raised."""
        ...

    def open_run(self, run: str, others: Sequence[str] = ()) -> None:
        """The screen of one run, with other runs' curves laid over its own."""
        ...

    def open_checkpoint(self, name: str) -> None:
        """The run that made a checkpoint."""
        ...

    def open_new(self, config: Mapping[str, Any] | None = None, base: str = "") -> None:
        """The form of a new run, from a config that there is or from a preset."""
        ...

    async def open_evaluate(self, checkpoints: Sequence[str] = ()) -> None:
        """The form of an evaluation, which stays as it was left."""
        ...

    async def open_experiment(self, name: str) -> None:
        """Experiments, at the one that was carried out under this name."""
        ...

    async def open_transcripts(self, first: str, second: str, bench: str, item: str = "") -> None:
        """Two checkpoints' answers, at an item."""
        ...

    def ask_to_start(
        self, question: str, known: str, config: Any, plan: Callable[[Paths, Any], list[str]] | None
    ) -> None:
        """Ask, with what is known at once; what takes longer to find out is added as it comes."""
        ...

    def choose_runs(
        self, take: Callable[[list[str]], None], *, marked: Sequence[str] = (), but: str = ""
    ) -> None:
        """Mark runs in a list."""
        ...

    def choose_checkpoints(
        self, take: Callable[[list[str]], None], *, marked: Sequence[str] = ()
    ) -> None:
        """Mark checkpoints in a list."""
        ...

    def marked_checkpoints(self) -> list[str]:
        """Checkpoints marked on the leaderboard, else those of runs marked at home."""
        ...

    def pause_or_resume(self, run: str) -> None:
        """Ask a run to pause, or to go on."""
        ...

    def stop_run(self, run: str) -> None:
        """Ask a run to stop with a checkpoint, after a question."""
        ...

    def start_demo(self) -> None:
        """Run the demo in a process of its own, which outlives the app."""
        ...

    def demo_lines(self) -> list[str]:
        """The last words of a demo started from here."""
        ...

    def export_table(
        self, stem: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]
    ) -> None:
        """Ask for a file name, and write the rows in the format of its ending."""
        ...

    def export_text(self, name: str, text: str) -> None:
        """Ask for a file name, and write a config there; an existing file is not replaced."""
        ...

    def export_file(self, name: str, endings: Sequence[str], write: Callable[[Path], None]) -> None:
        """Ask for a file name, and let `write` fill it."""
        ...

    def export_curves(
        self,
        stem: str,
        series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
        title: str,
        log: bool,
    ) -> None:
        """Ask for a file name, and draw the curves there."""
        ...

    def export_plane(self, stem: str, plane: Plane) -> None:
        """Ask for a file name, and draw the plane there."""
        ...

    async def action_go(self, place: str) -> None:
        """Another screen; each keeps its state while the app is open."""
        ...

    def minute_passed(self) -> bool:
        """Whether the clock shows another minute than at the last call."""
        ...

    def push_screen(self, screen: Any, callback: Callable[[Any], Any] | None = None) -> Any:
        """Show another screen on top; `callback` gets what it is dismissed with."""
        ...
