"""Pickles that leave a trace when they are loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Bomb:
    """Write a marker file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.marker}'",))
