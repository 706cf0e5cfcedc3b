"""Checkpoints of stores that knew models by samples of their weights, given their full identity.

Until version 0.1 a checkpoint's id was a hash of seventeen samples a file. A row keeps that id
until its folder is read; then the row, its answers and its judgments move to the full one. Where
the old id stood for more than one model, nothing tells whose answers are whose: such a row stays
as it is, and the folder becomes a new checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdharness.harness import assets
from kdharness.harness.errors import AssetError, KDHarnessError, ModelError
from kdharness.harness.hub import split_hub_name
from kdharness.harness.identity import ModelIdentity, interface_files
from kdharness.harness.paths import Paths, exists, local_path
from kdharness.harness.reading import read_json_object
from kdharness.harness.resolve import identity_of
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint

BLOCK = 64 * 1024
SAMPLES = 17
SAVING_SECONDS = 60.0
"""Saving a model writes its tokenizer within a minute of its weights; later is a change."""


def sampled_fingerprint(folder: str | os.PathLike[str]) -> str:
    """The identity that older versions gave a model folder: samples of each weight file.

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


def adopt(row: Checkpoint, identity: ModelIdentity, paths: Paths, store: Store) -> bool:
    """Give an old row its folder's full identity, with all that hangs on it.

    Returns:
        Whether it was: the folder still is what the row was made for, no other model was taken
        for it, and its tokenizer and template have not changed since its newest answer.
    """
    folder = Path(row.path)
    if row.weights or store.read_only or not exists(folder, folder=True):
        return False
    if not _is_same(folder, row.id) or not _is_own_place(row, paths):
        return False
    if any(_others(row, paths, store)) or _interface_changed(row, store):
        return False
    return store.adopt_checkpoint(row.id, identity.id, identity.weights, identity.interface)


def _is_same(folder: Path, old: str) -> bool:
    try:
        return sampled_fingerprint(folder) == old
    except KDHarnessError:
        return False


def _is_own_place(row: Checkpoint, paths: Paths) -> bool:
    """Whether the path is the one the row was made with: it was replaced by a look-alike's."""
    folder = Path(row.path)
    if row.run:
        return folder.is_relative_to(paths.runs / row.run)
    if row.name in assets.manifest():
        return folder == (paths.models / row.name).resolve()
    if row.method != "model" and folder.is_relative_to(paths.models):
        return True
    # A number may have made the name unique.
    names = {row.name, re.sub(r"-\d+$", "", row.name)}
    return bool(names & {folder.name, f"{folder.parent.name}/{folder.name}"})


def _others(row: Checkpoint, paths: Paths, store: Store) -> Iterator[str]:
    """Other folders that evaluations of this home scored under the same old id."""
    own = Path(row.path).resolve()
    seen = {own}
    for run in store.runs("eval"):
        for source in _sources(run.config):
            known = store.checkpoint(source)
            candidates = [local_path(source), paths.runs / source / "final", paths.models / source]
            if known is not None and known.path:
                candidates.append(Path(known.path))
            for path in candidates:
                if not exists(path, folder=True) or path.resolve() in seen:
                    continue
                seen.add(path.resolve())
                if _is_same(path, row.id) and not _same_bytes(path, own, paths, store):
                    yield str(path)


def _sources(config: dict[str, Any]) -> list[str]:
    listed = config.get("checkpoints")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    baseline = config.get("baseline")
    return [*names, str(baseline)] if baseline else names


def _same_bytes(one: Path, other: Path, paths: Paths, store: Store) -> bool:
    try:
        first = identity_of(str(one.resolve()), paths, store)
        return first.weights == identity_of(str(other), paths, store).weights
    except (AssetError, ModelError):
        return False


def _interface_changed(row: Checkpoint, store: Store) -> bool:
    """Whether tokenizer, template or generation config were written after answers were given."""
    folder = Path(row.path)
    latest = store.newest_result(row.id)
    if latest is None:
        return False
    weights = max(path.stat().st_mtime for path in folder.glob("*.safetensors"))
    return any(
        path.stat().st_mtime > max(latest, weights + SAVING_SECONDS)
        for path in interface_files(folder)
    )


def adopt_all(paths: Paths, store: Store) -> Iterator[tuple[str, str]]:
    """Adopt every old row whose folder exists.

    Yields:
        (checkpoint's name, what became of it), one for each row that had an old identity.
    """
    for row in store.checkpoints():
        if row.weights or not row.path:
            continue
        if not exists(Path(row.path), folder=True):
            gone = "a hub model" if split_hub_name(row.path) else "its folder is gone"
            yield row.name, f"kept under its old identity: {gone}"
            continue
        try:
            identity = identity_of(row.path, paths, store)
        except KDHarnessError as error:
            yield row.name, f"kept under its old identity: {error.message}"
            continue
        if adopt(row, identity, paths, store):
            yield row.name, "identified by every byte of its weights"
        else:
            yield (
                row.name,
                (
                    "kept under its old identity: its folder has changed since it was scored, or "
                    "other models were taken for it; evaluate it again"
                ),
            )
