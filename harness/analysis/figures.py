"""The scores of many groups: from the cache, or computed, by several processes where it is much.

A million judgments take a process many seconds, most of them in Python: threads would not help.
Further processes are started with `python -m`, which needs nothing of the caller's own program;
what they could not do is done here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdharness.harness.analysis.scorebook import (
    Group,
    ScoreCache,
    asset_state_of,
    decoded,
    encoded,
    read_group,
    score_rows,
    single_threaded_blas,
    state_of,
)
from kdharness.harness.paths import Paths
from kdharness.harness.registry import BENCHMARKS, SCORERS
from kdharness.harness.store import BenchNotes, Store, note_of
from kdharness.harness.types import MetricValue
from kdharness.harness.util.process import child_environment, usable_cores

MANY = 100_000
"""Judgments per process: fewer are computed sooner than another process starts."""
MOST = 8
"""Processes that share the work at most."""
OUR_CODE = "kdharness."


def figures_of(
    store: Store,
    paths: Paths | None,
    groups: Sequence[Group],
    notes: BenchNotes,
    cache: ScoreCache,
    as_published: bool,
) -> dict[Group, list[MetricValue]]:
    """Return the scores of each group, from the cache if its state is unchanged."""
    assets = asset_state_of(paths)
    figures: dict[Group, list[MetricValue]] = {}
    stale: dict[Group, tuple[str, str]] = {}
    for group in groups:
        key = "|".join(
            [group.checkpoint, group.bench, group.revision, group.judge, str(as_published)]
        )
        state = state_of(group, note_of(notes, group.bench, group.revision), assets)
        known = cache.get(key, state)
        figures[group] = known or []
        if known is None:
            stale[group] = key, state
    scorer = _Scorer(store, paths, notes, as_published)
    for group, values in scorer.scores(list(stale)).items():
        figures[group] = values
        cache.put(*stale[group], values)
    cache.write()
    return figures


@dataclass(frozen=True)
class _Scorer:
    """What scores of groups are computed from."""

    store: Store
    paths: Paths | None
    notes: BenchNotes
    as_published: bool

    def scores(self, groups: Sequence[Group]) -> dict[Group, list[MetricValue]]:
        """Compute the scores of groups, here and in as many processes as there is work for."""
        mine, *others = shares(groups, self.notes, _processes(groups))
        helpers = [_Helper(self, share) for share in others]
        try:
            found = self.scores_here(mine)
            for helper in helpers:
                scores = helper.result()
                found |= self.scores_here(helper.groups) if scores is None else scores
        finally:
            for helper in helpers:
                helper.close()
        return found

    def scores_here(self, groups: Sequence[Group]) -> dict[Group, list[MetricValue]]:
        """Compute the scores of groups in this process."""
        if not groups:
            return {}
        with single_threaded_blas():
            return {group: self._score(group) for group in groups}

    def _score(self, group: Group) -> list[MetricValue]:
        note = note_of(self.notes, group.bench, group.revision)
        rows = read_group(self.store, group)
        return score_rows(rows, group.bench, note, self.paths, self.as_published)


def _processes(groups: Sequence[Group]) -> int:
    return max(1, min(usable_cores(), MOST, sum(group.changes for group in groups) // MANY))


def shares(groups: Sequence[Group], notes: BenchNotes, count: int) -> list[list[Group]]:
    """Split groups into shares of about as many judgments, the first for this process.

    Scorers that are not this package's own stay here: another process may not know them, or know
    others by their names.
    """
    parts: list[list[Group]] = [[] for _ in range(count)]
    sizes = [0] * count
    for group in sorted(groups, key=lambda group: -group.changes):
        note = note_of(notes, group.bench, group.revision)
        at = sizes.index(min(sizes)) if _is_ours(str(note.get("scorer") or group.bench)) else 0
        parts[at].append(group)
        sizes[at] += group.changes
    return parts


def _is_ours(name: str) -> bool:
    if name in SCORERS:
        return SCORERS[name].startswith(OUR_CODE)
    return not BENCHMARKS.is_plugin(name) and SCORERS["file"].startswith(OUR_CODE)


class _Helper:
    """Another process that computes the scores of its groups."""

    def __init__(self, scorer: _Scorer, groups: list[Group]) -> None:
        self.groups = groups
        self._answer: subprocess.Popen[bytes] | None = None
        work = {
            "store": str(scorer.store.path.absolute()),
            "home": None if scorer.paths is None else str(scorer.paths.home.absolute()),
            "as_published": scorer.as_published,
            "groups": [group._asdict() for group in groups],
        }
        try:
            self._answer = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=child_environment(OMP_NUM_THREADS="1"),
            )
            assert self._answer.stdin is not None
            self._answer.stdin.write(json.dumps(work).encode())
            self._answer.stdin.close()
        except OSError:  # no memory, no processes left, no interpreter: done here then
            self.close()

    def result(self) -> dict[Group, list[MetricValue]] | None:
        """Wait for the scores; None if the process failed."""
        if self._answer is None or self._answer.stdout is None:
            return None
        text = self._answer.stdout.read()
        if self._answer.wait() != 0:
            return None
        try:
            scores = [[decoded(value) for value in values] for values in json.loads(text)]
            return dict(zip(self.groups, scores, strict=True))
        except ValueError:
            return None

    def close(self) -> None:
        """End the process if it still runs."""
        if self._answer is not None:
            if self._answer.poll() is None:
                self._answer.kill()
                self._answer.wait()
            if self._answer.stdout is not None:
                self._answer.stdout.close()
            self._answer = None


def main() -> None:
    """Read work as JSON from standard input, and write the scores of its groups."""
    work = json.loads(sys.stdin.buffer.read())
    groups = [Group(**group) for group in work["groups"]]
    paths = None if work["home"] is None else Paths(Path(work["home"]))
    with Store(work["store"]) as store:
        scorer = _Scorer(store, paths, store.bench_notes(), work["as_published"])
        scores = scorer.scores_here(groups)
    found = [[encoded(value) for value in scores[group]] for group in groups]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
