"""Under FSDP2 no process ever holds more of a model than its shard and about a layer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.config.precision import precision_of
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.paths import Paths
from kdharness.trainers.precision import precision_note, sharding_policy
from kdharness.trainers.students.sharded import loads_in_shards
from support.models import make_llama
from support.training_steps import make_model

SCRIPT = """
import gc, json, sys
from pathlib import Path
import torch
from accelerate import PartialState
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.precision import precision_of
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.paths import Paths
from kdharness.trainers.students import sharded
from kdharness.trainers.teachers import build

class Held(TorchDispatchMode):
    "Peak bytes of the storages that operations read or made, by address."
    def __init__(self):
        super().__init__()
        self.held, self.peak = {}, 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.see((args, kwargs or {}))
        out = func(*args, **(kwargs or {}))
        self.see(out)
        return out
    def see(self, values):
        for value in tree_leaves(values):
            if not isinstance(value, torch.Tensor) or value.device.type == "meta":
                continue
            local = value.to_local() if isinstance(value, DTensor) else value
            storage = local.untyped_storage()
            if storage.data_ptr():
                refs = self.held.setdefault(storage.data_ptr(), [])
                if all(ref.cdata != StorageWeakRef(storage).cdata for ref, _ in refs):
                    size = local.nbytes if is_mapped(storage) else storage.nbytes()
                    refs.append((StorageWeakRef(storage), size))
                    self.sweep()
    def sweep(self):
        total = 0
        for address, refs in list(self.held.items()):
            live = [entry for entry in refs if not entry[0].expired()]
            if live:
                self.held[address] = live
                total += max(size for _, size in live)
            else:
                del self.held[address]
        self.peak = max(self.peak, total)

def is_mapped(storage):
    "Whether this is a part of a file: only what is read of it takes memory."
    for line in open("/proc/self/maps"):
        start, end = (int(number, 16) for number in line.split(" ", 1)[0].split("-"))
        if start <= storage.data_ptr() < end:
            return ".safetensors" in line
    return False

state = PartialState(cpu=True)
home = sys.argv[1]
paths = Paths(Path(home))

class Setting:
    device, train, tokenizer = "cpu", None, None
    class job:
        world, paths = state.num_processes, paths
    config = type("Config", (), {"data": None, "trainer": TrainerSpec()})

build.hold = lambda *_, **__: None

def student(folder, precision):
    chosen = precision_of(precision, "auto", lora=False, has_bf16=True)
    assert sharded.loads_in_shards(folder, paths, 2)
    return sharded.load_in_shards(folder, paths, chosen, 2, device="cpu")

def teacher(folder, precision):
    return build.load_frozen(TeacherSpec(model=folder, dtype="float32"), Setting, shard=True)

found = {}
for case in sys.argv[2:]:
    family, precision = case.split(":")
    for name, load in (("student", student), ("teacher", teacher)):
        gc.collect()
        with Held() as held:
            model = load(f"{home}/{family}", precision)
            held.see(list(model.parameters()))
        assert isinstance(model, FSDPModule)
        layers = [sum(v.nbytes for v in layer.parameters()) for layer in model.model.layers]
        found[f"{name} {family}"] = {
            "peak": held.peak,
            "shard": sum(value.to_local().nbytes for value in model.parameters()),
            "largest": max(*layers, model.get_input_embeddings().weight.nbytes),
            "whole": sum(value.nbytes for value in model.parameters()),
            "dtype": str(model.dtype),
            "sum": sum(value.full_tensor().double().sum().item() for value in model.parameters()),
        }
        del model
with open(f"{home}/{state.process_index}.json", "w") as stream:
    json.dump(found, stream)
"""


CASES = {
    "llama": ("bfloat16", "mixed"),
    "mixtral": ("bfloat16", "mixed"),
    "tied": ("float32", "fp32"),
}


@pytest.mark.slow
def test_loading_takes_a_shard_and_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student was read whole in every process, and cast or stacked whole in host memory."""
    sums = {}
    for name, (stored, _) in CASES.items():
        model = make_model(
            1,
            "mixtral" if name == "mixtral" else "llama",
            num_hidden_layers=8,
            hidden_size=64,
            tie_word_embeddings=name == "tied",
        ).to(getattr(torch, stored))
        model.save_pretrained(tmp_path / name)
        sums[name] = sum(value.detach().double().sum().item() for value in model.parameters())
    script = tmp_path / "load.py"
    script.write_text(SCRIPT, "utf-8")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    cases = [f"{name}:{precision}" for name, (_, precision) in CASES.items()]
    done = subprocess.run(
        [*run, str(script), str(tmp_path), *cases], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text("utf-8"))
        assert len(found) == 2 * len(CASES)
        for name, got in found.items():
            assert got["peak"] >= got["shard"] == pytest.approx(got["whole"] / 2, rel=0.05)
            assert got["peak"] <= 1.2 * (got["shard"] + got["largest"]), (name, got)
            assert got["dtype"] == "torch.float32"
            assert got["sum"] == pytest.approx(sums[name.split()[1]], rel=1e-6)


@pytest.mark.parametrize(
    ("environ", "processes", "shape", "want"),
    [
        ({}, 2, {}, True),
        ({}, 1, {}, False),
        ({"FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer"}, 2, {}, True),
        ({"FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaMLP"}, 2, {}, False),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, 2, {}, False),
        ({"FSDP_RESHARD_AFTER_FORWARD": "false"}, 2, {}, False),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, 2, {}, False),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, 2, {}, False),
        # 10 rows over 8 processes: the last ones would have none.
        ({}, 8, {"intermediate_size": 10}, False),
    ],
)
def test_other_ways_of_sharding_are_left_to_accelerate(
    environ: dict[str, str], processes: int, shape: dict[str, Any], want: bool, tmp_path: Path
) -> None:
    make_llama(tmp_path, **shape)
    assert loads_in_shards(str(tmp_path), Paths(tmp_path), processes, environ) is want


def test_the_policy_is_that_of_the_precision() -> None:
    for name, param in (("mixed", torch.bfloat16), ("fp32", None), ("bf16-sr", None)):
        policy = sharding_policy(
            bf16=precision_of(name, "auto", lora=False, has_bf16=True).autocast
        )
        assert (policy.param_dtype, policy.reduce_dtype) == (param, torch.float32)
        assert not policy.cast_forward_inputs


def test_plain_bf16_of_a_whole_model_is_still_advised_on() -> None:
    model = make_llama().to(torch.bfloat16)
    bf16 = precision_of("bf16", "auto", lora=False, has_bf16=True)
    assert "of these weights" in precision_note(bf16, TrainerSpec(), model)
