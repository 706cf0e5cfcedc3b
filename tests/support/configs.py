"""Configs of short training runs on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TRAINER: dict[str, Any] = {"learning_rate": 0.01, "max_steps": 4, "batch_size": 4, "device": "cpu"}
HELDOUT = [
    {"path": "general:validation", "limit": 4},
    {"path": "shop:validation", "kind": "domain", "limit": 4},
]


def config_file(tmp_path: Path, **values: Any) -> str:
    """Write a config as YAML; return its path."""
    path = tmp_path / f"{values.get('name', 'config')}.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return str(path)


def kd_config(base: Path, **changes: Any) -> dict[str, Any]:
    """Return a KD config of a few steps on shipped rows."""
    return {
        "method": "kd",
        "name": "kd",
        "teacher": str(base),
        "student": {"from": "teacher", "keep_layers": 2},
        "data": {
            "train": {"path": "general:train", "limit": 24},
            "heldout": HELDOUT,
            "max_length": 96,
        },
        "trainer": TRAINER,
        **changes,
    }
