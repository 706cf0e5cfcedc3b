"""The check command: do student, teachers and rows of a config fit each other?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdharness.harness.cli.options import format_option, set_option
from kdharness.harness.config.files import load_config
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text

COLUMNS = ("check", "of", "status", "detail", "advice")
STYLES = {"ok": "green", "note": "yellow", "stop": "bold red"}


@click.command("check")
@click.argument("config", type=click.Path(dir_okay=False))
@set_option
@click.option(
    "--no-weights", is_flag=True, help="Load no weights: leave out the first loss (KL, top-k mass)."
)
@format_option
@click.pass_context
def check_command(
    ctx: click.Context, config: str, overrides: tuple[str, ...], no_weights: bool, form: str
) -> None:
    """Check that the student, the teachers and the rows of CONFIG fit each other.

    Compares tokenizers, chat templates, end tokens and lengths, and runs the models on a few short
    rows for the divergence at step 0. Exit code 1 if a check says stop: a run would refuse it too.
    """
    paths: Paths = ctx.obj
    checked = resolve(TOOLS, "check_pair", "tool")
    rows = checked(load_config(config, overrides), paths, weights=not no_weights)
    if form == "table":
        _print(rows)
    else:
        print_table(rows, COLUMNS, form)
    if any(row["status"] == "stop" for row in rows):
        ctx.exit(1)


def _print(rows: Sequence[Mapping[str, object]]) -> None:
    """Print the checks as a table that fits the terminal, what to do below each."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("check", "of", "status"):
        table.add_column(column, max_width=14, overflow="fold")
    table.add_column("detail", overflow="fold", ratio=1)
    for row in rows:
        status = str(row["status"])
        detail = Text(safe_text(str(row["detail"])))
        if row["advice"]:
            detail.append(safe_text(f"\n→ {row['advice']}"), style="italic")
        names = (Text(safe_text(str(row[name]))) for name in ("check", "of"))
        table.add_row(*names, Text(status, style=STYLES[status]), detail)
    console = Console()
    console.print(table)
    counts = [sum(row["status"] == status for row in rows) for status in STYLES]
    console.print(Text(f"{counts[0]} ok, {counts[1]} to note, {counts[2]} that stop a run"))
