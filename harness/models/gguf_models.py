"""GGUF files as models: where they are, what they are, and what they were made from.

A GGUF file can answer benchmarks and be measured on held-out rows, through llama.cpp. It cannot be
trained, merged or be a teacher: that needs the model that it was made from.
"""

from __future__ import annotations

import re
from pathlib import Path

from kdharness.harness import assets
from kdharness.harness.errors import ModelError
from kdharness.harness.models.gguf import check_gguf, gguf_texts
from kdharness.harness.models.identity import ModelIdentity, file_identity
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import digest
from kdharness.harness.util.filesystem import exists, local_path

SUFFIX = ".gguf"
SOURCE = "kdharness.source"
"""The header's entry with the id of the checkpoint that a file was made from."""
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)


def is_gguf(path: str | Path) -> bool:
    """Return whether a path is that of a GGUF file, by its name."""
    return Path(path).suffix.lower() == SUFFIX and not exists(Path(path), folder=True)


def gguf_source(source: str, paths: Paths, store: Store) -> Path | None:
    """Return the checked GGUF file that a path, or the name of a checkpoint, refers to.

    Returns:
        Its first part; None if the source is another kind of model.

    Raises:
        ModelError: there is no such file, or it is damaged.
    """
    named = store.places.here(source) if Path(source).is_absolute() else source
    if not (is_gguf(named) and exists(local_path(named), folder=False)):
        known = store.checkpoint(source)
        if known is not None and known.path:
            if not is_gguf(known.path):
                return None
            if not exists(Path(known.path), folder=False):
                raise ModelError(
                    f"the GGUF file of checkpoint {known.name} does not exist",
                    where=known.path,
                    hint="make it again: kdharness export gguf; its scores are kept",
                )
            named = known.path
        elif known is not None or not is_gguf(named):
            return None
    return find_gguf(named, paths)[0]


def refuse_gguf(path: str | Path) -> None:
    """Refuse a GGUF file where weights are needed.

    Raises:
        ModelError: it is one.
    """
    if is_gguf(path) and exists(local_path(str(path)), folder=False):
        raise ModelError(
            "a GGUF file can be evaluated, but not trained, merged, published, or be a teacher",
            where=str(path),
            hint="use the model that it was made from",
        )


def gguf_identity(path: Path, store: Store) -> ModelIdentity:
    """Identify a GGUF model by the bytes of all its parts, which hold the template too."""
    return ModelIdentity(gguf_hash(_parts(path), store), "")


def gguf_hash(parts: list[Path], store: Store) -> str:
    """Return the hash of a GGUF model's bytes."""
    return digest("gguf", *[file_identity(part.resolve(), store) for part in parts])


def gguf_parents(path: Path, store: Store) -> dict[str, str]:
    """Return the checkpoint that an exported file was made from, if it is stored."""
    key = gguf_texts(path).get(SOURCE, "")
    known = store.checkpoint(key) if key else None
    return {"source": known.id} if known is not None and known.id == key else {}


def find_gguf(source: str, paths: Paths) -> list[Path]:
    """Return the parts of a GGUF model, checked; most models have one.

    Args:
        source: a file, or a pulled asset that is a GGUF file.

    Raises:
        ModelError, AssetError: no such file, not a GGUF file, or one that was cut short.
    """
    path = local_path(source)
    if not exists(path) and source in assets.manifest():
        name = next(iter(assets.manifest()[source].files))
        if not name.endswith(SUFFIX):
            raise ModelError(f"{source} is not a GGUF file", hint="use the path of a .gguf file")
        path = assets.asset_file(paths, source, name)
    if exists(path, folder=True):
        names = sorted(entry.name for entry in path.glob("*.gguf"))[:4]
        raise ModelError(
            f"{path} is a folder, and llama: takes a file",
            hint=f"it contains {', '.join(names)}" if names else "for a folder use local: or vllm:",
        )
    if not exists(path):
        raise ModelError(
            f"no such GGUF file: {source[:200]}",
            hint="use the path of a .gguf file, or a pulled asset (kdharness data list)",
        )
    parts = _parts(path)
    for part in parts:
        check_gguf(part)
    return [part.resolve() for part in parts]


def _parts(path: Path) -> list[Path]:
    """Return all parts of a split model, which is named by its first one."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    names = [f"{match['stem']}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1)]
    if path.name not in names:
        raise ModelError(
            f"{path.name} is not a name under which llama.cpp finds the parts of a model",
            where=str(path),
            hint=f"rename the parts: {names[0]} and so on, with -of- and .gguf in lower case",
        )
    if path.name != names[0]:
        raise ModelError(f"{path.name} is a later part of a model", hint=f"use {names[0]}")
    missing = [name for name in names if not exists(path.with_name(name), folder=False)]
    if missing:
        raise ModelError(
            f"{len(missing)} of the model's {count} parts are missing, such as {missing[0]}",
            where=str(path),
            hint="put all parts into one folder",
        )
    return [path.with_name(name) for name in names]
