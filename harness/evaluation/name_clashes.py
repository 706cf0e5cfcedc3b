"""Two files with the same name: their results would share a label, and one would hide the other.

A user's own benchmark is labelled by the stem of its file, a held-out set by the name of the set.
An edited file, or a copy of it, is the same benchmark, and its newest revision counts. A file with
different questions is rejected while the file that owns the name still exists.
"""

from __future__ import annotations

import json
from pathlib import Path

from kdharness.harness.errors import DataError, KDHarnessError
from kdharness.harness.protocols import Benchmark
from kdharness.harness.store import Store
from kdharness.harness.util.filesystem import exists
from kdharness.harness.util.untrusted import parse_json, read_lines

SHARED = 0.5
"""Two files that share at least this fraction of the smaller one are versions of one file."""
_ASKS = ("prompt", "messages", "turns", "conversations", "instruction")


def refuse_namesake(store: Store, bench: Benchmark) -> None:
    """Reject a benchmark whose label already has results from another file.

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
                title = f"held-out set {name!r}" if name else f"benchmark name {label!r}"
                raise DataError(
                    f"the {title} already has results from another file, {path}",
                    where=mine,
                    hint="rename one of the two files: results are stored under the file name, and "
                    "newer ones would hide older ones",
                )


def _another(mine: Path, theirs: Path) -> bool:
    """Return whether these are two existing files with different questions."""
    if mine == theirs or mine.stem != theirs.stem or not exists(theirs, folder=False):
        return False
    try:
        if theirs.samefile(mine):
            return False
        own, other = _questions(mine), _questions(theirs)
    except (OSError, KDHarnessError, ValueError):
        # Unreadable files cannot be compared.
        return False
    return len(own & other) < SHARED * min(len(own), len(other))


def _questions(path: Path) -> set[str]:
    """Return the question of each row of a JSONL file, as text."""
    questions = set()
    for _, line in read_lines(path, DataError):
        row = parse_json(line)
        question = {key: row[key] for key in _ASKS if key in row} if isinstance(row, dict) else row
        questions.add(json.dumps(question or row, sort_keys=True))
    return questions
