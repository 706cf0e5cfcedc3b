"""The folders of removed runs and checkpoints: which go, which stay, and where weights are then.

Equal weights are one checkpoint, with one path: the folder of the run that made them last. So a
run's folder may hold the weights of another run's checkpoint.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from kdharness.harness.util.filesystem import exists

OUTSIDE = "outside this home"
SHARED = "used by another checkpoint"
OF_A_RUN = "in the folder of a run that stays"
UNMANAGED = "in this home, but neither in a run's folder nor among its models"


def made_in(paths: Paths, store: Store, run: str) -> dict[str, Checkpoint]:
    """Return a run's checkpoints by id, with the evaluated ones that it saved on the way."""
    folder = paths.run(run)
    steps = [c for c in store.checkpoints() if not c.run and c.path]
    inside = [c for c in steps if _is_in(Path(c.path), folder)]
    return {c.id: c for c in [*store.checkpoints(run), *inside]}


def moved_weights(
    paths: Paths, store: Store, runs: Iterable[str], checkpoints: Mapping[str, Checkpoint]
) -> dict[str, str]:
    """Return where weights are, of checkpoints that stay while the folder of their path goes.

    Returns:
        id -> the folder of another run that made the same; empty if there is none.
    """
    found = {}
    going = {run: paths.run(run) for run in runs}
    staying = [run for run in store.runs() if run.id not in going]
    for checkpoint in store.checkpoints():
        path = Path(checkpoint.path)
        inside = [home for home in going.values() if path.is_absolute() and _is_in(path, home)]
        if checkpoint.id in checkpoints or not inside:
            continue
        name = path.resolve().relative_to(inside[0].resolve())
        twins = [
            Path(run.folder) / name
            for run in staying
            if run.id == checkpoint.run or run.checkpoint == checkpoint.name
        ]
        found[checkpoint.id] = next((str(twin) for twin in twins if exists(twin)), "")
    return found


def folders_of(
    paths: Paths, store: Store, runs: Iterable[str], checkpoints: Mapping[str, Checkpoint]
) -> tuple[list[Path], dict[str, str]]:
    """Return (the folders that go; those that stay -> why).

    A run's own folder goes, and weights in the folder of the run that made them, or of models made
    here, unless another checkpoint has them as well.
    """
    going = set(runs)
    goes = [paths.run(run) for run in sorted(going) if exists(paths.run(run), folder=True)]
    stays = [run.folder for run in map(store.run, sorted(going)) if run is not None]
    stays = [folder for folder in stays if Path(folder).resolve() not in _resolved(goes)]
    others = {c.path for c in store.checkpoints() if c.id not in checkpoints and c.path}
    for checkpoint in checkpoints.values():
        path = Path(checkpoint.path)
        if not path.is_absolute() or any(_is_in(path, folder) for folder in goes):
            continue
        homes = [paths.models, *([paths.run(checkpoint.run)] if checkpoint.run else [])]
        is_own = any(_is_in(path, home) for home in homes)
        if is_own and not any(_is_in(Path(other), path) for other in others) and exists(path):
            goes.append(path)
        else:
            stays.append(checkpoint.path)
    return goes, {
        folder: _why_it_stays(paths, Path(folder), others)
        for folder in stays
        if exists(Path(folder))
    }


def _why_it_stays(paths: Paths, folder: Path, others: Iterable[str]) -> str:
    # Each of the two inner folders may be a link to another disk.
    if not any(_is_in(folder, home) for home in (paths.home, paths.runs, paths.models)):
        return OUTSIDE
    if any(_is_in(Path(other), folder) for other in others):
        return SHARED
    return OF_A_RUN if _is_in(folder, paths.runs) else UNMANAGED


def _resolved(folders: Iterable[Path]) -> set[Path]:
    return {folder.resolve() for folder in folders}


def _is_in(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder, or inside it."""
    return path.resolve().is_relative_to(folder.resolve())


def set_aside(folders: Iterable[Path]) -> list[Path]:
    """Rename folders, all or none, before they are deleted; `store prune` finds what is left.

    Raises:
        OSError: one of them cannot be moved.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for folder in folders:
            if folder.is_symlink():
                folder.unlink()
                continue
            aside = folder.with_name(f".removing-{secrets.token_hex(4)}")
            folder.rename(aside)
            moved.append((folder, aside))
    except OSError:
        for folder, aside in moved:
            aside.rename(folder)
        raise
    return [aside for _, aside in moved]
