"""Files that tests write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

WriteRows = Callable[[str, list[Any]], Path]
"""What the fixture `write_jsonl` is: a file's name and its rows in, the file out."""
