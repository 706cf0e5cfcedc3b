"""A model by any of its names, as the checkpoint that scores and lineage belong to.

A checkpoint is what a folder holds, not where it is: the same weights with the same interface are
the same checkpoint wherever they are found. A name stands for what its folder holds *now*. Where
that has changed, the earlier checkpoint keeps its answers and scores under `NAME@old`.
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
from kdharness.harness.models.hub import short_name, split_hub_name
from kdharness.harness.models.identity import ModelIdentity, Progress
from kdharness.harness.models.resolve import identity_of, own_folder, resolve_model, run_unlike
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Reporter
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, CheckpointInfo, Method, Run
from kdharness.harness.util.filesystem import exists

GENERIC = frozenset({"final", "checkpoint", "model", "best", "last", "hf"})
SHOWN_BYTES = 2**30
Say = Callable[[str], None]


def model_name(source: str, folder: Path) -> str:
    """What a person would call a model: the asset's name, else its folder's."""
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
    """The checkpoint a source names, and where it is loaded from.

    A model that was not seen before is stored as method `model`.

    Args:
        source: a folder, an asset, a stored checkpoint's or run's name, or a hub id.
        progress: told how many bytes of weights were read.
        say: told when a name has come to stand for something else.

    Returns:
        (checkpoint, folder or `org/name@commit`); the second is empty where its answers were made
        elsewhere.

    Raises:
        ModelError, AssetError: nothing of that name, or weights that cannot be read.
    """
    known = store.checkpoint(source)
    if known is not None and not known.path:
        return known, ""
    found = resolve_model(source, paths)
    identity = identity_of(found, paths, store, progress)
    adopt_folder(found, identity, paths, store)
    checkpoint = store.checkpoint(identity.id)
    if checkpoint is not None and checkpoint.id == identity.id:
        there = bool(checkpoint.path) and exists(Path(checkpoint.path), folder=True)
        if not there and checkpoint.path != found:
            checkpoint = _settle(checkpoint, found, store)
    else:
        here = _stored_at(found, paths, store)
        known = store.checkpoint(source)
        checkpoint = _add(source, found, identity, known, here, paths, store, say)
    if run_unlike(source, known, paths, store) is not None:
        store.update_run(source, checkpoint=checkpoint.name)
    return checkpoint, found


def _stored_at(found: str, paths: Paths, store: Store) -> Checkpoint | None:
    """The row that stands for a folder; one that was only pointed at it is led back to its own."""
    here = None
    for row in store.checkpoints():
        own = own_folder(row, paths, store) if row.path and not row.weights else Path(row.path)
        if row.path == found and own != Path(found):
            store.set_checkpoint_path(row.id, str(own or ""))
        elif row.path and own == Path(found):
            here = here or row
    return here


def _settle(checkpoint: Checkpoint, found: str, store: Store) -> Checkpoint:
    """Its folder has moved, or has become again what it was before it was changed."""
    plain = re.sub(r"@old(-[0-9a-f]+)?$", "", checkpoint.name)
    holder = store.checkpoint(plain)
    if plain != checkpoint.name and holder is not None and holder.path == found:
        store.swap_checkpoints(holder, checkpoint)
    else:
        store.set_checkpoint_path(checkpoint.id, found)
    return store.checkpoint(checkpoint.id) or checkpoint


def _add(
    source: str,
    found: str,
    identity: ModelIdentity,
    known: Checkpoint | None,
    here: Checkpoint | None,
    paths: Paths,
    store: Store,
    say: Say,
) -> Checkpoint:
    """Store what was not seen before; what its folder or hub name held earlier makes room."""
    new = Checkpoint(
        id=identity.id,
        name=_name_for(source, found, known),
        method=Method.MODEL.value,
        path=found,
        created=time.time(),
        weights=identity.weights,
        interface=identity.interface,
    )
    new = _of_run(new, paths, store)
    old = here or _earlier_commit(new, store) or _homeless(new, store)
    if old is not None:
        kept = _old_name(old, store)
        store.rename_checkpoint(old, kept, path=old.path if split_hub_name(old.path) else "")
        say(f"{old.name}: {_change(old, new)}; its earlier answers and scores are kept as {kept}")
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
        return "an older version may have taken other models for it, by samples of their weights"
    if old.weights == new.weights:
        return "its tokenizer, chat template or generation config changed since it was scored"
    return "it holds other weights than before"


def _of_run(new: Checkpoint, paths: Paths, store: Store) -> Checkpoint:
    """With the run whose final weights these are, where no row knows them as such."""
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
    """Role -> id of the checkpoints that a run's config names, where they are still there."""
    from kdharness.harness.config.files import parse_config
    from kdharness.harness.config.references import model_references

    found = {}
    try:
        for field, source in model_references(parse_config(run.config)):
            found[field.partition(".")[0]] = find_model(source, paths, store)[0].id
    except KDHarnessError:  # of a version whose configs are no longer read, or a model is gone
        return found
    return found


def _homeless(new: Checkpoint, store: Store) -> Checkpoint | None:
    """A row of an older version that holds the name and no folder of its own any more."""
    holder = store.checkpoint(new.name)
    if holder is None or holder.name != new.name or holder.path or holder.weights:
        return None
    return holder if holder.method != Method.IMPORT.value and holder.run == new.run else None


def _name_for(source: str, found: str, known: Checkpoint | None) -> str:
    named = split_hub_name(found)
    if named is None or exists(Path(found), folder=True):
        return known.name if known is not None else model_name(source, Path(found))
    # Whoever names a revision means that revision, and sees it.
    return short_name(found) if "@" in source else named[0]


def _earlier_commit(new: Checkpoint, store: Store) -> Checkpoint | None:
    """The stored checkpoint of a hub model's plain name, where the hub has moved on."""
    holder = store.checkpoint(new.name)
    if holder is None or holder.name != new.name or not split_hub_name(new.path):
        return None
    return holder if split_hub_name(holder.path) else None


def _old_name(old: Checkpoint, store: Store) -> str:
    named = split_hub_name(old.path)
    if named is not None and named[1] and not exists(Path(old.path), folder=True):
        return store.free_name(short_name(old.path))
    return store.free_name(f"{old.name}@old")


def runs_apart(
    paths: Paths, store: Store, progress: Progress | None = None
) -> Iterator[tuple[str, str]]:
    """Store the checkpoints of runs that an older version took for another run's.

    Yields:
        (run, what became of it), one for each that has weights of its own.
    """
    for run in reversed(store.runs()):
        known = store.checkpoint(run.id)
        if store.read_only or run_unlike(run.id, known, paths, store) is None:
            continue
        try:
            found, _ = find_model(run.id, paths, store, progress=progress)
        except KDHarnessError as error:
            yield run.id, f"cannot be identified: {error.message}"
            continue
        if known is not None and found.id != known.id:
            yield run.id, f"no longer taken for {known.name}"


def model_checkpoint(paths: Paths, source: str, *, reporter: Reporter | None = None) -> Checkpoint:
    """The stored checkpoint of a model, for lineage; see `find_model`.

    Raises:
        ModelError, AssetError: nothing of that name, or weights that cannot be read.
    """
    with Store(paths.store) as store:
        return find_model(source, paths, store, **told(reporter, source))[0]


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
    """Store a checkpoint of a folder that was made here; the stored one where it holds the same.

    Args:
        more: further fields of `Checkpoint`, such as run, step and config_hash.

    Raises:
        ModelError: weights that cannot be read.
    """
    found = str(folder)
    with Store(paths.store) as store:
        progress = told(reporter, name).get("progress")
        identity = identity_of(found, paths, store, progress)
        adopt_folder(found, identity, paths, store)
        return store.add_checkpoint(
            Checkpoint(
                id=identity.id,
                name=name,
                method=method,
                path=found,
                created=time.time(),
                parents=dict(parents),
                info=cast(CheckpointInfo, dict(info or {})),
                weights=identity.weights,
                interface=identity.interface,
                **more,
            )
        )


def told(reporter: Reporter | None, source: str) -> dict[str, Any]:
    """`progress` and `say` of `find_model`, for a reporter; small models are not worth a stage."""
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
