"""Runs of a method from another package, in the app."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdharness.harness import registry
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.screens.new_run import NewRunScreen
from support.app import LARGE, AppOn, Press, Shown

pytestmark = pytest.mark.slow

CODE = """
from typing import Literal
from pydantic import Field
from kdharness.harness.config import DataSpec, RunConfig, Student, TrainerSpec

class Config(RunConfig):
    method: Literal["soft"] = "soft"
    softness: float = Field(0.5, title="Softness")
    student: Student = Field(..., title="Student")
    data: DataSpec = Field(..., title="Data")
    trainer: TrainerSpec = Field(default_factory=lambda: TrainerSpec(), title="Trainer")

class SOFT:
    config, train = Config, print
"""


@pytest.fixture
def soft_run(filled: Paths) -> Paths:
    """Turn a stored run into one of the package's method."""
    values = {"method": "soft", "softness": 0.25, "student": "x", "data": {"train": "shop:train"}}
    with Store(filled.store) as store:
        store.update_run("kd", method="soft", config=values)
    return filled


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the package."""
    info = tmp_path / "site" / "plug_soft-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-soft\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[kdharness.methods]\nsoft = plug_soft:SOFT")
    (info.parent / "plug_soft.py").write_text(CODE)
    monkeypatch.syspath_prepend(info.parent)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "plug_soft", raising=False)
    registry.all_entry_points.cache_clear()
    yield
    registry.all_entry_points.cache_clear()


@pytest.mark.usefixtures("package")
async def test_the_form_of_a_packages_method_opens(
    soft_run: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(soft_run)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        app.open_run("kd")
        await press(pilot, "n")
        assert isinstance(app.screen, NewRunScreen)
        assert "New run: soft" in shown(app) and "softness" in shown(app)
        await press(pilot, "m")
        assert "from an installed package" in shown(app)


async def test_a_run_whose_package_is_gone_is_explained(
    soft_run: Paths, app_on: AppOn, press: Press, notified: Shown
) -> None:
    registry.all_entry_points.cache_clear()
    app = app_on(soft_run)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        app.open_run("kd")
        await press(pilot, "n")
        assert not isinstance(app.screen, NewRunScreen)
        assert "unknown method 'soft'" in notified(app)
