"""Adapters whose base is renamed: they still load, and nothing else about them changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.models.checkpoints import model_checkpoint
from kdharness.harness.models.loading import load_model
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from kdharness.harness.util.atomic import is_sealed, seal
from support.adapters import make_adapter
from support.commands import CommandLine


def add_run(paths: Paths, name: str) -> Path:
    with Store(paths.store) as store:
        folder = str(paths.run(name))
        values: dict[str, Any] = {"config": {}, "method": "sft", "config_hash": "h", "created": 1.0}
        store.add_run(Run(id=name, status=RunStatus.FINISHED, folder=folder, **values))
    return paths.run(name)


@pytest.fixture
def home(paths: Paths, tiny_teacher: Path) -> Paths:
    """Make a home with a run, an adapter on it, and one on that, with a sealed step of it."""
    first, second, third = (add_run(paths, name) for name in ("full", "lora", "stacked"))
    shutil.copytree(tiny_teacher, first / "final")
    make_adapter(first / "final", second / "final")
    shutil.copytree(second / "final", second / "checkpoint-5")
    seal(second / "checkpoint-5")
    shutil.copytree(second / "final", third / "final")
    set_base(third / "final", str(second / "final"))
    return paths


def base_of(folder: Path) -> str:
    return str(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])


def set_base(folder: Path, base: str) -> None:
    values = json.loads((folder / "adapter_config.json").read_text())
    values["base_model_name_or_path"] = base
    (folder / "adapter_config.json").write_text(json.dumps(values))


def test_adapters_on_a_renamed_run_load_and_are_the_same_model(
    home: Paths, kd: CommandLine
) -> None:
    adapter = home.run("lora") / "final"
    before = model_checkpoint(home, str(adapter)).id
    kd.ok("rename", "full", "start")
    assert base_of(adapter) == str(home.run("start") / "final")
    assert base_of(home.run("lora") / "checkpoint-5") == str(home.run("start") / "final")
    assert is_sealed(home.run("lora") / "checkpoint-5")
    assert model_checkpoint(home, str(adapter)).id == before
    load_model(str(adapter), home)
    # Only what names the run was touched.
    assert base_of(home.run("stacked") / "final") == str(adapter)


def test_an_adapter_that_others_are_stacked_on_is_renamed_as_well(
    home: Paths, kd: CommandLine
) -> None:
    set_base(home.run("lora") / "checkpoint-5", str(home.run("lora") / "final"))
    kd.ok("rename", "lora", "light")
    assert base_of(home.run("stacked") / "final") == str(home.run("light") / "final")
    # One within the folder that moved.
    assert base_of(home.run("light") / "checkpoint-5") == str(home.run("light") / "final")
    assert base_of(home.run("light") / "final") == str(home.run("full") / "final")


def test_a_copied_home_renames_its_own_and_leaves_the_original(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    copy = Paths(tmp_path / "copy")
    shutil.copytree(home.home, copy.home)
    kd.ok("--home", str(copy.home), "rename", "full", "start")
    assert base_of(copy.run("lora") / "final") == str(copy.run("start") / "final")
    assert base_of(home.run("lora") / "final") == str(home.run("full") / "final")
    assert resolve_model(base_of(copy.run("lora") / "final"), copy)


def test_adapters_on_hub_models_and_damaged_ones_are_left_alone(
    home: Paths, kd: CommandLine
) -> None:
    set_base(home.run("stacked") / "final", "org/full")
    (home.run("lora") / "checkpoint-5" / "adapter_config.json").write_text("{")
    kd.ok("rename", "full", "start")
    assert base_of(home.run("stacked") / "final") == "org/full"
