"""Cached hidden states against the teacher they come from, and what cannot be cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from transformers import HyperCLOVAXConfig, HyperCLOVAXForCausalLM

from kdharness.harness.config.trainer import Divergence
from kdharness.harness.errors import DataError, ModelError
from kdharness.harness.models.lm_head import Head, head_of
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.step import attach_loss
from kdharness.trainers.teachers.cache_hidden import DTYPES, HEAD, HiddenCache
from kdharness.trainers.teachers.cache_store import row_key
from kdharness.trainers.teachers.cached import CachedTeacher
from kdharness.trainers.teachers.online import OnlineTeacher, refuse_other_heads
from support.teacher_caches import filling, open_cache, three_rows, warm
from support.training_steps import VOCAB, assert_same, fused, gradients, make_model

ROUNDING = 1e-6
MIXES = [
    Mix(temperature=temperature, divergence=divergence, beta=0.3, chunk=5)
    for divergence in get_args(Divergence)
    for temperature in (1.0, 2.5)
]


def four_rows() -> tuple[Dataset, dict[str, Any]]:
    """Return four rows of different lengths, and their batch."""
    generator = torch.Generator().manual_seed(3)
    data = []
    for length in (14, 12, 9, 8):
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        data.append(TrainRow(ids, [-100, -100, -100, *ids[3:]], "general", 0, f"r{length}"))
    rows = Dataset(data)
    return rows, Collator(0, ["general"])([rows[index] for index in range(4)])


def student_of(**changes: Any) -> Any:
    student = make_model(2, num_hidden_layers=2, **changes)
    attach_loss(student)
    return student.train()


class Rounded(OnlineTeacher):
    """The teacher itself, with its hidden states rounded."""

    def __init__(self, model: Any, dtype: str) -> None:
        super().__init__(model)
        self.dtype = getattr(torch, dtype)

    def targets_for(self, *args: Any) -> tuple[Head, Tensor]:
        head, hidden = super().targets_for(*args)
        return head, hidden.to(self.dtype)


def step(student: Any, batch: dict[str, Tensor], teacher: Any, mix: Mix) -> tuple[Tensor, Any]:
    loss = fused(student, batch, {0: teacher}, mix=mix)
    return loss.detach(), gradients(student, loss)


def assert_equal(found: tuple[Tensor, Any], want: tuple[Tensor, Any]) -> None:
    """Assert that two steps are equal up to the rounding of a matrix product.

    On CPUs without AVX-512 that depends on where a matrix is in memory.
    """
    assert float(found[0]) == pytest.approx(float(want[0]), rel=1e-6)
    assert_same(found[1], want[1], tolerance=ROUNDING)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HiddenCache]:
    """Return a full cache of each precision, reopened after it was filled."""
    data, batch = four_rows()
    caches = {}
    for dtype in DTYPES:
        folder = tmp_path_factory.mktemp(dtype)
        teacher = filling(open_cache("hidden", folder, stored=dtype), data, make_model(1))
        teacher.targets_for(batch, batch["layout"].every, None)
        caches[dtype] = open_cache("hidden", folder, stored=dtype)
    return caches  # type: ignore[return-value]


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: f"{mix.divergence}-{mix.temperature}")
def test_loss_and_gradients_are_those_of_the_teacher(
    mix: Mix, stored: dict[str, HiddenCache]
) -> None:
    """One cache serves every divergence and temperature. In fp32 nothing is lost."""
    data, batch = four_rows()
    student, model = student_of(), make_model(1)
    exact = step(student, batch, OnlineTeacher(model), mix)
    assert_equal(step(student, batch, warm(stored["float32"], data), mix), exact)
    # Half a unit in the last place: up to 2^-8 of a state in bf16, 2^-11 in fp16.
    for dtype, most in (("bfloat16", 0.02), ("float16", 0.0025)):
        found = step(student, batch, warm(stored[dtype], data), mix)
        assert_equal(found, step(student, batch, Rounded(model, dtype), mix))
        assert_same(found[1], exact[1], tolerance=most)
        with pytest.raises(AssertionError):
            assert_same(found[1], exact[1], tolerance=most / 1000)


HEADS: dict[str, dict[str, Any]] = {
    "tied": {"family": "llama", "tie_word_embeddings": True},
    "bias": {"family": "llama"},
    "bf16 head": {"family": "llama"},
    "more tokens": {"family": "llama", "vocab_size": VOCAB + 16},
    "soft-cap": {"family": "gemma2"},
    "scale": {"family": "cohere"},
    "divided": {"family": "granite"},
    "mixture": {"family": "mixtral"},
}


@pytest.mark.parametrize("name", HEADS)
def test_every_kind_of_head_is_stored_whole(name: str, tmp_path: Path) -> None:
    data, batch = four_rows()
    model = make_model(1, **HEADS[name])
    if name == "bias":
        model.lm_head.bias = torch.nn.Parameter(torch.randn(VOCAB))
    if name == "bf16 head":
        model.lm_head.to(torch.bfloat16)
    vocab = VOCAB - 2 if name == "more tokens" else 0
    part, student = batch["layout"].every, student_of()
    note = {"stored": "float32"}

    def cache() -> HiddenCache:
        return HiddenCache(tmp_path, note, vocab=vocab)

    CachedTeacher(cache(), data, lambda: OnlineTeacher(model, vocab)).targets_for(batch, part, None)
    head, _ = warm(cache(), data).targets_for(batch, part, None)
    own = head_of(model, vocab)
    assert isinstance(head, Head) and head.weight.dtype == own.weight.dtype
    assert (head.scale, head.softcap, head.vocab) == (own.scale, own.softcap, vocab)
    assert len(head.weight) == len(own.weight), "all tokens are stored, for other students"
    assert not head.weight.requires_grad
    for mix in (Mix(chunk=5), Mix(temperature=3.0, divergence="reverse_kl", chunk=5)):
        want = step(student, batch, OnlineTeacher(model, vocab), mix)
        assert_equal(step(student, batch, warm(cache(), data), mix), want)


def test_states_depend_on_the_batch_no_more_than_the_teachers_own(tmp_path: Path) -> None:
    """A row filled alone and one filled among others differ as the model's own outputs do."""
    data, batch = four_rows()
    model, layout = make_model(1), batch["layout"]
    single = layout.part([1])
    notes = {"stored": "float32"}
    alone = filling(HiddenCache(tmp_path / "a", notes), data, model)
    _, apart = alone.targets_for(batch, single, None)  # type: ignore[misc]
    assert torch.equal(apart, OnlineTeacher(model).targets_for(batch, single, None)[1])
    among = filling(HiddenCache(tmp_path / "b", notes), data, model)
    among.targets_for(batch, layout.every, None)
    _, together = among.targets_for(batch, single, None)  # type: ignore[misc]
    assert torch.allclose(apart, together, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- damage


def flipped(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def without_rows(folder: Path) -> None:
    (folder / "data-0.bin").write_bytes(bytes((folder / "data-0.bin").stat().st_size))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed bit": (lambda f: flipped(f / "data-0.bin", 7), "data-0.bin at offset 0 is not"),
    "zeros": (without_rows, "data-0.bin at offset 0 is not what was written"),
    "no head": (lambda f: (f / HEAD).unlink(), "output head, is missing"),
    "short head": (
        lambda f: (f / HEAD).write_bytes((f / HEAD).read_bytes()[:-9]),
        "head.safetensors: its tensors need",
    ),
    "empty head": (lambda f: (f / HEAD).write_bytes(b""), "head.safetensors: its header"),
    "a changed bit of the head": (lambda f: flipped(f / HEAD, -1), "head.safetensors is not what"),
    "other tensors": (
        lambda f: (f / HEAD).write_bytes((f / HEAD).read_bytes().replace(b'"weight"', b'"height"')),
        "holds no output head",
    ),
    "no scale": (
        lambda f: (f / HEAD).write_bytes((f / HEAD).read_bytes().replace(b'"scale"', b'"stale"')),
        "head.safetensors cannot be read: 'scale'",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_a_clear_error(name: str, tmp_path: Path) -> None:
    data, batch = three_rows()
    part = batch["layout"].every
    filling(open_cache("hidden", tmp_path), data, make_model(1)).targets_for(batch, part, None)
    assert {file.name for file in tmp_path.iterdir()} == {
        "note.json",
        HEAD,
        "data-0.bin",
        "index-0.jsonl",
    }
    damage, message = DAMAGE[name]
    damage(tmp_path)
    with pytest.raises(DataError, match="this teacher cache is damaged") as caught:
        warm(open_cache("hidden", tmp_path), data).targets_for(batch, part, None)
    assert message in caught.value.message and caught.value.where == str(tmp_path)
    assert "delete the folder to rebuild it" in caught.value.hint


# ---------------------------------------------------------------- refused

REFUSED: dict[str, tuple[Head, Tensor, str]] = {
    "quantised head": (
        Head(torch.zeros(9, 4, dtype=torch.int8)),
        torch.ones(3, 4),
        "no plain matrix",
    ),
    "packed head": (Head(torch.zeros(18, 1)), torch.ones(3, 4), "no plain matrix"),
    "nan": (Head(torch.zeros(9, 4)), torch.full((3, 4), float("nan")), "not finite"),
    "beyond bf16": (Head(torch.zeros(9, 4)), torch.full((3, 4), 3.4e38), "are beyond bfloat16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_refused(name: str, tmp_path: Path) -> None:
    head, hidden, message = REFUSED[name]
    cache = open_cache("hidden", tmp_path)
    with pytest.raises(ModelError, match=message):
        cache.add(["a" * 20], [3], head, hidden)
    again = open_cache("hidden", tmp_path)
    assert again.index == {} and not list(tmp_path.glob(".head*"))


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite", "mixtral", "gemma3"])
def test_logits_are_those_of_the_head(family: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        refuse_other_heads(make_model(1, family).to(dtype), family)


def test_logits_that_the_head_alone_does_not_give_are_refused() -> None:
    """It multiplies by the number that Granite, with a field of the same name, divides by."""
    config = HyperCLOVAXConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        logits_scaling=2.0,
        eos_token_id=1,
    )
    with pytest.raises(ModelError, match=r"teach \(HyperCLOVAXForCausalLM\) computes its logits"):
        refuse_other_heads(HyperCLOVAXForCausalLM(config).eval(), "teach")


def test_head_is_stored_once_and_before_the_first_row(tmp_path: Path) -> None:
    """Of two processes that begin at once, both have it; a killed one leaves no rows without it."""
    data, batch = three_rows()
    model, layout = make_model(1), batch["layout"]
    mine, other = (open_cache("hidden", tmp_path) for _ in range(2))
    filling(mine, data, model).targets_for(batch, layout.part([0]), None)
    stamp = (tmp_path / HEAD).stat().st_mtime_ns
    filling(other, data, model).targets_for(batch, layout.part([1, 2]), None)
    assert (tmp_path / HEAD).stat().st_mtime_ns == stamp
    assert all(row_key(row) in open_cache("hidden", tmp_path) for row in data.rows)
    # Killed after the head: it is found, without rows.
    for file in (*tmp_path.glob("data-*"), *tmp_path.glob("index-*")):
        file.unlink()
    assert open_cache("hidden", tmp_path).index == {}
