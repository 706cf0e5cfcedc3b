"""Which judgments of an imported run of lm-evaluation-harness change a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kdharness.harness.analysis.scorebook import Group, read_group
from kdharness.harness.stats.rows import Row
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, digest


@dataclass(frozen=True)
class _Current:
    """What counts now of one benchmark's revision.

    Attributes:
        rows: (item, metric) -> the row that counts.
        newest: metric -> the date of its latest row.
    """

    rows: Mapping[tuple[str, str], Row]
    newest: Mapping[str, float]


def _current(store: Store, group: Group) -> _Current:
    rows = read_group(store, group)
    newest: dict[str, float] = {}
    for row in rows:
        newest[row.metric] = max(newest.get(row.metric, row.created), row.created)
    # Oldest first: of an item's rows, the last one counts.
    return _Current({(row.item, row.metric): row for row in rows}, newest)


def changes_of(store: Store, model: Checkpoint, judgments: Sequence[Judgment]) -> list[Judgment]:
    """Return the judgments that change a result.

    A later run may come back to a value that an earlier one had and one between had not: that row
    is stored a second time, under its own date.
    """
    known = store.result_ids(model.id)
    stored: dict[tuple[str, str], _Current] = {}
    fresh: dict[str, Judgment] = {}
    for judgment in judgments:
        if judgment.id not in known:
            fresh[judgment.id] = judgment
            continue
        key = judgment.bench, judgment.revision
        if key not in stored:
            stored[key] = _current(store, Group(model.id, *key, judgment.judge, 0))
        current = stored[key]
        row = current.rows.get((judgment.item, judgment.metric))
        counts = row is not None and (row.value, row.weight) == (judgment.value, judgment.weight)
        newest = current.newest.get(judgment.metric, judgment.created)
        if newest < judgment.created and not counts:
            again = replace(judgment, id=digest(judgment.id, judgment.created))
            fresh[again.id] = again
    return [judgment for judgment in fresh.values() if judgment.id not in known]
