"""Two processes (DDP, FSDP2 over gloo on CPU) give the same results as one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdharness.harness import cli
from kdharness.harness.config.models import LoraSpec
from kdharness.harness.models.loading import load_model
from kdharness.harness.models.lora import with_adapter
from kdharness.harness.paths import Paths
from kdharness.harness.runs.log_output import log_tail
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.store import Store
from kdharness.harness.worker import work
from support.engines import COMMON, DDP
from support.training_steps import make_model
from support.waiting import wait_until

pytestmark = pytest.mark.slow

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": DDP,
    "fsdp2": {
        **COMMON,
        "distributed_type": "FSDP",
        "fsdp_config": {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
            "fsdp_state_dict_type": "FULL_STATE_DICT",
            "fsdp_reshard_after_forward": True,
        },
    },
}
SHARDED: dict[str, Any] = {
    **ENGINES["fsdp2"],
    "fsdp_config": {
        **ENGINES["fsdp2"]["fsdp_config"],
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    },
}


def make_config(
    tmp_path: Path, teacher: Path, method: str, accumulation: int, **trainer: Any
) -> str:
    train: list[dict[str, Any]] = [{"path": "general:train", "limit": 24}]
    values: dict[str, Any] = {
        "method": method,
        "student": {"from": str(teacher), "keep_layers": 2},
        "data": {
            "train": train,
            "max_length": 64,
            # Three batches for two processes.
            "heldout": [
                {"path": "general:validation", "limit": 10},
                {"path": "shop:validation", "kind": "domain", "limit": 6},
            ],
        },
        "trainer": {
            "learning_rate": 0.005,
            "max_steps": 3,
            "batch_size": 2,
            "accumulation": accumulation,
            "device": "cpu",
            "optimizer": "sgd",
            **trainer,
        },
    }
    if method == "kd":
        values["teacher"] = str(teacher)
        values["student"] = {"from": "teacher", "keep_layers": 2}
    else:
        values["expert"] = str(teacher)
        train.append({"path": "shop:train", "kind": "domain", "limit": 24})
    path = tmp_path / f"{method}-{accumulation}.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return str(path)


def final_weights(home: Path, name: str) -> dict[str, torch.Tensor]:
    return dict(load_file(home / "runs" / name / "final" / "model.safetensors"))


@pytest.mark.parametrize(("optimizer", "precision"), [("sgd", "fp32"), ("adamw", "bf16-sr")])
def test_killed_sharded_run_resumes(
    optimizer: str,
    precision: str,
    tiny_teacher: Path,
    tmp_path: Path,
    paths: Paths,
    request: pytest.FixtureRequest,
) -> None:
    """Like a single process, two that shard a model resume where they were killed."""
    if precision == "bf16-sr":
        request.getfixturevalue("extras")  # torchao's optimizer
    home = ["--home", str(paths.home)]
    file = tmp_path / "engine.yaml"
    file.write_text(yaml.safe_dump(ENGINES["fsdp2"]), "utf-8")
    config = make_config(tmp_path, tiny_teacher, "kd", 1)
    changes = [f"trainer.optimizer={optimizer}", f"trainer.precision={precision}"]
    changes += ["trainer.save_every=4", "trainer.max_steps=16"]
    options = [part for change in changes for part in ("--set", change)]
    for name in ("calm", "hit"):
        args = [*home, "train", config, *options, "--name", name, "--accelerate", str(file)]
        assert cli.run([*args, *(["--detach"] if name == "hit" else [])]) == 0
    with Store(paths.store) as store:
        wait_until(lambda: find_run(store, "hit").step >= 5)
        for process in psutil.process_iter(["cmdline"]):
            # Those of this run, its launcher's too: a forked worker ends with its stand-in.
            if {str(paths.home), "hit"} <= set(process.info["cmdline"] or ()):
                process.kill()
        wait_until(lambda: not effective_status(find_run(store, "hit")).is_live)
    assert cli.run([*home, "resume", "hit"]) == 0, log_tail(paths, "hit", 40)
    assert "resuming from checkpoint-" in log_tail(paths, "hit", 2000)
    calm, hit = final_weights(paths.home, "calm"), final_weights(paths.home, "hit")
    assert all(torch.equal(calm[key], hit[key]) for key in calm)
    with Store(paths.store) as store:
        assert store.curve("calm", "loss") == store.curve("hit", "loss")


@pytest.mark.parametrize("method", ["kd", "dae"])
def test_two_processes_match_a_single_process(
    method: str, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    home = ["--home", str(paths.home)]
    single_config = make_config(tmp_path, tiny_teacher, method, 4)
    # Without the padding of the single process, in the same micro-batches.
    packed = {"packing": True, "length_groups": "micro-batch"}
    double_config = make_config(tmp_path, tiny_teacher, method, 2, **packed)
    assert cli.run([*home, "train", single_config, "--name", "one"]) == 0
    want = final_weights(paths.home, "one")
    parts = ("loss", "kl", "general_loss", "domain_loss")
    with Store(paths.store) as store:
        curves = {part: store.curve("one", part) for part in parts}
    # The final model is saved unsharded, however checkpoints are saved.
    sharded = {"shards": SHARDED} if method == "kd" else {}
    for name, engine in {**ENGINES, **sharded}.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(engine), "utf-8")
        code = cli.run([*home, "train", double_config, "--name", name, "--accelerate", str(file)])
        assert code == 0, log_tail(paths, name, 30)
        engines = {"ddp": "MULTI_CPU", "fsdp2": "FSDP", "shards": "FSDP"}
        assert f"distributed: {engines[name]}, 2 processes" in log_tail(paths, name, 60)
        got = final_weights(paths.home, name)
        # A gathered state dict has the tied head under both names; they must still be equal.
        head = got.pop("lm_head.weight", None)
        assert head is None or torch.equal(head, got["model.embed_tokens.weight"])
        assert set(got) == set(want)
        for key, value in want.items():
            assert torch.allclose(got[key], value, rtol=1e-4, atol=2e-5), (name, key)
        with Store(paths.store) as store:
            for part, curve in curves.items():
                assert [value for _, value in store.curve(name, part)] == pytest.approx(
                    [value for _, value in curve], rel=1e-4
                ), (name, part)
            assert store.run(name) is not None
            assert len([run for run in store.runs() if run.id == name]) == 1


def lora_config(
    tmp_path: Path, teacher: Path, method: str, precision: str, accumulation: int
) -> str:
    path = Path(make_config(tmp_path, teacher, method, accumulation))
    values = yaml.safe_load(path.read_text("utf-8"))
    values["student"] = {"model": str(teacher), "lora": {"r": 4}}
    values["trainer"] |= {"precision": precision, "learning_rate": 0.05}
    if method == "sft":
        del values["expert"]
        values["data"]["train"] = values["data"]["train"][:1]
    if method == "dae":
        # An adapter of the student's own base, so that one copy serves all three models.
        values["expert"] = str(tmp_path / "home" / "runs" / "expert" / "final")
    path.write_text(yaml.safe_dump(values), "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("method", "engine", "precision"),
    [
        ("sft", "fsdp2", "fp32"),
        ("kd", "fsdp2", "fp32"),
        ("dae", "ddp", "fp32"),
        ("dae", "fsdp2", "mixed"),
    ],
)
def test_two_processes_train_the_same_adapter(
    method: str, engine: str, precision: str, tiny_teacher: Path, tmp_path: Path
) -> None:
    """With FSDP2 the shared base is sharded: its teachers gather it along with the student."""
    paths = Paths(tmp_path / "home")
    home = ["--home", str(paths.home)]
    file = tmp_path / "engine.yaml"
    file.write_text(yaml.safe_dump(ENGINES[engine]), "utf-8")
    if method == "dae":
        expert = lora_config(tmp_path, tiny_teacher, "sft", "fp32", 1)
        assert cli.run([*home, "train", expert, "--name", "expert"]) == 0
    single = lora_config(tmp_path, tiny_teacher, method, precision, 4)
    assert cli.run([*home, "train", single, "--name", "single"]) == 0
    double = lora_config(tmp_path, tiny_teacher, method, precision, 2)
    code = cli.run([*home, "train", double, "--name", "double", "--accelerate", str(file)])
    assert code == 0, log_tail(paths, "double", 30)
    want, got = (
        load_file(paths.home / "runs" / name / "final" / "adapter_model.safetensors")
        for name in ("single", "double")
    )
    assert set(got) == set(want) and any(float(value.abs().max()) > 1e-3 for value in want.values())
    exact = precision == "fp32"
    for key, value in want.items():
        rtol, atol = (1e-3, 2e-5) if exact else (0.1, 2e-3)
        assert torch.allclose(got[key], value, rtol=rtol, atol=atol), key
    with Store(paths.store) as store:
        for part in ("loss", "ce" if method == "sft" else "kl"):
            assert [value for _, value in store.curve("double", part)] == pytest.approx(
                [value for _, value in store.curve("single", part)], rel=1e-3 if exact else 0.02
            )


def test_a_reference_that_teaches_no_row_is_sharded_too(
    tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    """Without general rows it only scores what is not the target of domain rows."""
    file = tmp_path / "engine.yaml"
    file.write_text(yaml.safe_dump(ENGINES["fsdp2"]), "utf-8")
    for name, accumulation in (("single", 4), ("double", 2)):
        config = Path(
            make_config(
                tmp_path, tiny_teacher, "dae", accumulation, non_target_weight=0.5, max_steps=2
            )
        )
        values = yaml.safe_load(config.read_text("utf-8"))
        values["data"] = {"train": values["data"]["train"][1:], "max_length": 64}
        config.write_text(yaml.safe_dump(values), "utf-8")
        engine = ["--accelerate", str(file)] if name == "double" else []
        args = ["--home", str(paths.home), "train", str(config), "--name", name, *engine]
        assert cli.run(args) == 0, log_tail(paths, name, 30)
    with Store(paths.store) as store:
        for part in ("loss", "non_target"):
            single, double = (store.curve(name, part) for name in ("single", "double"))
            assert double == [(step, pytest.approx(value, rel=1e-2)) for step, value in single]
        runs = store.checkpoint("single"), store.checkpoint("double")
    # Shapes of a sharded model would be those of a process's part.
    assert len({run.info["flops"] for run in runs if run is not None}) == 1
    with Store(paths.store) as store:
        trained = store.run("single"), store.run("double")
    assert [run.info.get("processes") for run in trained if run is not None] == [1, 2]


def test_two_processes_fill_one_cache_of_hidden_states(
    tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    """In the second epoch each finds what the other stored; the head is theirs together."""
    values = yaml.safe_load(Path(make_config(tmp_path, tiny_teacher, "kd", 2)).read_text("utf-8"))
    values["data"] |= {"train": [{"path": "general:train", "limit": 8}], "max_length": 96}
    values["trainer"] |= {"attention_weight": 0, "epochs": 3, "max_steps": None}
    for name, cache in (("single", None), ("double", {"kind": "hidden", "dtype": "float32"})):
        file, teacher = tmp_path / f"{name}.yaml", {"model": str(tiny_teacher)}
        values["teacher"] = {**teacher, "cache": cache} if cache else teacher
        values["trainer"]["accumulation"] = 2 if cache else 4
        file.write_text(yaml.safe_dump(values), "utf-8")
        args = ["--home", str(paths.home), "train", str(file), "--name", name]
        if not cache:
            assert cli.run([*args, "--prepare"]) == work(paths, name, resume=False) == 0
            continue
        engine = tmp_path / "engine.yaml"
        engine.write_text(yaml.safe_dump(ENGINES["fsdp2"]), "utf-8")
        code = cli.run([*args, "--accelerate", str(engine)])
        assert code == 0, log_tail(paths, name, 30)
    (folder,) = paths.cache.iterdir()
    assert {file.name for file in folder.glob("data-*")} == {"data-0.bin", "data-1.bin"}
    lines = [file.read_text("utf-8").splitlines() for file in folder.glob("index-*.jsonl")]
    keys = [json.loads(line)[0] for file in lines for line in file]
    assert len(keys) == len(set(keys)) == 8
    want, got = final_weights(paths.home, "single"), final_weights(paths.home, "double")
    for key, value in want.items():
        assert torch.allclose(got[key], value, rtol=1e-4, atol=2e-5), key


LOAD = """
import json, sys
import torch
from accelerate import PartialState
from pathlib import Path
from torch.distributed.tensor import DTensor
from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.paths import Paths
from kdharness.trainers.teachers import build
from kdharness.trainers.data.layout import layout_of
from kdharness.trainers.teachers.online import OnlineTeacher

state = PartialState(cpu=True)
home, folders = sys.argv[1], sys.argv[2:]

class Setting:
    device = "cpu"
    class job:
        world, paths = state.num_processes, Paths(Path(home))

build.hold = lambda *_, **__: None
Setting.train = Setting.tokenizer = None
Setting.config = type("Config", (), {"data": None, "trainer": TrainerSpec()})
for folder in folders:
    model = build.load_frozen(TeacherSpec(model=folder), Setting, shard=True)
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())
    teacher = OnlineTeacher(model)
    teacher.shard()
    batch = {
        "input_ids": torch.arange(3, 15)[None],
        "attention_mask": torch.ones(1, 12, dtype=torch.long),
        "labels": torch.full((1, 12), -100),
        "kind": torch.zeros(1, dtype=torch.long),
    }
    batch["labels"][0, 6:10] = 1
    batch["layout"] = layout_of(batch)
    head, hidden = teacher.targets_for(batch, batch["layout"].every, None)
    logits = (hidden @ head.weight.T).flatten().tolist()
    with open(f"{folder}-{state.process_index}.json", "w") as stream:
        json.dump({"held": held, "logits": logits[:200]}, stream)
"""


def test_each_process_loads_its_shard_of_a_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs are those of the whole model; an adapter is merged before it is sharded."""
    models = {
        "llama": make_model(1, "llama"),
        "tied": make_model(1, tie_word_embeddings=True),
        "mixtral": make_model(1, "mixtral"),
    }
    for family, model in models.items():
        model.save_pretrained(tmp_path / family)
    base = str(tmp_path / "llama")
    adapted = with_adapter(load_model(base, Paths(tmp_path)), LoraSpec(r=2), base)
    for value in adapted.parameters():
        value.data += 0.05 * torch.randn_like(value) * value.requires_grad
    adapted.save_pretrained(tmp_path / "adapter")
    models["adapter"] = load_model(str(tmp_path / "adapter"), Paths(tmp_path))
    script = tmp_path / "load.py"
    script.write_text(LOAD, "utf-8")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    folders = [str(tmp_path / family) for family in models]
    subprocess.run(
        [sys.executable, *launch, str(script), str(tmp_path), *folders],
        check=True,
        capture_output=True,
        timeout=120,
    )
    for family, whole in models.items():
        with torch.no_grad():
            logits = whole(torch.arange(3, 15)[None]).logits[0, 5:9].flatten()[:200]
        size = sum(value.numel() for value in whole.parameters())
        for rank in (0, 1):
            got = json.loads((tmp_path / f"{family}-{rank}.json").read_text("utf-8"))
            assert torch.allclose(torch.tensor(got["logits"]), logits, atol=1e-4), family
            held = size if family == "adapter" else pytest.approx(size / 2, rel=0.05)
            assert got["held"] == held, family
