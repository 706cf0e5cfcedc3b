"""Pickles that show when they were read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.marker}'",))
