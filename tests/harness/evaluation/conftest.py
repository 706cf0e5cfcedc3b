"""What tests of judges share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.benchmark_files import write_assets


@pytest.fixture
def home(paths: Paths) -> Paths:
    write_assets(paths.home / "assets")
    return paths


@pytest.fixture
def store(home: Paths) -> Iterator[Store]:
    with Store(home.store) as opened:
        yield opened
