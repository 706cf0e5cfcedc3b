"""A model by any of its names, as a checkpoint that lineage can point at."""

from __future__ import annotations

import time
from pathlib import Path

from kdharness.harness.assets import fingerprint
from kdharness.harness.models import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Method, digest

_GENERIC = frozenset({"final", "checkpoint", "model", "best", "last", "hf"})


def model_name(source: str, folder: Path) -> str:
    """What a person would call a model: the asset's name, else its folder's."""
    if "/" not in source and not source.startswith("."):
        return source
    if folder.name in _GENERIC or folder.name.startswith("checkpoint-"):
        return f"{folder.parent.name}/{folder.name}"
    return folder.name


def model_checkpoint(paths: Paths, source: str) -> Checkpoint:
    """The stored checkpoint of a model; a model not seen before is stored as method `model`.

    Raises:
        ModelError, AssetError: nothing of that name.
    """
    with Store(paths.store) as store:
        known = store.checkpoint(source)
        if known is not None and not known.path:
            return known
        found = resolve_model(source, paths)
        if Path(found).is_dir():
            identity, path = fingerprint(found), str(Path(found).resolve())
            name = known.name if known else model_name(source, Path(found))
        else:
            identity, path, name = digest("hub", found), found, found
        if known is not None and known.id == identity:
            return known
        return store.add_checkpoint(
            Checkpoint(
                id=identity, name=name, method=Method.MODEL.value, path=path, created=time.time()
            )
        )
