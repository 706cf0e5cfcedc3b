"""The settings that an experiment varies: their combinations, and the steps they apply to."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence

from kdharness.harness.config.files import parse_config, set_field
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.steps import ExperimentStep
from kdharness.harness.types import Method

MOST_COMBINATIONS = 10_000
"""A larger grid is a typo, and would exhaust memory before it could be listed."""


def combinations_of(
    vary: Mapping[str, object] | Sequence[Mapping[str, object]], where: str
) -> Iterator[dict[str, object]]:
    """Yield every combination of settings; if nothing varies, a single empty one."""
    for grid in [vary] if isinstance(vary, Mapping) else (vary or [{}]):
        lists = [value if isinstance(value, list) else [value] for value in grid.values()]
        if any(not values for values in lists):
            raise ConfigError("a varied field has no values", where=f"{where}: vary")
        if math.prod(map(len, lists)) > MOST_COMBINATIONS:
            raise ConfigError(
                f"more than {MOST_COMBINATIONS:,} combinations", where=f"{where}: vary"
            )
        for choice in itertools.product(*lists):
            yield dict(zip(grid, choice, strict=True))


def steps_of(
    key: str,
    steps: Mapping[str, ExperimentStep],
    combinations: Sequence[Mapping[str, object]],
    where: str,
) -> dict[str, str]:
    """Map each step to the field that a varied key refers to in it."""
    first, _, rest = key.partition(".")
    if first in steps and rest:
        return {first: rest}
    written = [name for name, step in steps.items() if _is_written(step.values, key)]
    if key == "seed":
        written = [name for name in steps if steps[name].values.get("method") != Method.EVAL]
    if not written:
        value = next(choice[key] for choice in combinations if key in choice)
        written = [name for name, step in steps.items() if _knows(step.values, key, value)]
    if not written:
        for name, step in steps.items():
            parse_config(step.values, where=f"{where}: steps.{name}")
        raise ConfigError(
            f"no step has a field {key!r}",
            where=f"{where}: vary",
            hint="set it in the step that should vary, or prefix the step: STEP.trainer.epochs",
        )
    return dict.fromkeys(written, key)


def _is_written(values: object, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _knows(values: Mapping[str, object], key: str, value: object) -> bool:
    """Return whether the step's config accepts this field and value."""
    changed = copy.deepcopy(dict(values))
    try:
        set_field(changed, f"{key}={json.dumps(value)}")
        parse_config(changed)
    except ConfigError:
        return False
    return True
