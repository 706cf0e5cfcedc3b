"""Every adapter type gives the same logits as in training, or is rejected by its type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from kdharness.harness.errors import ModelError
from kdharness.harness.models.loading import check_adapter, load_model
from kdharness.harness.paths import Paths
from kdharness.trainers.students.adapter import merge_adapter
from support.models import make_llama, make_tokenizer

IDS = torch.tensor([[5, 9, 33, 7, 61]])
TASK = "CAUSAL_LM"


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def lora_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_llama(folder, tie_word_embeddings=request.param)
    return folder


def random_adapter(lora_base: Path, folder: Path, config: Any) -> torch.Tensor:
    """Save an adapter with random weights; return the logits of the adapted model."""
    model = load_model(str(lora_base), Paths(folder.parent / "h"), device="cpu", dtype="float32")
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(3)
    with torch.no_grad():
        for value in adapted.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.05)
        logits: torch.Tensor = adapted.eval()(IDS).logits
    adapted.save_pretrained(folder)
    make_tokenizer(folder)
    return logits


def lora(*targets: str, **more: Any) -> Any:
    return peft.LoraConfig(target_modules=["q_proj", *targets], task_type=TASK, **more)


KINDS = {
    "embedding": lambda: lora("embed_tokens"),
    "head": lambda: lora("lm_head"),
    "both": lambda: lora("embed_tokens", "lm_head"),
    "both tied": lambda: lora("embed_tokens", ensure_weight_tying=True),
    "dora head": lambda: lora("lm_head", use_dora=True),
    "rslora": lambda: lora(use_rslora=True),
    "saved embedding": lambda: lora(modules_to_save=["embed_tokens"]),
    "saved head": lambda: lora(modules_to_save=["lm_head"]),
    "saved both": lambda: lora(modules_to_save=["embed_tokens", "lm_head"]),
    "tokens": lambda: lora(trainable_token_indices={"embed_tokens": [5, 9]}),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj"], feedforward_modules=[], task_type=TASK
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_loaded_and_merged_adapter_keep_the_training_logits(
    kind: str, lora_base: Path, tmp_path: Path, paths: Paths
) -> None:
    """Merging a LoRA on one of two tied weights used to change the other."""
    folder, merged = tmp_path / "adapter", tmp_path / "merged"
    logits = random_adapter(lora_base, folder, KINDS[kind]())
    check_adapter(folder, str(folder), paths)
    merge_adapter(str(folder), str(merged), paths)
    with torch.no_grad():
        for source in (folder, merged):
            model = load_model(str(source), paths, device="cpu", dtype="float32")
            assert torch.allclose(model(IDS).logits, logits, atol=1e-4), source.name


@pytest.mark.slow
def test_adapter_that_cannot_be_built_on_meta_tensors_is_accepted(
    lora_beside_base: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BOFT calls Tensor.item() on construction, yet it loads correctly."""

    def fail_on_meta(*_: Any) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(peft, "get_peft_model", fail_on_meta)
    check_adapter(lora_beside_base, str(lora_beside_base), paths)


def edit_adapter_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


@pytest.fixture
def lora_beside_base(tmp_path: Path) -> Path:
    """Create a LoRA adapter beside its base model."""
    make_llama(tmp_path / "base")
    random_adapter(tmp_path / "base", tmp_path / "adapter", lora())
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (peft.PromptTuningConfig(num_virtual_tokens=4, task_type=TASK), "a PROMPT_TUNING adapter"),
        (peft.PrefixTuningConfig(num_virtual_tokens=4, task_type=TASK), "a PREFIX_TUNING adapter"),
    ],
)
def test_prompt_tuning_adapters_are_rejected_by_type(
    config: Any, message: str, tmp_path: Path, paths: Paths
) -> None:
    """The error used to suggest that the adapter belongs to another base model."""
    make_llama(tmp_path / "base")
    folder = tmp_path / "adapter"
    model = load_model(str(tmp_path / "base"), paths, device="cpu")
    peft.get_peft_model(model, config).save_pretrained(folder)
    for load in (load_model, lambda source, paths: check_adapter(Path(source), source, paths)):
        with pytest.raises(ModelError, match=f"{message} does not change the model's weights"):
            load(str(folder), paths)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "NEWLORA"}, "unknown peft_type 'NEWLORA'"),
        ({"peft_type": None}, "unknown peft_type ''"),
        ({"alora_invocation_tokens": [1, 2]}, "an activated LoRA"),
        ({"target_modules": ["nothere"]}, "could not load the adapter .*nothere"),
        ({"r": 2}, "could not load the adapter .*size mismatch"),
    ],
)
def test_adapter_check_finds_errors_without_loading_weights(
    changes: dict[str, Any], message: str, lora_beside_base: Path, paths: Paths
) -> None:
    edit_adapter_config(lora_beside_base, **changes)
    with pytest.raises(ModelError, match=message):
        check_adapter(lora_beside_base, str(lora_beside_base), paths)
    with pytest.raises(ModelError):
        load_model(str(lora_beside_base), paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../base", "../base/", "BASE/", "BASE"])
def test_base_path_relative_to_the_adapter(
    name: str, lora_beside_base: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lora_beside_base.parents[1])
    edit_adapter_config(
        lora_beside_base,
        base_model_name_or_path=name.replace("BASE", str(lora_beside_base.parent / "base")),
    )
    check_adapter(lora_beside_base, str(lora_beside_base), paths)
    assert load_model(str(lora_beside_base), paths, device="cpu")


def test_trailing_slash_is_not_part_of_a_hub_id(lora_beside_base: Path, paths: Paths) -> None:
    edit_adapter_config(lora_beside_base, base_model_name_or_path="somebody/model/", revision=None)
    with pytest.raises(ModelError, match="somebody/model is not in the local cache"):
        load_model(str(lora_beside_base), paths)


def test_cyclic_adapter_base_is_rejected(lora_beside_base: Path, paths: Paths) -> None:
    """It used to end in a RecursionError, reported as a damaged header."""
    edit_adapter_config(lora_beside_base, base_model_name_or_path=str(lora_beside_base))
    for load in (load_model, lambda source, paths: check_adapter(Path(source), source, paths)):
        with pytest.raises(ModelError, match="is one its own base model"):
            load(str(lora_beside_base), paths)
