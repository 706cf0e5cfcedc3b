"""The judge commands: check a judge before trusting it, list known judges."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from kdharness.harness.analysis.judge_cards import NO_ISSUES, card_rows, people_rows
from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.cli.options import format_option, refuse_unknown
from kdharness.harness.config.evaluation import (
    EvalConfig,
    absolute_source,
    parse_spec,
    plain_http_warning,
)
from kdharness.harness.config.settings import default_judges
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Probe
from kdharness.harness.registry import ENGINES, TOOLS, resolve
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table


@click.group("judge", cls=SuggestingGroup)
def judge_group() -> None:
    """Check judges before trusting them."""


@judge_group.command("check")
@click.argument("spec")
@click.option("--items", type=click.IntRange(2, 12), default=12, help="Number of questions.")
@click.option(
    "--max-tokens", type=click.IntRange(1), default=512, help="Maximum reply length, in tokens."
)
@click.option("--concurrency", type=click.IntRange(1), default=16, help="Maximum concurrent calls.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    help="Timeout in seconds per call. Default: 120; 3600 for vllm:.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=16, help="Batch size of a local judge."
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="People's votes or published ratings to compare with, in FastChat's JSON Lines.",
)
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Number of verdicts compared with --against.",
)
@click.option("--probe-only", is_flag=True, help="Only test what the endpoint supports.")
@format_option
@click.pass_obj
def check_command(
    paths: Paths,
    spec: str,
    items: int,
    max_tokens: int,
    concurrency: int,
    timeout: float | None,
    batch_size: int,
    against: Path | None,
    sample: int,
    probe_only: bool,
    form: str,
) -> None:
    """Test the judge SPEC and store its report card, which is shown next to its scores.

    With --against, the judge is also compared with people's votes or published ratings; a stored
    card is kept, so that only these are asked.
    """
    spec = absolute_source(spec.strip())  # evaluations look the card up under this name
    parsed = parse_spec(spec)
    if warning := plain_http_warning(spec):
        click.echo(f"warning: {warning}", err=True)
    config = EvalConfig(concurrency=concurrency, timeout=timeout, batch_size=batch_size)
    engine = resolve(ENGINES, parsed.kind, "judge").open(parsed, config, paths)
    try:
        probe = engine.probe(logprobs=True)
        say_probe(engine.name, probe)
        if probe_only:
            return
        expected = resolve(TOOLS, "gives_expected", "tool")(engine, probe, parsed)
        asked: dict[str, Any] = {
            "expected": expected,
            "max_tokens": max_tokens,
            "advance": show_progress,
        }
        with Store(paths.store) as store:
            card = store.cards().get(engine.name)
        compared: dict[str, Any] = dict((card or {}).get("against", {}))
        if against is not None:
            found = resolve(TOOLS, "agreement", "tool")(engine, against, count=sample, **asked)
            compared[found["file"]] = found
            done = f"{found['calls']} calls, {found['failed']} failed"
        if card is None or against is None:
            card = resolve(TOOLS, "report_card", "tool")(
                engine, items=items, logprobs=probe.logprobs, **asked
            )
            card["context"] = probe.context
            done = f"{card['calls']} calls, {card['failed']} failed"
    finally:
        engine.close()
    if compared:
        card["against"] = compared
    with Store(paths.store) as store:
        store.add_card(engine.name, card)
    print_table(card_rows(card), ["check", "share", "low", "high", "n"], form)
    labels = ", ".join(card["labels"]) or NO_ISSUES
    click.echo(f"{engine.name}: {labels} ({done})", err=True)


@judge_group.command("card")
@click.argument("spec")
@format_option
@click.pass_obj
def card_command(paths: Paths, spec: str, form: str) -> None:
    """Show the stored report card of the judge SPEC, and how far it agrees with people's labels."""
    name = absolute_source(spec.strip())
    with Store(paths.store) as store:
        cards = store.cards()
        known = {*cards, *(group["judge"] for group in store.judgment_groups())} - {"exact"}
        refuse_unknown("judge", [name], known)
        people = people_rows(store, name)
    card = cards.get(name)
    checks = [{**row, "value": row["share"]} for row in card_rows(card)] if card else []
    print_table([*people, *checks], ["check", "value", "low", "high", "n"], form)
    if card is None:
        click.echo(f"no report card yet: kdharness judge check {name}", err=True)
    if not people:
        click.echo("no labels of answers that it judged: kdharness label", err=True)


def say_probe(name: str, probe: Probe) -> None:
    """Print what a probe found to stderr."""
    parts = [
        f"responded in {probe.seconds:.1f} s" if probe.seconds else "found",
        "log-probabilities" if probe.logprobs else "no log-probabilities",
        f"context {probe.context:,} tokens" if probe.context else "context length unknown",
    ]
    click.echo(f"{name}: {', '.join(parts)}", err=True)
    if probe.note:
        click.echo(f"  {probe.note}", err=True)


def show_progress(done: int, total: int) -> None:
    """Update a progress line if stderr is a terminal."""
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r  {done}/{total} calls", end=end, file=sys.stderr, flush=True)


@judge_group.command("list")
@format_option
@click.pass_obj
def list_command(paths: Paths, form: str) -> None:
    """List the judges used or checked in this home, with the results of their report cards."""
    rows: dict[str, dict[str, Any]] = {
        name: {"judge": name, "default": True, "card": "untested", "tells": None, "checked": None}
        for name in map(absolute_source, default_judges(paths))
    }
    if paths.store.exists():
        with Store(paths.store) as store:
            cards = store.cards()
            used = {group["judge"] for group in store.judgment_groups()} - {"exact"}
        for name in sorted(used | set(cards)):
            row = rows.setdefault(
                name,
                {
                    "judge": name,
                    "default": False,
                    "card": "untested",
                    "tells": None,
                    "checked": None,
                },
            )
            card = cards.get(name)
            if card:
                row["card"] = ", ".join(card["labels"]) or NO_ISSUES
                row["tells"] = card["checks"].get("tells_all", {}).get("share")
                row["checked"] = time.strftime("%Y-%m-%d", time.localtime(card["created"]))
    print_table(list(rows.values()), ["judge", "default", "card", "tells", "checked"], form)
