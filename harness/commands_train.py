"""Commands around training: cache, merge-adapter, plan, selfcheck."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdharness.harness.commands_run import format_option
from kdharness.harness.paths import Paths
from kdharness.harness.tables import print_table

if TYPE_CHECKING:
    from rich.console import Console


@click.group("cache")
def cache_group() -> None:
    """Teacher distributions kept on disk."""


@cache_group.command("build")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE")
@click.pass_obj
def build_command(paths: Paths, config: str, overrides: tuple[str, ...]) -> None:
    """Run the teachers of CONFIG over its data once, ahead of training."""
    from rich.progress import Progress

    from kdharness.harness.config import load_config
    from kdharness.harness.registry import TOOLS, resolve

    parsed = load_config(config, overrides)
    with Progress(console=_stderr()) as bars:
        task = bars.add_task("teacher", total=None)

        def progress(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        def say(text: str) -> None:
            bars.console.print(text, markup=False, highlight=False)

        ran = resolve(TOOLS, "build_caches", "tool")(parsed, paths, say, progress)
    click.echo(f"{ran} rows run")


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


@click.command("selfcheck")
@click.argument("config", type=click.Path(dir_okay=False), required=False)
@format_option
@click.pass_context
def selfcheck_command(ctx: click.Context, config: str | None, form: str) -> None:
    """Hold the fused losses against the plain formula, on CONFIG's models or on tiny ones.

    Tells relative errors of loss and gradient, FLOPs over the floor, peak memory over the plain
    step's, and tokens a second. Exit code 1 when something is off.
    """
    import json

    from kdharness.harness.config import load_config
    from kdharness.harness.registry import TOOLS, resolve

    parsed = load_config(config) if config else None
    result = resolve(TOOLS, "selfcheck", "tool")(
        parsed, ctx.obj, lambda text: click.echo(text, err=True)
    )
    if form == "json":
        click.echo(json.dumps(result, indent=2))
    else:
        columns = ["method", "loss_rel_error", "grad_rel_error", "flops_over_floor",
                   "peak_bytes_over_plain", "tokens_per_second", "note"]  # fmt: skip
        print_table(result["cases"], columns, form)
        click.echo("ok" if result["ok"] else "something is off: see the notes", err=True)
    if not result["ok"]:
        ctx.exit(1)
