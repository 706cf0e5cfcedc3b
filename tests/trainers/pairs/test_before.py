"""The checks inside a run: notes are events, a stop ends it, and training is not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.pairs import first_step
from kdharness.trainers.pairs.check import check_pair
from kdharness.trainers.pairs.closeness import closeness
from kdharness.trainers.pairs.roles import TeacherRole
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


def bf16_only(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
    """Attend as flash kernels do: they accept no fp32, and transformers casts under autocast."""
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (part.bfloat16() for part in (query, key, value))
    if query.dtype == torch.float32:
        raise RuntimeError("this kernel supports only fp16 and bf16")
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **more)


def test_first_step_of_fp32_weights_with_a_kernel_for_bf16_alone(
    tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mixed` has fp32 weights: the student was compared without the autocast of its training."""
    AttentionInterface.register("bf16_only", bf16_only)
    AttentionMaskInterface.register("bf16_only", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    for place in ("students.load", "teachers.build"):
        monkeypatch.setattr(
            f"kdharness.trainers.{place}.attention_options",
            lambda name: {"attn_implementation": "bf16_only"},
        )
        # The check of the output heads takes flash kernels off by their names.
        monkeypatch.setattr(f"kdharness.trainers.{place}.refuse_other_heads", lambda *_: None)
    config = kd_on(tiny_teacher, tiny_teacher, precision="mixed", max_steps=1)
    teacher = config.teacher.model_copy(update={"dtype": "bfloat16"})
    _, reporter = train(config.model_copy(update={"teacher": teacher}), paths, "run")
    (said,) = [text for _, text in reporter.said if text.startswith("checked before")]
    assert "ok" in said and reporter.points[-1][0] == 1


class Seen(Exception):
    """Raised by a teacher that has seen enough."""


def test_rows_are_compared_on_the_students_device() -> None:
    """On the CPU a teacher's head was copied there, and its logits computed there."""

    class Looks:
        def targets_for(self, batch: Any, part: Any, tape: Any) -> Any:
            assert batch["input_ids"].device.type == part.inside.device.type == "meta"
            raise Seen

    with torch.device("meta"):
        student = make_llama(seed=1)
    row = TrainRow([1, 2, 3], [-100, 2, 3], "general", 0, "one")
    with pytest.raises(Seen):
        closeness(student, Looks(), [row], 0, 4)


@pytest.mark.parametrize(("place", "loaded"), [("cuda", "cpu"), ("cpu", "cpu")])
def test_check_loads_an_offloaded_teacher_into_host_memory(
    place: str, loaded: str, tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was loaded beside the student, where a config asks for the opposite."""
    made: list[Any] = []

    def load(*_: object, device: str, **__: object) -> str:
        made.append(device)
        return "model"

    monkeypatch.setattr(first_step, "pick_device", lambda device: place)
    monkeypatch.setattr(first_step, "load_model", load)
    monkeypatch.setattr(first_step, "refuse_other_heads", lambda *_: None)
    monkeypatch.setattr(
        first_step, "OnlineTeacher", lambda model, vocab, runs_on: made.append(runs_on)
    )
    spec = TeacherSpec(model="t", offload=True)
    config = kd_on(tiny_teacher, tiny_teacher)
    first_step._teacher(TeacherRole("teacher", None, "t", spec), config, 0, paths)
    assert made == [loaded, place if place == "cuda" else None]


def test_check_without_memory_for_a_teacher_says_so(
    tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(first_step, "load_model", load)
    rows = {row["check"]: row for row in check_pair(kd_on(tiny_teacher, tiny_teacher), paths)}
    assert rows["KL at step 0"]["detail"] == "not measured: out of memory"
