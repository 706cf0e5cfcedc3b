"""Two files of one name: their results would stand under one label, and one would hide the other.

A benchmark of a user's own goes by its file's stem, a held-out set by the set's name. An edited
file, or a copy of it, is the same benchmark, whose newest revision counts. A file that asks
something else is refused while the one that holds the name is still there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError, KDHarnessError
from kdharness.harness.protocols import Benchmark
from kdharness.harness.store import Store
from kdharness.harness.util.filesystem import exists
from kdharness.harness.util.untrusted import parse_json, read_lines

SHARED = 0.5
"""From this share of the smaller file's rows on, two files are versions of one."""
_ASKS = ("prompt", "messages", "turns", "conversations", "instruction")

Notes = Mapping[tuple[str, str, str], Mapping[str, Any]]


def refuse_namesake(store: Store, bench: Benchmark) -> None:
    """Refuse a benchmark whose label stands for the results of another file.

    Raises:
        DataError: naming both files.
    """
    files = bench.sources
    if not files:
        return
    scored = {(g["bench"], g["revision"]) for g in store.judgment_groups()}
    for (checkpoint, label, revision), note in store.bench_notes().items():
        if checkpoint or label != bench.label or revision == bench.revision:
            continue
        if (label, revision) not in scored:
            continue
        for name, path in (note.get("sources") or {}).items():
            mine = files.get(name)
            if mine is not None and _another(Path(mine), Path(path)):
                called = f"held-out set {name!r}" if name else f"benchmark name {label!r}"
                raise DataError(
                    f"the {called} already has results from another file, {path}",
                    where=mine,
                    hint="rename one of the two files: results go by the file's name, and the "
                    "newer ones would hide the older",
                )


def _another(mine: Path, theirs: Path) -> bool:
    """Whether these are two files that are both there and ask different things."""
    if mine == theirs or mine.stem != theirs.stem or not exists(theirs, folder=False):
        return False
    try:
        if theirs.samefile(mine):
            return False
        one, other = _asked(mine), _asked(theirs)
    except (OSError, KDHarnessError, ValueError):
        # What cannot be read cannot be told apart.
        return False
    return len(one & other) < SHARED * min(len(one), len(other))


def _asked(path: Path) -> set[str]:
    """What each row of a JSONL file asks, as text."""
    found = set()
    for _, line in read_lines(path, DataError):
        row = parse_json(line)
        asked = {key: row[key] for key in _ASKS if key in row} if isinstance(row, dict) else row
        found.add(json.dumps(asked or row, sort_keys=True))
    return found
