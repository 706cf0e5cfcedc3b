"""The Python API of a home: train, evaluate and compare without the command line.

The `kdharness` commands use the same functions. Nothing here imports torch: work is done in a
worker process, whose messages go to the logger `kdharness.home`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, SupportsIndex, TypeVar, cast, overload

from kdharness.harness.analysis.compare import compare_all
from kdharness.harness.analysis.metrics import ranked
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import find_paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.watch import watch
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Request, Run, Score

if TYPE_CHECKING:
    from kdharness.harness.analysis.compare import PairedComparison
    from kdharness.harness.analysis.tradeoff_groups import TradeOff
    from kdharness.harness.config.training import AnyConfig

log = logging.getLogger("kdharness.home")


class _HasRow(Protocol):
    def as_dict(self) -> dict[str, Any]:
        """Return the stable form of the command's JSON."""
        ...


Row = TypeVar("Row", bound=_HasRow)


class Table(list[Row], Generic[Row]):
    """A list of results that converts to plain rows, for pandas and notebooks; so do its slices."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Row: ...

    @overload
    def __getitem__(self, index: slice, /) -> Table[Row]: ...

    def __getitem__(self, index: SupportsIndex | slice, /) -> Row | Table[Row]:
        return (
            Table(super().__getitem__(index))
            if isinstance(index, slice)
            else super().__getitem__(index)
        )

    def copy(self) -> Table[Row]:
        """Return a shallow copy."""
        return Table(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the rows that the command prints with `--format json`."""
        return [row.as_dict() for row in self]


Names = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""Names or paths; a single one needs no list."""


def _listed(field: str, names: Names) -> list[str]:
    """Return names and paths as a list of text.

    Raises:
        ConfigError: something else is among them.
    """
    single = isinstance(names, (str, os.PathLike)) or not isinstance(names, Iterable)
    given: Sequence[object] = [names] if single else list(cast(Iterable[object], names))
    listed: list[str] = []
    for name in given:
        if not isinstance(name, (str, os.PathLike)):
            raise ConfigError(
                f"must be a name or a path, but is of type {type(name).__name__}",
                where=field,
                hint="a run's checkpoint is its .checkpoint, a checkpoint's name its .id",
            )
        listed.append(str(os.fspath(name)))
    return listed


def _id_of(run: str | Run) -> str:
    return run.id if isinstance(run, Run) else run


class Home:
    """A home: a folder with the store, the runs and the pulled assets.

    Args:
        path: the folder; by default KDHARNESS_HOME, else the platform's data folder.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.paths = find_paths(path)

    def __repr__(self) -> str:
        return f"Home({str(self.paths.home)!r})"

    # ------------------------------------------------------------ runs

    def train(
        self,
        config: AnyConfig,
        *,
        name: str | None = None,
        accelerate: str | os.PathLike[str] | None = None,
        wait: bool = True,
    ) -> Run:
        """Train a student (or merge models) from a config, in a worker process.

        Args:
            config: from `load_config`.
            name: the run's name; by default the config's, else derived from the method.
            accelerate: an accelerate config file, for several GPUs.
            wait: whether to return after the run has finished, or as soon as it has started.

        Returns:
            The run; `run.checkpoint` is the name of its checkpoint.

        Raises:
            ConfigError: the config refers to something missing, or the run's name is taken.
            RunError: the run failed.
            Interrupted: it was stopped; Ctrl-C stops it with a checkpoint.
        """
        if not hasattr(config, "model_dump"):
            raise ConfigError(
                f"train needs a config, not a {type(config).__name__}",
                hint='read it with load_config("FILE.yaml")',
            )
        run = launch.start(self.paths, config, name=name, accelerate=accelerate)
        return self.wait(run.id) if wait else run

    def evaluate(
        self,
        checkpoints: Names = (),
        *,
        benches: Names = ("shop", "heldout"),
        judges: Names = (),
        name: str | None = None,
        wait: bool = True,
        **settings: object,
    ) -> Run:
        """Evaluate checkpoints; stored results are reused.

        Args:
            checkpoints: folders, stored names, assets or hub ids.
            benches: benchmarks by name, or paths of your own JSONL files.
            judges: specs such as `openai:MODEL`; by default those of the home's settings.
            name: the run's name.
            wait: whether to return after the run has finished, or as soon as it has started.
            settings: further fields of `EvalConfig`, such as `limit` or `imported`.

        Raises:
            ConfigError: an unknown benchmark, judge or checkpoint.
            RunError: the run failed.
            Interrupted: it was stopped.
        """
        from kdharness.harness.config.evaluation import absolute_source
        from kdharness.harness.config.files import make_eval_config
        from kdharness.harness.config.settings import default_judges

        specs = _listed("judges", judges) or default_judges(self.paths)
        config = make_eval_config(
            checkpoints=[absolute_source(name) for name in _listed("checkpoints", checkpoints)],
            benches=_listed("benches", benches),
            judge=[absolute_source(spec) for spec in specs],
            **settings,
        )
        if not config.checkpoints and not config.imported:
            raise ConfigError("nothing to evaluate", hint="specify a checkpoint")
        run = launch.start(self.paths, config, name=name)
        return self.wait(run.id) if wait else run

    def wait(self, run: str | Run) -> Run:
        """Wait until a run has finished, logging its messages.

        Raises:
            RunError: it failed, or there is no run of that name.
            Interrupted: it was stopped.
        """
        return self._wait(_id_of(run), 0)

    def _wait(self, run_id: str, seen: int) -> Run:
        """Wait, logging the messages after the event `seen`."""

        def show(run: Run, store: Store) -> None:
            nonlocal seen
            for event in store.events(run.id, seen):
                seen = event["id"]
                level = logging.WARNING if event["kind"] == "warning" else logging.INFO
                if event["message"]:
                    log.log(level, "%s: %s", run.id, event["message"])

        return watch(self.paths, run_id, show, log.warning)

    def stop(self, run: str | Run) -> None:
        """Ask a live run to stop with a checkpoint. Raises RunError if it is not live."""
        launch.ask(self.paths, _id_of(run), Request.STOP)

    def resume(self, run: str | Run, *, wait: bool = True) -> Run:
        """Resume a run that was stopped or interrupted, or that failed."""
        with Store(self.paths.store) as store:
            seen = store.newest_event(_id_of(run))
        resumed = launch.resume(self.paths, _id_of(run))
        return self._wait(resumed.id, seen) if wait else resumed

    def runs(self) -> list[Run]:
        """Return every run, newest first."""
        with Store(self.paths.store) as store:
            return store.runs()

    def checkpoints(self) -> list[Checkpoint]:
        """Return every known checkpoint, oldest first."""
        with Store(self.paths.store) as store:
            return store.checkpoints()

    # ------------------------------------------------------------ results

    def leaderboard(
        self,
        *,
        checkpoints: Names | None = None,
        benches: Names | None = None,
        as_published: bool = False,
    ) -> Table[Score]:
        """Return every score with its interval, failures and flags, best first within each metric.

        Args:
            checkpoints, benches: only these.
            as_published: count rows as the benchmarks' own scripts do.
        """
        from kdharness.harness.analysis.leaderboard import leaderboard
        from kdharness.harness.config.evaluation import bench_name

        wanted = None if checkpoints is None else _listed("checkpoints", checkpoints)
        names = None if benches is None else [bench_name(b) for b in _listed("benches", benches)]
        with Store(self.paths.store) as store:
            scores = leaderboard(
                store,
                self.paths,
                checkpoints=wanted,
                benches=names,
                as_published=as_published,
            )
        return Table(ranked(scores))

    def compare(self, base: str, *others: str) -> Table[PairedComparison]:
        """Compute paired differences of checkpoints from `base`, on the items that both answered.

        Raises:
            ConfigError: no other checkpoint, or one that is not stored.
        """
        with Store(self.paths.store) as store:
            names = _listed("compare", [base, *others])
            return Table(compare_all(store, self.paths, names))

    def trade_off(
        self,
        *,
        general: str | None = None,
        domain: str | None = None,
        reference: str | None = None,
        expert: str | None = None,
        keep: float | None = None,
    ) -> TradeOff:
        """Compute gain, retention, Pareto front and the checkpoint to pick; see `trade_off`."""
        from kdharness.harness.analysis.tradeoff_groups import trade_off

        with Store(self.paths.store) as store:
            return trade_off(
                store,
                self.paths,
                general=general,
                domain=domain,
                reference=reference,
                expert=expert,
                keep=keep,
            )
