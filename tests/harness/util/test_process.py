"""Which GPU a process sees."""

from __future__ import annotations

import pytest

from kdharness.harness.util.process import use_one_gpu


@pytest.mark.parametrize(
    ("device", "visible", "installed", "want", "now"),
    [
        ("auto", None, 4, ("auto", "0", 4), "0"),
        ("cuda", None, 4, ("cuda", "0", 4), "0"),
        ("cuda:0", None, 4, ("cuda", "0", 4), "0"),
        ("cuda:2", None, 4, ("cuda", "2", 4), "2"),
        # An index counts the visible ones, as in torch.
        ("cuda:1", "3,5", 8, ("cuda", "5", 2), "5"),
        ("cuda:1", " GPU-a , GPU-b", 2, ("cuda", "GPU-b", 2), "GPU-b"),
        ("auto", "MIG-1/2/3", 1, ("auto", "MIG-1/2/3", 1), "MIG-1/2/3"),
        ("cuda:1", "3,-1,5", 8, ("cuda:1", "", 1), "3,-1,5"),
        # No GPU, or none of that number: the device is refused by name where it is used.
        ("auto", None, 0, ("auto", "", 0), None),
        ("auto", "", 4, ("auto", "", 0), ""),
        ("auto", "-1", 4, ("auto", "", 0), "-1"),
        ("cuda:7", None, 4, ("cuda:7", "", 4), None),
        ("cuda:1", None, 0, ("cuda", "1", 0), "1"),
        ("cpu", None, 4, ("cpu", "", 0), None),
        ("mps", None, 0, ("mps", "", 0), None),
        ("cuda:x", None, 4, ("cuda:x", "", 0), None),
    ],
)
def test_one_gpu_is_left_visible(
    device: str, visible: str | None, installed: int, want: tuple[str, str, int], now: str | None
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert use_one_gpu(device, environ, installed) == want
    assert environ.get("CUDA_VISIBLE_DEVICES") == now
