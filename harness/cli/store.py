"""Commands on the store: check, vacuum, backup, prune, archive, merge, rehash, salvage."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kdharness.harness.cli.options import format_option
from kdharness.harness.errors import StoreError
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.maintenance.salvage import salvage
from kdharness.harness.maintenance.upkeep import archive, backup, check, remove, vacuum, waste
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table

SAID_SECONDS = 3.0


@click.group("store")
def store_group() -> None:
    """Look after the store: check, shrink, copy, merge, save."""


@store_group.command("check")
@format_option
@click.pass_obj
def check_command(paths: Paths, form: str) -> None:
    """Read every page of the store and hold its rows and files against each other."""
    rows = check(paths)
    print_table(rows, ["check", "status", "detail"], form)
    if any(row["status"] == "broken" for row in rows):
        raise StoreError(
            "the store is damaged",
            where=str(paths.store),
            hint="save what can be saved: kdharness store salvage",
        )


@store_group.command("vacuum")
@click.pass_obj
def vacuum_command(paths: Paths) -> None:
    """Give the room of removed rows back to the disk."""
    before, after = vacuum(paths)
    click.echo(f"{paths.store}: {_size(before)} before, {_size(after)} now", err=True)


@store_group.command("backup")
@click.argument("file", type=click.Path(dir_okay=False))
@click.pass_obj
def backup_command(paths: Paths, file: str) -> None:
    """Copy the store to FILE while runs go on writing to it."""
    click.echo(f"{file}: {_size(backup(paths, Path(file)))}, checked", err=True)


@store_group.command("prune")
@click.option("--cache", is_flag=True, help="Teachers' stored distributions too.")
@click.option("--keep-steps", is_flag=True, help="Leave step checkpoints of finished runs.")
@click.option("--yes", is_flag=True, help="Remove it; otherwise only say what would go.")
@format_option
@click.pass_obj
def prune_command(paths: Paths, cache: bool, keep_steps: bool, yes: bool, form: str) -> None:
    """Remove files that no result needs: step checkpoints of finished runs, leftovers of kills."""
    found = waste(paths, steps=not keep_steps, cache=cache)
    rows: list[dict[str, Any]] = [
        {"what": one.what, "path": str(one.path), "mib": round(one.bytes / 2**20, 1)}
        for one in found
    ]
    print_table(rows, ["what", "path", "mib"], form)
    total = _size(sum(one.bytes for one in found))
    if not yes:
        click.echo(f"{total} would be freed; add --yes to remove it", err=True)
        return
    click.echo(f"{_size(remove(found))} freed", err=True)


@store_group.command("archive")
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--to",
    "folder",
    required=True,
    type=click.Path(file_okay=False),
    help="A home of their own; runs are added to one that exists.",
)
@click.option("--keep", is_flag=True, help="Only copy; leave the runs here.")
@click.pass_obj
def archive_command(paths: Paths, runs: tuple[str, ...], folder: str, keep: bool) -> None:
    """Move RUNS, with their weights, answers and verdicts, to a home of their own.

    `kdharness --home FOLDER` opens it; `kdharness store merge FOLDER --files` brings it back.
    """
    counts = archive(paths, runs, Path(folder).resolve(), keep=keep)
    verb = "copied to" if keep else "moved to"
    click.echo(f"{', '.join(runs)} {verb} {folder}: {_counted(counts)}", err=True)


@store_group.command("merge")
@click.argument("homes", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--files", is_flag=True, help="Copy the runs' folders (weights, logs) too.")
@click.pass_obj
def merge_command(paths: Paths, homes: tuple[str, ...], files: bool) -> None:
    """Bring what HOMES hold into this home; again and in any order gives the same.

    Answers, verdicts and checkpoints are the same when their content is; a run whose name is
    taken by another one gets a longer name.
    """
    with Store(paths.store) as store:
        for home in homes:
            place = Path(home)
            source = place / "kdharness.db" if place.is_dir() else place
            counts = merge(store, source, home=paths.home, files=files)
            click.echo(f"{home}: {_counted(counts)}", err=True)


@store_group.command("rehash")
@format_option
@click.pass_obj
def rehash_command(paths: Paths, form: str) -> None:
    """Identify checkpoints that an older version knew by samples of their weights.

    Each is also identified when it is next used. One whose folder is gone or has changed since it
    was scored keeps its old identity, its answers and its scores.
    """
    from kdharness.harness.models.adoption import adopt_all
    from kdharness.harness.models.checkpoints import runs_apart

    told = _reading()
    with Store(paths.store) as store:
        rows = [
            {"checkpoint": name, "result": what}
            for found in (adopt_all(paths, store, told), runs_apart(paths, store, told))
            for name, what in found
        ]
    print_table(rows, ["checkpoint", "result"], form)
    if not rows:
        click.echo("every checkpoint is identified by every byte of its weights", err=True)


@store_group.command("salvage")
@click.pass_obj
def salvage_command(paths: Paths) -> None:
    """Put a fresh store in place of a damaged one, with every row that can still be read.

    The damaged file is kept beside it. Close the app and stop all runs first.
    """
    counts, kept = salvage(paths)
    for table, (saved, left_out) in counts.items():
        note = f", {left_out} unreadable" if left_out else ""
        click.echo(f"{table}: {saved} rows saved{note}", err=True)
    click.echo(f"the damaged store is kept: {kept}", err=True)
    click.echo("next: kdharness store check", err=True)


def _reading() -> Callable[[int, int], None]:
    """Say every few seconds how much of large weights has been read."""
    last = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SAID_SECONDS:
            last = time.monotonic()
            click.echo(f"reading weights: {_size(done)} of {_size(total)}", err=True)

    return told


def _counted(counts: dict[str, int]) -> str:
    listed = [f"{count:,} {name}" for name, count in counts.items() if count]
    return ", ".join(listed) or "nothing new"


def _size(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
