"""Missing files and models are reported before a run is created."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.commands import CommandLine


@pytest.fixture
def write_sft(tiny_teacher: Path, tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes an SFT config beside a rows file and returns its path."""
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")

    def write(train: str = "rows.jsonl", student: Any = None, **data: Any) -> str:
        values = {
            "method": "sft",
            "student": student or str(tiny_teacher),
            "data": {"train": train, "max_length": 64, **data},
            "trainer": {"max_steps": 1, "batch_size": 2},
        }
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump(values), "utf-8")
        return str(path)

    return write


MISSING: dict[str, tuple[dict[str, Any], str]] = {
    "another shipped part": ({"train": "shop:nope"}, "data.train.0.path: no shipped data"),
    "a name with a colon": ({"train": "shopp:train"}, "no such data file: shopp:train"),
    "a drive": ({"train": "C:/x/rows.jsonl"}, "no such data file: C:/x/rows.jsonl"),
    "an address": ({"train": "https://x.org/a.jsonl"}, "no such data file: https://x.org/a.jsonl"),
    "a folder": ({"train": "."}, "is a folder"),
    "a template's name": ({"chat_template": "llama3"}, "no such template file: llama3"),
    "a template": ({"chat_template": "{{ messages }}"}, "no such template file: {{ messages }}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--prepare",)], ids=["train", "prepare"])
@pytest.mark.parametrize("name", MISSING)
def test_missing_inputs_create_no_run(
    name: str, more: tuple[str, ...], write_sft: Callable[..., str], kd: CommandLine
) -> None:
    """A run that could not start used to stay in the store and block its name for the next try."""
    changes, message = MISSING[name]
    code, _, err = kd("train", write_sft(**changes), "--name", "r", *more)
    assert code == 2 and message in err and "Traceback" not in err
    assert json.loads(kd("runs", "--format", "json")[1] or "[]") == []


def test_tilde_paths_are_expanded(
    write_sft: Callable[..., str], tmp_path: Path, kd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}", "utf-8")
    config = write_sft("~/rows.jsonl", chat_template="~/t.jinja")
    code, _, err = kd("train", config, "--name", "r", "--prepare")
    assert code == 0, err


def test_hub_dataset_is_not_loaded_by_config_check(
    write_sft: Callable[..., str], kd: CommandLine
) -> None:
    """Loading it in the check would reject the config on a machine without network."""
    code, out, err = kd("config", "check", write_sft("hub:somebody/chats"))
    assert code == 0, err
    assert "not checked: hub:somebody/chats is read when the run starts" in out + err


def test_unknown_lora_target_modules_are_reported(
    write_sft: Callable[..., str], tiny_teacher: Path, kd: CommandLine
) -> None:
    """peft raised its error only after the student had been loaded."""
    student = {"model": str(tiny_teacher), "lora": {"r": 2, "target_modules": ["c_attn"]}}
    code, _, err = kd("config", "check", write_sft(student=student))
    assert code == 2 and "student.lora.target_modules" in err and "c_attn" in err
    assert "q_proj" in err, "what it has is told"


@pytest.mark.parametrize("modules", [["q_proj", "nope_proj"], ["nope_proj", "q_proj", "v_proj"]])
def test_a_lora_target_that_does_not_exist_is_named_beside_others(
    write_sft: Callable[..., str], tiny_teacher: Path, kd: CommandLine, modules: list[str]
) -> None:
    """peft trains the others and says nothing."""
    student = {"model": str(tiny_teacher), "lora": {"r": 2, "target_modules": modules}}
    code, _, err = kd("config", "check", write_sft(student=student))
    assert code == 2 and "student.lora.target_modules: no such module: nope_proj" in err
    assert "available modules: down_proj" in err


@pytest.mark.parametrize("modules", ["q_proj", ["q_proj"], ["layers.0.self_attn.q_proj"]])
def test_lora_targets_are_names_or_ends_of_names(
    write_sft: Callable[..., str], tiny_teacher: Path, kd: CommandLine, modules: Any
) -> None:
    student = {"model": str(tiny_teacher), "lora": {"r": 2, "target_modules": modules}}
    code, out, err = kd("config", "check", write_sft(student=student))
    assert code == 0, out + err


def test_served_teacher_needs_its_tokenizer_and_config(
    tiny_teacher: Path, write_sft: Callable[..., str], tmp_path: Path, kd: CommandLine
) -> None:
    """They are read locally; without them a run was created and failed."""
    values = yaml.safe_load(Path(write_sft()).read_text("utf-8"))
    values |= {
        "method": "kd",
        "teacher": {
            "model": "big-teacher",
            "served": "http://127.0.0.1:9/v1",
            "cache": {"k": 5, "tail": "bucket"},
        },
    }
    values["trainer"]["attention_weight"] = 0
    path = tmp_path / "kd.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    code, _, err = kd("train", str(path), "--name", "r", "--prepare")
    assert code == 1 and "teacher.model: no model named 'big-teacher'" in err


@pytest.mark.slow
def test_libraries_do_not_warn_the_user_of_a_command(
    write_sft: Callable[..., str], tiny_teacher: Path, tmp_path: Path
) -> None:
    """`FutureWarning: is_gradient_checkpointing` stood above a plan."""
    config = write_sft(student={"model": str(tiny_teacher), "lora": {"r": 2}})
    words = ["--home", str(tmp_path / "home"), "plan", config]
    done = subprocess.run(
        [sys.executable, "-m", "kdharness.harness.cli", *words], capture_output=True, text=True
    )
    assert done.returncode == 0 and "memory" in done.stdout
    assert "Warning" not in done.stderr and "warn(" not in done.stderr
