"""Teachers on other devices than the student, and in host memory while they are idle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.precision import precision_of
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError
from kdharness.harness.models import loading
from kdharness.harness.paths import Paths
from kdharness.harness.runs.estimate import estimate, model_size
from kdharness.trainers.acceleration import check_acceleration, compile_layers
from kdharness.trainers.attention_hook import install_attention_hook, skip_masks
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.step import Objective, attach_loss, loss_inputs
from kdharness.trainers.teachers import placement
from kdharness.trainers.teachers.online import OnlineTeacher
from kdharness.trainers.teachers.placement import Offloaded, check_placement
from support.models import make_llama
from support.training_runs import config_of, train
from support.training_steps import fused, gradients, make_batch, make_model
from support.two_devices import FIRST, SECOND, Copies, no_hardware, place

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
BF16 = precision_of("mixed", "auto", lora=False, has_bf16=True)
ROWS = {"width": 64, "steps": 1, "tokens": 100, "labelled": 50, "padding_share": 0.0}


def a_config(method: str = "kd", **teacher: Any) -> Any:
    values: dict[str, Any] = {"method": method, "student": "a/s", "data": {"train": "x"}}
    if method == "kd":
        values["teacher"] = {"model": "a/t", **teacher}
        values["trainer"] = {"attention_weight": 0}
    else:
        values["experts"] = {"law": {"model": "a/t", **teacher}}
        values["data"] = {"train": [{"path": "x"}, {"path": "y", "kind": "law"}]}
    return parse_config(values)


@pytest.mark.parametrize("method", ["kd", "dae"])
def test_fields_at_their_defaults_keep_the_hash(method: str) -> None:
    plain, named = a_config(method), a_config(method, device="auto", offload=False)
    assert config_hash(plain) == config_hash(named)
    assert config_hash(plain) != config_hash(a_config(method, device="cpu"))
    assert config_hash(plain) != config_hash(a_config(method, offload=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "cuda:1", "cache": {}}, "cannot be set for a cached teacher"),
        ({"device": "cpu", "cache": {"kind": "hidden"}}, "cannot be set for a cached teacher"),
        (
            {"device": "cpu", "served": "http://there/v1", "cache": {"tail": "bucket"}},
            "device cannot be set for a served teacher",
        ),
        (
            {"offload": True, "served": "http://there/v1", "cache": {"tail": "bucket"}},
            "offload cannot be set for a served teacher",
        ),
        ({"offload": True, "quantization": {}}, "cannot move quantised weights"),
        ({"offload": True, "device": "cpu"}, "in host memory anyway"),
        ({"offload": True, "device": "mps"}, "in host memory anyway"),
        ({"device": "CUDA 1"}, "should match pattern"),
    ],
)
def test_places_without_a_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TeacherSpec(model="a/t", **fields)
    assert TeacherSpec(model="a/t", offload=True, cache={}).offload


@pytest.mark.parametrize(
    ("method", "fields", "world", "environ", "where", "message"),
    [
        ("kd", {"device": "cuda:7"}, 1, {}, "teacher.device", "cannot use device 'cuda:7'"),
        ("dae", {"device": "nosuch"}, 1, {}, "experts.law.device", "cannot use device 'nosuch'"),
        ("kd", {"device": "cuda:1"}, 2, {}, "teacher.device", "has 2 processes"),
        ("kd", {"device": "cpu"}, 2, FSDP, "teacher.device", "under FSDP"),
        ("dae", {"device": "cpu"}, 1, FSDP, "experts.law.device", "under FSDP"),
        ("kd", {"offload": True}, 2, FSDP, "teacher.offload", "under FSDP"),
        ("kd", {"offload": True}, 1, {}, "teacher.offload", "runs on cpu, in host memory"),
    ],
)
def test_devices_that_cannot_be_used_are_refused_before_loading(
    method: str, fields: dict[str, Any], world: int, environ: Any, where: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_placement(a_config(method, **fields), "cpu", world, environ)
    assert caught.value.where == where and caught.value.hint


def test_a_teacher_on_the_cpu_is_allowed_in_every_process() -> None:
    check_placement(a_config(device="cpu"), "cuda", 2, {})
    check_placement(a_config(offload=True), "cuda", 2, {})


def test_flash_attention_needs_every_teacher_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdharness.trainers.acceleration.find_spec", lambda name: True)
    values = a_config(device="cpu").model_dump(by_alias=True)
    values["trainer"] |= {"attn_implementation": "flash_attention_2"}
    with pytest.raises(ConfigError, match="a teacher is on cpu"):
        check_acceleration(parse_config(values), "cuda", BF16, {})
    values["teacher"]["device"] = "cuda:1"
    check_acceleration(parse_config(values), "cuda", BF16, {})


# ---------------------------------------------------------------- another device

KINDS = ["general", "domain"]
DATA = Dataset(
    [
        TrainRow([5, 9, 33, 7, 20 + i], [-100, -100, 33, 7, 20 + i], KINDS[i % 2], 0, f"row {i}")
        for i in range(4)
    ]
)


def run_on_two_devices(
    method: str, monkeypatch: pytest.MonkeyPatch, *, steps: int = 1, offload: bool = False
) -> Copies:
    """Run steps of a student on FIRST; return the copies between devices of the last one."""
    student, *teachers = (make_model(seed) for seed in (1, 2, 3))
    for model in (student, *teachers):
        if method == "kd":
            install_attention_hook(model)
        assert skip_masks(model)
    attach_loss(student)
    batch = Collator(0, KINDS)([DATA[number] for number in range(4)])
    with no_hardware(monkeypatch) as mode:
        place(student, FIRST)
        for model in teachers:
            place(model, torch.device("cpu") if offload else SECOND)
        moved = {
            name: mode.from_tensor(value).to(FIRST)
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }
        moved["layout"] = batch["layout"].to(FIRST)
        used = teachers[:1] if method == "kd" else teachers
        online = [OnlineTeacher(model, runs_on=str(FIRST) if offload else None) for model in used]
        objective = Objective(
            Mix(kl_weight=0.5, ce_weight=0.5),
            dict(enumerate(online)),
            {n: n for n in range(3)} if method == "kd" else {},
            0.5,
        )
        for _ in range(steps):
            copies = Copies()
            with copies:
                step = loss_inputs(objective, moved, torch.tensor(9))
                loss = student(
                    input_ids=moved["input_ids"],
                    attention_mask=moved["attention_mask"],
                    step=step,
                )["loss"]
                loss.backward()
    assert loss.device == FIRST
    return copies


@pytest.mark.parametrize(("method", "inputs", "outputs"), [("kd", 2, 7), ("dae", 4, 2)])
def test_a_step_with_teachers_on_a_second_gpu_waits_for_neither(
    method: str, inputs: int, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows go there; hidden states, queries and keys come back; heads are copied once."""
    copies = run_on_two_devices(method, monkeypatch, steps=2)
    first, second = str(FIRST), str(SECOND)
    assert not any(waits for _, _, waits in copies.counts)
    assert copies.counts[first, second, False] == inputs
    assert copies.counts[second, first, False] == outputs
    assert not [key for key in copies.counts if key[1] == "cpu"]


def test_an_offloaded_teacher_is_copied_there_and_never_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = run_on_two_devices("dae", monkeypatch, steps=2, offload=True)
    layers, rest = 3 * 9, 2  # embedding and last norm: the head stays on the device
    weights = copies.counts["cpu", str(FIRST), False]
    assert weights == 2 * (layers + rest) + 1  # and the number of labelled positions
    assert not [key for key in copies.counts if key[1] == "cpu"]


# ---------------------------------------------------------------- offloading


class Placed:
    """Records which weights a model's first layer was run with, and that they are gone after."""

    def __init__(self, model: Any) -> None:
        self.seen: list[int] = []
        self.layer = model.model.layers[0]
        self.layer.register_forward_pre_hook(self._see)

    def _see(self, module: Any, args: Any) -> None:
        self.seen.append(module.mlp.gate_proj.weight.data_ptr())

    @property
    def at_home(self) -> int:
        return int(self.layer.mlp.gate_proj.weight.data_ptr())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", ["dae", "kd", "compiled"])
def test_losses_and_gradients_are_exactly_those_of_teachers_that_stay(
    case: str, tied: bool
) -> None:
    def run(offload: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        student = make_model(1)
        models = [make_model(seed, tie_word_embeddings=tied) for seed in (2, 3)]
        attach_loss(student)
        for model in (student, *models):
            install_attention_hook(model)
        if case == "compiled":
            for model in models:
                compile_layers(model, backend="eager")
        watch = [Placed(model) for model in models]
        runs_on = "cpu" if offload else None
        teachers = [OnlineTeacher(model, runs_on=runs_on) for model in models]
        used: dict[int, Any] = {0: teachers[0]} if case == "kd" else dict(enumerate(teachers))
        layers = {n: n for n in range(3)} if case == "kd" else None
        for seed in (1, 2):
            loss = fused(student, make_batch(seed=seed), used, mix=Mix(), layers=layers, gamma=0.5)
            found = gradients(student, loss)
        for model in watch[: len(used)]:
            assert len(model.seen) == 2
            # Run with copies, which are gone again.
            assert (model.at_home in model.seen) is not offload
        return loss, found

    (plain, want), (loss, got) = run(False), run(True)
    assert torch.equal(plain, loss) and all(torch.equal(want[n], got[n]) for n in want)


def test_page_locked_memory_is_used_for_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Size] = []

    def pin(value: torch.Tensor) -> torch.Tensor:
        pinned.append(value.shape)
        return value

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.nn.Module, "named_buffers", lambda *_, **__: iter(()))
    model = make_model(1, tie_word_embeddings=True)
    Offloaded(model, "cpu")
    assert not pinned
    Offloaded(model, "cuda")
    assert pinned == [value.shape for value in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("field", ["device", "offload"])
def test_training_with_a_placed_teacher_ends_with_the_same_weights(
    field: str, tiny_teacher: Path, tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "HOST_MEMORY", ())
    plain = config_of(tiny_teacher, "dae", max_steps=3)
    values = plain.model_dump(mode="json", by_alias=True)
    other = make_llama(tmp_path / "other", seed=5)
    assert other is not None
    place_of = {"device": "cpu"} if field == "device" else {"offload": True}
    for role, model in (("expert", tiny_teacher), ("reference", tmp_path / "other")):
        values[role] = {"model": str(model)}
    base, _ = train(parse_config(values), paths, "plain")
    for role in ("expert", "reference"):
        values[role] |= place_of
    folder, _ = train(parse_config(values), paths, field)
    name = "model.safetensors"
    assert (base / name).read_bytes() == (folder / name).read_bytes()


# ---------------------------------------------------------------- the student's own base


def test_the_students_own_base_has_no_place_of_its_own(tiny_teacher: Path, paths: Paths) -> None:
    values = config_of(tiny_teacher, "dae", lora=True).model_dump(mode="json", by_alias=True)
    values["expert"]["device"] = "cpu"
    config = parse_config(values)
    for run in (
        lambda: train(config, paths, "shared"),
        lambda: estimate(config, paths, ROWS),
    ):
        with pytest.raises(ConfigError, match="the student's own base") as caught:
            run()
        assert caught.value.where == "expert.device"


# ---------------------------------------------------------------- the plan


def test_a_plan_counts_teachers_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "pick_device", lambda: "cpu")
    folders = {"s": str(tmp_path / "s"), "t": str(tmp_path / "t")}
    make_llama(tmp_path / "s", num_hidden_layers=1)
    make_llama(tmp_path / "t", seed=1, num_hidden_layers=6)
    small, big = (model_size(folder, Paths(tmp_path)) for folder in folders.values())
    head = 2.0 * big.vocab * big.hidden

    def plan(expert: dict[str, Any], reference: dict[str, Any], **more: Any) -> Any:
        values = {
            "method": "dae",
            "student": folders["s"],
            "expert": {"model": folders["t"], **expert},
            "reference": {"model": folders["s"], **reference},
            "data": {"train": [{"path": "x"}, {"path": "y", "kind": "domain"}]},
            "trainer": {"device": "cuda"},
        }
        return estimate(parse_config(values), Paths(tmp_path), ROWS, **more)

    plain = plan({}, {})
    assert plain.memory["teacher expert"] == 2.0 * big.total and not plain.elsewhere
    assert plan({"device": "cuda:0"}, {}).memory == plain.memory
    second = plan({"device": "cuda:1"}, {})
    assert second.elsewhere == {"cuda:1": {"teacher expert": 2.0 * big.total}}
    assert plain.peak - second.peak == 2.0 * big.total - head
    on_cpu = plan({"device": "cpu"}, {"device": "cpu"})
    assert on_cpu.elsewhere == {
        "cpu": {"teacher reference": 4.0 * small.total, "teacher expert": 4.0 * big.total}
    }
    assert on_cpu.memory["teacher expert, head"] == 2 * head
    idle = plan({"offload": True}, {"offload": True})
    assert idle.elsewhere == {
        "cpu": {"teacher reference": 2.0 * small.total, "teacher expert": 2.0 * big.total}
    }
    # The largest, not the sum; both heads stay.
    assert idle.memory["offloaded teacher"] == 2.0 * big.total - head
    assert idle.memory["teacher reference, head"] == 2.0 * small.vocab * small.hidden
    assert idle.peak - plain.peak == -(2.0 * small.total - 2.0 * small.vocab * small.hidden)
    there = plan({"device": "cuda:1", "offload": True}, {})
    assert there.elsewhere["cuda:1"] == {"offloaded teacher": 2.0 * big.total - head}
    rows = {row["figure"]: row["value"] for row in second.rows()}
    assert rows["memory on cuda:1: teacher expert"] == round(2.0 * big.total / 2**30, 4)
    with pytest.raises(ConfigError, match="under FSDP"):
        plan({"offload": True}, {}, engine="fsdp2", processes=2)
    with pytest.raises(ConfigError, match="has 4 processes"):
        plan({"device": "cuda:1"}, {}, engine="ddp", processes=4)
