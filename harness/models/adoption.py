"""Migration of checkpoints identified by samples of their weights to their full identity.

Until version 0.1 a checkpoint's id was a hash of seventeen samples per file. A row keeps that id
until its folder is read; then the row, its answers and its judgments move to the full one. If the
old id was used for more than one model, its answers cannot be attributed: such a row is left
unchanged, and the folder becomes a new checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from kdharness.harness.errors import AssetError, KDHarnessError, ModelError
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.models.identity import ModelIdentity, Progress, interface_files
from kdharness.harness.models.resolve import adapter_base, identity_of, own_folder, resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Method
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.untrusted import read_json_object

BLOCK = 64 * 1024
SAMPLES = 17
SAVING_SECONDS = 60.0
"""Saving a model writes its tokenizer within a minute of its weights; a later write is a change."""


def sampled_fingerprint(folder: str | os.PathLike[str]) -> str:
    """Return the identity that older versions gave a model folder: samples of each weight file.

    Raises:
        AssetError: no safetensors weights in the folder.
    """
    root = Path(folder)
    weights = sorted(path for path in root.glob("*.safetensors") if path.is_file())
    if not weights:
        raise AssetError(f"no safetensors weights in {root}")
    total = hashlib.sha256()
    for name in ("config.json", "adapter_config.json"):
        path = root / name
        if path.exists():
            config = read_json_object(path, path.name, AssetError)
            for key in ("_name_or_path", "transformers_version", "base_model_name_or_path"):
                config.pop(key, None)
            total.update(json.dumps(config, sort_keys=True).encode())
    for path in weights:
        size = path.stat().st_size
        total.update(f"{path.name}:{size}".encode())
        with path.open("rb") as stream:
            for index in range(SAMPLES):
                stream.seek(max(0, min(size * index // (SAMPLES - 1), size - BLOCK)))
                total.update(stream.read(BLOCK))
    return total.hexdigest()[:20]


def adopt(
    row: Checkpoint, paths: Paths, store: Store, progress: Progress | None = None
) -> ModelIdentity | None:
    """Give an old row its folder's full identity, with its answers and judgments.

    Returns:
        The identity; None if the row is left unchanged, because its folder is gone or has changed,
        other models were taken for it, or a file that its answers depend on was written after
        them.

    Raises:
        AssetError, ModelError: its folder, or its adapter's base, cannot be identified.
    """
    folder = None if row.weights or store.read_only else own_folder(row, paths, store)
    if folder is None or not _is_same(folder, row.id):
        return None
    identity = identity_of(str(folder), paths, store, progress)
    if any(_others(row, folder, identity, paths, store)):
        return None
    latest = store.newest_result(row.id)
    if latest is not None and _written_since(folder, latest, paths):
        return None
    store.adopt_checkpoint(row, identity.id, identity.weights, identity.interface, path=str(folder))
    return identity


def old_rows(store: Store) -> list[Checkpoint]:
    """Return rows identified by samples of their weights, oldest first."""
    return [row for row in store.checkpoints() if row.path and not row.weights]


def adopt_folder(folder: str, paths: Paths, store: Store) -> None:
    """Adopt the old rows that may belong to a folder: its own, and one with the same samples."""
    rows = old_rows(store)
    if not rows or not exists(Path(folder), folder=True):
        return
    sampled = sampled_fingerprint(folder)
    for row in rows:
        if row.id == sampled or own_folder(row, paths, store) == Path(folder):
            try:
                adopt(row, paths, store)
            except (AssetError, ModelError):
                continue  # the row's own folder is damaged, so it is not the requested one


def _is_same(folder: Path, old: str) -> bool:
    try:
        return sampled_fingerprint(folder) == old
    except KDHarnessError:
        return False


def _others(
    row: Checkpoint, own: Path, identity: ModelIdentity, paths: Paths, store: Store
) -> Iterator[Path]:
    """Yield folders of other models whose answers may be stored under the same old id."""
    latest = store.newest_result(row.id)
    if latest is None:
        return
    seen = {own.resolve()}
    for path in [Path(row.path), *_scored(paths, store)]:
        if not exists(path, folder=True) or path.resolve() in seen:
            continue
        seen.add(path.resolve())
        created = _made_by(path, paths, store)
        if created is not None and created > latest:
            continue  # it did not exist when the last answer was generated
        if _is_same(path, row.id) and not _is_identity(path, identity, paths, store):
            yield path


def _scored(paths: Paths, store: Store) -> Iterator[Path]:
    """Yield current and former paths of the models that this home has evaluated."""
    for run in store.runs(Method.EVAL):
        for source in _sources(run.config):
            yield from (local_path(source), paths.runs / source / "final", paths.models / source)
            known = store.checkpoint(source)
            if known is not None and known.path:
                yield Path(known.path)


def _made_by(path: Path, paths: Paths, store: Store) -> float | None:
    """Return when the run that owns a folder was created; None for other folders."""
    if not path.resolve().is_relative_to(paths.runs.resolve()):
        return None
    run = store.run(path.resolve().relative_to(paths.runs.resolve()).parts[0])
    return run.created if run is not None else None


def _sources(config: dict[str, object]) -> list[str]:
    checkpoints = config.get("checkpoints")
    names = [str(name) for name in checkpoints] if isinstance(checkpoints, list) else []
    baseline = config.get("baseline")
    return [*names, str(baseline)] if baseline else names


def _is_identity(path: Path, identity: ModelIdentity, paths: Paths, store: Store) -> bool:
    try:
        return identity_of(str(path.resolve()), paths, store) == identity
    except (AssetError, ModelError):
        return False


def _written_since(folder: Path, latest: float, paths: Paths, base: bool = False) -> bool:
    """Return whether a file that answers depend on was written after they were given.

    A base model's weights were not part of an adapter's old identity, so they count too.
    """
    weights = [path.stat().st_mtime for path in folder.glob("*.safetensors")]
    if base and max(weights, default=0.0) > latest:
        return True
    settled = max([latest, *(time + SAVING_SECONDS for time in weights)])
    if any(path.stat().st_mtime > settled for path in interface_files(folder)):
        return True
    if not exists(folder / "adapter_config.json", folder=False):
        return False
    base_folder = Path(resolve_model(adapter_base(folder), paths))
    return exists(base_folder, folder=True) and _written_since(
        base_folder, latest, paths, base=True
    )


def adopt_all(
    paths: Paths, store: Store, progress: Progress | None = None
) -> Iterator[tuple[str, str]]:
    """Adopt every old row whose folder exists.

    Yields:
        (checkpoint's name, result), one for each row that had an old identity.
    """
    kept = "keeps its old identity: "
    for row in old_rows(store):
        if split_hub_name(row.path) and not exists(Path(row.path), folder=True):
            yield row.name, kept + "a hub model"
            continue
        folder = own_folder(row, paths, store)
        if folder is None:
            gone = not exists(Path(row.path), folder=True)
            reason = "its folder is gone" if gone else f"{row.path} is another model's folder"
            yield row.name, kept + reason
            continue
        try:
            identity = adopt(row, paths, store, progress)
        except KDHarnessError as error:
            yield row.name, kept + error.message
            continue
        if identity is None:
            yield (
                row.name,
                kept
                + (
                    "the store is read-only"
                    if store.read_only
                    else "its folder has changed since it was evaluated, or other models were "
                    "mistaken for it; evaluate it again"
                ),
            )
            continue
        name = getattr(store.checkpoint(identity.id), "name", row.name)
        merged = "" if name == row.name else f", and merged with {name}"
        yield row.name, f"identified by every byte of its weights{merged}"
