"""The whole story of a home as one document: question, runs, figures, pictures, how to repeat it.

Everything is read from the store and derived on the spot. `report_blocks` writes it as Markdown,
`report_html` as one HTML file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdharness.harness.analysis.compare import compare_all
from kdharness.harness.analysis.curves import downsample
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_headline, ranked
from kdharness.harness.analysis.tradeoff import placed_row, trade_off_view
from kdharness.harness.analysis.tradeoff_groups import statistics
from kdharness.harness.config.summary import models_of
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.expand import sweeps_folder
from kdharness.harness.paths import Paths
from kdharness.harness.reports.blocks import (
    Block,
    Code,
    Heading,
    IntervalPlot,
    LinePlot,
    Paragraph,
    PlotPoint,
    Radar,
    Scatter,
    Table,
    interval,
    number,
)
from kdharness.harness.reports.claims import claims
from kdharness.harness.reports.facts import costs, flags, how_to_repeat, judges, when
from kdharness.harness.reports.transcripts import telling_talks
from kdharness.harness.runs.status import effective_status
from kdharness.harness.stats.rows import LEAST_FOR_VERDICT
from kdharness.harness.store import Store
from kdharness.harness.store.lineage import lineage
from kdharness.harness.types import Run, Score
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text

HELDOUT_CURVES = ("general_loss", "domain_loss")
MOST_IN_A_PICTURE = 7


def collect(
    store: Store,
    paths: Paths,
    *,
    question: str = "",
    keep: float = 0.98,
    general: str | None = None,
    domain: str | None = None,
    talks: int = 4,
) -> list[Block]:
    """The report's blocks, in the order in which they are read.

    Args:
        question: what was to be answered; by default what the experiments here say of themselves.
        keep: the share of the general figure that a picked checkpoint must keep.
        general, domain: axes of the trade-off, as `tradeoff` takes them.
        talks: how many transcripts to show.
    """
    runs = list(reversed(store.runs()))
    scores = leaderboard(store, paths)
    view = _trade_off(store, paths, general, domain, keep)
    experiments = _experiments(paths)
    asked = question or " ".join(_questions(experiments))
    blocks: list[Block] = [
        Heading("Question"),
        Paragraph(
            asked or "None was written down: give one with --question, or in the experiment's file."
        ),
    ]
    blocks += _short_answer(view)
    blocks += claims(store, paths)
    blocks += _runs(runs)
    blocks += _lineage(store, runs)
    blocks += _board(scores)
    blocks += _plane(view)
    blocks += _differences(store, paths, view)
    blocks += _curves(store, runs)
    blocks += _categories(scores)
    blocks += judges(store, scores)
    blocks += flags(scores)
    blocks += costs(store, runs, scores)
    names = _two_to_show(view, scores)
    if names:
        blocks += [Heading("Telling transcripts"), *telling_talks(store, paths, names, talks)]
    blocks += how_to_repeat(experiments, runs)
    return blocks


# ---------------------------------------------------------------- the answer


def _trade_off(
    store: Store, paths: Paths, general: str | None, domain: str | None, keep: float
) -> dict[str, Any]:
    """The trade-off as data; `missing` says why there is none."""

    try:
        x, y, placed, roles = trade_off_view(store, paths, general, domain, None, None)
    except ConfigError as error:
        if general or domain:
            raise
        return {"missing": str(error)}
    if not placed:
        return {"missing": "no checkpoint has figures on both axes"}
    return {
        "x": x,
        "y": y,
        "placed": placed,
        "roles": roles,
        "keep": keep,
        "statistics": statistics(store, x, y, placed, roles, keep=keep),
    }


def _short_answer(view: Mapping[str, Any]) -> Iterator[Block]:
    """Which checkpoint to take, and how sure that is; nothing where nothing can be told."""
    yield Heading("In short")
    if "missing" in view:
        yield Paragraph(f"There is no trade-off to decide from yet: {view['missing']}")
        return
    found = view["statistics"]
    picked, (reference, expert) = found["pick"], view["roles"]
    yield Paragraph(
        f"General figure: {view['x'].label}. Domain figure: {view['y'].label}. Reference: "
        f"{reference or 'unknown'}; expert: {expert or 'unknown'}."
    )
    if picked is None:
        yield Paragraph(
            f"No checkpoint is known to keep {view['keep']:g} of the reference's "
            "general figure with a domain gain that can be told."
        )
    else:
        point = found["points"][picked["checkpoint"]]
        sure = (
            ""
            if picked["sure"]
            else (
                f" Its retention's interval reaches below {view['keep']:g}, so more questions "
                "could tell otherwise."
            )
        )
        rivals = (
            " Not told apart from it in gain: " + ", ".join(picked["rivals"]) + "."
            if picked["rivals"]
            else ""
        )
        yield Paragraph(
            f"The most domain with at least {view['keep']:g} of general: {picked['checkpoint']}, "
            f"gain {_cell(point['gain'])}, retention {_cell(point['retention'])}.{sure}{rivals}"
        )
    for name, point in found["points"].items():
        above = point["above_curve"]
        if above is None:
            continue
        few = above["ci_low"] is None or above["n"] < LEAST_FOR_VERDICT
        side = (
            "is not told apart from"
            if few
            else (
                "stands above"
                if above["ci_low"] > 0
                else "stands below"
                if above["ci_high"] < 0
                else "is not told apart from"
            )
        )
        yield Paragraph(f"{name} {side} the WiSE-FT curve: {_cell(above)} of gain.")
    for note in found["notes"]:
        yield Paragraph(f"Note: {note}.")


def _cell(part: Mapping[str, Any] | None) -> str:
    return interval(part["value"], part["ci_low"], part["ci_high"]) if part else "–"


# ---------------------------------------------------------------- runs


def _runs(runs: Sequence[Run]) -> Iterator[Block]:
    yield Heading("Runs")
    rows = tuple(
        (
            run.id,
            run.method,
            models_of(run.config),
            str(run.config.get("seed", "–")),
            effective_status(run).value,
            f"{run.step}/{run.max_steps}",
            f"{run.info['tokens']:,}" if "tokens" in run.info else "–",
            number(run.loss),
            when(run.started),
        )
        for run in runs
    )
    if rows:
        yield Table(
            ("run", "method", "models", "seed", "status", "steps", "tokens", "loss", "started"),
            rows,
        )
    failed = [run for run in runs if run.error]
    for run in failed:
        yield Paragraph(f"{run.id} failed: {run.error.splitlines()[0]}")
    if not rows:
        yield Paragraph("None yet.")


def _lineage(store: Store, runs: Sequence[Run]) -> Iterator[Block]:
    """Each run's checkpoint and what it came from, newest first; nothing twice."""
    seen: set[str] = set()
    lines = []
    for run in reversed(runs):
        known = store.checkpoint(run.checkpoint) if run.checkpoint else None
        if known is None or known.id in seen:
            continue
        for row in lineage(store, known.id, seen=seen):
            role = f"{row['role']}: " if row["role"] else ""
            again = " (see above)" if row["again"] else ""
            method = f" ({row['method']})" if row["method"] else ""
            lines.append(f"{'  ' * row['depth']}{role}{row['name']}{method}{again}")
    if lines:
        yield Heading("Lineage")
        yield Code("\n".join(lines))


def _curves(store: Store, runs: Sequence[Run]) -> Iterator[Block]:
    trained = [run for run in runs if run.method not in ("eval", "merge")]
    pictures: list[Block] = []
    for name in ("loss", *HELDOUT_CURVES):
        series = []
        for run in trained:
            points = store.curve(run.id, name)
            if points:
                series.append((run.id, tuple(downsample([(float(s), v) for s, v in points], 120))))
        for start in range(0, len(series), MOST_IN_A_PICTURE):
            part = tuple(series[start : start + MOST_IN_A_PICTURE])
            what = name if name == "loss" else f"held-out {name}"
            pictures.append(LinePlot(f"{what} while training", what, part))
    if pictures:
        yield Heading("Curves")
        yield Paragraph(
            "A training loss is each method's own: losses of different methods do not "
            "compare. Held-out losses do."
        )
        yield from pictures


# ---------------------------------------------------------------- figures


def _board(scores: Sequence[Score]) -> Iterator[Block]:
    yield Heading("Leaderboard")
    shown = ranked([s for s in scores if is_headline(s.metric)])
    if not shown:
        yield Paragraph("No scores yet.")
        return
    yield Paragraph(
        "Intervals are 95 % over questions. Figures whose intervals overlap may still "
        "be told apart in pairs; see the differences."
    )
    yield Table(
        ("bench", "metric", "checkpoint", "value", "n", "failed", "judge", "flags"),
        tuple(
            (
                s.bench,
                s.metric,
                s.checkpoint,
                interval(s.value, s.ci_low, s.ci_high),
                str(s.n),
                str(s.n_failed),
                s.judge,
                " ".join(s.flags),
            )
            for s in shown
        ),
    )
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in shown:
        groups.setdefault((score.bench, score.metric, score.judge), []).append(score)
    for (bench, metric, judge), rows in groups.items():
        known = [s for s in rows if s.value is not None]
        if len(known) > 1:
            yield IntervalPlot(
                f"{bench} {metric} ({judge})",
                tuple((s.checkpoint, float(s.value or 0.0), s.ci_low, s.ci_high) for s in known),
            )


def _plane(view: Mapping[str, Any]) -> Iterator[Block]:
    if "missing" in view:
        return
    yield Heading("Trade-off")
    placed, found = view["placed"], view["statistics"]
    places = {item.point.checkpoint: item.point for item in placed}
    chain = [view["roles"][0], *found["curve"], view["roles"][1]] if found["curve"] else []
    line = tuple((places[n].general, places[n].domain) for n in chain if n in places)
    axes = [
        axis.label + (" (less is better)" if axis.lower_is_better else "")
        for axis in (view["x"], view["y"])
    ]
    yield Scatter(
        "General against domain; squares are on the Pareto front",
        axes[0],
        axes[1],
        tuple(_mark(item) for item in placed),
        line,
        "WiSE-FT curve",
    )
    rows = []
    for item in placed:
        row = placed_row(item)
        sure = found["points"].get(row["checkpoint"], {})
        rows.append(
            (
                row["checkpoint"],
                row["method"],
                number(row["general"]),
                number(row["domain"]),
                _cell(sure.get("gain")) if sure else number(row["gain"]),
                _cell(sure.get("retention")) if sure else number(row["retention"]),
                _cell(sure.get("above_curve")),
                "yes" if row["on_front"] else "no",
            )
        )
    yield Table(
        (
            "checkpoint",
            "method",
            "general",
            "domain",
            "gain",
            "retention",
            "above WiSE-FT",
            "on front",
        ),
        tuple(rows),
        "gain: 0 is the reference, 1 the expert; 95 % intervals over questions",
    )
    if found["hypervolume"]:
        yield Paragraph(f"Hypervolume of (retention, gain): {_cell(found['hypervolume'])}.")
    if found["recipes"]:
        yield Table(
            ("recipe", "seeds", "figure", "over questions", "over seeds"),
            tuple(
                (
                    one["recipe"],
                    str(len(one["checkpoints"])),
                    one["figure"],
                    _cell(one["questions"]),
                    _cell(one["seeds"]),
                )
                for one in found["recipes"]
            ),
            "means over seeds; each interval holds one source of chance alone",
        )


def _mark(item: Any) -> PlotPoint:
    point = item.point

    def ends(pair: tuple[float | None, float | None]) -> tuple[float, float] | None:
        low, high = pair
        return (low, high) if low is not None and high is not None else None

    return PlotPoint(
        point.checkpoint,
        point.general,
        point.domain,
        ends(point.general_interval),
        ends(point.domain_interval),
        item.on_front,
    )


def _differences(store: Store, paths: Paths, view: Mapping[str, Any]) -> Iterator[Block]:
    """Everything on the plane against the reference, in pairs."""

    reference = view["roles"][0] if "roles" in view else None
    if reference is None:
        return
    names = [i.point.checkpoint for i in view["placed"] if i.point.checkpoint != reference]
    found = compare_all(store, paths, [reference, *names]) if names else []
    rows = tuple(
        (
            one.other,
            one.bench,
            one.metric,
            interval(one.gap.value, one.gap.low, one.gap.high),
            number(one.p_holm),
            one.verdict,
        )
        for one in found
        if is_headline(one.metric)
    )
    if rows:
        yield Heading("Differences from the reference")
        yield Table(
            ("checkpoint", "bench", "metric", "difference", "p (Holm)", "verdict"),
            rows,
            f"paired with {reference} over the questions both answered; p is corrected "
            "for all comparisons on the same benchmark, categories included",
        )


def _categories(scores: Sequence[Score]) -> Iterator[Block]:
    groups: dict[tuple[str, str], dict[str, dict[str, Score]]] = {}
    for score in scores:
        if score.metric.startswith("category:") and score.value is not None:
            table = groups.setdefault((score.bench, score.judge), {})
            table.setdefault(score.checkpoint, {})[score.metric[len("category:") :]] = score
    if groups:
        yield Heading("Categories")
    for (bench, judge), table in groups.items():
        categories = tuple(dict.fromkeys(c for row in table.values() for c in row))
        title = f"{bench} by category ({judge})"
        yield Table(
            ("checkpoint", *categories),
            tuple(
                (
                    name,
                    *(
                        interval(row[c].value, row[c].ci_low, row[c].ci_high) if c in row else "–"
                        for c in categories
                    ),
                )
                for name, row in table.items()
            ),
            title,
        )
        for category in categories:
            yield IntervalPlot(
                f"{bench}, {category} ({judge})",
                tuple(
                    (
                        name,
                        float(row[category].value or 0.0),
                        row[category].ci_low,
                        row[category].ci_high,
                    )
                    for name, row in table.items()
                    if category in row
                ),
            )
        if len(categories) < 3:
            continue
        values = [s.value for row in table.values() for s in row.values() if s.value is not None]
        low, high = (1.0, 10.0) if bench == "mt-bench" else (min(0.0, *values), max(1.0, *values))
        entries = [
            (name, tuple(row[c].value if c in row else None for c in categories))
            for name, row in table.items()
        ]
        for start in range(0, len(entries), MOST_IN_A_PICTURE):
            part = tuple(entries[start : start + MOST_IN_A_PICTURE])
            yield Radar(title, categories, part, low, high)


# ---------------------------------------------------------------- transcripts and experiments


def _two_to_show(view: Mapping[str, Any], scores: Sequence[Score]) -> tuple[str, str] | None:
    """The reference and the picked checkpoint (else the expert), or the first two there are."""
    if "statistics" in view:
        picked = view["statistics"]["pick"]
        reference, expert = view["roles"]
        other = picked["checkpoint"] if picked else None
        if other is None or other == reference:
            other = expert
        if reference and other and reference != other:
            return reference, other
    names = list(dict.fromkeys(score.checkpoint for score in scores))
    return (names[0], names[1]) if len(names) > 1 else None


def _experiments(paths: Paths) -> dict[str, str]:
    return {
        path.stem: read_text(path, "the experiment", limit=CONFIG_BYTES)
        for path in sorted(sweeps_folder(paths).glob("*.yaml"))
    }


def _questions(experiments: Mapping[str, str]) -> Iterator[str]:
    for text in experiments.values():
        try:
            values = parse_yaml(text, "experiment")
        except ConfigError:
            continue
        if isinstance(values, dict) and values.get("question"):
            yield str(values["question"])
