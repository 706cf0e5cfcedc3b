"""What screens show, as plain data: pure functions over the store's rows.

Nothing here knows a widget, and nothing loads more than the standard library, so that the app
opens on a thousand runs at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

from kdharness.harness.types import Run, RunStatus

DASH = "–"
Points = Sequence[tuple[float, float]]


# ---------------------------------------------------------------- words and figures


def figure(value: float | None, digits: int = 4) -> str:
    """A number as a person reads it: few digits, a dash for none."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and abs(value) < 1e-3:
        return f"{value:.{max(digits - 3, 0)}e}"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


def age(seconds: float) -> str:
    """How long ago, in one unit: `12 s`, `5 min`, `3 h`, `9 d`."""
    seconds = max(0.0, seconds)
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds // 86_400)} d"


def model_name(spec: Any) -> str:
    """A model field of a config in a few letters: the last part of a path, or how it is cut."""
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
    """`student ← teacher` of a training, `checkpoints × benchmarks` of an evaluation.

    Of an experiment, its steps.
    """
    if config.get("method") == "sweep":
        return ", ".join(map(str, config.get("steps") or []))
    if config.get("method") == "eval":
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


def eta(run: Run, now: float) -> float | None:
    """Seconds left in the run's current stage, from its rate so far."""
    began = run.info.get("stage_began")
    done = run.step - int(run.info.get("stage_first", 0))
    if began is None or done < 1 or run.max_steps <= run.step:
        return None
    last = float(run.info.get("stage_last", now))
    return max(0.0, (last - float(began)) / done * (run.max_steps - run.step) - (now - last))


def clock(seconds: float | None) -> str:
    """Seconds as `h:mm:ss` or `m:ss`; nothing when unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def run_line(run: Run, now: float, status: RunStatus | None = None) -> dict[str, Any]:
    """A run as a row of the list of runs; `status` replaces the stored one."""
    state = status or run.status
    when = run.started or run.created
    return {
        "id": run.id,
        "method": run.method,
        "models": models_of(run.config),
        "status": state.value,
        "step": run.step,
        "max_steps": run.max_steps,
        "progress": run.step / run.max_steps if run.max_steps else 0.0,
        "eta": eta(run, now) if state is RunStatus.RUNNING else None,
        "loss": run.loss,
        "when": when,
        "stage": str(run.info.get("at_work") or run.info.get("stage", "")),
        "checkpoint": run.checkpoint or "",
        "error": run.error,
    }


# ---------------------------------------------------------------- curves


def smooth(points: Points, weight: float) -> list[tuple[float, float]]:
    """An exponential moving average that starts unbiased; gaps and infinities are kept out."""
    if weight <= 0:
        return list(points)
    out: list[tuple[float, float]] = []
    total = scale = 0.0
    for x, y in points:
        if not math.isfinite(y):
            continue
        total = total * weight + (1 - weight) * y
        scale = scale * weight + (1 - weight)
        out.append((x, total / scale))
    return out


def downsample(points: Points, buckets: int) -> list[tuple[float, float]]:
    """At most four points a bucket of x: its first, lowest, highest and last, in order.

    A spike of one step stays visible however many steps share a column of the screen.
    """
    if len(points) <= 4 * buckets or buckets < 1:
        return list(points)
    low, high = points[0][0], points[-1][0]
    width = (high - low) / buckets or 1.0
    out: list[tuple[float, float]] = []
    start = 0
    for bucket in range(1, buckets + 1):
        edge = low + bucket * width
        stop = start
        while stop < len(points) and (points[stop][0] < edge or bucket == buckets):
            stop += 1
        if stop > start:
            values = [y for _, y in points[start:stop] if isfinite(y)]
            kept = {start, stop - 1}
            if values:
                ends = [y for _, y in points[start:stop]]
                kept |= {start + ends.index(min(values)), start + ends.index(max(values))}
            out += [points[i] for i in sorted(kept)]
        start = stop
    return out


# ---------------------------------------------------------------- configs side by side


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain data as dotted names: `data.train.0.path`."""
    if isinstance(values, Mapping) and values:
        parts: Iterable[tuple[Any, Any]] = values.items()
    elif isinstance(values, list) and any(isinstance(v, (dict, list)) for v in values):
        parts = enumerate(values)
    else:
        return {prefix: values} if prefix else {}
    out: dict[str, Any] = {}
    for key, value in parts:
        out |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return out


def config_diff(*configs: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """The dotted names whose values are not the same in all configs, with each one's value."""
    tables = [flat(config) for config in configs]
    names = list(dict.fromkeys(name for table in tables for name in table))
    out = []
    for name in names:
        values = [table.get(name) for table in tables]
        if any(value != values[0] for value in values[1:]):
            out.append((name, values))
    return out


# ---------------------------------------------------------------- lineage


def lineage(
    store: Any, name: str, limit: int = 200, seen: set[str] | None = None
) -> list[dict[str, Any]]:
    """A checkpoint and its ancestors as rows of a tree, each with depth and role.

    A checkpoint met a second time is not walked again: `again` says so. `seen` holds those met
    before, and grows.
    """
    rows: list[dict[str, Any]] = []
    seen = set() if seen is None else seen

    def walk(key: str, depth: int, role: str) -> None:
        found = store.checkpoint(key)
        if len(rows) >= limit:
            return
        if found is None:
            rows.append(
                {
                    "id": f"{len(rows)}",
                    "name": key,
                    "depth": depth,
                    "role": role,
                    "method": "",
                    "run": "",
                    "path": "",
                    "again": False,
                }
            )
            return
        again = found.id in seen
        seen.add(found.id)
        rows.append(
            {
                "id": f"{len(rows)}",
                "name": found.name,
                "depth": depth,
                "role": role,
                "method": found.method,
                "run": found.run or "",
                "path": found.path,
                "again": again,
            }
        )
        if not again:
            for parent_role, parent in sorted(found.parents.items()):
                walk(parent, depth + 1, parent_role)

    walk(name, 0, "")
    return rows


def origins(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(role, name) of what a run that has no checkpoint yet starts from."""
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
