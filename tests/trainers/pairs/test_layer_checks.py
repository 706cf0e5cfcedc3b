"""Layers and modules that a model does not have are refused before a run is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.commands import CommandLine
from support.configs import config_file, kd_config

DATA = {"train": {"path": "general:train", "limit": 4}}
COMMANDS = (("config", "check"), ("plan",), ("check", "--no-weights"))


@pytest.mark.parametrize(
    ("student", "trainer", "message"),
    [
        ({"from": "teacher", "keep_layers": 99}, {}, "keep_layers is 99, but the model has"),
        ({"from": "teacher", "keep_layers": [0, 99]}, {}, "ascending numbers from 0 to"),
        ({"from": "teacher", "keep_layers": 2}, {"layer_map": [0]}, "a layer map needs 2 numbers"),
        ({"from": "teacher", "keep_layers": 2}, {"layer_map": [0, 99]}, "numbers from -1 to"),
    ],
)
def test_layers_that_there_are_not(
    student: Any,
    trainer: dict[str, Any],
    message: str,
    kd: CommandLine,
    tiny_teacher: Path,
    tmp_path: Path,
) -> None:
    """A plan gave the size of a student with more layers than its teacher."""
    values = kd_config(tiny_teacher, student=student, data=DATA)
    values["trainer"] = {**values.get("trainer", {}), **trainer}
    for words in COMMANDS:
        code, out, err = kd(*words, config_file(tmp_path, **values))
        assert code and message in " ".join((out + err).split()), words


def test_modules_that_there_are_not(kd: CommandLine, tiny_teacher: Path, tmp_path: Path) -> None:
    """A plan gave figures for an adapter that could not be made."""
    student = {"model": str(tiny_teacher), "lora": {"r": 4, "target_modules": ["nope"]}}
    config = config_file(tmp_path, **kd_config(tiny_teacher, student=student, data=DATA))
    for words in COMMANDS:
        code, out, err = kd(*words, config)
        assert code and "{'nope'} not found" in " ".join((out + err).split()), words


@pytest.mark.parametrize("layers", ["uniform", "last-k", [1, -1]])
def test_layers_that_there_are(
    layers: Any, kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    values = kd_config(tiny_teacher, student={"from": "teacher", "keep_layers": 2}, data=DATA)
    values["trainer"] = {**values.get("trainer", {}), "layer_map": layers}
    for words in COMMANDS:
        code, out, err = kd(*words, config_file(tmp_path, **values))
        assert code == 0, (words, out + err)
