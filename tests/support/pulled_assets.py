"""Assets of PyPI, for tests that a machine without it leaves out."""

from __future__ import annotations

import pytest

from kdharness.harness import assets
from kdharness.harness.errors import AssetError
from kdharness.harness.paths import Paths


def pull_or_skip(paths: Paths, name: str) -> None:
    """Pull an asset; skip the test where that is impossible."""
    try:
        assets.pull(paths, name)
    except AssetError as error:
        pytest.skip(f"{name} cannot be pulled here: {error}")
