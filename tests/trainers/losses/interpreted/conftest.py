"""Files in this folder run in a process of their own, with TRITON_INTERPRET=1.

Triton decides when it is imported whether kernels are compiled or interpreted. `test_kernels.py`
starts the process, so that no other test sees the variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Kept:
    """A patch of Triton's language that stays."""

    def restore(self) -> None:
        """Leave the language as it is."""


@pytest.fixture(scope="session", autouse=True)
def interpreter() -> Iterator[None]:
    """Patch Triton's language once, not at every call of a device function: it halves the time."""
    import triton
    import triton.language as tl
    from triton.runtime import interpreter as room

    assert triton.knobs.runtime.interpret, "set TRITON_INTERPRET=1 before Triton is imported"
    patch: Callable[[Any], Any] = room._patch_lang
    scopes: dict[frozenset[int], Any] = {}

    def patch_once(fn: Any) -> Kept:
        seen = frozenset(id(v) for v in fn.__globals__.values() if v is tl or v is tl.core)
        if seen not in scopes:
            scopes[seen] = patch(fn)
        return Kept()

    room._patch_lang = patch_once
    yield
    room._patch_lang = patch
    for scope in reversed(list(scopes.values())):
        scope.restore()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the kernels launched from now on."""
    from triton.runtime import interpreter as room

    names: list[str] = []
    launch: Callable[..., Any] = room.GridExecutor.__call__

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        names.append(self.fn.__name__)
        return launch(self, *args, **options)

    monkeypatch.setattr(room.GridExecutor, "__call__", counted)
    return names


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut rows, keys and ids into the smallest tiles, so that short rows have several."""
    from kdharness.trainers.losses import triton_attention, triton_head

    monkeypatch.setattr(triton_attention, "tile_size", lambda wide, dtype: (16, 16))
    monkeypatch.setattr(triton_head, "BLOCK", 16)
