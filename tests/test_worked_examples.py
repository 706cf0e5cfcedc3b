"""The guides' method, benchmark and engine, put where the guides say, through real commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
ROOMS = ("harness", "trainers", "judges", "tui", "data")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def one_with(found: list[str], word: str) -> str:
    (block,) = [text for text in found if word in text]
    return block


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the rooms with the examples in them, found before the installed ones."""
    house = tmp_path / "path" / "kdharness"
    for room in ROOMS:
        shutil.copytree(ROOT / room, house / room, ignore=shutil.ignore_patterns("__pycache__"))
    method, bench = blocks("extending.md", "python"), blocks("judges.md", "python")
    for path, text in (
        ("trainers/methods/soften.py", one_with(method, "softened self")),
        ("judges/benchmarks/capitals.py", one_with(bench, "class Capitals")),
        ("judges/engines/constant.py", one_with(method, "class ConstantEngine")),
    ):
        (house / path).write_text(text, "utf-8")
    for path, text in (
        ("config/training.py", one_with(method, "class SoftenConfig")),
        ("registry.py", one_with(method, "TRAINERS[")),
        ("registry.py", one_with(method, "ENGINES[")),
        ("registry.py", one_with(bench, "BENCHMARKS[")),
    ):
        assert (house / "harness" / path).exists(), path
        with (house / "harness" / path).open("a", encoding="utf-8") as stream:
            stream.write("\n\n" + text)
    return house


def test_a_new_method_trains_and_a_new_benchmark_and_engine_score_it(
    house: Path, tmp_path: Path, tiny_teacher: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(house.parent)}

    def kd(*words: str) -> str:
        command = [sys.executable, "-m", "kdharness.harness.cli", "--home", str(tmp_path / "home")]
        done = subprocess.run(
            [*command, *words], cwd=elsewhere, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    config = yaml.safe_load(one_with(blocks("extending.md", "yaml"), "method: soften"))
    config["student"] = {"from": str(tiny_teacher), "keep_layers": 2}
    config["data"] = {"train": {"path": config["data"]["train"], "limit": 12}, "max_length": 64}
    config["trainer"] = {"learning_rate": 0.01, "max_steps": 4, "batch_size": 4, "device": "cpu"}
    (elsewhere / "soften.yaml").write_text(yaml.safe_dump(config), "utf-8")

    kd("train", "soften.yaml")
    (run,) = json.loads(kd("runs", "--format", "json"))
    assert (run["run"], run["method"], run["status"], run["step"]) == (
        "softened",
        "soften",
        "finished",
        4,
    )
    kd("eval", "--ckpt", "softened", "--bench", "capitals")
    rows = json.loads(kd("leaderboard", "--format", "json"))
    (row,) = [row for row in rows if row["bench"] == "capitals" and row["metric"] == "score"]
    assert (row["method"], row["n"], row["n_failed"], row["judge"]) == ("soften", 1, 0, "exact")

    lines = [{"prompt": f"Say {word}.", "metric": "rating"} for word in ("yes", "no", "maybe")]
    mine = "".join(json.dumps(line) + "\n" for line in lines)
    (elsewhere / "mine.jsonl").write_text(mine, "utf-8")
    kd("eval", "--ckpt", "softened", "--bench", "mine.jsonl", "--judge", "constant:5")
    rows = json.loads(kd("leaderboard", "--bench", "mine", "--format", "json"))
    (row,) = [row for row in rows if row["metric"] == "score"]
    assert (row["value"], row["n"], row["judge"]) == (5.0, 3, "constant:5")
