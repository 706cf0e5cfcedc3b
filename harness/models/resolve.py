"""Resolving a model's name to a local folder.

A source is, in this order: a local folder, a pulled model asset, a stored checkpoint's name, or
a hub id such as `org/name` or `org/name@revision`. torch and transformers are imported inside the
functions.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

from kdharness.harness import assets
from kdharness.harness.errors import AssetError, KDHarnessError, ModelError, did_you_mean
from kdharness.harness.models.adapters import DEEPEST, no_base_error, too_deep_error
from kdharness.harness.models.generation_config import make_savable
from kdharness.harness.models.gguf import check_gguf
from kdharness.harness.models.gguf_models import gguf_identity, is_gguf, refuse_gguf
from kdharness.harness.models.hub import pinned, snapshot, split_hub_name
from kdharness.harness.models.identity import ModelIdentity, Progress, identify
from kdharness.harness.models.loading_errors import explain, quiet_transformers
from kdharness.harness.models.validate import check_config, validate_model_dir
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Method, Run, digest
from kdharness.harness.util.atomic import new_folder
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.untrusted import read_json_object


def find_source(source: str, paths: Paths) -> str | None:
    """Resolve a source without converting a pulled asset: None for one that would be converted.

    Raises:
        ModelError, AssetError: nothing of that name, or an asset that has not been pulled.
    """
    if not exists(local_path(source), folder=True) and source in assets.manifest():
        if not (paths.models / source / "config.json").exists():
            assets.asset_file(paths, source, next(iter(assets.manifest()[source].files)))
        return None
    return resolve_model(source, paths)


def is_unconverted(source: str, paths: Paths) -> bool:
    """Return whether a source is an asset that `resolve_model` would convert first."""
    named = source in assets.manifest() and not exists(local_path(source), folder=True)
    return named and not (paths.models / source / "config.json").exists()


def resolve_model(source: str, paths: Paths) -> str:
    """Resolve a source to a local folder, or to `org/name@commit` of the hub.

    Raises:
        ModelError: nothing of that name; the hint lists what a source may be.
        AssetError: a model asset that has not been pulled.
    """
    source = here(source, paths)
    folder = local_path(source)
    refuse_gguf(folder)
    if split_hub_name(source.rstrip("/")) and not exists(folder, folder=True):
        source = source.rstrip("/")
    if exists(folder, folder=True):
        if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
            raise ModelError(
                f"{folder} is not a model folder (no config.json)",
                hint="use the folder that save_pretrained wrote",
            )
        return str(folder.resolve())
    if source in assets.manifest():
        return str(_converted(source, paths))
    stored = _stored(source, paths) if paths.store.exists() else None
    if stored is not None:
        return stored
    if split_hub_name(source):
        return pinned(source)
    raise ModelError(
        f"no model named {source[:200]!r}{did_you_mean(source, _known(paths))}",
        hint="use a local folder, a checkpoint's name (kdharness leaderboard), "
        "an asset (kdharness data list) or a hub id such as org/name",
    )


def _known(paths: Paths) -> list[str]:
    """Return the names of stored checkpoints, of runs, and of assets."""
    names = list(assets.manifest())
    if paths.store.exists():
        with Store(paths.store) as store:
            names = [*(c.name for c in store.checkpoints()), *sorted(store.run_ids()), *names]
    return names


def here(source: str, paths: Paths) -> str:
    """Return where an absolute path of the home's former place is now, if it exists.

    Configs and adapters of a copied home name folders of the original.
    """
    if not Path(source).is_absolute() or not exists(paths.store, folder=False):
        return source
    with Store(paths.store) as store:
        return store.places.here(source)


def _stored(source: str, paths: Paths) -> str | None:
    """Return the path of a stored checkpoint's weights; None if no checkpoint has that name.

    Raises:
        ModelError: they do not exist, or cannot be attributed after an older version's mistake.
    """
    with Store(paths.store) as store:
        known = store.checkpoint(source)
        run = misattributed_run(source, known, paths, store)
        own = own_folder(known, paths, store) if known is not None else None
    if run is not None:
        return str((paths.runs / run.id / "final").resolve())
    if own is not None or known is None:
        return str(own) if own is not None else None
    if not known.path:
        if split_hub_name(source) and known.method == Method.IMPORT.value:
            return None  # imported answers of a model whose weights are on the hub
        raise ModelError(
            f"{source} has stored answers and scores, but no weights",
            hint="use the folder of a model",
        )
    refuse_gguf(known.path)
    if exists(Path(known.path), folder=True):
        raise ModelError(
            f"an older version mistook {known.path} for the checkpoint {source}, by samples of "
            "its weights",
            hint="use the model's folder instead of its name",
        )
    if _is_plain_hub_name(source, known.path):
        return None  # it refers to the current commit, not to the evaluated one
    if split_hub_name(known.path):
        return pinned(known.path)
    raise ModelError(f"the folder of checkpoint {source} does not exist", where=known.path)


def misattributed_run(
    source: str, known: Checkpoint | None, paths: Paths, store: Store
) -> Run | None:
    """Return a run whose name leads to another run's checkpoint, with weights of its own.

    Older versions mistook two runs for one if samples of their weights agreed.
    """
    if known is None or known.name == source or known.run == source:
        return None
    run = store.run(source)
    return run if run is not None and exists(paths.runs / source / "final", folder=True) else None


def own_folder(row: Checkpoint, paths: Paths, store: Store) -> Path | None:
    """Return the folder that a checkpoint was stored for, if it still exists.

    An older version pointed a row at whatever it last mistook for the same model. A run's
    checkpoint is still found in the run's folder, even if the home was moved.
    """
    path = Path(row.path)
    path_exists = bool(row.path) and exists(path, folder=True)
    if not row.path or (row.weights and path_exists):
        return path if path_exists else None
    if row.run:
        return _folder_of_run(row, paths, store)
    if row.method != Method.MODEL.value and path.parent.name == paths.models.name:
        made = path if path_exists else paths.models / path.name
        return made if exists(made, folder=True) else None
    # A number, or a part of its id, may have been appended to make the name unique.
    names = {row.name, re.sub(r"-[0-9a-f]+$", "", row.name)}
    own = bool(names & {path.name, f"{path.parent.name}/{path.name}"})
    return path if path_exists and own else None


def _folder_of_run(row: Checkpoint, paths: Paths, store: Store) -> Path | None:
    run = store.run(row.run or "")
    roots = [Path(run.folder), paths.runs / run.id] if run is not None else []
    path = Path(row.path)
    if any(path.is_relative_to(root) for root in roots):
        inside = next(path.relative_to(root) for root in roots if path.is_relative_to(root))
    else:
        label = row.name.removeprefix(row.run or "")[1:]
        inside = Path(label or "final")
    folders = (root / inside for root in roots)
    return next((folder for folder in folders if exists(folder, folder=True)), None)


def _is_plain_hub_name(source: str, path: str) -> bool:
    """Return whether an unpinned name and a stored path are of the same hub repository."""
    ours, theirs = split_hub_name(source), split_hub_name(path)
    return ours is not None and theirs is not None and ours == (theirs[0], None)


def _converted(asset: str, paths: Paths) -> Path:
    """Return the safetensors folder of a GGUF asset, converted once."""
    target = paths.models / asset
    if (target / "config.json").exists():
        return target
    name = next(iter(assets.manifest()[asset].files))
    gguf = assets.asset_file(paths, asset, name)
    convert_gguf(gguf, target)
    return target


def convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantise a GGUF file into an fp32 safetensors folder, all or nothing."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    elements, tensors = check_gguf(gguf)
    try:
        with new_folder(target, "converting") as scratch, quiet_transformers():
            config = AutoConfig.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
            check_config(config.to_dict(), elements, tensors, str(gguf))
            # The bar of the conversion knows none of the settings that silence the others.
            with redirect_stderr(io.StringIO()):
                model = AutoModelForCausalLM.from_pretrained(
                    gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
                )
            # The saved weights are plain fp32: the quantised source's attributes would make
            # transformers look for a quantiser when the folder is loaded again.
            if hasattr(model, "hf_quantizer"):
                del model.hf_quantizer
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            make_savable(model)
            model.save_pretrained(scratch)
            tokenizer = AutoTokenizer.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
            tokenizer.save_pretrained(scratch)
    except Exception as error:  # a header may be valid and its content still be nonsense
        full = isinstance(error, OSError) and error.errno is not None
        if full or isinstance(error, (KDHarnessError, MemoryError)):
            raise
        raise explain(error, gguf.name) from error


def local_folder(source: str, paths: Paths, *, weights: bool, code: bool = False) -> Path:
    """Return a source's files on this machine, after checking a folder's claims against them.

    Args:
        weights: download a hub model's weights too, not only its configs and tokenizer.
        code: download its Python files too.

    Raises:
        ModelError: not found, not downloadable, damaged or hostile.
    """
    resolved = resolve_model(source, paths)
    if exists(Path(resolved), folder=True):
        folder = Path(resolved)
    else:
        folder = snapshot(resolved, weights=weights, code=code)
    validate_model_dir(folder)
    return folder


def adapter_base(folder: Path) -> str:
    """Return the base model that an adapter names, as a source: a name, or a folder.

    Folders are relative to the working directory, as in peft, or to the adapter.

    Raises:
        ModelError: it names none.
    """
    config = read_json_object(folder / "adapter_config.json", "adapter_config.json", ModelError)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise no_base_error(folder)
    if exists(local_path(base), folder=True):
        return base
    beside = folder / base
    if any(exists(beside / name, folder=False) for name in ("config.json", "adapter_config.json")):
        return str(beside.resolve())
    named = split_hub_name(base.rstrip("/"))
    if named is None:
        return base
    pinned_too = isinstance(revision, str) and revision and not named[1]
    return base.rstrip("/") + (f"@{revision}" if pinned_too else "")


def _refuse_circle(folder: Path) -> None:
    """Raise ModelError if a chain of stacked adapters does not end."""
    current = folder
    for _ in range(DEEPEST):
        base = local_path(adapter_base(current))
        if not exists(base / "adapter_config.json", folder=False):
            return
        current = base
    raise too_deep_error(folder)


@contextmanager
def naming_base(folder: Path) -> Iterator[str]:
    """Yield the base model that an adapter names; errors about it mention the adapter.

    Raises:
        ModelError: an error raised inside, with the adapter's file and field.
    """
    base = adapter_base(folder)
    _refuse_circle(folder)
    try:
        yield base
    except KDHarnessError as error:
        if not isinstance(error, (ModelError, AssetError)) or "base model" in error.message:
            raise
        raise ModelError(
            f"its base model {base[:200]!r} (base_model_name_or_path) cannot be used: "
            f"{error.message}",
            where=str(folder / "adapter_config.json"),
            hint="set base_model_name_or_path to a local folder or a hub id",
        ) from error


def last_written(found: str, paths: Paths) -> float:
    """Return when the resolved model, with the base models of its adapter, was last written.

    In seconds since the epoch; now for a hub model. A file may be replaced by an older one, which
    only the folder's own time shows.
    """
    folder = Path(found)
    if not exists(folder, folder=True):
        return time.time()
    times = [path.stat().st_mtime for path in (folder, *folder.iterdir()) if path.exists()]
    if exists(folder / "adapter_config.json", folder=False):
        times.append(last_written(resolve_model(adapter_base(folder), paths), paths))
    return max(times)


def identity_of(
    found: str, paths: Paths, store: Store, progress: Progress | None = None, depth: int = 0
) -> ModelIdentity:
    """Identify what `resolve_model` found: a folder by its content, a hub model by its commit.

    Raises:
        AssetError, ModelError: no weights, damaged ones, or an adapter without its base.
    """
    if is_gguf(found):
        return gguf_identity(Path(found), store)
    if not exists(Path(found), folder=True):
        named = split_hub_name(found)
        commit = digest("hub", named[1] if named else found)
        return ModelIdentity(commit, commit)

    def base(_: str) -> ModelIdentity:
        if depth == DEEPEST:
            raise too_deep_error(Path(found))
        with naming_base(Path(found)) as named:
            return identity_of(resolve_model(named, paths), paths, store, progress, depth + 1)

    return identify(found, store, base=base, progress=progress)
