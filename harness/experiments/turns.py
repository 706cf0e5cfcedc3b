"""What runs, what follows in an experiment, and what waits: one row a run, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kdharness.harness.config.base import reading_stored
from kdharness.harness.config.summary import models_of
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.experiments.demo import load_demo
from kdharness.harness.experiments.detached import stored_sweep
from kdharness.harness.experiments.expand import PlannedRun, load_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.runs.queue import queued
from kdharness.harness.runs.status import effective_status
from kdharness.harness.runs.summary import eta
from kdharness.harness.store import Store
from kdharness.harness.types import Method, Run, RunStatus

Rows = list[dict[str, object]]


def queue_rows(store: Store, paths: Paths, now: float, *, demo: bool = False) -> Rows:
    """Return one row a run, in the order in which they take their turn.

    Args:
        now: seconds since the epoch.
        demo: the demo runs in a process of its own.
    """
    live = [run for run in store.live_runs() if effective_status(run).is_live]
    rows = [_row("now", run, eta(run, now), effective_status(run)) for run in reversed(live)]
    for run in live:
        if run.method == Method.SWEEP:
            rows += _following(store, _planned(paths, run), run.id)
    if demo:
        rows += _following(store, load_demo(smoke=False, judge=None)[1], "demo")
    return rows + [_row("queued", run, None, None) for run in queued(store, paths)]


def _planned(paths: Paths, run: Run) -> Sequence[PlannedRun]:
    """Return the runs of an experiment: of its own file, else of the home's copy."""
    try:
        return stored_sweep(paths, run)[1]
    except KDHarnessError:
        copy = paths.sweeps / f"{run.config.get('name')}.yaml"
    try:
        with reading_stored():
            return load_sweep(copy)[1]
    except KDHarnessError:
        return ()


def _following(store: Store, planned: Iterable[PlannedRun], of: str) -> Iterator[dict[str, object]]:
    """Yield the runs of an experiment that have not begun."""
    for one in planned:
        run = store.run(one.name)
        if run is None or run.status in (RunStatus.STOPPED, RunStatus.FAILED):
            values = one.config.model_dump(mode="json", by_alias=True)
            yield {
                "id": one.name,
                "part": "next",
                "state": f"next in {of}",
                "method": one.config.method,
                "models": models_of(values),
                "eta": None,
            }


def _row(part: str, run: Run, left: float | None, status: RunStatus | None) -> dict[str, object]:
    return {
        "id": run.id,
        "part": part,
        "state": status.value if status else "queued",
        "method": run.method,
        "models": models_of(run.config),
        "eta": left,
    }
