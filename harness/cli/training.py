"""Commands around training: cache, merge-adapter, plan, selfcheck."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from kdharness.harness.cli.follow import follow
from kdharness.harness.cli.options import format_option
from kdharness.harness.config.files import load_config
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.runs import launch
from kdharness.harness.runs.estimate import estimate
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table

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
    parsed = load_config(config) if config else None
    result = resolve(TOOLS, "selfcheck", "tool")(
        parsed, ctx.obj, lambda text: click.echo(text, err=True)
    )
    if form == "json":
        click.echo(json.dumps(result, indent=2))
    else:
        columns = [
            "method",
            "loss_rel_error",
            "grad_rel_error",
            "flops_over_floor",
            "peak_bytes_over_plain",
            "tokens_per_second",
            "note",
        ]
        print_table(result["cases"], columns, form)
        click.echo("ok" if result["ok"] else "something is off: see the notes", err=True)
    if not result["ok"]:
        ctx.exit(1)


@click.command("plan")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE")
@click.option(
    "--engine",
    type=click.Choice(["single", "ddp", "fsdp2"]),
    default="single",
    show_default=True,
    help="How several processes share the work.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="GPUs, over all machines.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="What one GPU sustains; gives the time.",
)
@format_option
@click.pass_obj
def plan_command(
    paths: Paths,
    config: str,
    overrides: tuple[str, ...],
    engine: str,
    processes: int,
    tflops: float | None,
    form: str,
) -> None:
    """Tell before it starts: parameters, memory, FLOPs, steps, time and disk of CONFIG."""
    parsed = load_config(config, overrides)
    rows = resolve(TOOLS, "planned_rows", "tool")(parsed, paths, processes)
    plan = estimate(parsed, paths, rows, engine=engine, processes=processes, tflops=tflops)
    print_table(plan.rows(), ["figure", "value", "unit"], form)


@click.command("merge-adapter")
@click.argument("checkpoint")
@click.argument("output", type=click.Path(file_okay=False))
@click.pass_obj
def merge_adapter_command(paths: Paths, checkpoint: str, output: str) -> None:
    """Write the plain model that CHECKPOINT (a LoRA run or folder) stands for into OUTPUT."""
    click.echo(resolve(TOOLS, "merge_adapter", "tool")(checkpoint, output, paths))


@click.command("train")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=VALUE",
    help="Change one field of the config; may be given more than once.",
)
@click.option("--name", help="The run's name.")
@click.option(
    "--accelerate",
    type=click.Path(exists=True, dir_okay=False),
    help="An accelerate config file: several GPUs or machines.",
)
@click.option("--detach", is_flag=True, help="Return once the run has started.")
@click.option(
    "--prepare",
    is_flag=True,
    help="Only store the run NAME (or find it again): a scheduler starts the workers.",
)
@click.pass_obj
def train_command(
    paths: Paths,
    config: str,
    overrides: tuple[str, ...],
    name: str | None,
    accelerate: str | None,
    detach: bool,
    prepare: bool,
) -> None:
    """Train a student as CONFIG says: SFT, KD or DAE."""
    parsed = load_config(config, overrides)
    if parsed.method == "eval":
        raise ConfigError("this is an eval config; run: kdharness eval", where=config)
    if prepare:
        wanted = name or getattr(parsed, "name", None)
        if wanted is None:
            raise ConfigError("a prepared run needs a name", hint="give --name NAME")
        click.echo(launch.prepare(paths, parsed, wanted).id)
        return
    run = launch.start(paths, parsed, name=name, accelerate=accelerate)
    if not detach:
        run = follow(paths, run.id)
    click.echo(run.id)


@click.command("merge")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=VALUE",
    help="Change one field of the config; may be given more than once.",
)
@click.option("--name", help="The run's name.")
@click.pass_obj
def merge_command(paths: Paths, config: str, overrides: tuple[str, ...], name: str | None) -> None:
    """Put models' weights together as CONFIG says: WiSE-FT curve, average, task arithmetic.

    Prints the checkpoints that were made.
    """
    parsed = load_config(config, overrides)
    if parsed.method != "merge":
        raise ConfigError(
            f"this is a config for {parsed.method}, not for merge",
            where=config,
            hint=f"run: kdharness train {config}",
        )
    run = launch.start(paths, parsed, name=name)
    follow(paths, run.id)
    with Store(paths.store) as store:
        for checkpoint in store.checkpoints(run.id):
            click.echo(checkpoint.name)
