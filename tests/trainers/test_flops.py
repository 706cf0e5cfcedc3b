"""A training's FLOPs by arithmetic against those that a counter sees it carry out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.files import parse_config
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, NullReporter, Outcome
from kdharness.harness.registry import TRAINERS, resolve
from kdharness.trainers.tools.measure import count_flops

pytestmark = pytest.mark.slow
METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "lora": {"student": {"model": "T", "lora": {"r": 2, "alpha": 4}}},
    "kd": {"teacher": "T", "trainer": {"attention_weight": 0.0}},
    "kd-attention": {"teacher": "T"},
    "dae": {"reference": "T", "expert": "T", "data": {"domain_share": 0.5}},
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_arithmetic_meets_the_counter(
    name: str, checkpointing: bool, tiny_teacher: Path, paths: Paths
) -> None:
    extra = METHODS[name]
    train = [{"path": "general:train", "limit": 12}]
    if name == "dae":
        train.append({"path": "shop:train", "limit": 12, "kind": "domain"})
    raw: dict[str, Any] = {
        "method": {"lora": "sft", "kd-attention": "kd"}.get(name, name),
        "student": extra.get("student", "T"),
        "data": {"train": train, "max_length": 96, **extra.get("data", {})},
        "trainer": {
            "max_steps": 3,
            "batch_size": 4,
            "gradient_checkpointing": checkpointing,
            **extra.get("trainer", {}),
        },
        **{role: extra[role] for role in ("teacher", "reference", "expert") if role in extra},
    }
    config = parse_config(_filled(raw, str(tiny_teacher)))
    folder = paths.run("r")
    folder.mkdir(parents=True)
    found: list[Outcome] = []

    def work() -> None:
        job = Job(paths=paths, run="r", folder=folder, reporter=NullReporter())
        found.append(resolve(TRAINERS, config.method, "method")(config, job))

    counted = count_flops(work)
    # Recomputing a layer stops before its last product, so checkpointing comes out a little lower.
    assert 0.95 < counted / found[0].info["flops"] < 1.05


def _filled(value: Any, model: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(part, model) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, model) for part in value]
    return model if value == "T" else value
