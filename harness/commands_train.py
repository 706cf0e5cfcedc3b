"""Commands around training: cache, merge-adapter, plan, selfcheck."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdharness.harness.paths import Paths

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
