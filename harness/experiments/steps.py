"""The steps of an experiment file: their base config and their dependencies."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdharness.harness.config.field_kinds import NAMED_MODELS, names_model
from kdharness.harness.config.files import absolute_paths, preset_text
from kdharness.harness.errors import ConfigError
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text


@dataclass(frozen=True)
class ExperimentStep:
    """A step's config as plain data, and the steps that must finish first."""

    values: dict[str, Any]
    needs: tuple[str, ...]


def read_step(
    name: str, raw: object, names: Sequence[str], base: Path, where: str
) -> ExperimentStep:
    """Read a step's config as plain data, based on its file or preset if it has one."""
    step_path = f"{where}: steps.{name}"
    values = {"config": raw} if isinstance(raw, str) else copy.deepcopy(raw)
    if not isinstance(values, dict):
        raise ConfigError("a step must be a run config or the path of one", where=step_path)
    needs = values.pop("needs", [])
    file, preset = values.pop("config", None), values.pop("preset", None)
    start: dict[str, Any] = {}
    if file is not None:
        path = base / str(file)
        try:
            start = parse_yaml(read_text(path, "the config", limit=CONFIG_BYTES), str(path))
        except ConfigError as error:
            raise ConfigError(f"cannot read {file}: {error.message}", where=step_path) from error
        start = absolute_paths(start, path.resolve().parent)
    elif preset is not None:
        start = parse_yaml(preset_text(str(preset)), str(preset))
    values = _over(start, absolute_paths(values, base))
    values.pop("name", None)
    listed = [needs] if isinstance(needs, str) else needs
    if not isinstance(listed, list):
        raise ConfigError("needs must be a step name or a list of step names", where=step_path)
    unknown = [need for need in listed if need not in names]
    if unknown:
        raise ConfigError(
            f"unknown step {unknown[0]} in needs",
            where=step_path,
            hint=f"steps: {', '.join(names)}",
        )
    used = {text for text in _model_names(values) if text in names and text != name}
    wanted = [step for step in names if step in used or step in listed]
    return ExperimentStep(values, tuple(wanted))


def _over(below: object, above: object) -> Any:
    """Merge `above` into `below` recursively."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{k: _over(below[k], v) if k in below else v for k, v in above.items()}}


def _model_names(values: object, field: str = "", above: str = "") -> Iterator[str]:
    """Yield every text in a field that expects a model."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _model_names(value, str(key), field)
    elif isinstance(values, list):
        for value in values:
            yield from _model_names(value, field, above)
    elif isinstance(values, str) and (names_model(field) or above in NAMED_MODELS):
        yield values


def in_order(steps: Mapping[str, ExperimentStep], where: str) -> list[str]:
    """Return the step names, dependencies first."""
    order: list[str] = []
    waiting = dict(steps)
    while waiting:
        ready = [name for name, step in waiting.items() if not set(step.needs) & set(waiting)]
        if not ready:
            raise ConfigError(
                f"circular dependency between steps: {', '.join(waiting)}", where=where
            )
        order += ready
        for name in ready:
            del waiting[name]
    return order
