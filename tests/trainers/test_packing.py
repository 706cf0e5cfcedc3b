"""Packed rows: the same losses and gradients as padded ones, for every method and decoder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.files import parse_config
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.trainers.acceleration import check_acceleration
from kdharness.trainers.attention_hook import (
    PACKABLE,
    check_packing,
    install_attention_hook,
)
from kdharness.trainers.data.batches import plan_batches
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.data.layout import layout_of
from kdharness.trainers.decoder import last_states
from kdharness.trainers.flops import floor_flops, shape_of, training_flops
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.pairs.check import check_pair
from kdharness.trainers.step import Objective, attach_loss
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher
from support import reference_step
from support.decoders import a_decoder
from support.model_files import as_base
from support.training_runs import config_of, train
from support.training_steps import (
    assert_same,
    fused,
    gradients,
    make_batch,
    make_model,
    with_lora,
)

STAND_IN = "varlen_stand_in"


def varlen_stand_in(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    cu_seq_lens_k: Tensor,
    max_length_q: int,
    max_length_k: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attend as a flash kernel for rows of several lengths does: by their offsets alone."""
    assert mask is None and cu_seq_lens_q.dtype == torch.int32 and len(query) == 1
    assert torch.equal(cu_seq_lens_q, cu_seq_lens_k) and cu_seq_lens_q[-1] == query.shape[2]
    lengths = cu_seq_lens_q.diff().tolist()
    assert max_length_q == max_length_k == max(lengths)
    groups = query.shape[1] // key.shape[1]
    rows = []
    for q, k, v in zip(
        query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
    ):
        place = torch.arange(q.shape[2])
        seen = place[None] <= place[:, None]
        if sliding_window:
            seen &= place[None] > place[:, None] - sliding_window
        k, v = (part.repeat_interleave(groups, 1) for part in (k, v))
        rows.append(scaled_dot_product_attention(q, k, v, seen, scale=scaling))
    return torch.cat(rows, 2).transpose(1, 2), None


AttentionInterface.register(STAND_IN, varlen_stand_in)


def packed(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "layout": layout_of(batch, packing=True)}


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), left=st.booleans())
def test_unpacking_undoes_packing(lengths: list[int], left: bool) -> None:
    width = max(lengths)
    keys = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    keys = keys.flip(1) if left else keys
    ids = torch.arange(1, keys.numel() + 1).view_as(keys) * keys
    kind = torch.arange(len(lengths)) % 2
    layout = layout_of(
        {"labels": ids, "attention_mask": keys, "kind": kind, "input_ids": ids}, packing=True
    )
    for part in (layout.every, *layout.kinds.values(), layout.part([0])):
        packing, rows = part.packing, part.cut(ids)
        assert packing is not None
        flat = packing.pack(rows)
        mine = [lengths[row] for row in part.rows]
        assert flat.shape == (1, sum(mine)) and (flat > 0).all()
        assert packing.offsets.diff().tolist() == mine
        assert packing.positions[0].tolist() == [p for n in mine for p in range(n)]
        assert torch.equal(packing.unpack(flat).view(rows.shape), rows)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_packed_kd_step_with_attention_matches_the_reference(
    checkpointing: bool, side: str
) -> None:
    student, teacher = make_model(1), make_model(2, num_key_value_heads=4)
    batch, layers = make_batch(side=side), {0: 0, 2: 1}
    want = reference_step.kd_loss(student, teacher, batch, lam=0.8, gamma=0.5, layers=layers)
    theirs = gradients(student, want)
    if checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
        student.train()
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    mix = Mix(kl_weight=0.8, ce_weight=0.2, chunk=5)
    got = fused(
        student, packed(batch), {0: OnlineTeacher(teacher)}, mix=mix, layers=layers, gamma=0.4
    )
    assert got.item() == pytest.approx(want.item(), rel=2e-6)
    assert_same(gradients(student, got), theirs)


def test_a_packed_dae_step_matches_the_reference() -> None:
    student, reference, expert = make_model(1), make_model(2), make_model(3)
    batch = make_batch(rows=5, width=16)
    want = reference_step.dae_loss(student, reference, expert, batch)
    theirs = gradients(student, want)
    attach_loss(student)
    teachers = {0: OnlineTeacher(reference), 1: OnlineTeacher(expert)}
    got = fused(student, packed(batch), teachers, mix=Mix())
    assert got.item() == pytest.approx(want.item(), rel=2e-6)
    assert_same(gradients(student, got), theirs)


def test_packed_adapters_and_mixtures_step_as_padded_ones() -> None:
    adapters = with_lora(make_model(1), 4)
    mixture = make_model(1, "mixtral", output_router_logits=True)
    for student, teachers in (
        (adapters, {0: AdapterTeacher(adapters, None), 1: AdapterTeacher(adapters, "default")}),
        (mixture, {0: OnlineTeacher(make_model(2, "mixtral"))}),
    ):
        attach_loss(student)
        batch = make_batch()
        want = fused(student, batch, teachers, mix=Mix())
        theirs = gradients(student, want)
        got = fused(student, packed(batch), teachers, mix=Mix())
        assert got.item() == pytest.approx(want.item(), rel=2e-6)
        assert_same(gradients(student, got), theirs)


@pytest.mark.parametrize(
    ("family", "changes"),
    [*((family, {}) for family in sorted(PACKABLE)), ("mistral", {"sliding_window": 4})],
)
@pytest.mark.parametrize("attention", ["sdpa", STAND_IN])
def test_each_plain_decoder_keeps_packed_rows_apart(
    family: str, changes: dict[str, Any], attention: str
) -> None:
    model = a_decoder(family, **changes)
    check_packing(model.config, family)
    batch = make_batch(rows=3, width=11)
    # A row of one token is the shortest a kernel may get.
    batch["attention_mask"][2, 1:] = 0
    keys = batch["attention_mask"].bool()
    with torch.no_grad():
        want = last_states(model, batch["input_ids"], batch["attention_mask"])
        model.set_attn_implementation(attention)
        packing = packed(batch)["layout"].every.packing
        got = last_states(model, batch["input_ids"], batch["attention_mask"], packing)
    assert torch.allclose(got[keys], want[keys], atol=2e-5)
    assert not got[~keys].any()


@pytest.mark.parametrize("family", ["gemma3", "falcon", "stablelm"])
def test_models_that_may_mix_rows_are_refused(family: str) -> None:
    model = a_decoder(family) if family == "stablelm" else make_model(1, family)
    with pytest.raises(ConfigError, match="packing is not supported for") as caught:
        check_packing(model.config, "it")
    assert caught.value.where == "trainer.packing"


def test_a_gpu_packs_with_flash_attention_only(tiny_teacher: Path) -> None:
    config = config_of(tiny_teacher, packing=True)
    with pytest.raises(ConfigError, match="packing needs a flash attention kernel on cuda"):
        check_acceleration(
            config, "cuda", config.trainer.precision_on(lora=False, has_bf16=True), {}
        )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "kd", "dae"])
def test_packed_trainings_learn_what_padded_ones_do(
    method: str, tiny_teacher: Path, paths: Paths
) -> None:
    """The rows and steps are the same; only the padding is gone, and its FLOPs."""
    curves, padding = [], []
    for packing in (False, True):
        more = {} if method == "sft" else {"distill_weight": 0.5}
        config = config_of(
            tiny_teacher, method, packing=packing, length_groups="step", accumulation=2, **more
        )
        longer = config.data.model_copy(update={"max_length": 128})
        config = config.model_copy(update={"data": longer})
        _, reporter = train(config, paths, f"{method}-{packing}")
        curves.append([values["loss"] for _, values in reporter.points if "loss" in values])
        padding.append(next(text for _, text in reporter.said if text.endswith("padding")))
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert padding[1].endswith(" 0.0% padding") and not padding[0].endswith(" 0.0% padding")


def rows_of(*lengths: int) -> list[TrainRow]:
    return [
        TrainRow([1] * n, [-100, *[1] * (n - 1)], "general", 0, str(i))
        for i, n in enumerate(lengths)
    ]


def test_flops_of_packed_rows_are_those_of_rows_alone(tiny_teacher: Path) -> None:
    model, rows = make_model(1), rows_of(4, 9, 30)
    batches = [[0, 1], [2]]

    def flops(*, packing: bool) -> float:
        setting: Any = SimpleNamespace(
            student=model,
            kinds=["general"],
            config=config_of(tiny_teacher, packing=packing),
            plan=SimpleNamespace(batches=batches),
            train=SimpleNamespace(rows=rows),
        )
        return training_flops(setting, Objective(Mix()))

    def of(count: int, width: int, labelled: int) -> float:
        return floor_flops(shape_of(model), None, rows=count, width=width, labelled=labelled)

    assert flops(packing=True) == of(1, 4, 3) + of(1, 9, 8) + of(1, 30, 29)
    assert flops(packing=False) == of(2, 9, 11) + of(1, 30, 29)


def test_budgets_count_packed_tokens_and_rows_are_drawn_at_random() -> None:
    rows = rows_of(*(3 + i % 20 for i in range(200)))
    spec = TrainerSpec(max_tokens=2000, tokens_per_batch=64, packing=True)
    plan = plan_batches(rows, DataSpec(train=[{"path": "g"}]), spec, 2)
    sizes = [sum(len(rows[i]) for i in batch) for batch in plan.batches]
    assert max(sizes) <= 64 and sum(sizes) / len(sizes) > 50
    assert plan.padding_share == 0
    mixed = [{len(rows[i]) for i in batch} for batch in plan.batches]
    spread = [max(lengths) - min(lengths) for lengths in mixed]
    assert sum(spread) / len(spread) > 8


@pytest.mark.parametrize("cache", [None, {"k": 4}], ids=["online", "cached"])
def test_teachers_that_may_mix_rows_are_refused(
    cache: dict[str, int] | None, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    """A cached teacher was not looked at: its rows saw each other, and the cache kept that."""
    teacher = as_base(tiny_teacher, tmp_path / "teacher")
    a_decoder("stablelm", vocab_size=4096, max_position_embeddings=512).save_pretrained(teacher)
    values = config_of(tiny_teacher, "kd", packing=True, attention_weight=0.0).model_dump(
        mode="json", by_alias=True
    )
    values |= {"student": str(tiny_teacher), "teacher": {"model": str(teacher), "cache": cache}}
    config = parse_config(values)
    with pytest.raises(ConfigError, match="packing is not supported for") as caught:
        train(config, paths, "run")
    assert caught.value.where == "trainer.packing" and not list(paths.cache.glob("*/data-*"))
    stops = {row["check"] for row in check_pair(config, paths) if row["status"] == "stop"}
    assert stops == (set() if cache else {"packing"})
