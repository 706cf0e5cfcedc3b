"""The store commands: check, vacuum, backup, prune, archive, merge, rehash, salvage."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.cli.options import format_option
from kdharness.harness.errors import StoreError
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.maintenance.salvage import salvage
from kdharness.harness.maintenance.upkeep import archive, backup, check, prunable, remove, vacuum
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table

REPORT_SECONDS = 3.0


@click.group("store", cls=SuggestingGroup)
def store_group() -> None:
    """Maintain the store: check, shrink, copy, merge, salvage."""


@store_group.command("check")
@format_option
@click.pass_obj
def check_command(paths: Paths, form: str) -> None:
    """Read every page of the store and check its rows against each other and the files."""
    rows = check(paths)
    print_table(rows, ["check", "status", "detail"], form)
    if any(row["status"] == "broken" for row in rows):
        raise StoreError(
            "the store is damaged",
            where=str(paths.store),
            hint="recover what can be read: kdharness store salvage",
        )


@store_group.command("vacuum")
@click.pass_obj
def vacuum_command(paths: Paths) -> None:
    """Release the disk space of deleted rows."""
    before, after = vacuum(paths)
    click.echo(f"{paths.store}: {_size(before)} before, {_size(after)} now", err=True)


@store_group.command("backup")
@click.argument("file", type=click.Path(dir_okay=False))
@click.pass_obj
def backup_command(paths: Paths, file: str) -> None:
    """Copy the store to FILE, even while runs are writing to it."""
    click.echo(f"{file}: {_size(backup(paths, Path(file)))}, verified", err=True)


@store_group.command("prune")
@click.option("--cache", is_flag=True, help="Also remove teacher caches.")
@click.option("--keep-steps", is_flag=True, help="Keep step checkpoints of finished runs.")
@click.option("--yes", is_flag=True, help="Remove the files; without it, only list them.")
@format_option
@click.pass_obj
def prune_command(paths: Paths, cache: bool, keep_steps: bool, yes: bool, form: str) -> None:
    """Remove files that no result needs: old step checkpoints, leftovers of killed runs."""
    candidates = prunable(paths, steps=not keep_steps, cache=cache)
    rows: list[dict[str, object]] = [
        {"what": entry.what, "path": str(entry.path), "mib": round(entry.bytes / 2**20, 1)}
        for entry in candidates
    ]
    print_table(rows, ["what", "path", "mib"], form)
    total = _size(sum(entry.bytes for entry in candidates))
    if not yes:
        click.echo(f"{total} would be freed; add --yes to remove these files", err=True)
        return
    click.echo(f"{_size(remove(candidates))} freed", err=True)


@store_group.command("archive")
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(file_okay=False),
    help="The home to move them to; created if it does not exist.",
)
@click.option("--keep", is_flag=True, help="Copy instead of move.")
@click.pass_obj
def archive_command(paths: Paths, runs: tuple[str, ...], folder: str, keep: bool) -> None:
    """Move RUNS, with their weights, answers and judgments, to another home.

    `kdharness --home FOLDER` opens it; `kdharness store merge FOLDER --files` moves them back.
    """
    counts = archive(paths, runs, Path(folder).resolve(), keep=keep)
    verb = "copied to" if keep else "moved to"
    click.echo(f"{', '.join(runs)} {verb} {folder}: {_counted(counts)}", err=True)


@store_group.command("merge")
@click.argument("homes", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--files", is_flag=True, help="Also copy the run folders (weights, logs).")
@click.pass_obj
def merge_command(paths: Paths, homes: tuple[str, ...], files: bool) -> None:
    """Merge HOMES into this home; the result does not depend on order or repetition.

    Answers, judgments and checkpoints with the same content are merged into one; a run whose name
    is already taken gets a longer name.
    """
    with Store(paths.store) as store:
        for home in homes:
            path = Path(home)
            source = path / "kdharness.db" if path.is_dir() else path
            counts = merge(store, source, home=paths.home, files=files)
            click.echo(f"{home}: {_counted(counts)}", err=True)


@store_group.command("rehash")
@format_option
@click.pass_obj
def rehash_command(paths: Paths, form: str) -> None:
    """Rehash checkpoints that an older version identified by samples of their weights.

    Each is also rehashed when it is next used. A checkpoint whose folder is missing or has changed
    since it was scored keeps its old identity, answers and scores.
    """
    from kdharness.harness.models.adoption import adopt_all
    from kdharness.harness.models.checkpoints import store_misattributed_runs

    report = _progress_reporter()
    with Store(paths.store) as store:
        rows = [
            {"checkpoint": name, "result": result}
            for results in (
                adopt_all(paths, store, report),
                store_misattributed_runs(paths, store, report),
            )
            for name, result in results
        ]
    print_table(rows, ["checkpoint", "result"], form)
    if not rows:
        click.echo("all checkpoints are already identified by their full weights", err=True)


@store_group.command("salvage")
@click.pass_obj
def salvage_command(paths: Paths) -> None:
    """Replace a damaged store with a new one that has every row that can still be read.

    The damaged file is kept next to it. Close the app and stop all runs first.
    """
    counts, damaged = salvage(paths)
    for table, (saved, left_out) in counts.items():
        note = f", {left_out} unreadable" if left_out else ""
        click.echo(f"{table}: {saved} rows recovered{note}", err=True)
    click.echo(f"the damaged store was kept: {damaged}", err=True)
    click.echo("next: kdharness store check", err=True)


def _progress_reporter() -> Callable[[int, int], None]:
    """Return a callback that prints every few seconds how much of the weights has been read."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_SECONDS:
            last = time.monotonic()
            click.echo(f"reading weights: {_size(done)} of {_size(total)}", err=True)

    return report


def _counted(counts: dict[str, int]) -> str:
    listed = [f"{count:,} {name}" for name, count in counts.items() if count]
    return ", ".join(listed) or "nothing new"


def _size(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
