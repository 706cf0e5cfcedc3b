"""Save problems are reported before the first step; weights are saved before anything else."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.precision import precision_of
from kdharness.harness.config.training import SFTConfig
from kdharness.harness.errors import ModelError, RunError
from kdharness.harness.models.generation_config import make_savable
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, Outcome
from kdharness.trainers import saving
from kdharness.trainers.methods.sft import train
from kdharness.trainers.saving import check_room, check_savable, room_needed, saved_bytes
from support.reporters import Listener

VICUNA = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "eos_token_id": 1}


@pytest.fixture
def student(tiny_teacher: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_teacher, tmp_path / "student"))


def sft_config(student: Path, **changes: Any) -> SFTConfig:
    trainer = {"max_steps": 2, "batch_size": 2, **changes.pop("trainer", {})}
    config = parse_config(
        {
            "method": "sft",
            "student": {"model": str(student), **changes},
            "data": {"train": {"path": "shop:validation", "limit": 8}, "max_length": 64},
            "trainer": trainer,
        }
    )
    assert isinstance(config, SFTConfig)
    return config


def train_in_process(config: SFTConfig, paths: Paths) -> tuple[Outcome, Listener]:
    reporter = Listener()
    folder = paths.runs / "r"
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(paths=paths, run="r", folder=folder, reporter=reporter)
    return train(config, job), reporter


# ---------------------------------------------------------------- generation configs


class FakeModel:
    """Stand-in for a model with a generation config."""

    def __init__(self, **values: Any) -> None:
        self.generation_config = GenerationConfig(**values)


def test_options_without_effect_are_removed() -> None:
    model = FakeModel(**VICUNA, length_penalty=2.0, pad_token_id=-1, max_length=77)
    assert make_savable(model) == [
        "temperature=0.9",
        "top_p=0.6",
        "length_penalty=2.0",
        "pad_token_id=-1",
    ]
    model.generation_config.validate(strict=True)
    kept = model.generation_config.to_diff_dict()
    assert kept["eos_token_id"] == 1 and kept["max_length"] == 77


def test_valid_generation_config_is_unchanged() -> None:
    model = FakeModel(do_sample=True, temperature=0.7, top_p=0.9, num_beams=2, length_penalty=0.5)
    before = model.generation_config.to_dict()
    assert make_savable(model) == []
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize(
    "broken",
    [
        {"num_return_sequences": 3},
        {"max_new_tokens": -1},
        {"early_stopping": "maybe"},
        {"cache_implementation": "magic"},
        {"temperature": "hot"},
        {"forced_eos_token_id": 5, "suppress_tokens": [5]},
    ],
)
def test_unfixable_generation_config_keeps_its_token_ids(broken: dict[str, Any]) -> None:
    model = FakeModel(eos_token_id=[1, 7], bos_token_id=3)
    for name, value in broken.items():
        setattr(model.generation_config, name, value)
    dropped = make_savable(model)
    model.generation_config.validate(strict=True)
    assert model.generation_config.eos_token_id == [1, 7]
    assert any(line.startswith(next(iter(broken))) for line in dropped)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_training_survives_an_invalid_generation_config(
    lora: Any, student: Path, paths: Paths
) -> None:
    """Vicuna and Llama 2 ship such configs: training finished, then saving failed."""
    (student / "generation_config.json").write_text(json.dumps(VICUNA), "utf-8")
    config = sft_config(student, lora=lora, trainer={"save_every": 1, "max_steps": 2})
    outcome, reporter = train_in_process(config, paths)
    assert any("dropped" in line and "temperature=0.9" in line for _, line in reporter.said)
    load_model(str(outcome.folder), paths)
    assert load_tokenizer(str(outcome.folder), paths).chat_template
    steps = sorted(path.name for path in (paths.runs / "r").glob("checkpoint-*"))
    assert steps == ["checkpoint-1", "checkpoint-2"]
    assert load_tokenizer(str(paths.runs / "r" / "checkpoint-1"), paths).chat_template


@pytest.mark.slow
def test_cut_and_merged_models_with_invalid_generation_configs_are_saved(
    student: Path, paths: Paths
) -> None:
    from kdharness.harness.config.models import StudentSpec
    from kdharness.trainers.students.adapter import merge_adapter
    from kdharness.trainers.students.folder import read_origin
    from kdharness.trainers.students.start import make_student

    (student / "generation_config.json").write_text(json.dumps(VICUNA), "utf-8")
    spec = StudentSpec.model_validate({"from": str(student), "keep_layers": 2})
    made = make_student(spec, None, paths)
    assert "temperature=0.9" in read_origin(made.path)["generation_config_without"]
    outcome, _ = train_in_process(sft_config(student, lora={"r": 2}), paths)
    merged = merge_adapter(str(outcome.folder), str(paths.home / "merged"), paths)
    load_model(merged, paths)


# ---------------------------------------------------------------- before the first step


def test_unwritable_folder_is_reported(student: Path, paths: Paths) -> None:
    model, tokenizer = load_model(str(student), paths), load_tokenizer(str(student), paths)
    path = paths.home / "a file"
    paths.home.mkdir(parents=True, exist_ok=True)
    path.write_text("", "utf-8")
    with pytest.raises(RunError, match="cannot be saved"):
        check_savable(model, tokenizer, path)


def test_unsavable_tokenizer_is_reported_before_the_first_step(
    student: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerBase

    def fail(*_: Any, **__: Any) -> None:
        raise TypeError("Object of type set is not JSON serializable")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    reporter = Listener()
    folder = paths.runs / "r"
    folder.mkdir(parents=True)
    with pytest.raises(RunError, match="the student's tokenizer cannot be saved") as caught:
        train(sft_config(student), Job(paths=paths, run="r", folder=folder, reporter=reporter))
    assert "not JSON serializable" in caught.value.message and reporter.steps == 0
    assert not (folder / ".trial").exists()


FP32 = precision_of("fp32", "auto", lora=False, has_bf16=False)
Usage = namedtuple("Usage", "total used free")


def test_insufficient_disk_space_is_reported_before_the_first_step(
    student: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(student), paths)
    size = sum(t.nbytes for t in {id(p): p for p in model.parameters()}.values())
    assert saved_bytes(model) == size
    once = room_needed(sft_config(student), model, FP32, paths.home)
    assert size < once < 1.1 * size
    kept = sft_config(student, trainer={"save_every": 5, "keep": 2, "best": "general_loss"})
    # One final and two best checkpoints, and three with weights plus two optimizer moments each.
    assert room_needed(kept, model, FP32, paths.home) == pytest.approx(
        saving.MARGIN * 12 * size, rel=0.01
    )
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: Usage(0, 0, once - 1))
    with pytest.raises(RunError, match=r"the checkpoints need .* GiB are free") as caught:
        check_room(sft_config(student), model, FP32, paths.home)
    assert "prune" in caught.value.hint
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: Usage(0, 0, once))
    check_room(sft_config(student), model, FP32, paths.home)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (size - 1, size - 1))
    with pytest.raises(RunError, match="the file size limit here"):
        check_room(sft_config(student), model, FP32, paths.home)


def test_adapter_checkpoint_needs_space_for_its_own_weights_only(
    student: Path, paths: Paths
) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(str(student), paths), LoraConfig(r=2))
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert saved_bytes(model) == trained


# ---------------------------------------------------------------- at the end


@pytest.mark.slow
def test_weights_are_saved_when_saving_the_tokenizer_fails(
    student: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerBase

    original = PreTrainedTokenizerBase.save_pretrained

    def fail(self: Any, folder: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(folder).name == ".trial":
            return original(self, folder, *args, **kwargs)
        raise OSError(28, os.strerror(28), str(folder))

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    outcome, reporter = train_in_process(sft_config(student), paths)
    assert (outcome.folder / "model.safetensors").stat().st_size > 0
    assert any(
        "but their tokenizer could not be saved" in line and "full" in line
        for _, line in reporter.said
    )


def test_save_that_writes_no_weights_is_an_error(tmp_path: Path) -> None:
    def save_config_only(folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text("{}", "utf-8")

    accelerator = SimpleNamespace(state=SimpleNamespace())
    trainer = SimpleNamespace(
        save_model=save_config_only,
        accelerator=accelerator,
        model=torch.nn.Linear(1, 1),
        state=SimpleNamespace(global_step=1),
    )
    context: Any = SimpleNamespace(job=SimpleNamespace(is_main=True))
    with pytest.raises(RunError, match="no weights were written"):
        saving.save_whole(trainer, context, tmp_path / "final")
    assert not list(tmp_path.iterdir()), "nothing half-made is left"


@pytest.mark.parametrize(
    "broken",
    [
        {"num_return_sequences": 3},
        {"cache_implementation": "magic"},
        {"compile_config": {"a": 1}},
        ["temperature", 1],
    ],
)
def test_invalid_generation_config_is_reported_by_path(
    broken: Any, student: Path, paths: Paths
) -> None:
    """The error blamed the model's folder as possibly incomplete."""
    (student / "generation_config.json").write_text(json.dumps(broken), "utf-8")
    with pytest.raises(ModelError, match="invalid generation config") as caught:
        load_model(str(student), paths)
    assert caught.value.where.endswith("generation_config.json")
    (student / "generation_config.json").write_text("{", "utf-8")
    assert load_model(str(student), paths), "transformers does without such a file"
