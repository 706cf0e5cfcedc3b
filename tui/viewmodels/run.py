"""A run's log and lineage, as lines and rows. No widgets."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from kdharness.harness.config.summary import origins
from kdharness.harness.paths import Paths
from kdharness.harness.runs.launch import log_tail
from kdharness.harness.store import Store
from kdharness.harness.store.lineage import lineage
from kdharness.harness.types import Run
from kdharness.tui.viewmodels.rows import Line, text_lines

BAR = re.compile(r"\s*(.*?):?\s*\d+%\|")
"""A progress bar's line: its name, its share, and its drawing."""


def log_lines(store: Store, paths: Paths, run: str) -> list[Line]:
    """Return a run's events, then the output of its libraries."""
    lines: list[Line] = []
    for event in store.events(run):
        when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        kind = str(event["kind"])
        role = "bad" if kind in ("error", "failed") else "accent"
        for row in text_lines(f"{event['message']}"):
            lines.append([(f"{when} ", "dim"), (f"{kind:<9} ", role), *row])
    # Events are printed to the worker's log too; output of libraries is only there.
    printed = re.compile(r"\d\d:\d\d:\d\d [\w-]+: ")
    tail = [line for line in log_tail(paths, run, 400).splitlines() if not printed.match(line)]
    tail = without_updates(tail)
    if tail:
        lines += [[], [("worker.log", "strong")], *text_lines("\n".join(tail), "dim")]
    return lines


def without_updates(lines: Sequence[str]) -> list[str]:
    """Return lines with only the last state of each progress bar, which redraws its line.

    Nested bars take turns: as long as only bars are printed, each has one line.
    """
    kept: list[str] = []
    bars: dict[str, int] = {}
    for line in lines:
        found = BAR.match(line)
        if not found:
            bars = {}
        elif found[1] in bars:
            kept[bars[found[1]]] = line
            continue
        else:
            bars[found[1]] = len(kept)
        kept.append(line)
    return kept


def lineage_rows(store: Store, run: Run) -> list[dict[str, Any]]:
    """Return the ancestors of a run's checkpoint, or of its inputs."""
    if run.checkpoint:
        return lineage(store, run.checkpoint)
    rows: list[dict[str, Any]] = [
        {
            "id": "0",
            "name": run.id,
            "depth": 0,
            "role": "",
            "method": run.method,
            "run": run.id,
            "path": "no checkpoint yet",
            "again": False,
        }
    ]
    seen: set[str] = set()
    for role, name in origins(run.config):
        for row in lineage(store, name, seen=seen):
            rows.append(
                {
                    **row,
                    "id": str(len(rows)),
                    "depth": row["depth"] + 1,
                    "role": row["role"] or role,
                }
            )
    return rows
