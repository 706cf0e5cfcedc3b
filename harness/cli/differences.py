"""Paired differences in a terminal: one line per metric, one group of columns per checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from kdharness.harness.analysis.compare import NOT_SIGNIFICANT, PairedComparison
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.cli.grid import (
    GridColumn,
    aligned,
    decimals_for,
    distinct,
    format_grid,
    interval_parts,
    terminal_width,
)
from kdharness.harness.util.text import figure, safe_text

HOLM = "p_holm: Holm-corrected over all comparisons on that benchmark, including categories"
NONE_SHARED = "no items judged for both checkpoints"
MARKS = {"better": "▲", "worse": "▼", NOT_SIGNIFICANT: ""}

Key = tuple[str, str, str, str]
"""Benchmark, judge, revision and metric."""
Pairs = Mapping[str, PairedComparison]
"""The comparisons of one metric, by the other checkpoint's name."""


def print_differences(pairs: Sequence[PairedComparison], names: Sequence[str]) -> None:
    """Print one line per metric under the name of its benchmark.

    Args:
        pairs: comparisons with the first of the checkpoints.
        names: the checkpoints, the base first.
    """
    if not pairs:
        click.echo(NONE_SHARED)
        return
    table: dict[Key, dict[str, PairedComparison]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.bench):
        key = pair.bench, pair.judge, pair.revision, pair.metric
        table.setdefault(key, {})[pair.other] = pair
    judges = list(dict.fromkeys(key[1] for key in table if key[1] != "exact"))
    width = terminal_width()
    base, *others = distinct(names, width)
    labels, rows = _labels(table, judges)
    bases = tuple(figure(next(iter(row.values())).base_value) if row else "" for row in rows)
    fixed = [
        GridColumn(("bench", "  metric"), labels),
        GridColumn((base, "base"), bases, right=True),
    ]
    shared = {pair.other for pair in pairs}
    chosen = list(zip(others, names[1:], strict=True))
    groups = [_group(shown, name, rows) for shown, name in chosen if name in shared]
    click.echo(format_grid(fixed, groups, width))
    for shown, _ in (pair for pair in chosen if pair[1] not in shared):
        click.echo(f"  {shown}: {NONE_SHARED}", err=True)
    for number, judge in enumerate(judges, 1):
        click.echo(f"  [{number}] {safe_text(judge)}", err=True)
    click.echo(
        "  ▲ better, ▼ worse: the 95 % interval of the difference excludes 0 and p_holm < 0.05\n"
        f"  p is {HOLM}; --long has more",
        err=True,
    )


def _labels(
    table: Mapping[Key, Pairs], judges: Sequence[str]
) -> tuple[tuple[str, ...], list[Pairs]]:
    """Return the first column, and the comparisons on each line: none on a benchmark's own."""
    labels: list[str] = []
    rows: list[Pairs] = []
    last: tuple[str, ...] = ()
    for key, pairs in table.items():
        bench, judge, _, metric = key
        if key[:3] != last:
            last = key[:3]
            number = f" [{judges.index(judge) + 1}]" if judge in judges else ""
            labels.append(safe_text(f"{bench}{number}".replace("\n", " "), 40))
            rows.append({})
        direction = " ↓" if is_lower_better(metric) else ""
        labels.append(safe_text(f"  {metric}{direction}".replace("\n", " "), 60))
        rows.append(pairs)
    return tuple(labels), rows


def _group(shown: str, name: str, rows: Sequence[Pairs]) -> list[GridColumn]:
    """Return the columns of one checkpoint: value, difference with its interval, p and n."""
    pairs = [row.get(name) for row in rows]
    return [
        GridColumn(
            (shown, "value"), tuple(figure(p.other_value) if p else "" for p in pairs), True
        ),
        GridColumn(("difference",), tuple(aligned(map(_difference, pairs)))),
        GridColumn(("p",), tuple(_p(pair.p_holm) if pair else "" for pair in pairs), True),
        GridColumn(("n",), tuple(str(pair.gap.n) if pair else "" for pair in pairs), True),
    ]


def _difference(pair: PairedComparison | None) -> tuple[str, str, str]:
    """Return a signed difference, how far its interval reaches, and the verdict's mark."""
    if pair is None:
        return "", "", ""
    estimate = pair.gap.value, pair.gap.low, pair.gap.high
    number, reach = interval_parts(estimate, decimals_for([estimate]))
    signed = number if number.startswith(("-", "–")) else f"+{number}"
    return signed, reach, MARKS[pair.verdict]


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.2g}"
