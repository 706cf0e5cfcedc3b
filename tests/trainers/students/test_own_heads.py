"""Heads apart from their embedding under a config, or a base, that says they are one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from kdharness.harness.models.lm_head import has_own_head
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.trainers.layers import cut_model
from kdharness.trainers.students.mixture import mix_models
from support.commands import CommandLine
from support.files import WriteRows
from support.models import make_llama, make_tokenizer

IDS = torch.arange(5, 35).view(3, 10)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a tied model's folder."""
    make_llama(tmp_path / "base", tie_word_embeddings=True)
    return tmp_path / "base"


def two_matrices(base: Path, folder: Path, home: Paths) -> Path:
    """Save a model with a head of its own, under a config that says that it is tied."""
    model = load_model(str(base), home, device="cpu")
    torch.manual_seed(3)
    head = model.get_input_embeddings().weight.detach() + torch.randn(1)
    model.get_output_embeddings().weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    make_tokenizer(folder)
    config = folder / "config.json"
    values = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**values, "tie_word_embeddings": True}), "utf-8")
    return folder


def with_head_adapter(base: Path, folder: Path, home: Paths, kind: str) -> Path:
    """Save an adapter that has a head of its own: a copy of it, of both, or a LoRA on it."""
    settings: dict[str, Any] = {
        "head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        "both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        "LoRA": {"target_modules": ["q_proj", "lm_head"]},
    }[kind]
    model = load_model(str(base), home, device="cpu")
    lora = LoraConfig(r=4, init_lora_weights=False, base_model_name_or_path=str(base), **settings)
    adapted = get_peft_model(model, lora)
    torch.manual_seed(4)
    for name, value in adapted.named_parameters():
        if "lm_head.modules_to_save" in name:
            value.data = value.data + torch.randn_like(value)
    adapted.save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def made(kind: str, base: Path, home: Paths) -> Path:
    folder = base.parent / "own"
    if kind == "two matrices":
        return two_matrices(base, folder, home)
    return with_head_adapter(base, folder, home, kind)


KINDS = ["two matrices", "head", "both", "LoRA"]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "recipe",
    [
        {"kind": "task-arithmetic", "reference": "BASE", "models": ["OWN"]},
        {"kind": "ties", "reference": "BASE", "models": ["OWN"], "density": 1.0},
        {"kind": "wise-ft", "reference": "BASE", "expert": "OWN", "alphas": [0.5]},
        {"kind": "average", "models": ["BASE", "OWN"]},
        {"kind": "average", "models": ["OWN", "BASE"]},
    ],
    ids=lambda recipe: f"{recipe['kind']}-{recipe.get('models', [''])[0]}",
)
def test_a_merge_keeps_a_head_that_the_first_model_shares_with_its_embedding(
    base: Path, paths: Paths, kd: CommandLine, kind: str, recipe: dict[str, Any]
) -> None:
    """The merged head was the merged embedding, without a word."""
    own = made(kind, base, paths)
    text = json.dumps({"method": "merge", "name": "m", **recipe})
    file = base.parent / "merge.yaml"
    file.write_text(text.replace("BASE", str(base)).replace("OWN", str(own)), "utf-8")
    code, _, err = kd("merge", str(file))
    assert code == 0, err
    theirs, first = (load_model(str(f), paths, device="cpu") for f in (own, base))
    head = theirs.get_output_embeddings().weight
    half = (head + first.get_output_embeddings().weight) / 2
    if recipe["kind"] in ("average", "wise-ft"):
        expected = {"m": half}
    else:
        expected = {"m": head}
    for name, weight in expected.items():
        merged = load_model(name, paths, device="cpu")
        found = merged.get_output_embeddings().weight
        assert torch.allclose(found, weight, atol=1e-5), name
        assert has_own_head(merged) and not merged.config.tie_word_embeddings
        if weight is head:
            assert torch.allclose(logits(merged), logits(theirs), atol=1e-4)


def test_tied_models_stay_tied_when_merged(base: Path, paths: Paths, kd: CommandLine) -> None:
    make_llama(base.parent / "other", seed=5, tie_word_embeddings=True)
    file = base.parent / "merge.yaml"
    models = [str(base), str(base.parent / "other")]
    file.write_text(
        json.dumps({"method": "merge", "name": "m", "kind": "average", "models": models})
    )
    assert kd("merge", str(file))[0] == 0
    merged = load_model(str(paths.run("m") / "final"), paths, device="cpu")
    assert not has_own_head(merged) and merged.config.tie_word_embeddings


@pytest.mark.parametrize("kind", KINDS)
def test_experts_of_a_model_with_its_own_head_reproduce_it(
    base: Path, paths: Paths, tmp_path: Path, kind: str
) -> None:
    model = load_model(str(made(kind, base, paths)), paths, device="cpu")
    mixture = mix_models([model])
    assert torch.allclose(logits(mixture), logits(model), atol=1e-4)
    mixture.save_pretrained(tmp_path / "mixture")
    again = load_model(str(tmp_path / "mixture"), paths, device="cpu")
    assert torch.allclose(logits(again), logits(model), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_keeps_a_models_own_head(base: Path, paths: Paths, tmp_path: Path, kind: str) -> None:
    model = load_model(str(made(kind, base, paths)), paths, device="cpu")
    cut, _ = cut_model(model, [0, 3])
    cut.save_pretrained(tmp_path / "cut")
    again = load_model(str(tmp_path / "cut"), paths, device="cpu")
    assert torch.equal(again.get_output_embeddings().weight, cut.get_output_embeddings().weight)
    assert torch.allclose(logits(again), logits(cut), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_of_an_adapters_checkpoint_can_be_trained(
    base: Path, paths: Paths, write_jsonl: WriteRows, kd: CommandLine, kind: str
) -> None:
    """peft's weights stay frozen when they are merged: the first step failed."""
    own = made(kind, base, paths)
    rows = [{"prompt": f"Say {n}.", "completion": f"It is {n}."} for n in range(8)]
    config = {
        "method": "sft",
        "name": "t",
        "student": str(own),
        "data": {"train": str(write_jsonl("rows.jsonl", rows))},
        "trainer": {"max_steps": 2, "batch_size": 2, "learning_rate": 0.01, "device": "cpu"},
    }
    file = base.parent / "train.yaml"
    file.write_text(json.dumps(config), "utf-8")
    code, _, err = kd("train", str(file))
    assert code == 0, err
    before = load_model(str(own), paths, device="cpu").state_dict()
    after = load_model("t", paths, device="cpu").state_dict()
    assert set(before) == set(after)
    unchanged = [name for name in after if torch.equal(before[name], after[name])]
    assert unchanged == []
    assert not torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
