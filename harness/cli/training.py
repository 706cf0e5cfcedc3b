"""The train, merge, plan, cache, merge-adapter and selfcheck commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import Progress

from kdharness.harness.cli.follow import follow, queue_run
from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.cli.options import format_option, queue_option, set_option
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


@click.group("cache", cls=SuggestingGroup)
def cache_group() -> None:
    """Cache teacher outputs on disk."""


@cache_group.command("build")
@click.argument("config", type=click.Path(dir_okay=False))
@set_option
@click.pass_obj
def build_command(paths: Paths, config: str, overrides: tuple[str, ...]) -> None:
    """Run the teachers of CONFIG over its data once, before training."""
    parsed = load_config(config, overrides)
    with Progress(console=_stderr()) as bars:
        task = bars.add_task("teacher", total=None)

        def progress(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        def say(text: str) -> None:
            bars.console.print(text, markup=False, highlight=False)

        count = resolve(TOOLS, "build_caches", "tool")(parsed, paths, say, progress)
    click.echo(f"{count} rows processed")


def _stderr() -> Console:
    return Console(stderr=True)


@click.command("selfcheck")
@click.argument("config", type=click.Path(dir_okay=False), required=False)
@format_option
@click.pass_context
def selfcheck_command(ctx: click.Context, config: str | None, form: str) -> None:
    """Check the fused losses against the plain formula, on CONFIG's models or on tiny ones.

    Reports the relative errors of loss and gradient, FLOPs relative to the theoretical minimum,
    peak memory relative to the plain step, and tokens per second. Exit code 1 if a check fails.
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
        click.echo("ok" if result["ok"] else "a check failed: see the notes", err=True)
    if not result["ok"]:
        ctx.exit(1)


@click.command("plan")
@click.argument("config", type=click.Path(dir_okay=False))
@set_option
@click.option(
    "--engine",
    type=click.Choice(["single", "ddp", "fsdp2"]),
    default="single",
    show_default=True,
    help="Parallelism for several processes.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of GPUs over all machines.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="Sustained TFLOP/s of one GPU, to estimate the time.",
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
    """Estimate parameters, memory, FLOPs, steps, time and disk of CONFIG before a run."""
    parsed = load_config(config, overrides)
    rows = resolve(TOOLS, "planned_rows", "tool")(parsed, paths, processes)
    plan = estimate(parsed, paths, rows, engine=engine, processes=processes, tflops=tflops)
    print_table(plan.rows(), ["figure", "value", "unit"], form)


@click.command("merge-adapter")
@click.argument("checkpoint")
@click.argument("output", type=click.Path(file_okay=False))
@click.option("--trust-remote-code", is_flag=True, help="Run code from the base's repository.")
@click.pass_obj
def merge_adapter_command(
    paths: Paths, checkpoint: str, output: str, trust_remote_code: bool
) -> None:
    """Merge the LoRA adapter CHECKPOINT (a run or folder) into its base model at OUTPUT."""
    merge = resolve(TOOLS, "merge_adapter", "tool")
    click.echo(merge(checkpoint, output, paths, trust_remote_code=trust_remote_code))


@click.command("train")
@click.argument("config", type=click.Path(dir_okay=False))
@set_option
@click.option("--name", help="Name of the run.")
@click.option(
    "--accelerate",
    type=click.Path(exists=True, dir_okay=False),
    help="An accelerate config file, for several GPUs or machines.",
)
@click.option("--detach", is_flag=True, help="Return as soon as the run has started.")
@queue_option
@click.option(
    "--prepare",
    is_flag=True,
    help="Only create the run (or find an existing one); a scheduler starts the workers.",
)
@click.pass_obj
def train_command(
    paths: Paths,
    config: str,
    overrides: tuple[str, ...],
    name: str | None,
    accelerate: str | None,
    detach: bool,
    queue: bool,
    prepare: bool,
) -> None:
    """Train a student from CONFIG: SFT, KD or DAE."""
    parsed = load_config(config, overrides)
    if parsed.method == "eval":
        raise ConfigError("this is an eval config; use kdharness eval", where=config)
    if queue and prepare:
        raise click.UsageError("--queue cannot be combined with --prepare")
    if queue:
        click.echo(queue_run(paths, parsed, name, accelerate))
        return
    if prepare:
        run_id = name or getattr(parsed, "name", None)
        if run_id is None:
            raise ConfigError("--prepare needs a run name", hint="use --name NAME")
        click.echo(launch.prepare(paths, parsed, run_id).id)
        return
    run = launch.start(paths, parsed, name=name, accelerate=accelerate)
    if not detach:
        run = follow(paths, run.id)
    click.echo(run.id)


@click.command("merge")
@click.argument("config", type=click.Path(dir_okay=False))
@set_option
@click.option("--name", help="Name of the run.")
@queue_option
@click.pass_obj
def merge_command(
    paths: Paths, config: str, overrides: tuple[str, ...], name: str | None, queue: bool
) -> None:
    """Merge models' weights as CONFIG says: WiSE-FT curve, average, task arithmetic.

    Prints the names of the new checkpoints; with --queue, that of the run.
    """
    parsed = load_config(config, overrides)
    if parsed.method != "merge":
        raise ConfigError(
            f"this is a {parsed.method} config, not a merge config",
            where=config,
            hint=f"run: kdharness train {config}",
        )
    if queue:
        click.echo(queue_run(paths, parsed, name))
        return
    run = launch.start(paths, parsed, name=name)
    follow(paths, run.id)
    with Store(paths.store) as store:
        for checkpoint in store.checkpoints(run.id):
            click.echo(checkpoint.name)
