"""Folders of derived models, with a record of how they were made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.errors import ModelError
from kdharness.harness.models.generation_config import make_savable
from kdharness.harness.types import Checkpoint
from kdharness.harness.util.atomic import new_folder
from kdharness.harness.util.untrusted import read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def folder_name(checkpoint: Checkpoint) -> str:
    """Return a checkpoint's name as part of a folder name."""
    return re.sub(r"[^\w.-]", "-", checkpoint.name)[:64]


def save_folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path, origin: dict[str, Any]
) -> None:
    """Save a derived model atomically, with a record of how it was made."""
    dropped = make_savable(model)
    note = {**origin, "generation_config_without": dropped} if dropped else origin
    with new_folder(target, "making") as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / "kdharness.json").write_text(json.dumps(note), "utf-8")


def read_origin(folder: str | Path) -> dict[str, Any]:
    """Read how a derived model was made; empty for any other model."""
    path = Path(folder) / "kdharness.json"
    if not path.exists():
        return {}
    return read_json_object(path, "kdharness.json", ModelError)
