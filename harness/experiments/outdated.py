"""Whether a finished run still stands on what the experiment has now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.experiments.expand import PlannedRun, outputs_of
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Run
from kdharness.harness.util.text import listed, texts_in


def replaced_need(store: Store, one: PlannedRun, planned: Sequence[PlannedRun]) -> str:
    """Return a checkpoint of an earlier step that was made again after a finished run used it.

    A training's ancestors say which one it used, and an evaluation has scores of those it scored.
    A checkpoint that came out the same is the same one.

    Args:
        store: the home's.
        one: a finished run.
        planned: all runs of the experiment.
    """
    named = set(texts_in(one.config.model_dump(mode="json")))
    needs = [need for need in planned if need.name in one.needs]
    used = [name for need in needs for name in outputs_of(need) if name in named]
    if not used:
        return ""
    current = {name: found for name in used if (found := store.checkpoint(name)) is not None}
    if isinstance(one.config, EvalConfig):
        scored = {
            group["checkpoint"] for group in store.judgment_groups({c.id for c in current.values()})
        }
        return next((n for n, c in current.items() if c.id not in scored), "")
    known = _ancestors(store, [c for name in outputs_of(one) if (c := store.checkpoint(name))])
    # Nothing is known of a run whose checkpoint names no parents, or is gone.
    return next((n for n, c in current.items() if known and not known & {c.id, c.model}), "")


def changed_files(one: PlannedRun, run: Run) -> str:
    """Return which files of a finished run's config were written since it began, or nothing."""
    if run.started is None:
        return ""
    since = run.started
    files = [Path(text) for text in dict.fromkeys(texts_in(one.config.model_dump(mode="json")))]
    names = [file.name for file in files if _written(file) > since]
    if not names:
        return ""
    have = "has" if len(names) == 1 else "have"
    return f"{listed(names, 3)} {have} changed since"


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime if path.is_absolute() and path.is_file() else 0.0
    except (OSError, ValueError):  # a text that is no path
        return 0.0


def _ancestors(store: Store, checkpoints: Sequence[Checkpoint]) -> set[str]:
    """Return the ids, and the ids of the weights, of all that checkpoints were made from."""
    found: set[str] = set()
    left = [parent for checkpoint in checkpoints for parent in checkpoint.parents.values()]
    while left:
        key = left.pop()
        if key in found:
            continue
        found.add(key)
        parent = store.checkpoint(key)
        if parent is not None:
            found |= {parent.id, parent.model}
            left += parent.parents.values()
    return found
