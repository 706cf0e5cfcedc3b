"""`trainer.kernels` and `trainer.chunk`: what is chosen, refused, said and hashed."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.files import dump_config, load_config, parse_config
from kdharness.harness.config.models import CacheSpec
from kdharness.harness.config.precision import precision_of
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.config.training import KDConfig, SFTConfig, config_hash
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.lm_head import CHUNK_BYTES, Head, rows_at_once
from kdharness.harness.runs.memory import Size, head_bytes, positions_at_once
from kdharness.trainers import acceleration, kernels
from kdharness.trainers.kernels import Kernels, check_kernels, kernels_named, reference_parts
from kdharness.trainers.losses import attention, fused
from kdharness.trainers.losses.attention import AttentionTape
from kdharness.trainers.losses.fused import Mix, fused_loss
from kdharness.trainers.losses.top_k import top_k
from kdharness.trainers.teachers.cache_hidden import HiddenCache
from kdharness.trainers.teachers.cache_top_k import TopKCache
from kdharness.trainers.teachers.cached import CachedTeacher
from support.commands import CommandLine
from support.configs import config_file, kd_config

DATA = {"train": [{"path": "shop:train"}]}


def config(**trainer: Any) -> KDConfig:
    made = parse_config(
        {"method": "kd", "student": "a", "teacher": "b", "data": DATA, "trainer": trainer}
    )
    assert isinstance(made, KDConfig)
    return made


# ---------------------------------------------------------------- kernels


def test_reference_is_the_default_and_imports_no_triton() -> None:
    assert config().trainer.kernels == "reference"
    chosen = kernels_named("reference")
    assert chosen.attention_kl is attention.attention_kl and chosen.chunk_loss is fused.chunk_loss
    # The kernels' own tests import them in processes of their own.
    assert not [name for name in sys.modules if name.startswith(f"{fused.__package__}.triton_")]


def on_this_machine(monkeypatch: pytest.MonkeyPatch, *, triton: bool, cuda: bool) -> None:
    found = ModuleSpec("triton", None) if triton else None
    for module in (kernels, acceleration):
        monkeypatch.setattr(module, "find_spec", lambda name: found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)


def test_triton_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_machine(monkeypatch, triton=False, cuda=True)
    with pytest.raises(ConfigError, match="the package triton is not installed") as missing:
        check_kernels("triton", "auto", {})
    assert missing.value.where == "trainer.kernels" and "reference" in str(missing.value.hint)
    on_this_machine(monkeypatch, triton=True, cuda=False)
    for device in ("auto", "cpu"):
        with pytest.raises(ConfigError, match=r"needs a CUDA GPU, .* device (cpu|mps)"):
            check_kernels("triton", device, {})
        check_kernels("reference", device, {})


@pytest.mark.parametrize(
    ("value", "interprets"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False)]
)
def test_the_interpreter_needs_no_gpu(
    value: str, interprets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_this_machine(monkeypatch, triton=True, cuda=False)
    environ = {"TRITON_INTERPRET": value}
    assert kernels.interpreted(environ) == interprets
    if interprets:
        check_kernels("triton", "cpu", environ)
    else:
        with pytest.raises(ConfigError, match="needs a CUDA GPU"):
            check_kernels("triton", "cpu", environ)


def test_triton_runs_on_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    on_this_machine(monkeypatch, triton=True, cuda=True)
    check_kernels("triton", "auto", {})


@pytest.mark.parametrize("method", ["kd", "sft"])
def test_a_refused_training_creates_no_run(
    method: str, kd: CommandLine, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    values = kd_config(tiny_teacher)
    values["trainer"] = {**values["trainer"], "kernels": "triton"}
    if method == "sft":
        values = {**values, "method": "sft", "student": str(tiny_teacher)}
        del values["teacher"]
    path = config_file(kd.home.parent, **values)
    code, _, err = kd("train", path)
    assert code == 2 and "trainer.kernels" in err and "kernels: triton needs" in err
    assert "Traceback" not in err
    assert kd.json("runs") == []
    # A config for another machine can be checked and planned here.
    kd.ok("config", "check", path)
    kd.ok("plan", path)


def test_block_of_the_reference_is_refused_beside_triton() -> None:
    with pytest.raises(ConfigError, match="attention_block: 32 is for kernels: reference"):
        config(kernels="triton", attention_block=32)
    assert config(attention_block=32).trainer.attention_block == 32
    assert config(kernels="triton", attention_block=64).trainer.kernels == "triton"


def test_what_is_left_to_the_reference_is_said() -> None:
    cached, hidden = (CachedTeacher.__new__(CachedTeacher) for _ in range(2))
    cached.cache, hidden.cache = TopKCache.__new__(TopKCache), HiddenCache.__new__(HiddenCache)
    other = object()
    triton = Kernels("triton", attention.attention_kl, fused.chunk_loss)
    assert reference_parts(kernels.REFERENCE, {"general": cached}) == ""
    # A cached teacher with hidden states gives the loss what an online one gives.
    assert reference_parts(triton, {"general": other, "domain": hidden}) == ""
    assert "triton has none for cached distributions" in reference_parts(
        triton, {"general": cached}
    )
    assert "of all rows" in reference_parts(triton, {"general": cached})
    assert "of domain rows" in reference_parts(triton, {"domain": cached, "general": other})


@given(data=st.data(), samples=st.integers(1, 4), length=st.integers(1, 9))
def test_flat_rows_are_the_labelled_rows(data: st.DataObject, samples: int, length: int) -> None:
    cells = st.lists(st.booleans(), min_size=samples * length, max_size=samples * length)
    mask = torch.tensor(data.draw(cells)).view(samples, length)
    rows = [row.nonzero().squeeze(-1) for row in mask]
    tape = AttentionTape({0: 0}, rows, torch.ones_like(mask))
    positions, counts = tape.flat
    assert positions.dtype == counts.dtype == torch.int32
    for sample, index in enumerate(rows):
        first, last = (int(counts[(sample + end) * length]) for end in (0, 1))
        assert positions[first:last].tolist() == index.tolist()
        before = [int(counts[sample * length + at]) - first for at in range(length)]
        assert before == [int(mask[sample, :at].sum()) for at in range(length)]


# ---------------------------------------------------------------- rows of logits at once


@given(vocab=st.integers(1, 1_000_000), chosen=st.integers(1, 10_000))
def test_a_chunk_fits_its_memory_or_is_the_smallest(vocab: int, chosen: int) -> None:
    assert rows_at_once(chosen, vocab, on_cuda=True) == chosen
    assert rows_at_once(chosen, vocab, on_cuda=False) == chosen
    assert rows_at_once(None, vocab, on_cuda=False) == 128
    rows = rows_at_once(None, vocab, on_cuda=True)
    assert 512 <= rows <= 4096 and rows % 128 == 0
    assert rows == 512 or 16 * vocab * rows <= CHUNK_BYTES
    assert rows == 4096 or 16 * vocab * (rows + 128) > CHUNK_BYTES


def test_known_vocabularies_on_a_gpu() -> None:
    sizes = {32_000: 2048, 49_152: 1280, 128_256: 512, 151_936: 512, 8_000: 4096}
    assert {v: rows_at_once(None, v, on_cuda=True) for v in sizes} == sizes


def test_hashes_do_not_change_with_the_new_defaults() -> None:
    """128 was the default, so a config without `chunk` had the hash of one with 128."""
    assert config().trainer.chunk is None
    assert config_hash(config()) == config_hash(config(chunk=128)) == "5ca4308cc9c6d3906eff"
    assert config_hash(config(chunk=64)) == "c259a535a5b124f612f2"
    assert config_hash(config(kernels="reference")) == config_hash(config())
    assert config_hash(config(kernels="triton")) != config_hash(config())


def test_a_config_reads_back_what_it_wrote(tmp_path: Path) -> None:
    for made in (config(), config(chunk=128), config(kernels="triton")):
        for full in (False, True):
            path = tmp_path / "c.yaml"
            path.write_text(dump_config(made, full=full), "utf-8")
            assert load_config(path).trainer == made.trainer  # type: ignore[union-attr]


def test_the_loss_takes_the_default_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(logits: torch.Tensor, *args: Any) -> Any:
        sizes.append(logits.shape[0])
        return fused.chunk_loss(logits, *args)

    hidden, weight = torch.randn(300, 4), torch.randn(9, 4)
    teacher = (Head(weight), hidden)
    fused_loss(hidden, Head(weight), mix=Mix(), teacher=teacher, inner=counted)
    assert sizes == [128, 128, 44]
    for mix, want in ((Mix(chunk=100), [100, 100, 100]), (Mix(chunk=500), [300])):
        sizes.clear()
        fused_loss(hidden, Head(weight), mix=mix, teacher=teacher, inner=counted)
        assert sizes == want
    assert len(top_k(Head(weight), hidden, 3, 1.0, None, 0).ids) == 300


SIZE = Size(
    total=10,
    body=5,
    linear=5,
    linears=(),
    layers=1,
    hidden=8,
    intermediate=8,
    heads=1,
    key_heads=1,
    head_size=8,
    vocab=32_000,
)


@pytest.mark.parametrize("method", ["kd", "sft"])
def test_plan_counts_the_same_chunk(method: str) -> None:
    made = (
        config()
        if method == "kd"
        else parse_config({"method": "sft", "student": "a", "data": DATA})
    )
    assert isinstance(made, (KDConfig, SFTConfig))
    teachers = {"teacher": SIZE} if method == "kd" else {}
    precision = precision_of("fp32", "auto", lora=False, has_bf16=False)

    def rows(tokens: int, *, on_cpu: bool) -> float:
        total = head_bytes(made, SIZE, teachers, precision, tokens, on_cpu=on_cpu)
        return total / (4 * (4 if teachers else 3) * SIZE.vocab)

    assert rows(10_000, on_cpu=True) == 128
    assert rows(10_000, on_cpu=False) == rows_at_once(None, SIZE.vocab, on_cuda=True) == 2048
    # A micro-batch of fewer positions needs no more than those.
    assert rows(700, on_cpu=False) == 700


@pytest.mark.parametrize(
    ("cache", "kernels", "bytes_per_logit"),
    [
        (None, "reference", 16),
        (None, "triton", 10),
        ({"kind": "hidden"}, "triton", 10),
        ({"k": 8}, "triton", 12),
    ],
)
def test_plan_counts_the_buffers_of_the_kernels(
    cache: dict[str, Any] | None, kernels: str, bytes_per_logit: int
) -> None:
    """A cached distribution is left to the reference, which has three buffers for it."""
    made = config(kernels=kernels, attention_weight=0)
    teacher = made.teacher.model_copy(update={"cache": CacheSpec(**cache) if cache else None})
    made = made.model_copy(update={"teacher": teacher})
    precision = precision_of("bf16", "auto", lora=False, has_bf16=True)
    found = head_bytes(made, SIZE, {"teacher": SIZE}, precision, 10_000, on_cpu=False)
    assert found == bytes_per_logit * 2048 * SIZE.vocab


def test_plan_counts_a_row_beyond_the_budget_of_a_micro_batch() -> None:
    """It is a micro-batch of its own, however few tokens one should have."""
    spec = TrainerSpec(tokens_per_batch=64, batch_size=4)
    assert positions_at_once(spec, 40) == 64 and positions_at_once(spec, 500) == 500
    packed = spec.model_copy(update={"packing": True})
    assert positions_at_once(packed, 125) == 500
