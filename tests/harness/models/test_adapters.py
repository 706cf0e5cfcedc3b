"""An adapter loads completely, on the base it names, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdharness.harness.config.models import StudentSpec
from kdharness.harness.errors import ModelError
from kdharness.harness.models.loading import (
    check_adapter,
    load_config_of,
    load_model,
    load_tokenizer,
)
from kdharness.harness.paths import Paths
from kdharness.trainers.students.start import make_student
from support.adapters import make_adapter, rename
from support.models import make_llama

IDS = torch.tensor([[5, 9, 33, 7, 61]])


@pytest.fixture
def adapter(tiny_teacher: Path, tmp_path: Path) -> Path:
    return make_adapter(tiny_teacher, tmp_path / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda k: k.replace(".model.model.", ".model._orig_mod.model."), "'_orig_mod.'"),
        (lambda k: k.replace(".model.model.", ".model.module.model."), "'module.'"),
        (lambda k: k.replace(".model.model.", ".model.model.language_model."), "this base"),
        (lambda k: k.replace("layers.1.", "layers.9."), "this base"),
        (lambda k: k.replace("lora_A.weight", "lora_A.other.weight"), "this base"),
        (lambda k: k.removeprefix("base_model.model."), "this base"),
    ],
    ids=["compiled", "parallel", "vision", "layer", "named", "prefix"],
)
def test_adapter_tensors_that_do_not_load_are_rejected(
    change: Callable[[str], str], hint: str, adapter: Path, paths: Paths
) -> None:
    """peft leaves such tensors at their initial values, so the adapter would equal its base."""
    rename(adapter, change)
    with pytest.raises(ModelError, match=r"adapter tensors are missing, first ") as caught:
        load_model(str(adapter), paths)
    assert hint in caught.value.hint
    assert caught.value.where.endswith("adapter_model.safetensors")


def test_missing_and_extra_adapter_tensors(adapter: Path, paths: Paths) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != first}, path)
    with pytest.raises(ModelError, match="1 adapter tensors are missing"):
        load_model(str(adapter), paths)
    extra = first.replace("q_proj", "v_proj")
    save_file({**tensors, extra: tensors[first].clone()}, path)
    with pytest.raises(ModelError, match="1 tensors of its file do not match"):
        load_model(str(adapter), paths)


def test_complete_adapter_loads(adapter: Path, tiny_teacher: Path, paths: Paths) -> None:
    with torch.no_grad():
        adapted, base = load_model(str(adapter), paths), load_model(str(tiny_teacher), paths)
        assert float((adapted(IDS).logits - base(IDS).logits).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("/home/somebody/train/base-model", "no model named"),
        ("somebody/base-model", "somebody/base-model is not in the local cache"),
        ("", "does not name its base model"),
        (None, "does not name its base model"),
    ],
)
def test_missing_base_error_names_the_base_and_the_adapter_config(
    base: str | None, message: str, adapter: Path, paths: Paths
) -> None:
    path = adapter / "adapter_config.json"
    config = {**json.loads(path.read_text("utf-8")), "base_model_name_or_path": base}
    path.write_text(json.dumps(config), "utf-8")
    for load in (load_model, load_config_of):
        with pytest.raises(ModelError) as caught:
            load(str(adapter), paths)
        error_text = str(caught.value)
        assert message in error_text and "base_model_name_or_path" in error_text
        assert "adapter_config.json" in error_text


def test_adapter_with_mismatched_shapes_is_reported(adapter: Path, tmp_path: Path) -> None:
    """The first line of peft's error does not name a tensor; later lines do."""
    paths = Paths(tmp_path / "home")
    bigger = tmp_path / "bigger"
    make_llama(bigger, seed=1, tie_word_embeddings=True, hidden_size=64)
    path = adapter / "adapter_config.json"
    config = {**json.loads(path.read_text("utf-8")), "base_model_name_or_path": str(bigger)}
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=r"size mismatch for .*q_proj.*lora_A") as caught:
        load_model(str(adapter), paths)
    assert "another shape" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": ["nosuch"]}, "was this adapter trained on this base model?"),
        ({"peft_type": "NOSUCH"}, "unknown peft_type 'NOSUCH'"),
        ({"base_model_name_or_path": "ITSELF"}, "is one its own base model?"),
    ],
    ids=["modules", "kind", "itself"],
)
def test_adapter_config_that_does_not_match_the_base(
    change: dict[str, Any], message: str, adapter: Path, paths: Paths
) -> None:
    """peft reports only the missing key, and a cyclic chain of bases never terminated."""
    path = adapter / "adapter_config.json"
    changed = {k: str(adapter) if v == "ITSELF" else v for k, v in change.items()}
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changed}), "utf-8")
    with pytest.raises(ModelError) as caught:
        check_adapter(adapter, str(adapter), paths)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("config.json", '"llama"', '"llama99"', "pip install --upgrade transformers"),
        ("config.json", '"silu"', '"nosuch"', "unknown key 'nosuch'"),
        ("tokenizer.json", '"BPE"', '"NewKind"', "pip install --upgrade tokenizers"),
    ],
    ids=["architecture", "activation", "tokenizer"],
)
def test_model_newer_than_the_libraries_names_the_upgrade(
    file: str, old: str, new: str, message: str, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    folder = Path(shutil.copytree(tiny_teacher, tmp_path / "model"))
    text = (folder / file).read_text("utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(folder), paths) if "tok" in file else load_model(str(folder), paths)
    assert message in str(caught.value)


@pytest.mark.slow
def test_adapter_on_an_adapter_applies_both(
    adapter: Path, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    """Train a LoRA on a LoRA checkpoint: its config must not name the first one's base."""
    spec = StudentSpec.model_validate({"model": str(adapter), "lora": {"r": 2}})
    start = make_student(spec, None, paths)
    with torch.no_grad():
        merged = load_model(start.path, paths)(IDS).logits
        first = load_model(str(adapter), paths)(IDS).logits
        assert torch.allclose(merged, first, atol=1e-5)
        second = make_adapter(Path(start.path), tmp_path / "second", seed=4)
        stacked = load_model(str(second), paths)(IDS).logits
    base = json.loads((second / "adapter_config.json").read_text("utf-8"))
    assert base["base_model_name_or_path"] == start.path
    assert float((stacked - first).abs().max()) > 0.1
    assert make_student(spec, None, paths).id == start.id
    # An adapter may also name another adapter directly as its base.
    chained = Path(shutil.copytree(second, tmp_path / "chained"))
    config = {**base, "base_model_name_or_path": str(adapter)}
    (chained / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    with torch.no_grad():
        assert torch.allclose(load_model(str(chained), paths)(IDS).logits, stacked, atol=1e-5)
