"""Fixtures for the tests of models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.look_alikes import SHAPE
from support.models import make_llama


@pytest.fixture(scope="session")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a model so large that the sampled fingerprint misses whole tensors."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    make_llama(folder, seed=3, **SHAPE)
    return folder


@pytest.fixture
def base_model(wide_llama: Path, tmp_path: Path) -> Path:
    """Return a copy of that model, in a folder named `base`."""
    return Path(shutil.copytree(wide_llama, tmp_path / "base"))
