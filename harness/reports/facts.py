"""The report's plain facts: judges, flags, costs, and how to repeat everything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata

from kdharness.harness.analysis.costs import TITLES, costs_of
from kdharness.harness.analysis.judge_cards import NO_ISSUES, card_rows
from kdharness.harness.analysis.metrics import LEGEND
from kdharness.harness.reports.blocks import Block, Code, Heading, Paragraph, Table, interval
from kdharness.harness.store import Store
from kdharness.harness.types import Run, Score
from kdharness.harness.util.untrusted import dump_yaml


def when(moment: float | None) -> str:
    """A time of this machine's clock, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) if moment else "–"


def judges(store: Store, scores: Sequence[Score]) -> Iterator[Block]:
    """The report card of every judge that gave a score."""
    used = sorted({s.judge for s in scores if s.judge != "exact"})
    if not used:
        return
    yield Heading("Judges")
    cards = store.cards()
    for judge in used:
        card = cards.get(judge)
        if card is None:
            yield Paragraph(f"{judge}: never checked (kdharness judge check {judge}).")
            continue
        verdict = ", ".join(card.get("labels", ())) or NO_ISSUES
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
            f"{judge}: {verdict}; checked {when(card.get('created'))}",
        )


def flags(scores: Sequence[Score]) -> Iterator[Block]:
    """Every mark on a score, with what it means and where it stands."""
    where: dict[str, set[str]] = {}
    for score in scores:
        for flag in score.flags:
            where.setdefault(flag, set()).add(f"{score.checkpoint} on {score.bench}")
    if where:
        yield Heading("Flags")
        yield Table(
            ("flag", "what it means", "where"),
            tuple(
                (
                    flag,
                    LEGEND.get(flag.split(":")[0].split("=")[0], "–"),
                    ", ".join(sorted(places)[:6]) + (" …" if len(places) > 6 else ""),
                )
                for flag, places in sorted(where.items())
            ),
        )


def costs(store: Store, runs: Sequence[Run], scores: Sequence[Score]) -> Iterator[Block]:
    """What each checkpoint cost with all that it came from, each run's time, and the judges."""
    yield Heading("Costs")
    judged = {score.checkpoint for score in scores}
    shown = [one for one in store.checkpoints() if one.run or one.name in judged]
    if shown:
        yield Table(
            ("checkpoint", *TITLES.values()),
            tuple(
                (cost.checkpoint, *(cost.texts()[key] for key in TITLES))
                for cost in costs_of(store, shown)
            ),
            "FLOPs with ancestors: its own training and those of its start, teacher, expert and "
            "reference, each run once; ≥: some have no figure",
        )
    rows = tuple(
        (run.id, f"{run.finished - run.started:.0f} s")
        for run in runs
        if run.finished and run.started
    )
    if rows:
        yield Table(
            ("run", "from start to end"),
            rows,
            "a run that was paused or resumed counts the time between, too",
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
    """Versions, and a command with its file for every experiment and every run outside of one."""
    yield Heading("How to repeat it")
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("kdharness", "torch", "transformers")
    )
    yield Paragraph(
        f"Made with {versions}. Save a text below as a file and give it to the "
        "command that it stands under."
    )
    inside: set[str] = set()
    for name, text in experiments.items():
        yield Code(text, f"kdharness sweep {name}.yaml")
        inside |= {run.id for run in runs if run.id.startswith(f"{name}-")}
    for run in runs:
        # The run that carries out an experiment is repeated by the experiment's own file.
        if run.id in inside or run.method == "sweep":
            continue
        # An evaluation's config is taken by `sweep` as its one step.
        scored = run.method == "eval"
        values = {"name": "repeat", "steps": {"scores": run.config}} if scored else run.config
        text = dump_yaml(values)
        yield Code(text, f"kdharness {'sweep' if scored else 'train'} {run.id}.yaml")
