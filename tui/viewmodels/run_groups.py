"""What runs can be grouped by, and the group of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdharness.harness.config.summary import flat
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


def known_experiments(runs: Sequence[Run], paths: Paths) -> list[KeptRuns]:
    """Return what the experiments that were run here call their runs, by their files or runs."""
    found = [runs_of(run.config, run.id) for run in runs if run.method == Method.SWEEP]
    found += [kept_runs(file) for file in kept_experiments(paths)]
    # Files come last, and count: they may be newer than their experiments' runs.
    return list({experiment.name: experiment for experiment in found}.values())


def experiment_of(run: Run, known: Iterable[KeptRuns]) -> str:
    """Return the experiment of a run, or those that share it; empty if it is of none."""
    if run.method == Method.SWEEP:
        return str(run.config.get("name"))
    return listed(sorted(experiment.name for experiment in known if experiment.names(run.id)))


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
