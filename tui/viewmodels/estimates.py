"""Estimates before a start, computed in a separate process because they load torch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from kdharness.harness.config.files import dump_config
from kdharness.harness.paths import Paths
from kdharness.harness.util.text import clock
from kdharness.tui.commands import cli_words, printed_json, run_python

EVALUATION = """
import json, sys
from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.evaluation.dry_run import plan
from kdharness.harness.evaluation.pipeline import load_benches
from kdharness.harness.evaluation.unused import unused_settings
from kdharness.harness.paths import find_paths
from kdharness.harness.store import Store
paths = find_paths(sys.argv[1])
try:
    config = parse_config(json.loads(sys.stdin.read()))
    benches = load_benches(config, paths)
    with Store(paths.store) as store:
        rows = plan(config, paths, store, benches)
except KDHarnessError as error:
    sys.exit(str(error))
print(json.dumps({"rows": rows, "unused": unused_settings(config, benches)}))
"""


def run_json(command: list[str], text: str = "") -> Any:
    """Run our own code in a separate process; return the JSON it prints."""
    return printed_json(run_python(command, text))


def training(paths: Paths, config: Any) -> list[str]:
    """Return steps, tokens, memory, disk and checks of a training run, as lines."""
    with tempfile.TemporaryDirectory(prefix="kdharness-plan-") as scratch:
        file = Path(scratch) / "config.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        rows = run_json(cli_words(paths.home, "plan", str(file), "--format", "json"))
        words = ("check", str(file), "--no-weights", "--format", "json")
        checks = run_json(cli_words(paths.home, *words))
    estimate = {row["figure"]: row["value"] for row in rows}
    sizes = ", ".join(
        f"{name.removeprefix('parameters ')} {_count(value)}"
        for name, value in estimate.items()
        if name.startswith("parameters") and "trained" not in name
    )
    lines = [
        f"parameters: {sizes}; {_count(estimate.get('parameters trained', 0))} trained",
        f"{estimate.get('steps', 0):,} steps, {estimate.get('tokens', 0):,} tokens "
        f"({estimate.get('tokens labelled', 0):,} labelled)",
        f"memory about {estimate.get('memory peak', 0):.2f} GiB, "
        f"disk {estimate.get('disk', 0):.2f} GiB",
    ]
    lines += [
        f"{name} {value:.2f} GiB"
        for name, value in estimate.items()
        if name.startswith("memory on ")
    ]
    lines += [f"! {row['value']}" for row in rows if row["figure"] == "note"]
    free = _free_memory()
    if estimate.get("memory peak", 0) > free:
        # Estimates may be too high, so that it is for the user to decide.
        lines.append(f"! only {free:.1f} GiB of memory available here")
    if estimate.get("time"):
        lines.append(f"about {clock(estimate['time'])}")
    return [*lines, *_checked(checks)]


def _checked(checks: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what `kdharness check` found, as lines."""
    marks = {"note": "!", "stop": "✗"}
    found = [
        f"{marks[check['status']]} {check['check']} of {check['of']}: {check['detail']}"
        for check in checks
        if check["status"] in marks
    ]
    return found or [f"✓ {len(checks)} checks of models and rows"]


def evaluation(paths: Paths, config: Any) -> list[str]:
    """Return answers to generate, judge calls, tokens, price and unused settings, as lines."""
    values = json.dumps(config.model_dump(mode="json", by_alias=True))
    planned = run_json(["-c", EVALUATION, str(paths.home)], values)
    rows = planned["rows"]
    answers = sum(r["answers"] for r in {(r["checkpoint"], r["bench"]): r for r in rows}.values())
    lines = [f"{answers:,} answers to generate"]
    for judge in dict.fromkeys(row["judge"] for row in rows if row["judge"]):
        judged = [row for row in rows if row["judge"] == judge]
        prices = [row["usd"] for row in judged]
        price = "price unknown" if None in prices else f"about ${sum(prices):.2f}"
        calls, tokens = (sum(row[name] for row in judged) for name in ("calls", "tokens"))
        lines.append(f"{judge}: {calls:,} calls, about {tokens:,} tokens, {price}")
    return [*lines, *(f"! {sentence}" for sentence in planned["unused"])]


def _count(value: float) -> str:
    """Format a number of parameters: 135 M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _free_memory() -> float:
    """Return the available memory in GiB."""
    return float(psutil.virtual_memory().available) / 2**30
