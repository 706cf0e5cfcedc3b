"""Where llama.cpp puts a model's layers."""

from __future__ import annotations

from typing import Any

from kdharness.harness.errors import ModelError


def placed(api: Any, device: str) -> dict[str, int]:
    """Return where the layers go.

    Raises:
        ModelError: a device that this llama.cpp was not built for.
    """
    if device == "cpu":
        return {"n_gpu_layers": 0}
    if device != "auto" and not api.llama_supports_gpu_offload():
        raise ModelError(
            f"llama-cpp-python was built for the CPU alone, and the device is {device}",
            hint="use --device auto, or build it for the GPU: see its documentation",
        )
    number = device.partition(":")[2]
    whole = {"n_gpu_layers": -1}
    if not number.isdecimal():
        return whole
    return {**whole, "main_gpu": int(number), "split_mode": api.LLAMA_SPLIT_MODE_NONE}
