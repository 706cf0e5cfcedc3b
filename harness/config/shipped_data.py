"""Data that ships with the package, by name: `general:train`, `shop:test`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from kdharness.harness.errors import DataError

SHIPPED = ("general", "shop")
SPLITS = ("train", "validation", "test")


def shipped_file(name: str) -> Path | None:
    """Return the file of `general:train` or `shop:test`; None for names of another form.

    Raises:
        DataError: shipped data without such a split.
    """
    folder, sign, split = name.partition(":")
    if not sign or folder not in SHIPPED:
        return None
    path = Path(str(resources.files("kdharness.data"))) / folder / f"{split}.jsonl"
    if split not in SPLITS or not path.exists():
        raise DataError(f"no shipped data {name!r}", hint="splits: train, validation, test")
    return path


SHIPPED_NAMES = tuple(f"{folder}:{split}" for folder in SHIPPED for split in SPLITS)
"""Every name that `shipped_file` finds."""
