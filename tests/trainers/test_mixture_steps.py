"""Mixture-of-experts students and teachers; the student's router loss is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness import cli
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.teachers.online import OnlineTeacher
from kdharness.trainers.trainer import attach_loss
from support import reference_step
from support.training_steps import assert_same, fused, gradients, make_batch, make_model


def mixtral(seed: int, **changes: Any) -> Any:
    return make_model(seed, "mixtral", **changes)


@pytest.mark.parametrize("student_is_mixture", [True, False])
def test_kd_step_with_a_mixture_teacher(student_is_mixture: bool) -> None:
    student = mixtral(1) if student_is_mixture else make_model(1)
    teacher, batch, layers = mixtral(2), make_batch(), {0: 0, 2: 2}
    want = reference_step.kd_loss(student, teacher, batch, gamma=1.0, layers=layers)
    theirs = gradients(student, want)
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    got = fused(student, batch, {0: OnlineTeacher(teacher)}, mix=Mix(), layers=layers, gamma=1.0)
    assert float(got) == pytest.approx(float(want), rel=5e-6)
    assert_same(gradients(student, got), theirs)


def test_student_router_loss_is_added() -> None:
    student, teacher, batch = mixtral(1, output_router_logits=True), mixtral(2), make_batch()
    out = student(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
    )
    want = reference_step.kd_loss(student, teacher, batch) + 0.05 * out.aux_loss
    theirs = gradients(student, want)
    attach_loss(student)
    got = fused(student, batch, {0: OnlineTeacher(teacher)}, mix=Mix())
    assert float(got) == pytest.approx(float(want), rel=5e-6)
    assert_same(gradients(student, got), theirs)


@pytest.mark.slow
def test_train_command_with_a_two_expert_student(
    tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    config = {
        "method": "kd",
        "name": "moe",
        "teacher": str(tiny_teacher),
        "student": {"experts_from": [str(tiny_teacher), str(tiny_teacher)]},
        "data": {"train": {"path": "general:train", "limit": 8}, "max_length": 64},
        "trainer": {"learning_rate": 0.001, "max_steps": 2, "batch_size": 4},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    assert cli.run(["--home", str(paths.home), "train", str(path)]) == 0
    with Store(paths.store) as store:
        checkpoint = store.checkpoint("moe")
        assert checkpoint is not None
        start = store.checkpoint(checkpoint.parents["student"])
        # The student starts as a copy of its teacher: only the router loss is nonzero.
        assert store.curve("moe", "kl")[0][1] == pytest.approx(0, abs=1e-4)
        assert store.curve("moe", "router")[0][1] > 0
    assert start is not None and start.name == "tiny-teacher-2x"
