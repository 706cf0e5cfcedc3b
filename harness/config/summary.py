"""Summaries of configs: which models they use, and how two configs differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kdharness.harness.types import Method


def model_name(spec: object) -> str:
    """Return a short name for a model field: the last part of a path, or how it is cut."""
    if isinstance(spec, str):
        return spec.rstrip("/").rsplit("/", 1)[-1]
    if not isinstance(spec, Mapping):
        return ""
    source = spec.get("from") or spec.get("source")
    if source:
        layers = spec.get("keep_layers")
        count = len(layers) if isinstance(layers, list) else layers
        return f"{model_name(source)}/{count}"
    if spec.get("experts_from"):
        return "moe:" + "+".join(model_name(part) for part in spec["experts_from"])
    return model_name(str(spec.get("model") or ""))


def models_of(config: Mapping[str, Any]) -> str:
    """Return `student ← teacher` of a training, `checkpoints × benchmarks` of an evaluation.

    Of an experiment, its steps.
    """
    if config.get("method") == Method.SWEEP:
        return ", ".join(map(str, config.get("steps") or []))
    if config.get("method") == Method.EVAL:
        names = [model_name(name) for name in config.get("checkpoints") or []]
        names += [str(name) for name in config.get("imported") or []]
        who = ", ".join(names) if len(names) < 3 else f"{len(names)} checkpoints"
        return f"{who} × {', '.join(map(str, config.get('benches') or []))}"
    if config.get("method") == "merge":
        ends = [config.get("reference"), *(config.get("models") or []), config.get("expert")]
        return " + ".join(model_name(end) for end in ends if end)
    experts = config.get("experts")
    teachers = [config.get("teacher"), config.get("expert")]
    teachers += list(experts.values()) if isinstance(experts, Mapping) else []
    teacher = ", ".join(name for name in map(model_name, teachers) if name)
    student = model_name(config.get("student"))
    return f"{student} ← {teacher}" if teacher else student


def origins(config: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return (role, name) of the models a run without a checkpoint yet starts from."""
    out = []
    for role in ("student", "teacher", "reference", "expert"):
        spec = config.get(role)
        if not spec:
            continue
        if isinstance(spec, Mapping):
            name = spec.get("from") if spec.get("from") not in (None, "teacher") else None
            out.append((role, str(name or spec.get("model") or model_name(spec))))
        else:
            out.append((role, str(spec)))
    experts = config.get("experts")
    for name, spec in experts.items() if isinstance(experts, Mapping) else ():
        out.append((str(name), model_name(spec)))
    return out


def flat(values: object, prefix: str = "") -> dict[str, object]:
    """Flatten nested plain data to dotted names: `data.train.0.path`."""
    if isinstance(values, Mapping) and values:
        parts: Iterable[tuple[Any, Any]] = values.items()
    elif isinstance(values, list) and any(isinstance(v, (dict, list)) for v in values):
        parts = enumerate(values)
    else:
        return {prefix: values} if prefix else {}
    out: dict[str, object] = {}
    for key, value in parts:
        out |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return out


def config_diff(*configs: Mapping[str, object]) -> list[tuple[str, list[Any]]]:
    """Return the dotted names whose values differ between configs, with each config's value."""
    tables = [flat(config) for config in configs]
    names = list(dict.fromkeys(name for table in tables for name in table))
    out = []
    for name in names:
        values = [table.get(name) for table in tables]
        if any(value != values[0] for value in values[1:]):
            out.append((name, values))
    return out
