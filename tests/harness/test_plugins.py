"""A method, a benchmark and an engine from a separate plugin package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdharness.harness import registry

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "kdharness-soft"
version = "1.0"

[project.entry-points."kdharness.methods"]
soft = "kdharness_soft:SOFT"

[project.entry-points."kdharness.benchmarks"]
letters = "kdharness_soft:Letters"
shop = "kdharness_soft:Letters"

[project.entry-points."kdharness.engines"]
parrot = "kdharness_soft:Parrot"

[tool.setuptools]
py-modules = ["kdharness_soft"]
"""
MODULE = """
from typing import Literal

from pydantic import Field

from kdharness.harness.config import DataSpec, RunConfig, Student, TrainerSpec
from kdharness.harness.protocols import MethodPlugin
from kdharness.judges import Benchmark, Item, JudgeCall, Probe, Reply, read_rating, score_ratings


class SoftConfig(RunConfig):
    method: Literal["soft"] = "soft"
    softness: float = Field(0.5, ge=0, le=1, title="Softness")
    student: Student = Field(..., title="Student")
    data: DataSpec = Field(..., title="Data")
    trainer: TrainerSpec = Field(default_factory=lambda: TrainerSpec(), title="Trainer")


def train(config, job):
    from kdharness.trainers import Mix, Objective
    from kdharness.trainers import train as run

    def build(context):
        return Objective(Mix(kl_weight=0.0, ce_weight=1.0)), {}

    return run(config, job, build)


SOFT = MethodPlugin(SoftConfig, train)


class Letters(Benchmark):
    name = "letters"
    needs_judge = True
    judge_metric = "rating"
    score = staticmethod(score_ratings)

    @classmethod
    def load(cls, paths, config, source=""):
        items = [
            Item(id=letter, category="", turns=(f"Say {letter}.",), max_new_tokens=4)
            for letter in "abc"
        ]
        return cls(items, fixed=[cls.name], total=3)

    def judge_calls(self, answers, baseline=()):
        return [
            JudgeCall(
                item=answer.item, turn=1, category="", metric="rating", answer=answer.id,
                messages=({"role": "user", "content": answer.text},),
            )
            for answer in answers
        ]

    def read(self, call, reply):
        return read_rating(reply.text)


class Parrot:
    deterministic = True
    identity = ""
    unchanged_since = 0.0

    def __init__(self, name):
        self.name = name
        self.idle = lambda: None

    @classmethod
    def open(cls, spec, config, paths):
        return cls(f"parrot:{spec.model}")

    def probe(self, *, logprobs=False):
        return Probe(True)

    def estimate(self, requests):
        return 0, 0.0

    def stream(self, requests):
        for index, _ in enumerate(requests):
            yield index, Reply(text="Rating: [[7]]")

    def stop_soon(self):
        pass

    def close(self):
        pass
"""


@pytest.fixture(scope="module")
def plugin_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the plugin into a separate site folder."""
    source = tmp_path_factory.mktemp("plugin")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "kdharness_soft.py").write_text(MODULE)
    target = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*install, "--no-build-isolation", "--target", str(target), str(source)], check=True
    )
    return target


@pytest.fixture
def run(plugin_site: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `kdharness ARGS` with the plugin installed."""

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(plugin_site), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "kdharness.harness.cli",
                "--home",
                str(tmp_path / "home"),
                *args,
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    return call


@pytest.mark.slow
def test_plugin_method_benchmark_and_engine_through_the_commands(
    run: Callable[..., subprocess.CompletedProcess[str]], tiny_teacher: Path, tmp_path: Path
) -> None:
    config = tmp_path / "soft.yaml"
    values = {
        "method": "soft",
        "name": "softened",
        "softness": 0.25,
        "student": str(tiny_teacher),
        "data": {"train": {"path": "shop:train", "limit": 4}, "max_length": 96},
        "trainer": {"max_steps": 2, "batch_size": 2, "device": "cpu"},
    }
    config.write_text(json.dumps(values))
    done = run("train", str(config))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "softened"
    config.write_text(json.dumps({**values, "name": "other", "softnes": 1}))
    invalid = run("train", str(config))
    assert invalid.returncode == 2 and "softnes" in invalid.stderr

    done = run(
        "eval",
        "--ckpt",
        "softened",
        "--bench",
        "letters,shop",
        "--judge",
        "parrot:x",
        "--limit",
        "3",
        "--format",
        "json",
    )
    assert done.returncode == 0, done.stderr
    rows = {(row["bench"], row["metric"]): row for row in json.loads(done.stdout)}
    letters = rows["letters", "score"]
    assert (letters["value"], letters["n"], letters["judge"]) == (7.0, 3, "parrot:x")
    # The built-in benchmark keeps its name.
    assert rows["shop", "score"]["judge"] == "exact"
    doctor = json.loads(run("doctor", "--offline", "--format", "json").stdout)
    plugins = next(row for row in doctor if row["check"] == "plugins")
    assert plugins["status"] == "note" and "registers 'shop'" in plugins["detail"]


def test_plugin_import_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points = {"broken": ("no_such_module_at_all:X", "some-package")}
    monkeypatch.setattr(registry, "entry_points_of", lambda group: entry_points)
    with pytest.raises(
        registry.ConfigError, match=r"'broken' of the package some-package"
    ) as caught:
        registry.resolve(registry.BENCHMARKS, "broken", "benchmark")
    assert "pip uninstall some-package" in caught.value.hint
    assert "broken" in list(registry.BENCHMARKS) and "broken" not in registry.SCORERS


def test_built_in_names_do_not_scan_installed_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(group: str) -> dict[str, tuple[str, str]]:
        raise AssertionError(f"{group} was looked through")

    monkeypatch.setattr(registry, "entry_points_of", refuse)
    assert registry.resolve(registry.BENCHMARKS, "shop", "benchmark").name == "shop"
    assert registry.scorer_of("shop") is not None
    assert "kd" in registry.TRAINERS
