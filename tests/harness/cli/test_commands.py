"""Commands through the real entry point, on tiny models, with real workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness import cli
from support.commands import CommandLine
from support.configs import TRAINER, config_file, kd_config

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- bad input

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown field", {"trainer": {"temprature": 1}}, "did you mean temperature"),
    ("wrong type", {"trainer": {"max_steps": "many"}}, "trainer.max_steps"),
    ("missing model", {"teacher": "/nowhere/model"}, "no model named '/nowhere/model'"),
    ("missing data", {"data": {"train": "absent.jsonl"}}, "no such data file"),
    ("no labels", {"data": {"train": "mute.jsonl"}}, "no row has a labelled token"),
    ("bad line", {"data": {"train": "broken.jsonl"}}, "broken.jsonl:2"),
    (
        "other tokenizer",
        {"student": "other", "data": {"train": "general:train"}},
        "the tokenizers of",
    ),
]


@pytest.mark.parametrize(("name", "changes", "message"), BAD, ids=[case[0] for case in BAD])
def test_invalid_config_error_names_the_location(
    kd: CommandLine,
    tiny_teacher: Path,
    tmp_path: Path,
    name: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "mute.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "hi"}]}\n', "utf-8"
    )
    good = '{"prompt": "a", "completion": "b"}\n'
    (tmp_path / "broken.jsonl").write_text(good + '{"prompt": \n', "utf-8")
    if changes.get("student") == "other":
        from support.models import make_llama_other

        changes = {**changes, "student": str(make_llama_other(tmp_path / "other"))}
    code, out, err = kd("train", config_file(tmp_path, **kd_config(tiny_teacher, **changes)))
    assert code in (1, 2)
    assert message in err
    assert "Traceback" not in err and out == ""


def test_usage_errors_exit_with_2(kd: CommandLine) -> None:
    assert kd("train")[0] == 2
    assert kd("nonsense")[0] == 2
    assert kd("runs", "--format", "xml")[0] == 2
    code, _, err = kd()
    assert code == 2 and "needs a terminal" in err


# ---------------------------------------------------------------- data, config, doctor, cache


def test_data_show_prints_counts_and_labelled_parts(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    out = kd.ok("data", "show", config_file(tmp_path, **kd_config(tiny_teacher)), "--rows", "1")
    assert "24 rows" in out and "⟦" in out and "labelled" in out


def test_config_commands(kd: CommandLine, tmp_path: Path) -> None:
    names = kd.ok("config", "init").split()
    target = tmp_path / "mine.yaml"
    assert "kd-laptop" in names
    kd.ok("config", "init", "kd-laptop", "--output", str(target))
    assert kd.ok("config", "check", str(target)).startswith("ok: kd config")
    shown = yaml.safe_load(kd.ok("config", "show", str(target), "--set", "trainer.epochs=3"))
    assert shown["trainer"]["epochs"] == 3 and shown["trainer"]["warmup_ratio"] == 0.1
    code, _, err = kd("config", "init", "kd-laptop", "--output", str(target))
    assert code == 2 and "file already exists" in err
    code, _, err = kd("config", "init", "nothing")
    assert code == 2 and "kd-laptop" in err


def test_doctor_reports_versions_and_missing_assets(kd: CommandLine) -> None:
    rows = {row["check"]: row for row in kd.json("doctor")}
    assert rows["torch"]["status"] == "ok"
    assert "kdharness data pull mt-bench" in rows["asset mt-bench"]["advice"]
    assert rows["judge"]["status"] == "note"


@pytest.mark.parametrize("cache", [{"k": 16}, {"kind": "hidden"}], ids=["top-k", "hidden"])
def test_cache_build_then_train_without_the_teacher(
    cache: dict[str, Any], kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    trainer = {**TRAINER, "attention_weight": 0}
    config = kd_config(
        tiny_teacher,
        name="cached",
        trainer=trainer,
        teacher={"model": str(tiny_teacher), "cache": cache},
    )
    path = config_file(tmp_path, **config)
    code, out, err = kd("cache", "build", path)
    assert (code, out.strip()) == (0, "24 rows processed")
    assert "0 already stored" in " ".join(err.split())
    assert kd("cache", "build", path)[1].strip() == "0 rows processed"
    kd.ok("train", path)
    assert "24 already stored" in kd.ok("logs", "cached")


def test_help_of_every_command_imports_no_heavy_modules() -> None:
    """`kdharness --help` imports none of torch, textual, openai, transformers, …"""
    script = (
        "import sys\nfrom kdharness.harness import cli\n"
        "for c in [[], *[[name] for name in cli.COMMANDS]]:\n"
        "    assert cli.run([*c, '--help']) == 0\n"
        "heavy = {'torch', 'textual', 'openai', 'transformers', 'numpy', 'matplotlib'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in cli.COMMANDS:
        assert command in done.stdout
