"""The demo command: train, align and score a small real model."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.tradeoff import canonical_name, trade_off_view
from kdharness.harness.cli.experiments import all_done, claim_results, execute, print_findings
from kdharness.harness.cli.tradeoff import draw
from kdharness.harness.experiments.demo import begun_in_bf16, load_demo, summary_rows
from kdharness.harness.experiments.expand import PlannedRun, SweepConfig, find_experiment
from kdharness.harness.models.loading import is_cpu_faster_in_bf16
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text


@click.command("demo")
@click.option(
    "--smoke",
    is_flag=True,
    help="Run the same steps on a tiny fraction of the data: tests the machine, not the method.",
)
@click.option(
    "--judge",
    metavar="SPEC",
    help="A real judge, such as openai:MODEL (default: the small model itself, a toy judge).",
)
@click.pass_obj
def demo_command(paths: Paths, smoke: bool, judge: str | None) -> None:
    """Train, align and score a small real model, then show the leaderboard and the trade-off.

    The same steps as `kdharness sweep demo`, in bf16 on a CPU with AMX. After a stop or a kill, run
    the same command again to continue.
    """
    started = time.monotonic()
    with Store(paths.store) as store:
        bf16 = begun_in_bf16(store)
    bf16 = is_cpu_faster_in_bf16() if bf16 is None else bf16
    if bf16:
        click.echo("the demo computes in bf16 (for CPUs with AMX)", err=True)
    sweep, planned = load_demo(smoke=smoke, judge=judge, bf16=bf16)
    if not all_done(execute(paths, find_experiment("demo"), sweep, planned)):
        sys.exit(1)
    show_results(paths, sweep, planned, smoke=smoke)
    if judge is None:
        click.echo(
            "The MT-Bench and AlpacaEval scores come from a toy judge (a 135M model) on a few "
            "items: they demonstrate the workflow, not the quality of the models. MT-Bench "
            "ratings are expected ones, the mean of the judge's distribution over 1 to 10. IFEval "
            "needs no judge, but 16 prompts show a collapse at most."
        )
    click.echo(
        f"\ndone in {(time.monotonic() - started) / 60:.1f} minutes. "
        f"Open the results in the app: {safe_text(open_command(paths))}",
        err=True,
    )


def open_command(paths: Paths) -> str:
    """Return the shell command that opens the app on this home with the running kdharness."""
    program = Path(sys.argv[0])
    name = str(program) if program.name == "kdharness" and program.exists() else "kdharness"
    try:
        name = str(program.resolve().relative_to(Path.cwd())) if "/" in name else name
        home = str(paths.home.relative_to(Path.cwd()))
    except ValueError:
        home = str(paths.home)
    return f"{name} --home {home}"


def show_results(
    paths: Paths, sweep: SweepConfig, planned: Sequence[PlannedRun], *, smoke: bool
) -> None:
    """Print the leaderboard, the trade-off and the claims, all from the store."""
    names = {run.step: run.name for run in planned}
    with Store(paths.store) as store:
        scores = leaderboard(store, paths)
        view = trade_off_view(store, paths, None, None, names["kd"], names["expert"], scores)
        order = [canonical_name(store, run.name) for run in planned]
    click.echo(
        "\nLeaderboard (score ± half the width of its 95 % interval, or the interval's bounds)"
    )
    rows, columns = summary_rows(scores, order)
    print_table(rows, columns, "table")
    click.echo(f"\nTrade-off: reference {view.roles.reference}, expert {view.roles.expert}")
    click.echo("\n".join(draw(view.points, view.general, view.domain)))
    for number, item in enumerate(view.points, 1):
        gain = "–" if item.gain is None else f"{item.gain:6.1%}"
        retention = "–" if item.retention is None else f"{item.retention:6.1%}"
        click.echo(f"  {number} {item.point.checkpoint:<24} gain {gain}  retention {retention}")
    if smoke:
        click.echo("\nA smoke run trains on almost no data: its scores are meaningless.", err=True)
        return
    click.echo("\nClaims, checked with paired tests")
    print_findings(claim_results(paths, sweep, planned), "table")
