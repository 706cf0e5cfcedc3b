"""The label commands: rate and compare answers by hand, to correct the judges."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from kdharness.harness.analysis.label_design import LabelQueue, label_queue
from kdharness.harness.analysis.labelling import (
    LabelSession,
    LabelTask,
    current_labels,
    label_tasks,
    labelable_benches,
    prompt_of,
    user_name,
)
from kdharness.harness.analysis.people_agreement import AGREEMENT_COLUMNS, agreement_rows
from kdharness.harness.analysis.prompts import BenchTexts, label_texts
from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.cli.options import format_option, refuse_unknown, split
from kdharness.harness.config.evaluation import bench_name
from kdharness.harness.errors import ConfigError
from kdharness.harness.interop.labels import export_labels, import_labels
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text

LONGEST = 20_000
"""Characters shown of a text."""
COLUMNS = (
    "labeller",
    "checkpoint",
    "bench",
    "item",
    "turn",
    "metric",
    "baseline",
    "value",
    "blind",
    "counts",
    "when",
    "note",
)


def choice_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose what to label."""
    for option in (
        click.option("--by", metavar="NAME", help="Who labels. Default: your user name."),
        click.option("--seed", type=int, default=0, help="Seed of the random order. Default: 0."),
        click.option("--bench", metavar="NAME", help="The benchmark, if there are several."),
        click.option("--ckpt", multiple=True, help="Only these checkpoints. Default: all."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Choice:
    """What a person wants to label."""

    ckpt: tuple[str, ...]
    bench: str | None
    seed: int
    by: str

    def queue(self, paths: Paths, store: Store) -> tuple[LabelQueue, BenchTexts]:
        """Return the unlabelled answers in the order to label them, and the benchmark's texts.

        Raises:
            ConfigError: an unknown checkpoint or benchmark, several benchmarks, or nothing that a
                judge has rated.
        """
        named = [store.checkpoint(name) for name in split(self.ckpt)]
        unknown = [n for n, c in zip(split(self.ckpt), named, strict=True) if c is None]
        refuse_unknown("checkpoint", unknown, [c.name for c in store.checkpoints()])
        checkpoints = [c for c in named if c is not None] or store.checkpoints()
        benches = labelable_benches(store, [c.id for c in checkpoints])
        if not benches:
            raise ConfigError(
                "nothing to label: no judge has rated or compared answers",
                hint="evaluate first: kdharness eval --ckpt PATH --bench mt-bench --judge SPEC",
            )
        if self.bench is None and len(benches) > 1:
            raise ConfigError(
                "which benchmark should be labelled?", hint=f"--bench {'|'.join(benches)}"
            )
        bench = bench_name(self.bench) if self.bench else benches[0]
        refuse_unknown("benchmark", [bench], benches)
        texts = label_texts(paths, bench, store.bench_notes())
        tasks = label_tasks(store, bench, checkpoints, texts)
        return label_queue(store, bench, tasks, self.by, self.seed, time.time()), texts


@click.group("label", cls=SuggestingGroup, invoke_without_command=True)
@choice_options
@click.option(
    "--count", type=click.IntRange(1), default=20, help="How many answers to label. Default: 20."
)
@click.pass_context
def label_group(
    ctx: click.Context,
    ckpt: tuple[str, ...],
    bench: str | None,
    seed: int,
    by: str | None,
    count: int,
) -> None:
    """Rate and compare answers by hand, to correct the judges.

    Without a command, asks for labels in the terminal: names and verdicts are hidden, and answers
    come in random order. Each label is stored at once.
    """
    if ctx.invoked_subcommand is not None:
        _refuse_options_before(ctx, ctx.invoked_subcommand)
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(
            "labelling needs a terminal, and stdin is not one",
            hint="without one: kdharness label next 20 lists what to label, "
            "and kdharness label import FILE.jsonl reads labels",
        )
    paths: Paths = ctx.obj
    choice = Choice(ckpt, bench, seed, by or user_name())
    with Store(paths.store) as store:
        queue, texts = choice.queue(paths, store)
        tasks = queue.tasks
        session = LabelSession(tasks[:count], choice.by, seed, queue.design)
        if not tasks:
            click.echo("everything is labelled")
            return
        label_in_terminal(store, session, texts)
        click.echo(f"\n{len(session.given)} labels stored; {len(tasks) - len(session.given)} left")


def _refuse_options_before(ctx: click.Context, command: str) -> None:
    """Refuse options before a subcommand, which would not see them."""
    for name in ctx.params:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"--{name} must come after {command}: kdharness label {command} --{name} …",
                ctx,
            )


def label_in_terminal(store: Store, session: LabelSession, texts: BenchTexts) -> None:
    """Ask for labels until all are given or the user quits."""
    shown = -1
    while (task := session.task) is not None:
        if session.index != shown:
            shown = session.index
            _show(session, task, texts)
        key = click.getchar().lower()
        if key in ("q", "\x04", "\x1b"):
            return
        if key == "\x03":
            raise KeyboardInterrupt
        label = session.press(key, time.time())
        if label is not None:
            store.add_labels([label])
            value = "withdrawn" if label.value is None else key
            click.echo(f"  {value}", err=True)
        elif session.index == shown:
            click.echo(f"  {safe_text(key, 8)!r}? {session.keys}, s skip, u undo, q quit", err=True)


def _show(session: LabelSession, task: LabelTask, texts: BenchTexts) -> None:
    turn = f", turn {task.answer.turn}" if task.answer.turn > 1 or task.earlier else ""
    click.echo(f"\n━━━ {session.progress} ━━━ item {safe_text(task.answer.item, 60)}{turn}\n")
    for prompt in prompt_of(task, texts) or ["(prompt not available)"]:
        click.echo(f"Prompt\n{safe_text(prompt, LONGEST)}\n")
    for heading, text in session.texts():
        click.echo(f"{heading}\n{safe_text(text, LONGEST) or '(empty)'}\n")
    click.echo(f"{session.keys}; s skip, u undo, q quit", err=True)


@label_group.command("next")
@click.argument("count", type=click.IntRange(1))
@choice_options
@format_option
@click.pass_obj
def next_command(
    paths: Paths,
    count: int,
    ckpt: tuple[str, ...],
    bench: str | None,
    seed: int,
    by: str | None,
    form: str,
) -> None:
    """List the COUNT answers to label next: a random sample, denser where labels tell more."""
    with Store(paths.store) as store:
        queue, _ = Choice(ckpt, bench, seed, by or user_name()).queue(paths, store)
    how = {"seed": seed, "design": queue.design}
    print_table(
        [{**_task_row(task), **how} for task in queue.tasks[:count]],
        ["checkpoint", "bench", "item", "turn", "metric", "baseline", "answer", *how],
        form,
    )


def _task_row(task: LabelTask) -> dict[str, object]:
    return {
        "checkpoint": task.name,
        "bench": task.bench,
        "item": task.answer.item,
        "turn": task.answer.turn,
        "metric": task.metric,
        "baseline": task.baseline,
        "answer": task.answer.id,
    }


@label_group.command("list")
@format_option
@click.pass_obj
def list_command(paths: Paths, form: str) -> None:
    """List every label, oldest first; superseded and withdrawn ones do not count."""
    with Store(paths.store) as store:
        labels = store.labels()
        names = {checkpoint.id: checkpoint.name for checkpoint in store.checkpoints()}
    counting = {label.id for label in current_labels(labels)}
    rows: Sequence[dict[str, object]] = [
        {
            "labeller": label.labeller,
            "checkpoint": names.get(label.checkpoint, label.checkpoint),
            "bench": label.bench,
            "item": label.item,
            "turn": label.turn,
            "metric": label.metric,
            "baseline": label.baseline,
            "value": label.value,
            "blind": bool(label.blind),
            "counts": label.id in counting,
            "when": time.strftime("%Y-%m-%d %H:%M", time.localtime(label.created)),
            "note": label.note,
        }
        for label in labels
    ]
    print_table(rows, COLUMNS, form)


@label_group.command("agreement")
@format_option
@click.pass_obj
def agreement_command(paths: Paths, form: str) -> None:
    """Show how far people agree with each other on what both have labelled."""
    with Store(paths.store) as store:
        rows = agreement_rows(store)
    print_table(rows, AGREEMENT_COLUMNS, form)
    if not rows:
        click.echo("no answer has labels of two people: kdharness label --by NAME", err=True)


@label_group.command("export")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file to write.")
@click.pass_obj
def export_command(paths: Paths, output: Path | None) -> None:
    """Print every label as JSON Lines, which `label import` reads."""
    with Store(paths.store) as store:
        text = export_labels(store)
    if output is None:
        click.echo(text, nl=False)
    else:
        atomic_write_text(output, text)


@label_group.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--by", metavar="NAME", help="Who labelled, where a row does not say.")
@click.pass_obj
def import_command(paths: Paths, file: Path, by: str | None) -> None:
    """Import labels from JSON Lines with checkpoint, bench, item and value; see docs/outputs.md.

    Importing a file again changes nothing. If a row is wrong, nothing of the file is stored.
    """
    with Store(paths.store) as store:
        benches = labelable_benches(store, [c.id for c in store.checkpoints()])
        texts = {bench: label_texts(paths, bench, store.bench_notes()) for bench in benches}
        summary = import_labels(store, file, by or user_name(), time.time(), texts)
    if summary.unknown_strata:
        click.echo(
            f"warning: {summary.unknown_strata} labels were chosen by strata that are not in this "
            "home, and count as chosen by hand; kdharness store merge brings the strata",
            err=True,
        )
    click.echo(f"{summary.rows} rows, {summary.new} new labels", err=True)
