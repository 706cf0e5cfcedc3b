"""Experiments of short training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TRAINER = {"learning_rate": 0.01, "max_steps": 2, "batch_size": 4, "device": "cpu"}
GENERAL = {"path": "general:train", "limit": 16}
SHOP = {"path": "shop:train", "kind": "domain", "limit": 16}
STEPS: dict[str, Any] = {
    "kd": {
        "method": "kd",
        "teacher": "base",
        "student": {"from": "teacher", "keep_layers": 2},
        "data": {"train": GENERAL, "max_length": 96},
        "trainer": TRAINER,
    },
    "expert": {
        "method": "sft",
        "student": "kd",
        "trainer": TRAINER,
        "data": {"train": {"path": "shop:train", "kind": "domain"}, "max_length": 96},
    },
    "more": {
        "method": "sft",
        "student": "expert",
        "trainer": TRAINER,
        "data": {"train": GENERAL, "max_length": 96},
    },
    "other": {
        "method": "sft",
        "student": "base",
        "trainer": TRAINER,
        "data": {"train": GENERAL, "max_length": 96},
    },
}
"""A chain of three steps and an independent one, for fake workers."""


def sweep_file(folder: Path, **values: Any) -> Path:
    """Write an experiment named `x`; return its path."""
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({"name": "x", **values}, sort_keys=False), "utf-8")
    return path


def sweep_steps(base: str = "base") -> dict[str, Any]:
    """Return the steps: KD, an expert, DAE of both, their merges, and scores of all."""
    data = {"train": SHOP, "max_length": 96}
    return {
        "kd": {
            "method": "kd",
            "teacher": base,
            "student": {"from": "teacher", "keep_layers": 2},
            "data": {"train": GENERAL, "max_length": 96},
            "trainer": TRAINER,
        },
        "expert": {"method": "sft", "student": "kd", "data": data, "trainer": TRAINER},
        "dae": {
            "method": "dae",
            "student": "kd",
            "expert": "expert",
            "trainer": TRAINER,
            "data": {**data, "train": [GENERAL, SHOP], "domain_share": 0.5},
        },
        "wise": {"method": "merge", "reference": "kd", "expert": "expert", "alphas": [0.3, 0.6]},
        "scores": {
            "method": "eval",
            "checkpoints": ["kd", "expert", "dae", "wise"],
            "benches": ["shop", "heldout"],
            "limit": 4,
            "max_new_tokens": 4,
        },
    }
