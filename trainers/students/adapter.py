"""Merging an adapter into its base."""

from __future__ import annotations

from pathlib import Path

from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.checkpoints import add_made, model_checkpoint
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.types import Checkpoint
from kdharness.trainers.students.folder import folder_name, save_folder


def merged_start(
    adapter: Checkpoint, source: str, paths: Paths, *, trust_remote_code: bool
) -> Checkpoint:
    """Return an adapter checkpoint merged into a full model, made once, as a new adapter's base.

    The new adapter's config records its base. If that were the old adapter's base, loading would
    drop the old adapter.
    """
    target = paths.models / f"merged-{folder_name(adapter)}-{adapter.id[:8]}"
    if not (target / "config.json").exists():
        model = load_model(source, paths, device="cpu", trust_remote_code=trust_remote_code)
        tokenizer = load_tokenizer(source, paths, trust_remote_code=trust_remote_code)
        save_folder(model, tokenizer, target, {"merged_from": adapter.name})
    return add_made(
        paths,
        target,
        name=f"{adapter.name}-merged",
        method=adapter.method,
        parents={"adapter": adapter.id},
    )


def merge_adapter(
    source: str, output: str, paths: Paths, *, trust_remote_code: bool = False
) -> str:
    """Merge a LoRA checkpoint into a full model folder; return the folder.

    Raises:
        ConfigError: the output exists. ModelError: the source is not an adapter.
    """
    folder = Path(resolve_model(source, paths))
    if not is_adapter(folder):
        raise ModelError(f"{source} is not an adapter: there is nothing to merge")
    target = Path(output).expanduser().resolve()
    if target.exists():
        raise ConfigError("this folder already exists; choose another name", where=str(target))
    code = trust_remote_code
    model = load_model(str(folder), paths, device="cpu", trust_remote_code=code)
    parent = model_checkpoint(paths, source)
    tokenizer = load_tokenizer(str(folder), paths, trust_remote_code=code)
    save_folder(model, tokenizer, target, {"merged_from": parent.name})
    add_made(paths, target, name=target.name, method=parent.method, parents={"adapter": parent.id})
    return str(target)
