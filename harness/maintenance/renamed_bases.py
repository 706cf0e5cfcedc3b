"""Adapters whose base model moves with its run: their configs get the new folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.atomic import SEAL, atomic_write_text, seal
from kdharness.harness.util.untrusted import read_json_object

CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"


def adapters_on(paths: Paths, store: Store, folder: Path) -> list[tuple[Path, Path]]:
    """Return (config file, path of its base inside `folder`) of this home's adapters on a run."""
    inside = folder.resolve()
    found = []
    for file in _configs(paths, store):
        try:
            named = read_json_object(file, CONFIG, ModelError).get(BASE)
        except ModelError:
            continue
        if not isinstance(named, str) or not Path(named).is_absolute():
            continue
        base = Path(store.places.here(named)).resolve()
        if base.is_relative_to(inside):
            found.append((file, base.relative_to(inside)))
    return found


def name_bases(adapters: Iterable[tuple[Path, Path]], old: Path, new: Path) -> None:
    """Write the new folder into the adapters' configs; what was sealed is sealed again.

    Args:
        adapters: as `adapters_on` returns them, before the folder moved.
        old: the folder before; adapters in it have moved along.
        new: the folder now.
    """
    for file, part in adapters:
        file = new / file.relative_to(old) if file.is_relative_to(old) else file
        values = read_json_object(file, CONFIG, ModelError)
        values[BASE] = str(new / part)
        atomic_write_text(file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        if (file.parent / SEAL).exists():
            seal(file.parent)


def _configs(paths: Paths, store: Store) -> Iterator[Path]:
    """Yield the config files of the home's adapters, each once."""
    roots = [paths.runs, paths.models]
    stored = [Path(c.path) for c in store.checkpoints() if c.path]
    yield from {
        file.resolve()
        for root in [*roots, *(p for p in stored if not any(map(p.is_relative_to, roots)))]
        if root.is_dir()
        for file in (root.rglob(CONFIG) if root in roots else root.glob(CONFIG))
    }
