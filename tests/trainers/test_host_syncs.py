"""A step reads nothing back from the device before its end, and launches little."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdharness.harness.errors import ModelError, RunError
from kdharness.trainers.attention_hook import PLAIN_DECODERS, install_attention_hook, skip_masks
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.losses.token_weights import TokenWeights
from kdharness.trainers.step import Objective, attach_loss
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher
from kdharness.trainers.trainer import DistillTrainer
from support.decoders import a_decoder
from support.device_trace import Launches, no_values
from support.teacher_caches import all_targets, filling, open_cache, warm
from support.training_steps import make_model, with_lora

KINDS = ["general", "domain"]
ROWS = [
    TrainRow(
        [5, 9, 33, 7, 20 + i, *range(30, 30 + i)],
        [-100, -100, 33, 7, 20 + i, *range(30, 30 + i)],
        KINDS[i % 2],
        0,
        f"row {i}",
    )
    for i in range(4)
]


def a_trainer(method: Objective, device: str = "cpu", max_loss: float = 1e4) -> Any:
    """Make a trainer with what `compute_loss` uses; transformers' own needs real weights."""
    trainer = DistillTrainer.__new__(DistillTrainer)
    trainer.method, trainer.max_loss = method, max_loss
    trainer.routed, trainer.routing = False, None
    trainer.temperature, trainer.step_batches = None, [None]
    trainer.args = SimpleNamespace(world_size=1, device=torch.device(device))
    trainer.state = SimpleNamespace(global_step=6)
    trainer.watched, trainer.sums, trainer.tokens_since = [], {}, 0
    trainer.sampled = None
    trainer.train_dataset = Dataset(ROWS)
    return trainer


def a_case(name: str, folder: Path, layers: int) -> tuple[Any, Objective]:
    """Return a student and an objective; every weight is still on the CPU."""
    shape = {"num_hidden_layers": layers, "initializer_range": 0.02}
    student, first, second = (make_model(seed, **shape) for seed in (1, 2, 3))
    online = [OnlineTeacher(first), OnlineTeacher(second)]
    if name == "kd":
        for model in (student, first):
            install_attention_hook(model)
        return student, Objective(
            Mix(kl_weight=0.5, ce_weight=0.5), {0: online[0]}, {n: n for n in range(layers)}, 0.5
        )
    if name == "dae":
        return student, Objective(Mix(), dict(enumerate(online)))
    if name == "dae-lora":
        wrapped = with_lora(student, 4)
        wrapped.add_adapter("expert", wrapped.peft_config["default"])
        wrapped.set_adapter("default")
        adapters = {0: AdapterTeacher(wrapped, None), 1: AdapterTeacher(wrapped, "expert")}
        return wrapped, Objective(Mix(), adapters)
    if name.startswith("cached"):
        kind = "hidden" if name.endswith("hidden") else "top-k"
        more = {"tail": "sampled", "draws": "x"} if name.endswith("sampled") else {}
        cache, data = open_cache(kind, folder, **more), Dataset(ROWS)
        batch = Collator(0, KINDS)([data[number] for number in range(4)])
        all_targets(filling(cache, data, first), batch)
        return student, Objective(Mix(), {0: warm(cache, data)})
    if name == "sft-talr":
        return student, Objective(Mix(kl_weight=0.0, ce_weight=1.0, token_weights=TokenWeights()))
    if name == "dae-non-target":
        return student, Objective(
            Mix(), dict(enumerate(online)), anchors={1: online[0]}, anchor_mix=Mix()
        )
    student = with_lora(student, 4) if name == "sft-lora" else student
    return student, Objective(Mix(kl_weight=0.0, ce_weight=1.0))


def launches(
    name: str, folder: Path, layers: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Launches, Any]:
    """Run one micro-batch on the meta device; return its launches and the trainer."""
    student, method = a_case(name, folder, layers)
    teachers = [t.model for t in method.teachers.values() if isinstance(t, OnlineTeacher)]
    attach_loss(student)
    causal = student.get_base_model() if hasattr(student, "peft_config") else student
    batch = Collator(0, KINDS)([Dataset(ROWS)[number] for number in range(4)])
    with no_values(monkeypatch) as move:
        for model in (causal, *teachers):
            assert skip_masks(model)
            move(model)
        trainer = a_trainer(method, "meta")
        batch = trainer._prepare_input(batch)  # as transformers' training step does
        with Launches() as counted:
            trainer.compute_loss(
                student, batch, num_items_in_batch=move(torch.tensor(9))
            ).backward()
    return counted, trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "per_layer"),
    [
        ("sft", 142),
        ("sft-lora", 215),
        ("sft-talr", 142),
        ("kd", 450),
        ("dae", 258),
        ("dae-lora", 373),
        ("dae-non-target", 316),
        ("cached-bucket", 142),
        ("cached-sampled", 142),
        ("cached-hidden", 142),
    ],
)
def test_micro_batch_waits_for_nothing_and_launches_a_stated_number_of_kernels(
    name: str, per_layer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, _ = launches(name, tmp_path / "a", 2, monkeypatch)
    large, trainer = launches(name, tmp_path / "b", 4, monkeypatch)
    assert (large.total - small.total) / 2 <= per_layer
    assert len(trainer.watched) == 1 and trainer.tokens_since == sum(len(row) for row in ROWS)
    with pytest.raises(RuntimeError, match="meta"):
        trainer.check_step()


class Reads:
    """Counts the values that a step reads from its tensors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("tolist", "item", "__float__", "__int__", "__bool__"):
            monkeypatch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))

    def _counting(self, read: Any) -> Any:
        def counted(tensor: torch.Tensor) -> Any:
            self.count += 1
            return read(tensor)

        return counted


def test_step_of_several_micro_batches_reads_values_once(monkeypatch: pytest.MonkeyPatch) -> None:
    student, method = a_case("dae", Path(), 2)
    attach_loss(student)
    trainer, collate, data = a_trainer(method), Collator(0, KINDS), Dataset(ROWS)
    items = torch.tensor(sum(row.labelled for row in ROWS))
    batches = [collate([data[n] for n in numbers]) for numbers in ((0, 1), (2,), (3,))]
    for batch in batches:
        trainer.compute_loss(student, batch, num_items_in_batch=items)
    parts = [float(seen.parts["kl"]) for seen in trainer.watched]
    trainer.grad_norm = torch.tensor(0.5)
    with monkeypatch.context() as patched:
        reads = Reads(patched)
        trainer.check_step()
    assert reads.count == 1 and trainer.watched == [] and trainer.grad_norm is None
    assert trainer.sums == {"kl": pytest.approx(sum(parts), rel=1e-6)}


def test_scores_of_sampled_answers_come_with_the_same_read(monkeypatch: pytest.MonkeyPatch) -> None:
    student, method = a_case("dae", Path(), 2)
    attach_loss(student)
    trainer, collate, data = a_trainer(method), Collator(0, KINDS), Dataset(ROWS)
    kept: list[dict[tuple[int, int], float]] = []
    trainer.sampled = SimpleNamespace(keep=kept.append)
    for numbers, sampled in (((0, 1), (1,)), ((2, 3), ())):
        rows = [{**data[n], "sampled": place in sampled} for place, n in enumerate(numbers)]
        trainer.compute_loss(student, collate(rows), num_items_in_batch=torch.tensor(9))
    want = {(0, 1): float(trainer.watched[0].scores[1])}
    with monkeypatch.context() as patched:
        reads = Reads(patched)
        trainer.check_step()
    assert reads.count == 1 and kept == [want] and want[0, 1] > 0


def test_diverged_micro_batch_is_named_before_the_update() -> None:
    student, method = a_case("sft", Path(), 2)
    attach_loss(student)
    trainer, collate, data = a_trainer(method), Collator(0, KINDS), Dataset(ROWS)
    for numbers in ((0, 1), (2, 3)):
        batch = collate([data[number] for number in numbers])
        trainer.compute_loss(student, batch, num_items_in_batch=torch.tensor(9))
        student.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(RunError, match="the loss is nan at step 7") as caught:
        trainer.check_step()
    assert caught.value.where == "row 2; row 3"


@pytest.mark.parametrize("family", sorted(PLAIN_DECODERS))
def test_rows_padded_at_the_end_need_no_mask(family: str) -> None:
    model = a_decoder(family)
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 64, (2, 9), generator=g)
    keys = torch.ones_like(ids)
    keys[1, 5:] = 0
    with torch.no_grad():
        want = model(input_ids=ids, attention_mask=keys).logits[keys.bool()]
        assert skip_masks(model)
        got = model(input_ids=ids).logits[keys.bool()]
        other = ids.clone()
        other[:, 4] = 3
        changed = model(input_ids=other).logits
    assert torch.allclose(got, want, atol=1e-5)
    # Every token sees all tokens before it and none behind it. Mixtures of experts multiply the
    # rows of an expert together, and how many there are changes the rounding.
    plain = model(input_ids=ids).logits
    assert torch.allclose(changed[:, :4], plain[:, :4], atol=1e-6)
    assert not torch.allclose(changed[:, 4:], plain[:, 4:], atol=1e-4)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 4}),
        # A field of other families, which this one does not read.
        ("mistral", {"sliding_window": 4, "use_sliding_window": False}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 4}),
    ],
)
def test_models_with_windows_keep_their_masks(family: str, changes: dict[str, Any]) -> None:
    model = a_decoder(family, **changes)
    before = model.config._attn_implementation
    assert not skip_masks(model) and model.config._attn_implementation == before


def test_rows_padded_at_their_beginning_are_refused_without_masks() -> None:
    model = a_decoder("llama")
    attach_loss(model)
    assert skip_masks(model)
    batch = Collator(0, KINDS, side="left")([Dataset(ROWS)[number] for number in range(4)])
    trainer = a_trainer(Objective(Mix(kl_weight=0.0, ce_weight=1.0)))
    with pytest.raises(ModelError, match="padded at their beginning"):
        trainer.compute_loss(model, batch)
