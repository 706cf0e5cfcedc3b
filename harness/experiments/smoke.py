"""An experiment cut to the smallest size: two steps and a few items of each run, one seed.

It tests that every run of an experiment works on this machine, in a minute instead of an hour. Its
runs have names of their own, so that they are never taken for results.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    Vary,
    inline_files,
    load_sweep,
    plan_sweep,
)

STEPS = 2
ITEMS = 3
TOKENS = 8
PREFIX = "smoke-"


def load_smoke(file: Path) -> tuple[SweepConfig, list[PlannedRun]]:
    """Read an experiment cut to the smallest size.

    Raises:
        ConfigError: the file is not valid.
    """
    sweep, planned = load_sweep(file)
    where = str(file)
    whole = inline_files(sweep, file.resolve().parent, where)
    kinds = {run.step: run for run in planned}
    steps = {name: _smallest(values, kinds[name]) for name, values in whole.steps.items()}
    small = whole.model_copy(
        update={
            "name": f"{PREFIX}{sweep.name}"[:32],
            "runs": f"{PREFIX}{sweep.runs or sweep.name}"[:32],
            "steps": steps,
            "vary": _first(sweep.vary),
        }
    )
    return small, plan_sweep(small, file.resolve().parent, where)


def _smallest(values: Mapping[str, object], run: PlannedRun) -> dict[str, object]:
    """Return a step's values, cut."""
    small = copy.deepcopy(dict(values))
    if isinstance(run.config, MergeConfig):
        return small
    if isinstance(run.config, EvalConfig):
        return {**small, "limit": ITEMS, "max_new_tokens": TOKENS}
    trainer = small.get("trainer")
    cut = {**(trainer if isinstance(trainer, dict) else {}), "max_steps": STEPS}
    if isinstance(cut.get("on_policy"), dict):
        cut["on_policy"] = {**cut["on_policy"], "max_new_tokens": TOKENS}
    small["trainer"] = cut
    data = small.get("data")
    if isinstance(data, dict) and isinstance(data.get("self_written"), dict):
        own = {**data["self_written"], "rows": 2 * ITEMS, "max_new_tokens": TOKENS}
        small["data"] = {**data, "self_written": own}
    return small


def _first(vary: Vary | list[Vary]) -> Vary | list[Vary]:
    """Return the settings with one seed; other settings stay: each may fail in its own way."""
    if isinstance(vary, list):
        return [_one_seed(grid) for grid in vary]
    return _one_seed(vary)


def _one_seed(grid: Vary) -> Vary:
    return {
        key: value[:1] if isinstance(value, list) and key.rsplit(".", 1)[-1] == "seed" else value
        for key, value in grid.items()
    }
