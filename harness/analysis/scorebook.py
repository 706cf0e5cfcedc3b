"""Scores of groups of judgments: computed once per state and cached in the store.

A group is one checkpoint under one benchmark revision and one judge; its state is the number of
writes to it. The cache can be deleted safely. numpy is imported only to compute new scores.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kdharness.harness.analysis.hidden_files import hidden_files
from kdharness.harness.paths import Paths
from kdharness.harness.registry import LM_EVAL, scorer_of
from kdharness.harness.stats.rows import Row, ScoreContext, newest_report
from kdharness.harness.store import BenchNotes, Store, note_of
from kdharness.harness.types import MetricValue

SCORING_VERSION = "6"
"""Part of every cache key: increment it when a formula changes."""
IMPORTED = "imported:"
"""How the judges of imported results begin."""


class Group(NamedTuple):
    """Judgments of one checkpoint on one benchmark revision by one judge."""

    checkpoint: str
    bench: str
    revision: str
    judge: str
    changes: int


def groups_of(store: Store, checkpoints: Iterable[str] | None = None) -> list[Group]:
    """Return the stored groups of all checkpoints, or of those with these ids."""
    return [Group(**row) for row in store.judgment_groups(checkpoints)]


def group_flags(
    group: Group,
    notes: BenchNotes,
    cards: dict[str, dict[str, Any]],
    as_published: bool,
) -> tuple[str, ...]:
    """Return the flags of a benchmark's revision, of the answers and of the judge."""
    flags = list(note_of(notes, group.bench, group.revision).get("flags", ()))
    flags += notes.get((group.checkpoint, group.bench, group.revision), {}).get("flags", ())
    if group.judge != "exact":
        flags += notes.get((group.judge, group.bench, group.revision), {}).get("flags", ())
        flags += judge_flags(group.judge, cards)
    if as_published:
        flags.append("as-published")
    return tuple(dict.fromkeys(flags))


def judge_flags(judge: str, cards: dict[str, dict[str, Any]]) -> list[str]:
    """Return the labels of a judge's report card; none for imported and published judges."""
    if judge.startswith((IMPORTED, "panel:", "published:")):
        return []
    card = cards.get(judge)
    if card is None:
        in_process = judge.startswith(("local:", "llama:"))
        return ["judge:toy" if in_process else "judge:untested"]
    return [f"judge:{label}" for label in card.get("labels", ())]


def single_threaded_blas() -> AbstractContextManager[object]:
    """Limit BLAS to one thread.

    The matrix products are small: waking a thread pool for each costs three times the work itself.
    """
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:
        return nullcontext()
    import numpy  # noqa: F401  (the pools must be loaded before they can be limited)

    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def score_rows(
    rows: Sequence[Row],
    bench: str,
    note: dict[str, Any],
    paths: Paths | None,
    as_published: bool = False,
) -> list[MetricValue]:
    """Score rows with their benchmark's scorer."""
    if not rows:
        return []
    scorer = scorer_of(str(note.get("scorer") or bench))
    context = ScoreContext(
        as_published=as_published, asset=lambda a, n: _asset(paths, a, n), note=note
    )
    values: list[MetricValue] = scorer(rows, context)
    return values


def read_group(store: Store, group: Group) -> list[Row]:
    """Read the rows of a group, oldest first."""
    found = store.judgment_rows(group.checkpoint, group.bench, group.revision, group.judge)
    rows = list(map(partial(tuple.__new__, Row), found))
    if group.bench.startswith(LM_EVAL) and group.judge.startswith(IMPORTED):
        return newest_report(rows)
    return _against_one(rows, group, store)


def _against_one(rows: list[Row], group: Group, store: Store) -> list[Row]:
    """Drop judgments against an earlier state of the baseline or teacher.

    The name stays the same when the folder changes, so that earlier judgments would otherwise be
    mixed with current ones.
    """
    if len({row.baseline for row in rows}) < 2:
        return rows
    against = str(store.bench_note(group.bench, group.revision).get("against", ""))
    opponent = store.checkpoint(against) if against else None
    if opponent is None:
        return rows  # several opponents, or a store of an older version without this note

    def key(row: Row) -> tuple[str, int, str, int]:
        return row.item, row.turn, row.metric, row.order

    # Pairs store the opponent's name, agreement with a teacher stores its id.
    names = {opponent.id, opponent.name}
    current = {key(row) for row in rows if row.baseline in names}
    return [row for row in rows if row.baseline in names or key(row) not in current]


def _asset(paths: Paths | None, asset: str, name: str) -> Path | None:
    """Return a pulled file or None; scorers work without it and set a flag."""
    if paths is None:
        return None
    path = paths.assets / asset / name
    return path if path.exists() else None


def state_of(group: Group, note: dict[str, Any], assets: str) -> str:
    """Return what a group's scores depend on: the formulas, its judgments, files and opponent."""
    state = f"{SCORING_VERSION}:{group.changes}:{assets}:{note.get('scorer', '')}"
    against = note.get("against")
    return f"{state}:{against}" if against else state


def asset_state_of(paths: Paths | None) -> str:
    """Return a value that changes when the files used by scorers change."""
    if paths is None:
        return "-"
    folder = paths.assets / "alpaca-eval-lc"
    if not folder.is_dir():
        return "-"
    return ",".join(
        f"{path.name}:{path.stat().st_mtime_ns}" for path in sorted(folder.glob("*.csv"))
    )


def encoded(value: MetricValue) -> list[object]:
    """Return a value as a list for JSON."""
    return [
        value.metric,
        value.value,
        value.ci_low,
        value.ci_high,
        value.n,
        value.n_failed,
        list(value.flags),
    ]


def decoded(value: list[Any]) -> MetricValue:
    """Return the value of such a list."""
    metric, estimate, low, high, n, failed, flags = value
    return MetricValue(metric, estimate, low, high, n, failed, tuple(flags))


class ScoreCache:
    """The cached scores of checkpoints, each under a key with the state it was derived from."""

    def __init__(self, store: Store, checkpoints: Collection[str]) -> None:
        self._store = store
        self._cached = store.cached_scores(checkpoints)
        self._fresh: list[tuple[str, str, str]] = []

    def get(self, key: str, state: str) -> list[MetricValue] | None:
        """Return the scores stored under a key; None if they were derived from another state."""
        entry = self._cached.get(key)
        if entry is None or entry[0] != state:
            return None
        return [decoded(value) for value in json.loads(entry[1])]

    def put(self, key: str, state: str, values: Iterable[MetricValue]) -> None:
        """Add scores, to be written by `write`."""
        self._fresh.append((key, state, json.dumps([encoded(value) for value in values])))

    def write(self) -> None:
        """Write what was added to the store, in one transaction."""
        if self._fresh:
            self._store.cache_scores(self._fresh)
        self._fresh = []


def add_panels(
    store: Store,
    paths: Paths | None,
    groups: Sequence[Group],
    figures: dict[Group, list[MetricValue]],
    notes: BenchNotes,
    cache: ScoreCache,
    as_published: bool,
    how: str,
) -> dict[str, list[str]]:
    """Add panels that aggregate all judges of a checkpoint, if there are several.

    Returns panel -> its judges.
    """
    teams: dict[tuple[str, str, str], list[Group]] = {}
    for group in groups:
        if group.judge != "exact":
            teams.setdefault((group.checkpoint, group.bench, group.revision), []).append(group)
    teams = {key: team for key, team in teams.items() if len(team) > 1}
    if not teams:
        return {}
    panels: dict[str, list[str]] = {}
    asset_state = asset_state_of(paths)
    for (checkpoint, bench, revision), team in teams.items():
        members = "+".join(group.judge for group in team)
        panel = Group(checkpoint, bench, revision, f"panel:{members}", 0)
        panels[panel.judge] = [group.judge for group in team]
        key = "|".join([checkpoint, bench, revision, panel.judge, str(as_published), how])
        changes = ",".join(str(group.changes) for group in team)
        state = f"{SCORING_VERSION}:{changes}:{asset_state}"
        known = cache.get(key, state)
        if known is not None:
            figures[panel] = known
            continue
        from kdharness.harness.analysis.panels import panel_figures

        note = note_of(notes, bench, revision)
        figures[panel] = panel_figures(
            {group.judge: read_group(store, group) for group in team},
            partial(score_rows, bench=bench, note=note, paths=paths, as_published=as_published),
            how,
        )
        cache.put(key, state, figures[panel])
    cache.write()
    return panels


def newest_revisions(
    groups: Sequence[Group], notes: BenchNotes
) -> tuple[list[Group], dict[Group, tuple[str, ...]]]:
    """Keep the last used of the revisions with the same flags: the data of older ones has changed.

    Also returns flags for those that hide results of another file, and for those of checkpoints
    that were not evaluated again since the benchmark changed: they are of other questions.
    """
    latest: dict[tuple[str, tuple[str, ...]], tuple[float, str]] = {}
    for (checkpoint, bench, revision), note in notes.items():
        if not checkpoint and "used" in note:
            flags, used_at = tuple(note.get("flags", ())), float(note["used"])
            here = latest.get((bench, flags), (0.0, ""))
            latest[bench, flags] = max(here, (used_at, revision))
    rivals: dict[tuple[str, str, str, tuple[str, ...]], list[Group]] = {}
    for group in groups:
        note = note_of(notes, group.bench, group.revision)
        key = (group.checkpoint, group.bench, group.judge, tuple(note.get("flags", ())))
        rivals.setdefault(key, []).append(group)
    kept: list[Group] = []
    hides: dict[Group, tuple[str, ...]] = {}
    for several in rivals.values():
        used = [note_of(notes, group.bench, group.revision) for group in several]
        # Ties are resolved in favour of the last one listed.
        newest = max(range(len(several)), key=lambda n: (float(used[n].get("used", 0.0)), n))
        kept.append(several[newest])
        others = hidden_files(used[newest], (note for n, note in enumerate(used) if n != newest))
        marks = [f"hides:{name}" for name in others]
        group, flags = several[newest], tuple(used[newest].get("flags", ()))
        if latest.get((group.bench, flags), (0.0, group.revision))[1] != group.revision:
            marks.append("older")
        if marks:
            hides[group] = tuple(marks)
    return kept, hides
