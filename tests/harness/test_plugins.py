"""A method, a benchmark and an engine from a separate plugin package."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness import registry
from kdharness.harness.config.files import parse_config
from kdharness.harness.config.training import trains_on_data
from kdharness.harness.errors import ConfigError, KDHarnessError
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.precheck import check_request
from kdharness.harness.store import Store

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


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Yield a function that puts a package with entry points and a module on the path."""
    registry.all_entry_points.cache_clear()
    monkeypatch.syspath_prepend(tmp_path)

    def install(package: str, module: str, code: str, **groups: dict[str, str]) -> None:
        info = tmp_path / f"{package.replace('-', '_')}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        lines = [
            line
            for group, names in groups.items()
            for line in [f"[kdharness.{group}]", *(f"{n} = {v}" for n, v in names.items())]
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / f"{module}.py").write_text(code)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module, raising=False)

    yield install
    registry.all_entry_points.cache_clear()


def test_a_name_that_two_packages_register_is_refused(installed: Callable[..., None]) -> None:
    for package in ("plug-one", "plug-two"):
        module = package.replace("-", "_")
        installed(package, module, "class Echo: open = print", engines={"echo": f"{module}:Echo"})
    message = "plug-one and plug-two both register 'echo' under kdharness.engines"
    with pytest.raises(ConfigError, match=message):
        registry.resolve(registry.ENGINES, "echo", "judge")
    assert [p for p in registry.plugin_problems() if message in p]


def test_one_object_under_two_packages_is_no_conflict(installed: Callable[..., None]) -> None:
    code = "class Echo: open = print"
    for package in ("plug-old-name", "plug-new-name"):
        installed(package, "plug_same", code, engines={"echo": "plug_same:Echo"})
    assert registry.resolve(registry.ENGINES, "echo", "judge").open is print
    assert registry.plugin_problems() == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("plug_bad", "plug_bad has no 'open'"),
        ("plug_bad:Empty", "plug_bad:Empty has no 'open'"),
        ("plug_bad:Nothing", "AttributeError"),
        ("plug_absent:X", "ModuleNotFoundError"),
        ("not an entry point", "cannot be imported"),
    ],
)
def test_a_plugin_that_is_no_engine_names_its_package(
    installed: Callable[..., None], value: str, reason: str
) -> None:
    installed("plug-bad", "plug_bad", "class Empty: pass", engines={"bad": value})
    with pytest.raises(ConfigError, match=re.escape(reason)) as caught:
        registry.resolve(registry.ENGINES, "bad", "judge")
    assert "of the package plug-bad" in caught.value.message
    assert registry.plugin_problems() != []


def test_a_plugin_that_exits_at_import_does_not_end_the_process(
    installed: Callable[..., None],
) -> None:
    code = "import sys; sys.exit('no licence')"
    installed("plug-exit", "plug_exit", code, methods={"exits": "plug_exit:X"})
    with pytest.raises(ConfigError, match="plug-exit cannot be imported: SystemExit: no licence"):
        parse_config({"method": "exits"})
    assert "sft" in registry.TRAINERS and parse_config({"method": "eval"}).method == "eval"


def test_nested_objects_and_extras_of_entry_points(installed: Callable[..., None]) -> None:
    code = "class Outer:\n    class Inner: open = print"
    names = {"nested": "plug_nested:Outer.Inner", "extra": "plug_nested:Outer.Inner [cuda]"}
    installed("plug-nested", "plug_nested", code, engines=names)
    for name in names:
        assert registry.resolve(registry.ENGINES, name, "judge").open is print


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def train(config, job): pass\nX = train", "has no 'config', the class of its config"),
        ("class X:\n    config = dict\n    train = print", "its config does not derive from RunCo"),
        ("class X:\n    config = 3\n    train = print", "its config does not derive from RunCo"),
    ],
)
def test_a_method_without_a_config_of_ours_is_refused(
    installed: Callable[..., None], code: str, reason: str
) -> None:
    installed("plug-method", "plug_method", code, methods={"odd": "plug_method:X"})
    with pytest.raises(ConfigError, match=reason):
        parse_config({"method": "odd"})


def test_a_benchmark_without_a_scorer_is_refused_before_it_is_answered(
    installed: Callable[..., None],
) -> None:
    code = "class X: load = print"
    installed("plug-bench", "plug_bench", code, benchmarks={"odd": "plug_bench:X"})
    with pytest.raises(ConfigError, match="has no 'score', its scorer"):
        registry.resolve(registry.BENCHMARKS, "odd", "benchmark")


def test_names_with_a_meaning_of_their_own_cannot_be_registered(
    installed: Callable[..., None],
) -> None:
    taken = {"eval": "plug_taken:X", "sweep": "plug_taken:X"}
    installed("plug-taken", "plug_taken", "X = 1", methods=taken, benchmarks={"alpaca-eval": "x:Y"})
    problems = registry.plugin_problems()
    assert len(problems) == 3 and all("which is built in" in problem for problem in problems)
    assert not {"eval", "sweep"} & set(registry.TRAINERS)


TRAINING = """
from typing import Literal

from pydantic import Field

from kdharness.harness.config import DataSpec, RunConfig, Student, Teacher, TrainerSpec


class OddConfig(RunConfig):
    method: Literal["odd"] = "odd"
    student: Student = Field(...)
    teacher: Teacher = Field(...)
    data: DataSpec = Field(...)
    trainer: TrainerSpec = Field(default_factory=lambda: TrainerSpec())


class BareConfig(RunConfig):
    method: Literal["bare"] = "bare"


class ODD:
    config, train = OddConfig, print


class BARE:
    config, train = BareConfig, print
"""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student": "no-such-student"}, r"student\.model: no model named 'no-such-student'"),
        ({"teacher": "no-such-teacher"}, r"teacher\.model: no model named 'no-such-teacher'"),
        ({"data": {"train": "gone.jsonl"}}, r"data\.train\.0\.path: gone\.jsonl: no such data"),
    ],
)
def test_what_a_plugins_config_refers_to_is_checked_before_the_run_is_stored(
    installed: Callable[..., None],
    paths: Paths,
    tiny_teacher: Path,
    changed: dict[str, Any],
    message: str,
) -> None:
    installed("plug-train", "plug_train", TRAINING, methods={"odd": "plug_train:ODD"})
    values = {"student": str(tiny_teacher), "teacher": str(tiny_teacher)}
    config = parse_config({"method": "odd", "data": {"train": "shop:train"}, **values, **changed})
    with pytest.raises(KDHarnessError, match=message):
        launch.start(paths, config, name="odd")
    with Store(paths.store) as store:
        assert store.runs() == []


def test_a_plugins_training_is_planned_and_uses_one_gpu_like_ours(
    installed: Callable[..., None], paths: Paths, tiny_teacher: Path
) -> None:
    installed(
        "plug-train",
        "plug_train",
        TRAINING,
        methods={"odd": "plug_train:ODD", "bare": "plug_train:BARE"},
    )
    values = {"student": str(tiny_teacher), "teacher": str(tiny_teacher)}
    data = {"train": {"path": "shop:train", "limit": 4}, "max_length": 96}
    odd = parse_config({"method": "odd", "data": data, **values})
    assert trains_on_data(odd)
    assert registry.resolve(registry.TOOLS, "planned_rows", "tool")(odd, paths)["steps"] > 0
    bare = parse_config({"method": "bare"})
    assert not trains_on_data(bare)
    check_request(bare, paths)
    with pytest.raises(ConfigError, match="a bare config has no training data"):
        registry.resolve(registry.TOOLS, "planned_rows", "tool")(bare, paths)
