"""What runs can be grouped by, and the group of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdharness.harness.config.base import reading_stored
from kdharness.harness.config.summary import flat
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.experiments.expand import load_sweep
from kdharness.harness.maintenance.kept_experiments import KeptRuns, kept_runs, runs_of
from kdharness.harness.paths import Paths, kept_experiments
from kdharness.harness.types import Method, Run
from kdharness.harness.util.text import listed
from kdharness.tui.viewmodels.form import text_of
from kdharness.tui.viewmodels.rows import Row

EXPERIMENT, STATUS, KIND = "experiment", "status", "kind"
ALONE = "not in an experiment"
UNSET = "not set"


def groups_by(runs: Sequence[Run], field: str, paths: Paths) -> dict[str, str]:
    """Return the group of each run.

    Args:
        field: `experiment`, `status`, `kind`, or a dotted field of the configs.
    """
    if field == EXPERIMENT:
        known = known_experiments(runs, paths)
        return {run.id: experiment_of(run, known) or ALONE for run in runs}
    if field == STATUS:
        return {run.id: run.status.value for run in runs}
    if field == KIND:
        return {run.id: run.method for run in runs}
    leaf = field.rpartition(".")[2]
    groups = {}
    for run in runs:
        value = flat(run.config).get(field)
        groups[run.id] = f"{leaf} {text_of(value) if value not in (None, '') else UNSET}"
    return groups


@dataclass(frozen=True)
class Experiment:
    """An experiment that was run here: what its runs are called, and which it plans today."""

    kept: KeptRuns
    planned: frozenset[str] = frozenset()


def known_experiments(runs: Sequence[Run], paths: Paths) -> list[Experiment]:
    """Return the experiments that were run here, by their files or, without one, their runs."""
    found = [Experiment(runs_of(run.config, run.id)) for run in runs if run.method == Method.SWEEP]
    found += [Experiment(kept_runs(file), _planned(file)) for file in kept_experiments(paths)]
    # Files come last, and count: they may be newer than their experiments' runs.
    return list({experiment.kept.name: experiment for experiment in found}.values())


def _planned(file: Path) -> frozenset[str]:
    """Return the names of an experiment's runs; none where its models or data are gone."""
    try:
        with reading_stored():
            return frozenset(planned.name for planned in load_sweep(file)[1])
    except KDHarnessError:
        return frozenset()


def experiment_of(run: Run, known: Iterable[Experiment]) -> str:
    """Return the experiment of a run, or those that share it; empty if it is of none.

    Those that plan it; else those with the longest beginning of its name, since a file may have
    been changed after its runs, or cannot be planned any more.
    """
    if run.method == Method.SWEEP:
        return str(run.config.get("name"))
    known = list(known)
    found = [one.kept.name for one in known if run.id in one.planned]
    if not found:
        matched = {one.kept.name: one.kept.matched(run.id) for one in known}
        longest = max(matched.values(), default=0)
        found = [name for name, length in matched.items() if 0 < length == longest]
    return listed(sorted(found))


def group_fields(runs: Sequence[Run]) -> list[Row]:
    """Return what tells some runs apart, with its values: fields of configs with few values first.

    Fields that differ for every run, such as names, group nothing.
    """
    rows: list[Row] = [
        {"id": EXPERIMENT, "values": "the file of several runs that it belongs to"},
        {"id": STATUS, "values": listed(sorted({run.status.value for run in runs}))},
        {"id": KIND, "values": listed(sorted({run.method for run in runs}))},
    ]
    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in flat(run.config).items():
            if value not in (None, "") and name not in ("name", "method"):
                values.setdefault(name, {})[text_of(value)] = None
    fields = [(name, list(found)) for name, found in values.items() if 1 < len(found) < len(runs)]
    fields += [(name, list(found)) for name, found in values.items() if len(found) == 1]
    return rows + [{"id": name, "values": listed(found)} for name, found in fields]
