"""Changes to the files of a tiny model, as they occur among public models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def changed(source: Path, target: Path, **files: Any) -> Path:
    """Copy a model; update its JSON files by name (without suffix), or remove those set to None."""
    shutil.copytree(source, target)
    for name, values in files.items():
        path = target / ("chat_template.jinja" if name == "template" else f"{name}.json")
        if values is None:
            path.unlink()
        elif isinstance(values, str):
            path.write_text(values, "utf-8")
        else:
            path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")
    return target


def as_base(source: Path, target: Path, *, template: bool = False) -> Path:
    """Copy an instruct model as the base model of its family: another end token, no template."""
    files: dict[str, Any] = {
        "tokenizer_config": {"eos_token": "<|pad|>"},
        "generation_config": {"eos_token_id": 2},
        "config": {"eos_token_id": 2},
    }
    return changed(source, target, **files, **({} if template else {"template": None}))
