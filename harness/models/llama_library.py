"""llama.cpp's Python package: its log is kept here instead of printed."""

from __future__ import annotations

import importlib
from collections import deque
from functools import cache
from typing import Any

from kdharness.harness.models.engine_files import LLAMA

LOG_ERROR = 4
"""llama.cpp's level of errors."""
last_errors: deque[str] = deque(maxlen=4)
"""Its last errors, for the words of ours."""
_callbacks: list[object] = []
"""llama.cpp calls them as long as the process lives."""


@cache
def llama_library() -> Any:
    """Import llama.cpp, and collect what it says about errors.

    Raises:
        ImportError: it is not installed.
    """
    api: Any = importlib.import_module(LLAMA)

    callback = api.llama_log_callback(_collect)
    api.llama_log_set(callback, None)
    _callbacks.append(callback)
    return api


def _collect(level: int, text: bytes, _: object) -> None:
    words = text.decode("utf-8", "replace").strip()
    if level == LOG_ERROR and words:
        last_errors.append(words)
