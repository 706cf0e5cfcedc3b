"""From any name of a model to its checkpoint, which scores and lineage belong to.

A checkpoint is a folder's content, not its path: the same weights with the same interface are the
same checkpoint wherever they are. A name refers to the *current* content of its folder. If that
has changed, the earlier checkpoint keeps its answers and scores under `NAME@old`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from kdharness.harness.errors import KDHarnessError
from kdharness.harness.models.adoption import adopt_folder
from kdharness.harness.models.gguf_models import gguf_parents, gguf_source, is_gguf
from kdharness.harness.models.hub import short_name, split_hub_name
from kdharness.harness.models.identity import ModelIdentity, Progress
from kdharness.harness.models.resolve import (
    identity_of,
    misattributed_run,
    own_folder,
    resolve_model,
)
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Reporter
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, CheckpointInfo, Method, Run
from kdharness.harness.util.filesystem import exists

GENERIC = frozenset({"final", "checkpoint", "model", "best", "last", "hf"})
SHOWN_BYTES = 2**30
Say = Callable[[str], None]


def model_name(source: str, folder: Path) -> str:
    """Return a readable name for a model: the asset's name, else its folder's."""
    if "/" not in source and not source.startswith("."):
        return source
    if folder.name in GENERIC or folder.name.startswith("checkpoint-"):
        return f"{folder.parent.name}/{folder.name}"
    return folder.name


def find_model(
    source: str,
    paths: Paths,
    store: Store,
    *,
    progress: Progress | None = None,
    say: Say = lambda _: None,
) -> tuple[Checkpoint, str]:
    """Return the checkpoint a source names, and where it is loaded from.

    A model that was not seen before is stored as method `model`.

    Args:
        source: a folder, an asset, a stored checkpoint's or run's name, or a hub id.
        progress: called with the bytes of weights read.
        say: called when a name now refers to another model.

    Returns:
        (checkpoint, folder or `org/name@commit`); the second is empty for imported answers.

    Raises:
        ModelError, AssetError: nothing of that name, or weights that cannot be read.
    """
    known = store.checkpoint(source)
    if known is not None and not known.path:
        return known, ""
    path = model_path(source, paths, store)
    identity = identity_of(path, paths, store, progress)
    adopt_folder(path, paths, store)
    checkpoint = store.checkpoint(identity.id)
    if checkpoint is not None and checkpoint.id == identity.id:
        found = Path(checkpoint.path)
        is_there = bool(checkpoint.path) and exists(found, folder=not is_gguf(found))
        if not is_there and checkpoint.path != path:
            checkpoint = _update_stored(checkpoint, path, store)
    else:
        former = _stored_at(path, paths, store)
        known = store.checkpoint(source)
        checkpoint = _add(source, path, identity, known, former, paths, store, say)
    if misattributed_run(source, known, paths, store) is not None:
        store.update_run(source, checkpoint=checkpoint.name)
    return checkpoint, path


def model_path(source: str, paths: Paths, store: Store) -> str:
    """Return where a model that may be a GGUF file is; see `resolve_model` for others.

    Raises:
        ModelError, AssetError: nothing of that name, or a damaged GGUF file.
    """
    return str(gguf_source(source, paths, store) or resolve_model(source, paths))


def _stored_at(path: str, paths: Paths, store: Store) -> Checkpoint | None:
    """Return the row of a folder; a row that only pointed at it gets its own path back."""
    stored = None
    for row in store.checkpoints():
        own = own_folder(row, paths, store) if row.path and not row.weights else Path(row.path)
        if row.path == path and own != Path(path):
            store.set_checkpoint_path(row.id, str(own or ""))
        elif row.path and own == Path(path):
            stored = stored or row
    return stored


def _update_stored(checkpoint: Checkpoint, path: str, store: Store) -> Checkpoint:
    """Update a checkpoint whose folder has moved, or was changed and has been changed back."""
    plain = re.sub(r"@old(-[0-9a-f]+)?$", "", checkpoint.name)
    holder = store.checkpoint(plain)
    if plain != checkpoint.name and holder is not None and holder.path == path:
        store.swap_checkpoints(holder, checkpoint)
    else:
        store.set_checkpoint_path(checkpoint.id, path)
    return store.checkpoint(checkpoint.id) or checkpoint


def _add(
    source: str,
    path: str,
    identity: ModelIdentity,
    known: Checkpoint | None,
    former: Checkpoint | None,
    paths: Paths,
    store: Store,
    say: Say,
) -> Checkpoint:
    """Store a new checkpoint; rename the one that had its folder or hub name before."""
    new = Checkpoint(
        id=identity.id,
        name=_name_for(source, path, known),
        method=Method.MODEL.value,
        path=path,
        created=time.time(),
        weights=identity.weights,
        interface=identity.interface,
    )
    if is_gguf(path):
        parents = gguf_parents(Path(path), store)
        method = Method.EXPORT.value if parents else new.method
        new = replace(new, method=method, parents=parents)
    new = _of_run(new, paths, store)
    old = former or _earlier_commit(new, store) or _row_without_folder(new, store)
    if old is not None:
        kept = _old_name(old, store)
        store.rename_checkpoint(old, kept, path=old.path if split_hub_name(old.path) else "")
        say(f"{old.name}: {_change(old, new)}; earlier answers and scores are kept as {kept}")
        new = replace(
            new,
            name=old.name,
            method=old.method,
            run=old.run,
            step=old.step,
            parents=old.parents,
            config_hash=old.config_hash,
            info=old.info,
        )
    return store.add_checkpoint(new)


def _change(old: Checkpoint, new: Checkpoint) -> str:
    if not old.weights:
        return "an older version may have mistaken other models for it, by samples of their weights"
    if old.weights == new.weights:
        return "its tokenizer, chat template or generation config changed since it was evaluated"
    return "its weights have changed"


def _of_run(new: Checkpoint, paths: Paths, store: Store) -> Checkpoint:
    """Add the run whose final weights these are, if no row is stored for them."""
    folder = Path(new.path)
    run = store.run(folder.parent.name) if folder.parent.parent == paths.runs.resolve() else None
    if run is None or folder.name != "final" or run.method == Method.EVAL:
        return new
    return replace(
        new,
        name=run.id,
        method=run.method,
        run=run.id,
        step=run.step,
        config_hash=run.config_hash,
        parents=_parents_of(run, paths, store),
    )


def _parents_of(run: Run, paths: Paths, store: Store) -> dict[str, str]:
    """Return role -> id of the checkpoints that a run's config names, if they still exist."""
    from kdharness.harness.config.files import parse_stored
    from kdharness.harness.config.references import model_references

    parents = {}
    try:
        for field, source in model_references(parse_stored(run.config)):
            parents[field.partition(".")[0]] = find_model(source, paths, store)[0].id
    except KDHarnessError:  # a config that is no longer supported, or a model that is gone
        return parents
    return parents


def _row_without_folder(new: Checkpoint, store: Store) -> Checkpoint | None:
    """Return a row of an older version that has the name but no longer a folder of its own."""
    holder = store.checkpoint(new.name)
    if holder is None or holder.name != new.name or holder.path or holder.weights:
        return None
    return holder if holder.method != Method.IMPORT.value and holder.run == new.run else None


def _name_for(source: str, path: str, known: Checkpoint | None) -> str:
    named = split_hub_name(path)
    if named is None or exists(Path(path), folder=True):
        return known.name if known is not None else model_name(source, Path(path))
    # A source with a revision keeps it in the name.
    return short_name(path) if "@" in source else named[0]


def _earlier_commit(new: Checkpoint, store: Store) -> Checkpoint | None:
    """Return the stored checkpoint of a hub model's plain name, if the hub has moved on."""
    holder = store.checkpoint(new.name)
    if holder is None or holder.name != new.name or not split_hub_name(new.path):
        return None
    return holder if split_hub_name(holder.path) else None


def _old_name(old: Checkpoint, store: Store) -> str:
    named = split_hub_name(old.path)
    if named is not None and named[1] and not exists(Path(old.path), folder=True):
        return store.free_name(short_name(old.path))
    return store.free_name(f"{old.name}@old")


def store_misattributed_runs(
    paths: Paths, store: Store, progress: Progress | None = None
) -> Iterator[tuple[str, str]]:
    """Store the checkpoints of runs that an older version mistook for another run's.

    Yields:
        (run, result), one for each that has weights of its own.
    """
    for run in reversed(store.runs()):
        known = store.checkpoint(run.id)
        if store.read_only or misattributed_run(run.id, known, paths, store) is None:
            continue
        try:
            checkpoint, _ = find_model(run.id, paths, store, progress=progress)
        except KDHarnessError as error:
            yield run.id, f"cannot be identified: {error.message}"
            continue
        if known is not None and checkpoint.id != known.id:
            yield run.id, f"no longer mistaken for {known.name}"


def model_checkpoint(paths: Paths, source: str, *, reporter: Reporter | None = None) -> Checkpoint:
    """Return the stored checkpoint of a model, for lineage; see `find_model`.

    Raises:
        ModelError, AssetError: nothing of that name, or weights that cannot be read.
    """
    with Store(paths.store) as store:
        return find_model(source, paths, store, **progress_callbacks(reporter, source))[0]


def add_made(
    paths: Paths,
    folder: Path,
    *,
    name: str,
    method: str,
    parents: Mapping[str, str],
    info: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    **more: Any,
) -> Checkpoint:
    """Store a checkpoint of a folder made in this home, or return the stored one of its content.

    Args:
        more: further fields of `Checkpoint`, such as run, step and config_hash.

    Raises:
        ModelError: weights that cannot be read.
    """
    path = str(folder)
    with Store(paths.store) as store:
        progress = progress_callbacks(reporter, name).get("progress")
        identity = identity_of(path, paths, store, progress)
        adopt_folder(path, paths, store)
        return store.add_checkpoint(
            Checkpoint(
                id=identity.id,
                name=name,
                method=method,
                path=path,
                created=time.time(),
                parents=dict(parents),
                info=cast(CheckpointInfo, dict(info or {})),
                weights=identity.weights,
                interface=identity.interface,
                **more,
            )
        )


def progress_callbacks(reporter: Reporter | None, source: str) -> dict[str, Any]:
    """Return `progress` and `say` of `find_model` for a reporter; small models show no stage."""
    if reporter is None:
        return {}
    began = False

    def progress(done: int, total: int) -> None:
        nonlocal began
        if total < SHOWN_BYTES:
            return
        if not began:
            began = True
            reporter.stage(f"reading the weights of {source}, MiB", total >> 20)
        reporter.advance(done >> 20)
        reporter.check()

    return {"progress": progress, "say": lambda text: reporter.say(text, kind="warning")}
