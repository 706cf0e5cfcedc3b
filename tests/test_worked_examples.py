"""Run the guides' example method, benchmark and engine through the real commands."""

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
PACKAGES = ("harness", "trainers", "judges", "tui", "data")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def block_with(texts: list[str], word: str) -> str:
    (block,) = [text for text in texts if word in text]
    return block


@pytest.fixture
def packages_copy(tmp_path: Path) -> Path:
    """Copy the packages and add the examples; the copy shadows the installed packages."""
    packages_copy = tmp_path / "path" / "kdharness"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, packages_copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    method, bench = blocks("extending.md", "python"), blocks("judges.md", "python")
    for path, text in (
        ("trainers/methods/soften.py", block_with(method, "softened self")),
        ("judges/benchmarks/capitals.py", block_with(bench, "class Capitals")),
        ("judges/engines/constant.py", block_with(method, "class ConstantEngine")),
    ):
        (packages_copy / path).write_text(text, "utf-8")
    for path, text in (
        ("config/training.py", block_with(method, "class SoftenConfig")),
        ("registry.py", block_with(method, "TRAINERS[")),
        ("registry.py", block_with(method, "ENGINES[")),
        ("registry.py", block_with(bench, "BENCHMARKS[")),
    ):
        assert (packages_copy / "harness" / path).exists(), path
        with (packages_copy / "harness" / path).open("a", encoding="utf-8") as stream:
            stream.write("\n\n" + text)
    return packages_copy


def test_example_method_benchmark_and_engine(
    packages_copy: Path, tmp_path: Path, tiny_teacher: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(packages_copy.parent)}

    def kd(*args: str) -> str:
        command = [sys.executable, "-m", "kdharness.harness.cli", "--home", str(tmp_path / "home")]
        done = subprocess.run(
            [*command, *args], cwd=elsewhere, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    config = yaml.safe_load(block_with(blocks("extending.md", "yaml"), "method: soften"))
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
    benchmark = "".join(json.dumps(line) + "\n" for line in lines)
    (elsewhere / "mine.jsonl").write_text(benchmark, "utf-8")
    kd("eval", "--ckpt", "softened", "--bench", "mine.jsonl", "--judge", "constant:5")
    rows = json.loads(kd("leaderboard", "--bench", "mine", "--format", "json"))
    (row,) = [row for row in rows if row["metric"] == "score"]
    assert (row["value"], row["n"], row["judge"]) == (5.0, 3, "constant:5")
