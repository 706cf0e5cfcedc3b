"""Resuming a run, only with the inputs it was started with.

A checkpoint is the result of the steps before it. If the rows, the template or a teacher changed
in between, the result would belong to neither the old nor the new configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdharness.harness.config.trainer import LengthGroups, TrainerSpec
from kdharness.harness.errors import ModelError, RunError
from kdharness.harness.models.validate import validate_model_dir
from kdharness.harness.protocols import Job
from kdharness.harness.store import Store
from kdharness.harness.util.atomic import atomic_write_text, is_sealed
from kdharness.harness.util.untrusted import read_json_object
from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.streams import DRAWING
from kdharness.trainers.saving import step_folders

NOTE = "begun-with.json"
RECORD = "the record of this run's inputs"
_WHAT = {
    "train": "the training rows",
    "heldout": "the held-out rows",
    "student": "the student's weights",
    "steps": "the number of steps",
    "precision": "the precision",
    "groups": "the rows grouped by length",
}


def begun_with(setting: TrainContext, parents: Mapping[str, str]) -> dict[str, object]:
    """Return what a training run depends on besides its config.

    The rows are compared as tokens and labels, so that a changed file, order, chat template or
    tokenizer shows, and a moved or re-saved file does not.
    """
    return {
        "train": setting.train.fingerprint,
        "train_rows": len(setting.train),
        "heldout": setting.heldout.fingerprint,
        "heldout_rows": len(setting.heldout),
        "student": setting.start.model,
        "teachers": _weights_of(parents, setting),
        "steps": setting.plan.steps,
        # `auto` depends on the device.
        "precision": setting.precision.name,
        "groups": groups_of(setting.job, setting.config.trainer),
        "drawing": drawing_of(setting.job),
    }


def groups_of(job: Job, spec: TrainerSpec) -> LengthGroups:
    """Return which rows of a run have similar lengths.

    A run that an older version started goes on in the order it began with: those versions grouped
    the rows of whole steps.
    """
    known = _resumed(job)
    if known is None or spec.length_groups != "auto":
        return spec.grouping
    return spec.grouping if "groups" in known else "step"


def drawing_of(job: Job) -> int:
    """Return how a run's rows are drawn; as before if an older version started it."""
    known = _resumed(job)
    if known is None:
        return DRAWING
    return next((number for number in range(2, DRAWING + 1) if known.get("drawing") == number), 1)


def _resumed(job: Job) -> dict[str, Any] | None:
    """Return the record of the inputs of a run that is resumed; None of others."""
    if not (job.run and job.resume) or newest_checkpoint(job.folder) is None:
        return None
    note = job.folder / NOTE
    return read_json_object(note, RECORD, RunError) if note.exists() else {}


def _weights_of(parents: Mapping[str, str], setting: TrainContext) -> dict[str, str]:
    """Return role -> identity of the weights: a teacher's own template does not matter here."""
    with Store(setting.job.paths.store) as store:
        stored = {role: store.checkpoint(key) for role, key in parents.items()}
    return {role: parent.model if parent else parents[role] for role, parent in stored.items()}


def keep_note(folder: Path, now: Mapping[str, object]) -> None:
    """Record the inputs that a run starts with."""
    atomic_write_text(folder / NOTE, json.dumps(now, indent=1))


def refuse_changes(folder: Path, now: Mapping[str, Any], checkpoint: str) -> bool:
    """Refuse to resume if an input differs from what the run was started with.

    Returns:
        Whether all of it could be checked: a run of an older version has no record of it.

    Raises:
        RunError: every part that changed.
    """
    if not (folder / NOTE).exists():
        return False
    then = read_json_object(folder / NOTE, RECORD, RunError)
    changed = [
        _difference(name, then, now) for name in _WHAT if name in then and then[name] != now[name]
    ]
    teachers = then.get("teachers")
    before: Mapping[str, Any] = teachers if isinstance(teachers, dict) else {}
    changed += [
        f"the {role}" for role in now["teachers"] if before.get(role) != now["teachers"][role]
    ]
    if changed:
        raise RunError(
            f"{', '.join(changed)} changed since {checkpoint} was saved",
            where=str(folder),
            hint="restore it and resume again, or start a new run with kdharness train: this "
            "run's steps belong to its original inputs",
        )
    return "precision" in then


def recorded_precision(folder: Path) -> str:
    """Return the precision that a run started with; empty if none is recorded."""
    if not (folder / NOTE).exists():
        return ""
    then = read_json_object(folder / NOTE, "the record of this run's inputs", RunError)
    return str(then.get("precision", ""))


def _difference(name: str, then: Mapping[str, object], now: Mapping[str, object]) -> str:
    rows = f"{name}_rows"
    if name in ("steps", "precision", "groups"):
        return f"{_WHAT[name]} ({then[name]} then, {now[name]} now)"
    if rows not in now:
        return _WHAT[name]
    marks = f"fingerprint {str(then[name])[:8]} then, {str(now[name])[:8]} now"
    if then.get(rows) != now[rows]:
        return f"{_WHAT[name]} ({then.get(rows)} then, {now[rows]} now; {marks})"
    return f"{_WHAT[name]} ({marks})"


# ---------------------------------------------------------------- checkpoints


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint; a process can die while writing one."""
    return next((path for path in reversed(step_folders(folder)) if is_sealed(path)), None)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


# Files that transformers writes but never reads, and those of a sharded model, which accelerate
# reads with `weights_only`.
_STATE_FILES = re.compile(r"(training_args|(optimizer|pytorch_model_fsdp)(_\d+)?)\.bin")


def check_state(folder: Path) -> None:
    """Refuse weights that are pickled or damaged.

    torch reads the Trainer's own state with `weights_only`, which builds tensors and runs no code.

    Raises:
        RunError: names the file.
    """
    for path in sorted(folder.glob("*.bin")):
        if not _STATE_FILES.fullmatch(path.name):
            raise damaged_state(folder, f"{path.name} is a pickle, which is never loaded")
    for name, what in (
        ("global_step*", "DeepSpeed's state"),
        ("**/.metadata", "torch's sharded state"),
    ):
        if any(folder.glob(name)):
            raise damaged_state(
                folder,
                f"{what} is saved as pickles, which are never loaded; FSDP2 with "
                "fsdp_state_dict_type: FULL_STATE_DICT can be resumed",
            )
    try:
        validate_model_dir(folder)
    except ModelError as error:
        raise damaged_state(folder, str(error)) from error


def damaged_state(folder: Path, what: str) -> RunError:
    """Return the error for a checkpoint whose state cannot be loaded."""
    first = (what.strip() or "no reason given").splitlines()[0][:300]
    return RunError(
        f"the state saved in {folder.name} cannot be loaded: {first}",
        where=str(folder),
        hint="if you do not trust the folder, delete it; the run then resumes from the previous "
        "checkpoint, or from the start",
    )
