"""Files that tests write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

WriteRows = Callable[[str, list[Any]], Path]
"""Type of the fixture `write_jsonl`: (file name, rows) -> path."""
