"""Collect a report on a home: question, runs, scores, figures, how to reproduce it.

Everything is read from the store and derived on demand. `reports.blocks` renders it as Markdown,
`reports.html` as a single HTML file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kdharness.harness.analysis.answer import KEEP
from kdharness.harness.analysis.curves import downsample
from kdharness.harness.analysis.judged_answers import headline_metric
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.tradeoff_groups import TradeOff, trade_off
from kdharness.harness.config.summary import models_of
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths, kept_experiments
from kdharness.harness.reports.blocks import (
    Block,
    Code,
    Heading,
    LinePlot,
    Paragraph,
    Table,
    number,
)
from kdharness.harness.reports.claims import claims
from kdharness.harness.reports.facts import costs, flags, how_to_repeat, judges, when
from kdharness.harness.reports.matrix import matrix_section
from kdharness.harness.reports.sections import (
    MOST_IN_A_PICTURE,
    board_section,
    categories_section,
    differences_section,
    plane_picture,
    plane_section,
    summary_section,
    two_to_show,
)
from kdharness.harness.reports.transcripts import largest_differences
from kdharness.harness.runs.status import effective_status
from kdharness.harness.store import Store
from kdharness.harness.store.lineage import lineage
from kdharness.harness.types import Method, Run
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text

HELDOUT_CURVES = ("general_loss", "domain_loss")


def collect(
    store: Store,
    paths: Paths,
    *,
    question: str = "",
    keep: float = KEEP,
    general: str | None = None,
    domain: str | None = None,
    transcripts: int = 4,
) -> list[Block]:
    """Collect the blocks of the report, in order.

    Args:
        question: the question the report answers; by default those of the home's experiments.
        keep: the share of the general score that a picked checkpoint must retain.
        general, domain: axes of the trade-off, as for `tradeoff`.
        transcripts: number of transcripts to show.
    """
    runs = list(reversed(store.runs()))
    scores = leaderboard(store, paths)
    found, missing = _trade_off(store, paths, general, domain, keep)
    experiments = _experiments(paths)
    question = question or " ".join(_questions(experiments))
    blocks: list[Block] = [
        Heading("Question"),
        Paragraph(question or "None given: use --question, or `question` in the experiment file."),
    ]
    blocks += summary_section(found, missing, scores)
    if found is not None:
        blocks += [Heading("Trade-off"), *plane_picture(found)]
        blocks.append(Paragraph("Gain and retention with intervals: see Trade-off in numbers."))
    reference = found.view.roles.reference if found else None
    notes = store.bench_notes()
    headlines = {bench: headline_metric(notes, bench) for bench in {s.bench for s in scores}}
    blocks += matrix_section(scores, reference, headlines)
    blocks += claims(store, paths)
    blocks += plane_section(found)
    blocks += differences_section(store, paths, found)
    blocks += board_section(scores)
    blocks += _runs(runs)
    blocks += _lineage(store, runs)
    blocks += _curves(store, runs)
    blocks += categories_section(scores)
    blocks += judges(store, scores)
    blocks += flags(scores)
    blocks += costs(store, runs, scores)
    names = two_to_show(found, scores)
    if names:
        blocks += [
            Heading("Transcripts with the largest differences", folded=True),
            *largest_differences(store, paths, names, transcripts),
        ]
    blocks += how_to_repeat(experiments, runs)
    return blocks


# ---------------------------------------------------------------- trade-off


def _trade_off(
    store: Store, paths: Paths, general: str | None, domain: str | None, keep: float
) -> tuple[TradeOff | None, str]:
    """Return the trade-off, or None and the reason why there is none."""
    try:
        found = trade_off(store, paths, general=general, domain=domain, keep=keep)
    except ConfigError as error:
        if general or domain:
            raise
        return None, str(error)
    if not found.view.points:
        return None, "no checkpoint has scores on both axes"
    return found, ""


# ---------------------------------------------------------------- runs


def _runs(runs: Sequence[Run]) -> Iterator[Block]:
    yield Heading("Runs", folded=True)
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
    """List each run's checkpoint and its ancestors, newest first, without repetition."""
    seen: set[str] = set()
    lines = []
    for run in reversed(runs):
        checkpoint = store.checkpoint(run.checkpoint) if run.checkpoint else None
        if checkpoint is None or checkpoint.id in seen:
            continue
        for row in lineage(store, checkpoint.id, seen=seen):
            role = f"{row['role']}: " if row["role"] else ""
            repeated = " (see above)" if row["again"] else ""
            method = f" ({row['method']})" if row["method"] else ""
            lines.append(f"{'  ' * row['depth']}{role}{row['name']}{method}{repeated}")
    if lines:
        yield Heading("Lineage", folded=True)
        yield Code("\n".join(lines))


def _curves(store: Store, runs: Sequence[Run]) -> Iterator[Block]:
    trained = [run for run in runs if run.method not in (Method.EVAL, Method.MERGE)]
    pictures: list[Block] = []
    for name in ("loss", *HELDOUT_CURVES):
        series = []
        for run in trained:
            points = store.curve(run.id, name)
            if points:
                series.append((run.id, tuple(downsample([(float(s), v) for s, v in points], 120))))
        for start in range(0, len(series), MOST_IN_A_PICTURE):
            part = tuple(series[start : start + MOST_IN_A_PICTURE])
            label = name if name == "loss" else f"held-out {name}"
            pictures.append(LinePlot(f"{label} during training", label, part))
    if pictures:
        yield Heading("Curves", folded=True)
        yield Paragraph(
            "Each method has its own training loss: losses of different methods cannot be "
            "compared. Held-out losses can."
        )
        yield from pictures


# ---------------------------------------------------------------- experiments


def _experiments(paths: Paths) -> dict[str, str]:
    return {
        path.stem: read_text(path, "the experiment", limit=CONFIG_BYTES)
        for path in kept_experiments(paths)
    }


def _questions(experiments: Mapping[str, str]) -> Iterator[str]:
    for text in experiments.values():
        try:
            values = parse_yaml(text, "experiment")
        except ConfigError:
            continue
        if isinstance(values, dict) and values.get("question"):
            yield str(values["question"])
