"""LoRA through the CLI: expert adapter, DAE on a shared base, merging; named experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.harness.runs.log_output import log_tail
from kdharness.harness.store import Store
from support.commands import CommandLine

pytestmark = pytest.mark.slow

GENERAL = {"path": "general:train", "limit": 12}
SHOP = {"path": "shop:train", "kind": "domain", "limit": 12}
Train = Callable[..., int]
IDS = torch.tensor([[5, 9, 33, 7, 61]])


@pytest.fixture
def train(kd: CommandLine, tmp_path: Path) -> Train:
    """Run `kdharness train` on a config with the given values; return its exit code."""

    def run_train(**values: Any) -> int:
        values = {"trainer": {"learning_rate": 0.01, "max_steps": 3, "batch_size": 4}, **values}
        path = tmp_path / f"{values['name']}.yaml"
        path.write_text(yaml.safe_dump(values), "utf-8")
        return kd("train", str(path))[0]

    return run_train


def test_dae_with_adapters_on_a_shared_base(
    train: Train, kd: CommandLine, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    student = {"model": str(tiny_teacher), "lora": {"r": 4}}
    shop = {"train": SHOP, "max_length": 64}
    assert train(method="sft", name="expert", student=student, data=shop) == 0
    folder = paths.run("expert") / "final"
    assert (folder / "adapter_model.safetensors").exists()
    assert not (folder / "model.safetensors").exists()
    mixed = {"train": [GENERAL, SHOP], "domain_share": 0.5, "max_length": 64}
    for checkpointing in (False, True):
        name = f"dae-{checkpointing}".lower()
        trainer = {
            "learning_rate": 0.01,
            "max_steps": 3,
            "batch_size": 4,
            "gradient_checkpointing": checkpointing,
        }
        code = train(
            method="dae", name=name, student=student, expert="expert", data=mixed, trainer=trainer
        )
        assert code == 0, log_tail(paths, name, 20)
    with Store(paths.store) as store:
        curves = [store.curve(name, "loss") for name in ("dae-false", "dae-true")]
        checkpoint = store.checkpoint("dae-true")
        expert, base = store.checkpoint("expert"), store.checkpoint("tiny-teacher")
    assert [v for _, v in curves[0]] == pytest.approx([v for _, v in curves[1]], rel=1e-4)
    assert checkpoint is not None and expert is not None and base is not None
    assert checkpoint.parents == {"student": base.id, "reference": base.id, "expert": expert.id}
    merged = tmp_path / "merged"
    assert kd("merge-adapter", "dae-true", str(merged))[0] == 0
    plain, adapted = load_model(str(merged), paths), load_model("dae-true", paths)
    assert torch.allclose(plain(IDS).logits, adapted(IDS).logits, atol=1e-5)
    assert not torch.allclose(plain(IDS).logits, load_model(str(tiny_teacher), paths)(IDS).logits)
    assert kd("merge-adapter", "dae-true", str(merged))[0] == 2
    assert kd("merge-adapter", str(tiny_teacher), str(tmp_path / "x"))[0] == 1


def test_named_experts_teach_their_own_rows(
    train: Train, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    rows = tmp_path / "tagged.jsonl"
    line = '{{"prompt": "Clause {0}?", "completion": "Yes, {0}.", "expert": "law"}}\n'
    rows.write_text("".join(line.format(i) for i in range(8)), "utf-8")
    data = {
        "train": [GENERAL, SHOP, {"path": str(rows), "kind": "law"}],
        "domain_share": 0.5,
        "max_length": 64,
    }
    code = train(
        method="dae",
        name="two",
        student=str(tiny_teacher),
        expert=str(tiny_teacher),
        experts={"law": str(tiny_teacher)},
        data=data,
    )
    assert code == 0
    with Store(paths.store) as store:
        checkpoint = store.checkpoint("two")
    assert checkpoint is not None
    assert set(checkpoint.parents) == {"student", "reference", "expert", "expert law"}
    assert set(checkpoint.info["shares"]) == {"general", "domain", "law"}
    assert checkpoint.info["shares"]["law"] == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("kind", ["default", "v1.5", "lora", "q_proj"])
def test_an_experts_name_is_not_taken_for_an_adapters(
    kind: str, train: Train, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    """An expert called default was loaded into the student's own adapter, and taught itself."""
    lora = {"model": str(tiny_teacher), "lora": {"r": 4}}
    sft = {"train": [SHOP], "max_length": 64}
    assert train(method="sft", name="own", student=lora, data=sft) == 0
    code = train(
        method="dae",
        name="dae",
        student=lora,
        experts={kind: "own"},
        data={"train": [GENERAL, {**SHOP, "kind": kind}], "max_length": 64},
    )
    assert code == 0, log_tail(paths, "dae", 20)
    assert "nothing is left to distil" not in log_tail(paths, "dae", 200)
