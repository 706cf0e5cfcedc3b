"""A machine under test, and a stand-in for nvidia-ml-py."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from kdharness.tui.viewmodels.machine import GIB, Gpu, Machine

SAMPLE = Machine(
    cpu=0.37,
    used=11 * GIB,
    total=32 * GIB,
    disk=210 * GIB,
    gpus=(Gpu(0.62, 41 * GIB, 80 * GIB, 54.0, 311.0),),
)


class StandInError(Exception):
    """An NVMLError."""


def nvml(gpus: list[Mapping[str, Any]], *, init: str = "") -> SimpleNamespace:
    """Return a module like pynvml; a figure that is an exception is raised.

    Args:
        gpus: name, load (%), used and total (bytes), celsius, milliwatts of each.
        init: why the driver cannot be opened.
    """

    def figure(gpu: Mapping[str, Any], name: str) -> Any:
        value = gpu.get(name, StandInError("Not Supported"))
        if isinstance(value, Exception):
            raise value
        return value

    def begin() -> None:
        if init:
            raise StandInError(init)

    return SimpleNamespace(
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=begin,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda index: gpus[index],
        nvmlDeviceGetName=lambda gpu: figure(gpu, "name"),
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=figure(gpu, "load")),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(
            used=figure(gpu, "used"), total=figure(gpu, "total")
        ),
        nvmlDeviceGetTemperature=lambda gpu, sensor: figure(gpu, "celsius"),
        nvmlDeviceGetPowerUsage=lambda gpu: figure(gpu, "milliwatts"),
    )
