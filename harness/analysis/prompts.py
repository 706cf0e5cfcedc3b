"""The texts of a benchmark's items, if its files are available."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from kdharness.harness.paths import Paths
from kdharness.harness.registry import BENCHMARKS, resolve
from kdharness.harness.store import BenchNotes
from kdharness.harness.types import Item


@dataclass(frozen=True)
class BenchTexts:
    """Prompts by item: the system message if there is one, then the user's turns.

    `systems` counts the system messages by item; `baselines` are the answers of a baseline that
    comes with the benchmark, by item, `baseline_names` who gave them, and `references` the
    reference answers.
    """

    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    systems: Mapping[str, int] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)
    baseline_names: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@runtime_checkable
class _WithBaseline(Protocol):
    """A benchmark that comes with a baseline's answers, by item."""

    baseline: Mapping[str, str]
    baseline_names: Mapping[str, str]


def bench_texts(
    paths: Paths, bench: str, notes: BenchNotes | None = None, *, baseline: str = "all"
) -> BenchTexts:
    """Read a benchmark's texts; nothing if it has not been pulled, or its file is gone or newer.

    Args:
        notes: the store's notes, which hold the path of a user's own file.
        baseline: the opponent; empty for the one that comes with the benchmark.
    """
    source = _own_file(bench, notes or {})
    if (bench not in BENCHMARKS or bench == "file") and not source:
        return BenchTexts()
    # The app shows its first screen without pydantic.
    from kdharness.harness.config.evaluation import EvalConfig

    config = EvalConfig(benches=[source or bench], baseline=baseline or None)
    try:
        kind = resolve(BENCHMARKS, "file" if source else bench, "benchmark")
        loaded = kind.load(paths, config, source) if source else kind.load(paths, config)
    except Exception:
        # Not pulled, of another version, or a plugin's, which may raise anything: answers are
        # then shown without prompts.
        return BenchTexts()
    shipped, names = (
        (loaded.baseline, loaded.baseline_names) if isinstance(loaded, _WithBaseline) else ({}, {})
    )
    systems = {item.id: _system_texts(item) for item in loaded.items}
    return BenchTexts(
        {item.id: (*systems[item.id], *item.turns) for item in loaded.items},
        {item: len(texts) for item, texts in systems.items()},
        dict(shipped),
        dict(names),
        {item.id: item.references for item in loaded.items if item.references},
    )


def label_texts(paths: Paths, bench: str, notes: BenchNotes) -> BenchTexts:
    """Return a benchmark's prompts, and its own baseline's answers if it has one."""
    own = bench_texts(paths, bench, notes, baseline="")
    return own if own.prompts else bench_texts(paths, bench, notes)


def _system_texts(item: Item) -> list[str]:
    return [message["content"] for message in item.messages if message["role"] == "system"]


def _own_file(bench: str, notes: BenchNotes) -> str:
    """Return the path of a user's benchmark file that is unchanged since it was used."""
    for (checkpoint, name, _), note in notes.items():
        source = str((note.get("sources") or {}).get("", ""))
        if checkpoint or name != bench or not source.endswith(".jsonl"):
            continue
        path = Path(source)
        if path.is_file() and path.stat().st_mtime <= float(note.get("used", 0.0)):
            return source
    return ""
