"""The checks inside a run: notes are events, a stop ends it, and training is not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths
from support.model_files import as_base
from support.models import make_llama, make_llama_other
from support.reporters import Listener
from support.training_runs import config_of, train


def kd_on(teacher: Path, student: Path, **trainer: Any) -> Any:
    config = config_of(teacher, "kd", attention_weight=0.0, **trainer)
    return config.model_copy(
        update={"student": config.student.model_copy(update={"model": str(student)})}
    )


def test_notes_are_events_of_the_run(tiny_teacher: Path, tmp_path: Path, paths: Paths) -> None:
    student = as_base(tiny_teacher, tmp_path / "base")
    _, reporter = train(kd_on(tiny_teacher, student), paths, "run")
    warnings = [text for kind, text in reporter.said if kind == "warning"]
    assert any(text.startswith("base or instruct of teacher: instruct, but") for text in warnings)
    assert any(text.startswith("KL at step 0 of teacher: ") for text in warnings)
    assert len(warnings) == len(set(warnings))
    last = [text for kind, text in reporter.said if text.startswith("checked before")]
    assert len(last) == 1 and "to note" in last[0]


def test_stop_ends_the_run_before_a_teacher_is_loaded(
    tiny_teacher: Path, tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a teacher was loaded")

    monkeypatch.setattr("kdharness.trainers.methods.kd.load_frozen", load)
    reporter = Listener()
    other = make_llama_other(tmp_path / "other")
    with pytest.raises(ModelError, match="the tokenizers of"):
        train(kd_on(tiny_teacher, other), paths, "run", reporter=reporter)
    assert reporter.points == []


def test_weights_that_are_no_numbers_stop_the_run(
    tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    model = make_llama(seed=4)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    folder = as_base(tiny_teacher, tmp_path / "broken")
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="the first loss is not a number"):
        train(kd_on(folder, tiny_teacher), paths, "run")


@pytest.mark.parametrize("lora", [False, True])
def test_checks_do_not_change_what_is_trained(
    tiny_teacher: Path, tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    from kdharness.harness.config.files import parse_config

    student = tmp_path / "student"
    make_llama(student, seed=3, attention_dropout=0.3)
    values = config_of(tiny_teacher, "dae", max_steps=3).model_dump(mode="json", by_alias=True)
    values["student"] = {"model": str(student), "lora": {"r": 4, "dropout": 0.2} if lora else None}
    config = parse_config(values)

    def losses(name: str) -> list[float]:
        points = train(config, paths, name)[1].points
        return [values["loss"] for _, values in points if "loss" in values]

    checked = losses("checked")
    monkeypatch.setattr("kdharness.trainers.loop.check_run", lambda setting: None)
    assert losses("unchecked") == checked and len(checked) == 3
