"""The rollouts command: what a student answered during its training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import click

from kdharness.harness.paths import Paths
from kdharness.harness.runs.rollouts import Rollout, read_rollouts
from kdharness.harness.runs.status import find_run
from kdharness.harness.store import Store
from kdharness.harness.util.tables import FORMATS, print_table
from kdharness.harness.util.text import safe_text

COLUMNS = ["step", "row", "kind", "where", "tokens", "ended", "distinct", "score", "text"]


@click.command("rollouts")
@click.argument("run")
@click.option("--step", type=click.IntRange(1), help="Only answers that were sampled in this step.")
@click.option("--row", type=click.IntRange(0), help="Only answers to this row of the data, from 0.")
@click.option("--kind", help="Only answers to rows of this kind, such as domain.")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="How many, from the end.",
)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", *FORMATS]),
    default="text",
    show_default=True,
    help="Output format; text prints whole answers.",
)
@click.pass_obj
def rollouts_command(
    paths: Paths,
    run: str,
    step: int | None,
    row: int | None,
    kind: str | None,
    last: int,
    every: bool,
    form: str,
) -> None:
    """Show the answers that RUN's student sampled during training (trainer.on_policy).

    The score is the mean divergence from the teacher per token, in nats.
    """
    with Store(paths.store) as store:
        folder = paths.run(find_run(store, run).id)
    chosen = (
        rollout
        for rollout in read_rollouts(folder)
        if step in (None, rollout.step)
        and row in (None, rollout.row)
        and kind in (None, rollout.kind)
    )
    found = deque(chosen, maxlen=None if every else last)
    if not found:
        click.echo("no sampled answer matches", err=True)
    if form == "text":
        click.echo("\n".join(line for rollout in found for line in _lines(rollout)))
    else:
        print_table([rollout.as_dict() for rollout in found], COLUMNS, form)


def _lines(rollout: Rollout) -> Iterator[str]:
    """Yield the lines of one answer."""
    ended = "ended" if rollout.ended else "cut off"
    yield safe_text(
        f"step {rollout.step} · row {rollout.row} ({rollout.kind}, {rollout.where}) · "
        f"{rollout.tokens} tokens, {ended} · {rollout.score:z.4g} nats per token"
    )
    yield from (f"  {line}" for line in safe_text(rollout.text).splitlines() or [""])
    yield ""
