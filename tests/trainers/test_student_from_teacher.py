"""`student: {from: teacher}` means the same teacher in every command, for KD and for DAE."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.commands import CommandLine
from support.configs import config_file
from support.models import make_llama


@pytest.fixture
def write_dae(tiny_teacher: Path, tmp_path: Path) -> Callable[..., str]:
    """Write a DAE config whose student is cut from its teacher; return its path."""

    def write(**teachers: Any) -> str:
        return config_file(
            tmp_path,
            method="dae",
            student={"from": "teacher", "keep_layers": 2},
            data={
                "train": [
                    {"path": "general:train", "limit": 6},
                    {"path": "shop:train", "kind": "domain" if "expert" in teachers else "shop"},
                ],
                "max_length": 64,
            },
            trainer={"max_steps": 2, "batch_size": 4, "device": "cpu"},
            **teachers,
        )

    return write


@pytest.mark.slow
@pytest.mark.parametrize("by_name", [False, True], ids=["expert", "experts"])
def test_all_commands_cut_the_student_from_the_expert(
    by_name: bool,
    write_dae: Callable[..., str],
    tiny_teacher: Path,
    tmp_path: Path,
    kd: CommandLine,
) -> None:
    reference = make_llama(tmp_path / "reference", seed=5) and str(tmp_path / "reference")
    expert = str(tiny_teacher)
    teachers = {"experts": {"shop": expert}} if by_name else {"expert": expert}
    path = write_dae(reference=reference, **teachers)
    figures = {row["figure"]: row["value"] for row in kd.json("plan", path)}
    assert 0 < figures["parameters student"] < figures["parameters reference"]
    assert f"tokenizer: {expert}" in kd.ok("data", "show", path)
    code, out, err = kd("config", "check", path)
    assert code == 0 and "not checked" not in out + err
    code, out, err = kd("selfcheck", path, "--format", "json")
    assert code == 0, err
    assert json.loads(out)["cases"][0]["method"] == "dae"


def test_config_check_checks_token_ids_of_rows(
    write_dae: Callable[..., str], tmp_path: Path, kd: CommandLine
) -> None:
    """The check of rows was skipped because no model was named teacher."""
    make_llama(tmp_path / "small", vocab_size=100)
    code, _, err = kd("config", "check", write_dae(expert=str(tmp_path / "small")))
    assert code == 2 and "the model embeds only 100" in err
