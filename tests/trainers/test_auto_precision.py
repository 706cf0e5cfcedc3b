"""`precision: auto` on a GPU: by the plan and the GPU's memory, and kept when a run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.precision import USABLE, choose_precision
from kdharness.harness.errors import ConfigError, Interrupted, RunError
from kdharness.harness.models import loading
from kdharness.harness.paths import Paths
from kdharness.harness.runs import estimate as plans
from kdharness.harness.runs.estimate import estimate
from kdharness.trainers import auto_precision, loop
from kdharness.trainers.auto_precision import smallest_memory
from support.models import make_llama
from support.reporters import Listener
from support.training_runs import config_of, train

ROWS = {"width": 64, "steps": 1, "tokens": 100, "labelled": 50, "padding_share": 0.0}
SIZES = st.floats(1, 1e12)


@pytest.mark.parametrize(
    ("mixed", "rounded", "device", "name", "reason"),
    [
        (50, 30, 80, "mixed", "the GPU has 80.0 GB"),
        (72, 30, 80, "mixed", "mixed needs 72.0 GB"),
        (73, 40, 80, "bf16-sr", "mixed needs 73.0 GB, bf16-sr needs 40.0 GB"),
        (122, 81, 80, "mixed", "it does not fit"),
        (122, None, 80, "mixed", "it does not fit"),
        (122, 30, None, "mixed", "not known"),
    ],
)
def test_mixed_where_it_fits_else_stochastic_rounding_where_that_fits(
    mixed: float, rounded: float | None, device: float | None, name: str, reason: str
) -> None:
    planned = {"mixed": mixed * 1e9} | ({"bf16-sr": rounded * 1e9} if rounded else {})
    got = choose_precision(planned, device and device * 1e9)
    assert got[0] == name and reason in got[1]


@given(SIZES, SIZES, SIZES)
def test_what_is_chosen_fits_unless_nothing_does(
    mixed: float, rounded: float, device: float
) -> None:
    planned = {"mixed": mixed, "bf16-sr": rounded}
    name, _ = choose_precision(planned, device)
    room = USABLE * device
    if name == "bf16-sr":
        assert mixed > room >= rounded
    else:
        assert mixed <= room or rounded > room


# ---------------------------------------------------------------- the plan


def planned(folder: Path, memory: int | None, monkeypatch: Any, **trainer: Any) -> Any:
    monkeypatch.setattr(loading, "device_memory", lambda device: memory)
    lora = trainer.pop("lora", None)
    values = {
        "method": "sft",
        "student": {"model": str(folder), "lora": lora},
        "data": {"train": "x"},
        "trainer": {"device": "cuda", **trainer},
    }
    return estimate(parse_config(values), Paths(folder), ROWS)


def test_a_plan_says_what_auto_is_and_counts_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_llama(tmp_path, num_hidden_layers=8, vocab_size=512)
    mixed = planned(tmp_path, None, monkeypatch, precision="mixed")
    rounded = planned(tmp_path, None, monkeypatch, precision="bf16-sr")
    assert rounded.peak < mixed.peak and not mixed.precision and not mixed.notes
    between = int((mixed.peak + rounded.peak) / 2 / USABLE)
    for memory, want, name in (
        (2 * between, mixed, "mixed"),
        (between, rounded, "bf16-sr"),
        (1000, mixed, "mixed"),
        (None, mixed, "mixed"),
    ):
        got = planned(tmp_path, memory, monkeypatch)
        assert (got.precision, got.memory) == (name, want.memory)
        assert got.notes[0].startswith(f"precision: auto is {name}")
        assert {"figure": "precision", "value": name, "unit": ""} in got.rows()
    assert "does not fit" in planned(tmp_path, 1000, monkeypatch).notes[0]
    assert planned(tmp_path, between, monkeypatch, optimizer="adafactor").precision == "mixed"
    monkeypatch.setattr(plans, "find_spec", lambda name: None)
    assert planned(tmp_path, between, monkeypatch).precision == "mixed"


@pytest.mark.parametrize(
    "more", [{"device": "cpu"}, {"lora": {"r": 4}}, {"precision": "fp32"}, {"dtype": "bfloat16"}]
)
def test_memory_has_no_part_in_every_other_precision(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_llama(tmp_path)
    got = planned(tmp_path, 1000, monkeypatch, **more)
    assert got.precision == "" and got.notes == ()


def test_8_bit_states_cannot_be_sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_llama(tmp_path)
    monkeypatch.setattr(loading, "device_memory", lambda device: 1000)
    values = {"method": "sft", "student": str(tmp_path), "data": {"train": "x"}}
    for optimizer, count in (("adamw", 2), ("adamw_8bit", 1)):
        config = parse_config({**values, "trainer": {"device": "cuda", "optimizer": optimizer}})
        note = estimate(config, Paths(tmp_path), ROWS, engine="fsdp2", processes=2).notes[0]
        assert note.count(" needs ") == count


# ---------------------------------------------------------------- runs


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, memory: int | None) -> None:
    """Let a training on the CPU decide as on a GPU with bf16."""
    monkeypatch.setattr(loop, "has_bf16", lambda device: True)
    monkeypatch.setattr(plans, "_on_bf16_gpu", lambda device: True)
    monkeypatch.setattr(loading, "device_memory", lambda device: memory)


def precision_recorded(paths: Paths, name: str) -> str:
    return str(json.loads((paths.runs / name / "begun-with.json").read_text("utf-8"))["precision"])


def said(events: Listener) -> str:
    return "\n".join(text for _, text in events.said)


def room_between(config: Any, paths: Paths, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return a memory that bf16-sr fits, and mixed does not."""
    facts: list[Any] = []
    real = auto_precision.auto_precision

    def keep(config: Any, paths: Paths, rows: Any, **more: Any) -> Any:
        facts.append(rows)
        return real(config, paths, rows, **more)

    with monkeypatch.context() as patched:
        patched.setattr(auto_precision, "auto_precision", keep)
        on_a_gpu(patched, 10**12)
        _, events = train(config, paths, "large")
        assert "precision: auto is mixed: mixed needs" in said(events)
        peaks = [
            plans._estimate(plans.with_precision(config, name), paths, facts[0], "single", 1, None)
            for name in ("mixed", "bf16-sr")
        ]
    return int(sum(plan.peak for plan in peaks) / 2 / USABLE)


@pytest.mark.slow
def test_a_run_keeps_the_choice_of_its_start_when_it_resumes(
    tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_teacher, max_steps=4, save_every=2, batch_size=1)
    small = room_between(config, paths, monkeypatch)
    assert precision_recorded(paths, "large") == "mixed"
    on_a_gpu(monkeypatch, small)
    calm, events = train(config, paths, "calm")
    assert "precision: auto is bf16-sr: mixed needs" in said(events)
    assert precision_recorded(paths, "calm") == "bf16-sr"
    with pytest.raises(Interrupted):
        train(config, paths, "hit", reporter=Listener(stop_at_step=2))
    # Resumed on a larger GPU.
    on_a_gpu(monkeypatch, 10**12)
    hit, events = train(config, paths, "hit", resume=True)
    assert "precision: auto is bf16-sr: as when this run started" in said(events)
    name = "model.safetensors"
    assert (calm / name).read_bytes() == (hit / name).read_bytes()
    # Without bf16 it is another training.
    on_a_gpu(monkeypatch, small)
    with pytest.raises(Interrupted):
        train(config, paths, "moved", reporter=Listener(stop_at_step=2))
    monkeypatch.undo()
    with pytest.raises(RunError, match=r"the precision \(bf16-sr then, fp32 now\)"):
        train(config, paths, "moved", resume=True)


@pytest.mark.slow
def test_what_cannot_be_planned_is_mixed_as_before(
    tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> Any:
        raise ConfigError("unknown shape")

    on_a_gpu(monkeypatch, 1000)
    monkeypatch.setattr(auto_precision, "auto_precision", fail)
    _, events = train(config_of(tiny_teacher, max_steps=1), paths, "odd")
    assert "precision: auto is mixed: its memory cannot be planned" in said(events)


def test_the_smallest_gpu_decides_for_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "device_memory", lambda device: 80)
    assert smallest_memory("cuda") == 80
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for other, want in ((24, 24), (None, None)):

        def gather(found: list[Any], mine: Any, other: int | None = other) -> None:
            found[:] = [mine, other]

        monkeypatch.setattr(dist, "all_gather_object", gather)
        assert smallest_memory("cuda") == want
