"""Short trainings in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdharness.harness.config.files import parse_config
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.harness.registry import TRAINERS, resolve
from support.reporters import Listener

ROWS = "general:train"


def config_of(teacher: Path, method: str = "sft", lora: bool = False, **trainer: Any) -> Any:
    student: dict[str, Any] = {"model": str(teacher)}
    if lora:
        student["lora"] = {"r": 4}
    values: dict[str, Any] = {
        "method": method,
        "student": student,
        "data": {"train": [{"path": ROWS, "limit": 16}], "max_length": 48},
        "trainer": {
            "max_steps": 6,
            "batch_size": 4,
            "warmup_ratio": 0.0,
            "schedule": "constant",
            "device": "cpu",
            **trainer,
        },
    }
    if method == "kd":
        values["teacher"] = str(teacher)
    if method == "dae":
        values["expert"] = str(teacher)
        values["data"]["train"].append({"path": "shop:train", "kind": "domain", "limit": 16})
    return parse_config(values)


def train(config: Any, paths: Paths, name: str, **job: Any) -> tuple[Path, Listener]:
    reporter = job.pop("reporter", Listener())
    folder = paths.runs / name
    folder.mkdir(parents=True, exist_ok=True)
    run = Job(paths, name, folder, reporter, **job)
    return resolve(TRAINERS, config.method, "method")(config, run).folder, reporter
