"""Attention kernels, compiled layers, loader processes, TF32 and quantised students."""

from __future__ import annotations

import multiprocessing
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.precision import precision_of
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, Interrupted, ModelError, RunError
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.harness.runs.estimate import _shared_bytes, model_size
from kdharness.harness.runs.memory import plan_memory
from kdharness.trainers import loop
from kdharness.trainers.acceleration import check_acceleration, compile_layers
from kdharness.trainers.attention_hook import install_attention_hook, skip_masks
from kdharness.trainers.methods.dae import _teacher
from kdharness.trainers.teachers.online import AdapterTeacher, refuse_other_heads
from support.models import make_llama
from support.reporters import Listener
from support.training_runs import config_of, train
from support.training_steps import make_batch, make_model, with_lora

MIXED = precision_of("mixed", "auto", lora=False, has_bf16=True)
FP32 = precision_of("fp32", "auto", lora=False, has_bf16=True)


def with_changes(config: Any, **sections: Any) -> Any:
    """Return a config with some fields of its sections replaced."""
    values = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name, changes in sections.items():
        values[name] = {**values[name], **changes}
    return parse_config(values)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a student and a teacher, wide enough for blocks of 64 quantised weights."""
    made = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("pair") / f"model-{seed}"
        make_llama(
            folder,
            seed=seed,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            initializer_range=0.05,
        )
        made.append(folder)
    return made[0], made[1]


def pair_config(pair: tuple[Path, Path], method: str, *, lora: bool = False, **trainer: Any) -> Any:
    """Return a config whose student is not its teacher."""
    config = config_of(pair[1], method, lora, **trainer)
    return with_changes(config, student={"model": str(pair[0])})


def losses(listener: Listener, part: str = "loss") -> list[float]:
    return [values[part] for _, values in listener.points if part in values]


# ---------------------------------------------------------------- refused by name


@pytest.mark.parametrize(
    ("changes", "device", "where", "words"),
    [
        ({"tf32": True}, "cpu", "trainer.tf32", "format of NVIDIA GPUs"),
        ({"tf32": True}, "mps", "trainer.tf32", "format of NVIDIA GPUs"),
        ({"compile": True}, "mps", "trainer.compile", "does not support mps"),
        (
            {"attn_implementation": "flash_attention_2"},
            "cpu",
            "trainer.attn_implementation",
            "needs an NVIDIA GPU",
        ),
        (
            {"attn_implementation": "flash_attention_3"},
            "cuda:1",
            "trainer.attn_implementation",
            "needs the package flash-attn-interface",
        ),
    ],
)
def test_what_the_machine_lacks_is_refused_by_name(
    changes: dict[str, Any], device: str, where: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_acceleration(config_of(Path("m"), **changes), device, MIXED, {})
    assert caught.value.where == where


def test_flash_attention_needs_bf16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdharness.trainers.acceleration.find_spec", lambda name: object())
    config = config_of(Path("m"), "kd", attn_implementation="flash_attention_2", attention_weight=0)
    check_acceleration(config, "cuda", MIXED, {})
    for precision, teacher in ((FP32, {}), (MIXED, {"dtype": "float32"})):
        wrong = with_changes(config, teacher=teacher)
        with pytest.raises(ConfigError, match="computes in bf16 only"):
            check_acceleration(wrong, "cuda", precision, {})


def test_a_weight_of_an_attention_loss_that_is_left_out_excludes_no_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """distill_weight: 0 leaves it out, whatever its own weight."""
    monkeypatch.setattr("kdharness.trainers.acceleration.find_spec", lambda name: True)
    left_out = {"attention_weight": 1.0, "distill_weight": 0.0}
    config = config_of(Path("m"), "kd", attn_implementation="flash_attention_2", **left_out)
    check_acceleration(config, "cuda", MIXED, {})


def test_flash_attention_excludes_the_attention_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdharness.trainers.acceleration.find_spec", lambda name: object())
    config = config_of(Path("m"), "kd", attn_implementation="flash_attention_2")
    with pytest.raises(ConfigError, match="attention loss cannot be computed beside flash_"):
        check_acceleration(config, "cuda", MIXED, {})
    model = make_model(1)
    model.config._attn_implementation_internal = "flash_attention_2"
    assert not skip_masks(model)
    with pytest.raises(ModelError, match="cannot be computed beside flash_attention_2"):
        install_attention_hook(model)
    # Its head is checked with another kernel: this one takes neither fp32 nor the CPU.
    switched: list[str] = []
    monkeypatch.setattr(model, "set_attn_implementation", switched.append)
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ImportError):  # the kernel itself, which this machine lacks
        refuse_other_heads(model, "m")
    assert switched == ["sdpa", "flash_attention_2"]


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(Path("m"), compile=True)
    monkeypatch.setenv("CXX", sys.executable)
    check_acceleration(config, "cpu", FP32, {})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        check_acceleration(config, "cpu", FP32, {})
    # On a GPU Triton compiles a launcher for every kernel.
    monkeypatch.setenv("CC", sys.executable)
    check_acceleration(config, "cuda", FP32, {})
    for changes in ({"CC": "no-such-compiler"}, {"CC": "", "PATH": "/nowhere"}):
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match="needs a C compiler"):
            check_acceleration(config, "cuda", FP32, {})


def test_quantised_weights_need_an_adapter_a_package_and_no_sharding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = config_of(Path("m"), lora=True)
    with pytest.raises(ConfigError, match="set lora, or remove quantization"):
        with_changes(config_of(Path("m")), student={"quantization": {}})
    config = with_changes(plain, student={"quantization": {"method": "bnb-8bit"}})
    check_acceleration(config, "cpu", FP32, {})
    sharded = {"ACCELERATE_USE_FSDP": "true"}
    with pytest.raises(ConfigError, match="cannot be sharded"):
        check_acceleration(config, "cpu", FP32, sharded)
    check_acceleration(plain, "cpu", FP32, sharded)
    monkeypatch.setattr("kdharness.trainers.acceleration.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="bnb-8bit needs the package bitsandbytes"):
        check_acceleration(config, "cpu", FP32, {})
    taught = with_changes(config_of(Path("m"), "dae"), expert={"quantization": {}})
    with pytest.raises(ConfigError, match="bnb-4bit needs") as caught:
        check_acceleration(taught, "cpu", FP32, {})
    assert caught.value.where == "expert.quantization"


def test_defaults_keep_the_hash() -> None:
    config = config_of(Path("m"), lora=True)
    defaults = {"attn_implementation": "auto", "compile": False, "tf32": False, "workers": 0}
    same = with_changes(config, trainer=defaults, student={"quantization": None})
    assert config_hash(same) == config_hash(config)
    for changes in ({"trainer": {"workers": 1}}, {"student": {"quantization": {}}}):
        assert config_hash(with_changes(config, **changes)) != config_hash(config)


# ---------------------------------------------------------------- honoured


@pytest.mark.slow
def test_loader_processes_do_not_change_a_training(pair: tuple[Path, Path], paths: Paths) -> None:
    folders = [
        train(pair_config(pair, "kd", workers=workers), paths, f"w{workers}")[0]
        for workers in (0, 2)
    ]
    alone, shared = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


class LoaderKiller(Listener):
    """Kills a loader process after the first step."""

    def advance(self, done: int, **values: float) -> None:
        super().advance(done, **values)
        for process in multiprocessing.active_children()[:1] if done == 1 else ():
            process.kill()
            process.join()


@pytest.mark.slow
def test_killed_loader_process_ends_the_run_with_advice(
    pair: tuple[Path, Path], paths: Paths
) -> None:
    config = pair_config(pair, "sft", workers=1, max_steps=200)
    with pytest.raises(RunError, match="prepares micro-batches died") as caught:
        train(config, paths, "w", reporter=LoaderKiller())
    assert "trainer.workers: 0" in caught.value.hint
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_attention_kernel_is_used_by_student_and_teacher(
    pair: tuple[Path, Path], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    found: dict[str, list[float]] = {}
    skip = loop.skip_masks

    def note(model: Any) -> bool:
        used.append(model.config._attn_implementation.removeprefix("kdharness_"))
        return skip(model)

    monkeypatch.setattr(loop, "skip_masks", note)
    for name in ("auto", "eager"):
        config = pair_config(pair, "kd", attn_implementation=name)
        found[name] = losses(train(config, paths, name)[1])
    assert used == ["sdpa", "sdpa", "eager", "eager"]
    assert found["eager"] == pytest.approx(found["auto"], rel=1e-3)


def test_layers_share_what_is_compiled_for_one() -> None:
    """Compiled apart, 32 layers would pass torch's limit and run uncompiled."""
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    model, batch = make_model(1, num_hidden_layers=5), make_batch()
    ids = batch["input_ids"]
    want = model(input_ids=ids, use_cache=False).logits
    assert compile_layers(model, backend) == 5
    names = {name for name, _ in model.named_parameters()}
    assert not any("_orig_mod" in name for name in names)
    got = model(input_ids=ids, use_cache=False).logits
    assert torch.allclose(got, want, atol=1e-5) and len(graphs) == 1
    for width in (9, 12):
        model(input_ids=ids[:, :width], use_cache=False)
    assert len(graphs) <= 2
    torch.compiler.reset()


@pytest.mark.parametrize(("family", "layers"), [("gpt_neox", 3), ("falcon", 3), ("mixtral", 3)])
def test_layers_are_found_whatever_their_list_is_called(family: str, layers: int) -> None:
    assert compile_layers(make_model(1, family), "eager") == layers
    model = make_model(1)
    model.config.num_hidden_layers = 7
    with pytest.raises(ConfigError, match="layers of LlamaForCausalLM were not found"):
        compile_layers(model, "eager")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "lora"), [("kd", False), ("dae", True)])
def test_compiled_training_equals_an_uncompiled_one(
    method: str,
    lora: bool,
    pair: tuple[Path, Path],
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(loop, "compile_layers", partial(compile_layers, backend=backend))
    torch.compiler.reset()
    found = [
        losses(train(pair_config(pair, method, lora=lora, compile=on), paths, f"{on}")[1])
        for on in (False, True)
    ]
    torch.compiler.reset()
    assert found[1] == pytest.approx(found[0], rel=1e-4) and graphs


# ---------------------------------------------------------------- quantised students


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "kd", "dae"])
@pytest.mark.parametrize("kind", ["bnb-4bit", "bnb-8bit"])
def test_adapter_of_quantised_weights(
    method: str, kind: str, pair: tuple[Path, Path], paths: Paths
) -> None:
    config = pair_config(pair, method, lora=True, learning_rate=0.003)
    _, exact = train(config, paths, "exact")
    packed = with_changes(config, student={"quantization": {"method": kind}})
    folder, listener = train(packed, paths, "packed")
    # The same training but for the rounding of the weights.
    assert losses(listener) == pytest.approx(losses(exact), rel=0.1, abs=0.01)
    assert losses(listener) != pytest.approx(losses(exact), rel=1e-6)
    adapter = load_file(folder / "adapter_model.safetensors")
    assert all(value.dtype == torch.float32 for value in adapter.values())
    # The adapter is for the base as it was: it loads and merges like every other.
    base, model = load_model(str(pair[0]), paths), load_model(str(folder), paths)
    before, after = (part.model.layers[0].mlp.up_proj.weight for part in (base, model))
    assert float((after - before).detach().abs().max()) > 1e-3
    assert not hasattr(model.config, "quantization_config")


@pytest.mark.parametrize("kind", ["bnb-4bit", "bnb-8bit"])
def test_evaluating_quantised_weights_does_not_change_their_gradients(
    kind: str, pair: tuple[Path, Path], paths: Paths
) -> None:
    """bitsandbytes packs weights anew for a CPU, which its backward pass did not expect."""
    ids = torch.arange(3, 21).reshape(2, 9)
    found = []
    for evaluated in (False, True):
        model = load_model(str(pair[0]), paths, quantization={"method": kind}, device="cpu")
        if evaluated:
            with torch.no_grad():
                model.eval()(input_ids=ids)
        student = with_lora(model, 3).train()
        student(input_ids=ids).logits.square().mean().backward()
        parts = [value.grad.flatten() for value in student.parameters() if value.grad is not None]
        found.append(torch.cat(parts))
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("ours", [None, "bnb-4bit"])
@pytest.mark.parametrize("theirs", [None, "bnb-4bit", "bnb-8bit"])
def test_teacher_shares_the_students_base_only_as_it_is_quantised(
    ours: str | None, theirs: str | None, pair: tuple[Path, Path], paths: Paths
) -> None:
    def quantised(kind: str | None) -> dict[str, Any]:
        return {"quantization": {"method": kind}} if kind else {}

    config = with_changes(pair_config(pair, "dae", lora=True), student=quantised(ours))
    reference = {"model": str(pair[0]), **quantised(theirs)}
    config = parse_config(
        {**config.model_dump(mode="json", by_alias=True, exclude_none=True), "reference": reference}
    )
    shared = _shared_bytes("reference", str(pair[0]), config, paths, has_bf16=False)
    assert (shared == 0) is (ours == theirs)
    setting = loop.prepare_setting(config, paths, str(pair[1]), lambda text: None)
    assert config.reference is not None
    teacher, _ = _teacher(config.reference, "general", setting)
    assert isinstance(teacher, AdapterTeacher) is (ours == theirs)


@pytest.mark.slow
def test_quantised_training_resumes_exactly(pair: tuple[Path, Path], paths: Paths) -> None:
    config = pair_config(pair, "sft", lora=True, save_every=2)
    config = with_changes(config, student={"quantization": {}})
    calm, _ = train(config, paths, "calm")
    with pytest.raises(Interrupted):
        train(config, paths, "hit", reporter=Listener(stop_at_step=3))
    hit, _ = train(config, paths, "hit", resume=True)
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (calm, hit))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bnb-4bit", "bnb-8bit"])
def test_planned_memory_of_quantised_weights(kind: str, tmp_path: Path) -> None:
    model = make_model(1, hidden_size=256, intermediate_size=512, vocab_size=96)
    model.save_pretrained(tmp_path / "m")
    paths = Paths(tmp_path)
    quantization = {"method": kind}
    config = with_changes(
        config_of(tmp_path / "m", lora=True), student={"quantization": quantization}
    )
    size = model_size(str(tmp_path / "m"), paths)
    memory, trained = plan_memory(config, size, {}, 64, engine="single", processes=1, on_cpu=True)
    packed = load_model(str(tmp_path / "m"), paths, quantization=quantization)
    state = [value for value in packed.state_dict().values() if isinstance(value, torch.Tensor)]
    real = sum(value.nbytes for value in state)
    assert memory["weights"] - 4 * trained == pytest.approx(real, rel=0.05)
