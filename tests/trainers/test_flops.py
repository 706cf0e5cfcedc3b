"""Compare the analytic FLOPs of a training run with those a counter measures."""

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
HIDDEN = "kd-hidden"
METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "sft-talr": {"trainer": {"token_weights": "talr"}},
    "sft-talr-split": {"trainer": {"token_weights": "talr", "batch_size": 2, "accumulation": 2}},
    "lora": {"student": {"model": "T", "lora": {"r": 2, "alpha": 4}}},
    "kd": {"teacher": "T", "trainer": {"attention_weight": 0.0}},
    "kd-attention": {"teacher": "T"},
    HIDDEN: {
        "teacher": {"model": "T", "cache": {"kind": "hidden"}},
        "trainer": {"attention_weight": 0.0},
    },
    "dae": {"reference": "T", "expert": "T", "data": {"domain_share": 0.5}},
    "dae-non-target": {"reference": "T", "expert": "T", "trainer": {"non_target_weight": 0.5}},
}


@pytest.mark.parametrize(
    ("name", "checkpointing"),
    [*((name, False) for name in METHODS), *((name, True) for name in METHODS if name != HIDDEN)],
)
def test_analytic_flops_match_the_counter(
    name: str,
    checkpointing: bool,
    tiny_teacher: Path,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The checks before the first step run both models too, on a few rows.
    monkeypatch.setattr("kdharness.trainers.loop.check_run", lambda setting: None)
    extra = METHODS[name]
    train = [{"path": "general:train", "limit": 12}]
    if name.startswith("dae"):
        train.append({"path": "shop:train", "limit": 12, "kind": "domain"})
    raw: dict[str, Any] = {
        "method": "sft" if name == "lora" else name.partition("-")[0],
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
    config = parse_config(_with_model_path(raw, str(tiny_teacher)))
    outcomes: list[Outcome] = []

    def run_training() -> None:
        folder = paths.run(f"r{len(outcomes)}")
        folder.mkdir(parents=True)
        job = Job(paths=paths, run=folder.name, folder=folder, reporter=NullReporter())
        outcomes.append(resolve(TRAINERS, config.method, "method")(config, job))

    if name == HIDDEN:
        run_training()  # fills the cache
    counted = count_flops(run_training)
    # Recomputation skips a layer's last matmul, so checkpointing measures slightly lower.
    assert 0.95 < counted / outcomes[-1].info["flops"] < 1.05


def _with_model_path(value: Any, model: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_model_path(part, model) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_model_path(part, model) for part in value]
    return model if value == "T" else value
