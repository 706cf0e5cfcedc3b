"""From a model's name to a folder on this machine.

A source is, in this order: a local folder, a pulled model asset, a stored checkpoint's name, or
a hub id such as `org/name` or `org/name@revision`. torch and transformers are imported inside the
functions.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdharness.harness import assets
from kdharness.harness.errors import AssetError, KDHarnessError, ModelError
from kdharness.harness.models.generation_config import make_savable
from kdharness.harness.models.gguf import check_gguf
from kdharness.harness.models.hub import pinned, snapshot, split_hub_name
from kdharness.harness.models.identity import ModelIdentity, Progress, identify
from kdharness.harness.models.loading_errors import explain, quiet_transformers
from kdharness.harness.models.validate import check_config, validate_model_dir
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Method, Run, digest
from kdharness.harness.util.atomic import atomic_replace_dir
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.untrusted import read_json_object

DEEPEST = 8
"""How many adapters may stand on each other."""


def find_source(source: str, paths: Paths) -> str | None:
    """What `resolve_model` finds, without converting an asset that was pulled: None for one.

    Raises:
        ModelError, AssetError: nothing of that name, or an asset that has not been pulled.
    """
    if not exists(local_path(source), folder=True) and source in assets.manifest():
        if not (paths.models / source / "config.json").exists():
            assets.asset_file(paths, source, next(iter(assets.manifest()[source].files)))
        return None
    return resolve_model(source, paths)


def resolve_model(source: str, paths: Paths) -> str:
    """Resolve a source to a local folder, or to `org/name@commit` of the hub.

    Raises:
        ModelError: nothing of that name, with what was tried.
        AssetError: a model asset that has not been pulled.
    """
    folder = local_path(source)
    if split_hub_name(source.rstrip("/")) and not exists(folder, folder=True):
        source = source.rstrip("/")
    if exists(folder, folder=True):
        if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
            raise ModelError(
                f"{folder} holds no model (no config.json)",
                hint="give the folder that save_pretrained wrote",
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
        f"no model named {source[:200]!r}",
        hint="give a local folder, a checkpoint's name (kdharness leaderboard), "
        "an asset (kdharness data list) or a hub id such as org/name",
    )


def _stored(source: str, paths: Paths) -> str | None:
    """Where a stored checkpoint's weights lie; None for a name that no checkpoint has.

    Raises:
        ModelError: they are nowhere, or an older version does not say whose they are.
    """
    with Store(paths.store) as store:
        known = store.checkpoint(source)
        run = run_unlike(source, known, paths, store)
        own = own_folder(known, paths, store) if known is not None else None
    if run is not None:
        return str((paths.runs / run.id / "final").resolve())
    if own is not None or known is None:
        return str(own) if own is not None else None
    if not known.path:
        if split_hub_name(source) and known.method == Method.IMPORT.value:
            return None  # answers of a model whose weights the hub has
        raise ModelError(
            f"of {source} answers and scores are stored, but no weights",
            hint="give the folder of a model",
        )
    if exists(Path(known.path), folder=True):
        raise ModelError(
            f"an older version took {known.path} for the checkpoint {source}, by samples of its "
            "weights",
            hint="give the folder that is meant, in place of its name",
        )
    if _is_plain_hub_name(source, known.path):
        return None  # it means the commit it is at now, not the one that was scored
    if split_hub_name(known.path):
        return pinned(known.path)
    raise ModelError(f"checkpoint {source} is stored, but its folder is gone", where=known.path)


def run_unlike(source: str, known: Checkpoint | None, paths: Paths, store: Store) -> Run | None:
    """A run whose name leads to another run's checkpoint, with weights of its own.

    Older versions took two runs for one where samples of their weights agreed.
    """
    if known is None or known.name == source or known.run == source:
        return None
    run = store.run(source)
    return run if run is not None and exists(paths.runs / source / "final", folder=True) else None


def own_folder(row: Checkpoint, paths: Paths, store: Store) -> Path | None:
    """The folder that a checkpoint was stored for, where it is still there.

    An older version pointed a row at whatever it took for the same model last. A run's checkpoint
    is found in the run's folder all the same, and when the home was moved.
    """
    path = Path(row.path)
    there = bool(row.path) and exists(path, folder=True)
    if not row.path or (row.weights and there):
        return path if there else None
    if row.run:
        return _folder_of_run(row, paths, store)
    if row.method != Method.MODEL.value and path.parent.name == paths.models.name:
        made = path if there else paths.models / path.name
        return made if exists(made, folder=True) else None
    # A number, or a part of its id, may have made the name unique.
    names = {row.name, re.sub(r"-[0-9a-f]+$", "", row.name)}
    own = bool(names & {path.name, f"{path.parent.name}/{path.name}"})
    return path if there and own else None


def _folder_of_run(row: Checkpoint, paths: Paths, store: Store) -> Path | None:
    run = store.run(row.run or "")
    places = [Path(run.folder), paths.runs / run.id] if run is not None else []
    path = Path(row.path)
    if any(path.is_relative_to(place) for place in places):
        inside = next(path.relative_to(place) for place in places if path.is_relative_to(place))
    else:
        label = row.name.removeprefix(row.run or "")[1:]
        inside = Path(label or "final")
    found = (place / inside for place in places)
    return next((place for place in found if exists(place, folder=True)), None)


def _is_plain_hub_name(source: str, path: str) -> bool:
    """Whether a name without a revision and a stored path are of one repository of the hub."""
    ours, theirs = split_hub_name(source), split_hub_name(path)
    return ours is not None and theirs is not None and ours == (theirs[0], None)


def _converted(asset: str, paths: Paths) -> Path:
    """The safetensors folder of a GGUF asset, converted once."""
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
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(
                gguf.parent, gguf_file=gguf.name, trust_remote_code=False
            )
            check_config(config.to_dict(), elements, tensors, str(gguf))
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
            )
            # What is saved is plain fp32: the marks of the quantised source would make
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
        atomic_replace_dir(scratch, target)
    except Exception as error:  # a header may be sound and what it says still be nonsense
        full = isinstance(error, OSError) and error.errno is not None
        if full or isinstance(error, (KDHarnessError, MemoryError)):
            raise
        raise explain(error, gguf.name) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def local_folder(source: str, paths: Paths, *, weights: bool, code: bool = False) -> Path:
    """A source's files on this machine; a folder's claims are held against its files.

    Args:
        weights: fetch a hub model's weights too, not only its configs and tokenizer.
        code: fetch its Python files too.

    Raises:
        ModelError: not found, not to be fetched, damaged or hostile.
    """
    found = resolve_model(source, paths)
    if exists(Path(found), folder=True):
        folder = Path(found)
    else:
        folder = snapshot(found, weights=weights, code=code)
    validate_model_dir(folder)
    return folder


def adapter_base(folder: Path) -> str:
    """The base model an adapter names, as a source: a name, or a folder.

    Folders are looked for from here, as peft does, and beside the adapter.

    Raises:
        ModelError: it names none.
    """
    where = folder / "adapter_config.json"
    config = read_json_object(where, "adapter_config.json", ModelError)
    base, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelError(
            "this adapter names no base model",
            where=str(where),
            hint="set base_model_name_or_path to the model it was trained on",
        )
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
    """Raise ModelError where adapters stand on each other without an end."""
    below = folder
    for _ in range(DEEPEST):
        base = local_path(adapter_base(below))
        if not exists(base / "adapter_config.json", folder=False):
            return
        below = base
    raise ModelError(
        f"more than {DEEPEST} adapters stand on each other below this base model: does one "
        "name itself?",
        where=str(folder / "adapter_config.json"),
    )


@contextmanager
def naming_base(folder: Path) -> Iterator[str]:
    """Give the base model an adapter names; an error about it says who named it.

    Raises:
        ModelError: whatever is raised inside, with the adapter's file and field.
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
            hint="set base_model_name_or_path to a folder on this machine or to a hub id",
        ) from error


def last_written(found: str, paths: Paths) -> float:
    """When what `resolve_model` found was last written, with the models its adapter stands on.

    In seconds since the epoch; now for a model of the hub. A file that was put in place of
    another may be older than it: the folder's own time tells.
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
    if not exists(Path(found), folder=True):
        named = split_hub_name(found)
        commit = digest("hub", named[1] if named else found)
        return ModelIdentity(commit, commit)

    def base(_: str) -> ModelIdentity:
        if depth == DEEPEST:
            raise ModelError(
                f"more than {DEEPEST} adapters stand on each other: does one name itself?",
                where=found,
            )
        with naming_base(Path(found)) as named:
            return identity_of(resolve_model(named, paths), paths, store, progress, depth + 1)

    return identify(found, store, base=base, progress=progress)
