"""Saving a trained model: checked before the first step, and weights written first."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.precision import Precision
from kdharness.harness.config.training import TrainConfig
from kdharness.harness.errors import KDHarnessError, RunError
from kdharness.harness.models.generation_config import make_savable
from kdharness.harness.models.loading_errors import essence
from kdharness.harness.models.validate import tensor_entries, weight_files
from kdharness.harness.runs.memory import optimizer_bytes
from kdharness.harness.util.atomic import atomic_replace_dir
from kdharness.harness.util.filesystem import free_bytes
from kdharness.harness.util.os_errors import as_user_error, remove_on_failure
from kdharness.trainers.context import TrainContext
from kdharness.trainers.finite import refuse_not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GIB = 2**30
MARGIN = 1.05
"""Overhead of configs, tokenizer and file system, relative to the weights."""


def step_folders(folder: Path) -> list[Path]:
    """Return a run's step checkpoints, complete or not, oldest first."""
    prefix = "checkpoint-"
    paths = [path for path in folder.glob(f"{prefix}*") if path.name.removeprefix(prefix).isdigit()]
    return sorted(paths, key=lambda path: int(path.name.removeprefix(prefix)))


def check_savable(model: Any, tokenizer: Any, folder: Path) -> list[str]:
    """Save everything but the weights once, so that only the machine can fail at the end.

    Args:
        model: the student, with its adapter if it has one; its generation config is fixed.
        folder: the run's folder, where checkpoints will be written.

    Returns:
        Settings that were removed from the generation config, see `make_savable`.

    Raises:
        RunError: the folder cannot be written, or a config or tokenizer cannot be saved.
    """
    adapter = hasattr(model, "get_base_model")
    plain = model.get_base_model() if adapter else model
    dropped = make_savable(plain)
    scratch = folder / ".trial"
    parts: dict[str, Any] = {
        "config": plain.config,
        "generation config": getattr(plain, "generation_config", None),
        "adapter config": model.peft_config["default"] if adapter else None,
        "tokenizer": tokenizer,
    }
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            try:
                if part is not None:
                    part.save_pretrained(scratch)
            except Exception as error:  # a config can hold anything
                raise _cannot(name, error, folder) from error
    except OSError as error:
        raise _cannot("folder", error, folder) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return dropped


def _cannot(what: str, error: Exception, folder: Path) -> KDHarnessError:
    known = as_user_error(error, folder)
    if known is not None:
        return known
    return RunError(
        f"the student's {what} cannot be saved, so a trained model could not be saved either: "
        f"{essence(str(error) or type(error).__name__)}",
        where=str(folder),
        hint=f"fix the {what} in the student's folder",
    )


def saved_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of weights in a checkpoint of this model: all, or only the adapter's."""
    adapter = hasattr(model, "get_base_model")
    seen: set[int] = set()
    total = 0
    for value in model.parameters():
        if id(value) in seen or (adapter and not value.requires_grad):
            continue
        seen.add(id(value))
        total += value.numel() * value.element_size()
    return total


def room_needed(config: TrainConfig, model: Any, precision: Precision, folder: Path) -> int:
    """Return the bytes a run's checkpoints will need on disk beyond those it already has.

    The final weights; with `trainer.best` a second copy while it is replaced; with
    `trainer.save_every` the checkpoints kept and one more, each with the optimizer's state.
    """
    spec = config.trainer
    weights = saved_bytes(model)
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    step = weights + trained * optimizer_bytes(spec.optimizer, precision)
    needed = weights
    if spec.best:
        needed += weights if (folder / "best").exists() else 2 * weights
    if spec.save_every:
        needed += max(1, spec.keep + 1 - len(step_folders(folder))) * step
    return int(needed * MARGIN)


def check_room(
    config: TrainConfig, model: PreTrainedModel, precision: Precision, folder: Path
) -> None:
    """Refuse a training whose checkpoints do not fit on the disk.

    Raises:
        RunError: how much is needed and how much is free, or the limit on the size of a file.
    """
    refuse_without_room(room_needed(config, model, precision, folder), folder)
    limit, largest = _file_limit(), saved_bytes(model)
    if limit is not None and largest > limit:
        raise RunError(
            f"the weights need {largest / GIB:.2f} GiB, but the file size limit here is "
            f"{limit / GIB:.2f} GiB",
            where=str(folder),
            hint="raise the limit (ulimit -f), or choose another location with --home",
        )


def refuse_without_room(needed: int, folder: Path) -> None:
    """Raise RunError where less than `needed` bytes are free in a folder's file system."""
    free = free_bytes(folder)
    if needed > free:
        raise RunError(
            f"the checkpoints need {needed / GIB:.2f} GiB, but only {free / GIB:.2f} GiB are free",
            where=str(folder),
            hint="free some space (kdharness store prune), lower trainer.keep, or choose another "
            "location with --home",
        )


def _file_limit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    limit: int = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


@contextmanager
def _whole_state(trainer: Any) -> Iterator[None]:
    """Gather the full FSDP model for this save; from shards transformers would write nothing."""
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    kind = getattr(plugin, "state_dict_type", None)
    if plugin is None or not trainer.is_fsdp_enabled or "FULL" in str(kind):
        yield
        return
    plugin.set_state_dict_type("FULL_STATE_DICT")
    try:
        yield
    finally:
        plugin.set_state_dict_type(kind)


def save_whole(
    trainer: Any, setting: TrainContext, target: Path, notes: Mapping[str, str] | None = None
) -> None:
    """Save the student to `target` atomically; every process takes part.

    The weights come first. Once they are written, no failure of the other files (tokenizer, notes)
    can lose them: it is reported, and the folder is kept without that file.

    Raises:
        RunError: the weights are not finite or could not be written; the previous folder is kept.
    """
    refuse_not_finite(trainer.model, trainer.state.global_step)
    scratch, is_main = target.with_name(f".{target.name}"), setting.job.is_main
    if is_main:
        shutil.rmtree(scratch, ignore_errors=True)
    with remove_on_failure(scratch) if is_main else nullcontext(), _whole_state(trainer):
        trainer.save_model(str(scratch))
        if is_main:
            _refuse_empty(scratch)
    if not is_main:
        return
    beside = {"tokenizer": partial(setting.tokenizer.save_pretrained, scratch)}
    for name, text in (notes or {}).items():
        beside[name] = partial((scratch / name).write_text, text, "utf-8")
    warnings = [save_beside(what, save, target) for what, save in beside.items()]
    atomic_replace_dir(scratch, target)
    for warning in filter(None, warnings):
        setting.job.reporter.say(warning, kind="warning")


def save_beside(what: str, save: Callable[[], object], target: Path) -> str:
    """Save a file next to weights that are safe; return a warning if that failed."""
    try:
        save()
    except Exception as error:  # no failure here may lose the weights
        known = as_user_error(error, target.parent)
        reason = known.message if known else essence(str(error) or type(error).__name__)
        return f"the weights were saved to {target}, but their {what} could not be saved: {reason}"
    return ""


def _refuse_empty(folder: Path) -> None:
    """Raise RunError if a save wrote no tensors, even though it returned normally."""
    if not any(tensor_entries(path) for path in weight_files(folder)):
        raise RunError(
            "no weights were written",
            where=str(folder),
            hint="does the config of FSDP or DeepSpeed gather the full model? see docs/scale.md",
        )
