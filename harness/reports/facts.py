"""Sections of the report about judges, flags, costs, and how to reproduce the results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

from kdharness.harness.analysis.costs import TITLES, costs_of
from kdharness.harness.analysis.judge_cards import NO_ISSUES, card_rows
from kdharness.harness.analysis.metrics import LEGEND, flag_name
from kdharness.harness.reports.blocks import Block, Code, Heading, Paragraph, Table, interval
from kdharness.harness.store import Store
from kdharness.harness.types import Method, Run, Score
from kdharness.harness.util.untrusted import dump_yaml


def when(moment: float | None) -> str:
    """Format a time in the local time zone, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) if moment else "–"


def judges(store: Store, scores: Sequence[Score]) -> Iterator[Block]:
    """Show the report card of every judge with scores."""
    used = sorted({s.judge for s in scores if s.judge != "exact"})
    if not used:
        return
    yield Heading("Judges", folded=True)
    cards = store.cards()
    for judge in used:
        card = cards.get(judge)
        if card is None:
            yield Paragraph(f"{judge}: not checked yet (run kdharness judge check {judge}).")
            continue
        labels = ", ".join(card.get("labels", ())) or NO_ISSUES
        yield Table(
            ("check", "share", "n"),
            tuple(
                (
                    row["check"].strip(),
                    interval(row["share"], row.get("low"), row.get("high")),
                    str(row.get("n", "–")),
                )
                for row in card_rows(card)
            ),
            f"{judge}: {labels}; checked {when(card.get('created'))}",
        )


def flags(scores: Sequence[Score]) -> Iterator[Block]:
    """List every flag on a score, with its meaning and where it occurs."""
    where: dict[str, set[str]] = {}
    for score in scores:
        for flag in score.flags:
            where.setdefault(flag, set()).add(f"{score.checkpoint} on {score.bench}")
    if where:
        yield Heading("Flags", folded=True)
        yield Table(
            ("flag", "meaning", "where"),
            tuple(
                (
                    flag,
                    LEGEND.get(flag_name(flag), "–"),
                    ", ".join(sorted(places)[:6]) + (" …" if len(places) > 6 else ""),
                )
                for flag, places in sorted(where.items())
            ),
        )


def costs(store: Store, runs: Sequence[Run], scores: Sequence[Score]) -> Iterator[Block]:
    """Show the cost of each checkpoint including its ancestors, of each run and of the judges."""
    yield Heading("Costs", folded=True)
    judged = {score.checkpoint for score in scores}
    shown = [c for c in store.checkpoints() if c.run or c.name in judged]
    if shown:
        yield Table(
            ("checkpoint", *TITLES.values()),
            tuple(
                (cost.checkpoint, *(cost.texts()[key] for key in TITLES))
                for cost in costs_of(store, shown)
            ),
            "FLOPs with ancestors: its own training and that of its initial student, teacher, "
            "expert and reference, each run once; ≥: a lower bound, because some runs have no "
            "stored value",
        )
    rows = tuple(
        (run.id, f"{run.finished - run.started:.0f} s")
        for run in runs
        if run.finished and run.started
    )
    if rows:
        yield Table(
            ("run", "duration"),
            rows,
            "from start to end, including pauses and time between a stop and a resume",
        )
    spent = store.judge_spending()
    if spent:
        yield Table(
            ("judge", "calls", "prompt tokens", "reply tokens", "US dollars"),
            tuple(
                (
                    row["judge"],
                    f"{row['calls']:,}",
                    f"{row['prompt_tokens']:,}",
                    f"{row['tokens']:,}",
                    f"{row['usd']:.2f}",
                )
                for row in spent
            ),
        )


def how_to_repeat(experiments: Mapping[str, str], runs: Sequence[Run]) -> Iterator[Block]:
    """List versions, and the command and file of every experiment and every other run."""
    yield Heading("How to reproduce", folded=True)
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("kdharness", "torch", "transformers")
    )
    yield Paragraph(
        f"Made with {versions}. Save a text below as a file and run the command above it."
    )
    experiment_runs: set[str] = set()
    for name, text in experiments.items():
        yield Code(text, f"kdharness sweep {name}.yaml")
        experiment_runs |= {run.id for run in runs if run.id.startswith(f"{name}-")}
    for run in runs:
        # The run of an experiment is reproduced by the experiment file.
        if run.id in experiment_runs or run.method == Method.SWEEP:
            continue
        # An evaluation's config is run by `sweep` as its only step.
        is_eval = run.method == Method.EVAL
        values = {"name": "repeat", "steps": {"scores": run.config}} if is_eval else run.config
        text = dump_yaml(values)
        yield Code(text, f"kdharness {'sweep' if is_eval else 'train'} {run.id}.yaml")
