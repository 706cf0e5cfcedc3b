"""What cannot be saved is found before the first step; weights are safe before anything else."""

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


def sft(student: Path, **changes: Any) -> SFTConfig:
    trainer = {"max_steps": 2, "batch_size": 2, **changes.pop("trainer", {})}
    made = parse_config(
        {
            "method": "sft",
            "student": {"model": str(student), **changes},
            "data": {"train": {"path": "shop:validation", "limit": 8}, "max_length": 64},
            "trainer": trainer,
        }
    )
    assert isinstance(made, SFTConfig)
    return made


def train_here(config: SFTConfig, paths: Paths) -> tuple[Outcome, Listener]:
    reporter = Listener()
    folder = paths.runs / "r"
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(paths=paths, run="r", folder=folder, reporter=reporter)
    return train(config, job), reporter


# ---------------------------------------------------------------- generation configs


class Holder:
    """Something with a generation config."""

    def __init__(self, **values: Any) -> None:
        self.generation_config = GenerationConfig(**values)


def test_what_has_no_effect_is_taken_out() -> None:
    holder = Holder(**VICUNA, length_penalty=2.0, pad_token_id=-1, max_length=77)
    assert make_savable(holder) == [
        "temperature=0.9",
        "top_p=0.6",
        "length_penalty=2.0",
        "pad_token_id=-1",
    ]
    holder.generation_config.validate(strict=True)
    kept = holder.generation_config.to_diff_dict()
    assert kept["eos_token_id"] == 1 and kept["max_length"] == 77


def test_a_sound_config_is_left_alone() -> None:
    holder = Holder(do_sample=True, temperature=0.7, top_p=0.9, num_beams=2, length_penalty=0.5)
    before = holder.generation_config.to_dict()
    assert make_savable(holder) == []
    assert holder.generation_config.to_dict() == before


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
def test_one_beyond_repair_keeps_its_token_ids(broken: dict[str, Any]) -> None:
    holder = Holder(eos_token_id=[1, 7], bos_token_id=3)
    for name, value in broken.items():
        setattr(holder.generation_config, name, value)
    dropped = make_savable(holder)
    holder.generation_config.validate(strict=True)
    assert holder.generation_config.eos_token_id == [1, 7]
    assert any(line.startswith(next(iter(broken))) for line in dropped)


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_students_invalid_config_costs_no_training(
    lora: Any, student: Path, paths: Paths
) -> None:
    """Vicuna's and Llama 2's: every step was made, and nothing was saved."""
    (student / "generation_config.json").write_text(json.dumps(VICUNA), "utf-8")
    config = sft(student, lora=lora, trainer={"save_every": 1, "max_steps": 2})
    outcome, reporter = train_here(config, paths)
    assert any("dropped" in line and "temperature=0.9" in line for _, line in reporter.said)
    load_model(str(outcome.folder), paths)
    assert load_tokenizer(str(outcome.folder), paths).chat_template
    steps = sorted(path.name for path in (paths.runs / "r").glob("checkpoint-*"))
    assert steps == ["checkpoint-1", "checkpoint-2"]
    assert load_tokenizer(str(paths.runs / "r" / "checkpoint-1"), paths).chat_template


def test_made_models_are_saved_too(student: Path, paths: Paths) -> None:
    from kdharness.harness.config.models import StudentSpec
    from kdharness.trainers.students.adapter import merge_adapter
    from kdharness.trainers.students.folder import read_origin
    from kdharness.trainers.students.start import make_student

    (student / "generation_config.json").write_text(json.dumps(VICUNA), "utf-8")
    spec = StudentSpec.model_validate({"from": str(student), "keep_layers": 2})
    made = make_student(spec, None, paths)
    assert "temperature=0.9" in read_origin(made.path)["generation_config_without"]
    outcome, _ = train_here(sft(student, lora={"r": 2}), paths)
    merged = merge_adapter(str(outcome.folder), str(paths.home / "merged"), paths)
    load_model(merged, paths)


# ---------------------------------------------------------------- before the first step


def test_a_folder_that_cannot_be_written(student: Path, paths: Paths) -> None:
    model, tokenizer = load_model(str(student), paths), load_tokenizer(str(student), paths)
    place = paths.home / "a file"
    paths.home.mkdir(parents=True, exist_ok=True)
    place.write_text("", "utf-8")
    with pytest.raises(RunError, match="cannot be saved"):
        check_savable(model, tokenizer, place)


def test_a_tokenizer_that_cannot_be_saved_is_found_before_the_first_step(
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
        train(sft(student), Job(paths=paths, run="r", folder=folder, reporter=reporter))
    assert "not JSON serializable" in caught.value.message and reporter.steps == 0
    assert not (folder / ".trial").exists()


FP32 = precision_of("fp32", "auto", lora=False, has_bf16=False)
Usage = namedtuple("Usage", "total used free")


def test_a_disk_too_small_is_found_before_the_first_step(
    student: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(student), paths)
    size = sum(t.nbytes for t in {id(p): p for p in model.parameters()}.values())
    assert saved_bytes(model) == size
    once = room_needed(sft(student), model, FP32, paths.home)
    assert size < once < 1.1 * size
    kept = sft(student, trainer={"save_every": 5, "keep": 2, "best": "general_loss"})
    # The final one, two of the best, and three of weights with two moments each.
    assert room_needed(kept, model, FP32, paths.home) == pytest.approx(
        saving.MARGIN * 12 * size, rel=0.01
    )
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: Usage(0, 0, once - 1))
    with pytest.raises(RunError, match=r"the checkpoints need .* GiB are free") as caught:
        check_room(sft(student), model, FP32, paths.home)
    assert "prune" in caught.value.hint
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: Usage(0, 0, once))
    check_room(sft(student), model, FP32, paths.home)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (size - 1, size - 1))
    with pytest.raises(RunError, match="the file size limit here"):
        check_room(sft(student), model, FP32, paths.home)


def test_an_adapters_room_is_the_adapters(student: Path, paths: Paths) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(str(student), paths), LoraConfig(r=2))
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert saved_bytes(model) == trained


# ---------------------------------------------------------------- at the end


def test_what_fails_beside_the_weights_does_not_cost_them(
    student: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import PreTrainedTokenizerBase

    plain = PreTrainedTokenizerBase.save_pretrained

    def fail(self: Any, folder: Any, *args: Any, **more: Any) -> Any:
        if Path(folder).name == ".trial":
            return plain(self, folder, *args, **more)
        raise OSError(28, os.strerror(28), str(folder))

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    outcome, reporter = train_here(sft(student), paths)
    assert (outcome.folder / "model.safetensors").stat().st_size > 0
    assert any(
        "but their tokenizer could not be saved" in line and "full" in line
        for _, line in reporter.said
    )


def test_a_save_without_weights_is_an_error(tmp_path: Path) -> None:
    def save_config_alone(folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "config.json").write_text("{}", "utf-8")

    accelerator = SimpleNamespace(state=SimpleNamespace())
    trainer = SimpleNamespace(save_model=save_config_alone, accelerator=accelerator)
    setting: Any = SimpleNamespace(job=SimpleNamespace(is_main=True))
    with pytest.raises(RunError, match="no weights were written"):
        saving.save_whole(trainer, setting, tmp_path / "final")
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
def test_a_generation_config_that_cannot_be_loaded_is_named(
    broken: Any, student: Path, paths: Paths
) -> None:
    """The model was said not to load, and its folder to be incomplete perhaps."""
    (student / "generation_config.json").write_text(json.dumps(broken), "utf-8")
    with pytest.raises(ModelError, match="invalid generation config") as caught:
        load_model(str(student), paths)
    assert caught.value.where.endswith("generation_config.json")
    (student / "generation_config.json").write_text("{", "utf-8")
    assert load_model(str(student), paths), "transformers does without such a file"
