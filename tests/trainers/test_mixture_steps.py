"""Mixture-of-experts students and teachers; the student's router loss is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdharness.harness import cli
from kdharness.harness.config.files import parse_config
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.harness.registry import TRAINERS, resolve
from kdharness.harness.store import Store
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.step import attach_loss
from kdharness.trainers.teachers.online import OnlineTeacher
from support import reference_step
from support.reporters import Listener
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


@pytest.mark.slow
def test_router_loss_does_not_depend_on_how_a_step_is_split(
    tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    """Its two factors are of the whole step: their products per micro-batch do not add up to it.

    Four experts, two per token: two would receive every token, and the loss would be constant.
    """
    got = {}
    for rows, micro_batches in ((4, 1), (2, 2), (1, 4)):
        config = {
            "method": "sft",
            "student": {"experts_from": [str(tiny_teacher)] * 4},
            "data": {"train": {"path": "general:train", "limit": 4}, "max_length": 64},
            "trainer": {
                "learning_rate": 0.5,
                "max_steps": 1,
                "warmup_ratio": 0.0,
                "max_grad_norm": 0.0,
                "batch_size": rows,
                "accumulation": micro_batches,
                "optimizer": "sgd",
                "device": "cpu",
            },
        }
        parsed = parse_config(config)
        folder = paths.runs / f"r{micro_batches}"
        folder.mkdir(parents=True)
        reporter = Listener()
        job = Job(paths, folder.name, folder, reporter)
        final = resolve(TRAINERS, "sft", "method")(parsed, job).folder
        router = [point["router"] for _, point in reporter.points if "router" in point]
        got[micro_batches] = router, load_file(final / "model.safetensors")
    router, weights = got.pop(1)
    assert router and router[0] > 2
    for others, parts in got.values():
        assert others == pytest.approx(router, rel=1e-5)
        for name, value in weights.items():
            assert torch.allclose(parts[name], value, rtol=1e-4, atol=1e-6), name
