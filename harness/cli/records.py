"""The rm, rename, tag and note commands."""

from __future__ import annotations

import sys

import click

from kdharness.harness.cli.completion import EITHER
from kdharness.harness.cli.options import split
from kdharness.harness.config.evaluation import bench_name
from kdharness.harness.errors import ConfigError
from kdharness.harness.maintenance.annotating import annotation_of, change_note, change_tags
from kdharness.harness.maintenance.records import plan_removal, remove_records, rename_record
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.text import safe_text


@click.command("rm")
@click.argument("names", nargs=-1, required=True, type=EITHER)
@click.option("--bench", multiple=True, help="Remove only the results on these benchmarks.")
@click.option("--cascade", is_flag=True, help="Also remove what descends from it.")
@click.option("--force", is_flag=True, help="Remove it although something depends on it.")
@click.option("--keep-files", is_flag=True, help="Leave the folders on disk.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm_command(
    paths: Paths,
    names: tuple[str, ...],
    bench: tuple[str, ...],
    cascade: bool,
    force: bool,
    keep_files: bool,
    yes: bool,
) -> None:
    """Remove runs or checkpoints, with their weights, answers and scores.

    Lists everything that would go, then asks. A run takes its checkpoints along; an evaluation
    leaves the scores with the checkpoints (use --bench to remove those).
    """
    benches = [bench_name(name) for name in split(bench)]
    with Store(paths.store) as store:
        plan = plan_removal(paths, store, names, cascade=cascade, benches=benches)
        for line in plan.lines():
            click.echo(safe_text(line), err=True)
        plan.refuse(force)
        if not yes:
            _confirm("remove this?")
        kept = remove_records(paths, store, plan, force=force, keep_files=keep_files)
    lost = "scores" if keep_files else "weights and scores"
    for name in kept:
        click.echo(f"{safe_text(name)} stays in the lineage, without {lost}", err=True)
    click.echo("removed", err=True)


def _confirm(question: str) -> None:
    """Ask on the terminal. Raises ConfigError where no one can answer, Abort for a no."""
    if not sys.stdin.isatty():
        raise ConfigError("not removed: there is no terminal to ask on", hint="add --yes")
    click.confirm(question, abort=True, err=True)


@click.command("rename")
@click.argument("name", type=EITHER)
@click.argument("new")
@click.option("--force", is_flag=True, help="Rename it although something refers to it by name.")
@click.pass_obj
def rename_command(paths: Paths, name: str, new: str, force: bool) -> None:
    """Give a run, with its folder and checkpoints, or a checkpoint another name.

    Scores, lineage and weights are unchanged.
    """
    with Store(paths.store) as store:
        rename_record(paths, store, name, new, force=force)
    click.echo(new)


@click.command("tag")
@click.argument("name", type=EITHER)
@click.argument("tags", nargs=-1)
@click.option("--remove", "removed", multiple=True, metavar="TAG", help="Remove this tag.")
@click.pass_obj
def tag_command(paths: Paths, name: str, tags: tuple[str, ...], removed: tuple[str, ...]) -> None:
    """Add tags to a run or checkpoint; without any, print those it has.

    `kdharness runs --tag TAG` lists the runs with a tag.
    """
    with Store(paths.store) as store:
        if tags or removed:
            added = [part for value in tags for part in value.split(",")]
            found = change_tags(store, name, added, split(removed))
        else:
            found = annotation_of(store, name)
    for tag in found.tags:
        click.echo(safe_text(tag))


@click.command("note")
@click.argument("name", type=EITHER)
@click.argument("text", required=False)
@click.option("--clear", is_flag=True, help="Remove the note.")
@click.pass_obj
def note_command(paths: Paths, name: str, text: str | None, clear: bool) -> None:
    """Write a note on a run or checkpoint; without TEXT, print it. `-` reads standard input."""
    if clear and text:
        raise click.UsageError("--clear removes the note: give no text with it")
    with Store(paths.store) as store:
        if clear or text is not None:
            change_note(
                store, name, "" if clear else sys.stdin.read() if text == "-" else text or ""
            )
            return
        note = annotation_of(store, name).note
    if note:
        click.echo(safe_text(note))
