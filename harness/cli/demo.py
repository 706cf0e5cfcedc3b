"""The command that shows the whole story: demo."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.tradeoff import trade_off_view
from kdharness.harness.cli.tradeoff import draw
from kdharness.harness.experiments.demo import run_demo
from kdharness.harness.experiments.demo_findings import findings, summary_rows
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table


@click.command("demo")
@click.option(
    "--smoke",
    is_flag=True,
    help="The same steps on next to nothing: a test of the machine, not of the method.",
)
@click.option(
    "--judge",
    metavar="SPEC",
    help="A real judge, such as openai:MODEL; by default the small model itself, a toy.",
)
@click.pass_obj
def demo_command(paths: Paths, smoke: bool, judge: str | None) -> None:
    """Train, align and score a small real model, then show the leaderboard and the trade-off."""
    from kdharness.harness.cli.follow import follow

    began = time.monotonic()

    def say(text: str) -> None:
        click.echo(text, err=True)

    run_demo(paths, smoke=smoke, judge=judge, say=say, follow=follow)
    show_results(paths, toy=judge is None, smoke=smoke)
    say(
        f"\ndone in {(time.monotonic() - began) / 60:.1f} minutes. "
        f"Open the app on it: {open_command(paths)}"
    )


def open_command(paths: Paths) -> str:
    """What to type to open the app on this home, with the kdharness that runs now."""

    program = Path(sys.argv[0])
    name = str(program) if program.name == "kdharness" and program.exists() else "kdharness"
    try:
        name = str(program.resolve().relative_to(Path.cwd())) if "/" in name else name
        home = str(paths.home.relative_to(Path.cwd()))
    except ValueError:
        home = str(paths.home)
    return f"{name} --home {home}"


def show_results(paths: Paths, *, toy: bool, smoke: bool) -> None:
    """Leaderboard, trade-off, and what they say, all from the store."""

    with Store(paths.store) as store:
        scores = leaderboard(store, paths)
        x, y, placed, names = trade_off_view(store, paths, None, None, "kd", "expert")
        sentences = [] if smoke else findings(store, paths)
    click.echo("\nLeaderboard (score ± half of its 95 % interval, or the interval's ends)")
    rows, columns = summary_rows(scores)
    print_table(rows, columns, "table")
    click.echo(f"\nTrade-off: reference {names[0]}, expert {names[1]}")
    click.echo("\n".join(draw(placed, x, y)))
    for number, item in enumerate(placed, 1):
        gain = "–" if item.gain is None else f"{item.gain:6.1%}"
        kept = "–" if item.retention is None else f"{item.retention:6.1%}"
        click.echo(f"  {number} {item.point.checkpoint:<24} gain {gain}  retention {kept}")
    if smoke:
        click.echo("\nA smoke run trains on next to nothing: its scores mean nothing.", err=True)
        return
    click.echo("\nWhat the scores say (paired differences with their 95 % intervals)")
    for line in sentences:
        click.echo(f"  {line}")
    if toy:
        click.echo(
            "  The MT-Bench and AlpacaEval scores come from a toy judge (a 135M model) on "
            "a few items: they show how it works, not how good the models are."
        )
