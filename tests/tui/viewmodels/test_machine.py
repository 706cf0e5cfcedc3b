"""The machine's figures, read from a stand-in for NVML and from containers, and their line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kdharness.tui.viewmodels import machine as machines
from kdharness.tui.viewmodels.machine import GIB, Gpu, Machine, Sampler, machine_line
from support.machine import SAMPLE, StandInError, nvml

H100: Mapping[str, Any] = {
    "name": "NVIDIA H100",
    "load": 62,
    "used": 41 * GIB,
    "total": 80 * GIB,
    "celsius": 54,
    "milliwatts": 311_400,
}


def text_of(machine: Machine, width: int) -> str:
    """Return the line as text."""
    return "".join(text for text, _ in machine_line(machine, width))


@pytest.mark.parametrize(
    ("gpu", "found"),
    [
        (H100, Gpu(0.62, 41 * GIB, 80 * GIB, 54.0, 311.4)),
        (H100 | {"name": b"Tesla T4"}, Gpu(0.62, 41 * GIB, 80 * GIB, 54.0, 311.4)),
        (
            {"name": "A100 MIG", "used": 1 * GIB, "total": 5 * GIB, "celsius": 40},
            Gpu(None, 1 * GIB, 5 * GIB, 40.0, None),
        ),
        ({"name": "GB10", "load": 3}, Gpu(0.03)),
        ({"name": StandInError("GPU is lost")}, Gpu()),
    ],
)
def test_gpus_are_read_figure_by_figure(
    monkeypatch: pytest.MonkeyPatch, gpu: Mapping[str, Any], found: Gpu
) -> None:
    """As in public reports: parts of a GPU have no load, and some cards no power."""
    monkeypatch.setitem(sys.modules, "pynvml", nvml([gpu]))
    assert Sampler(Path("/")).gpus() == (found,)


def test_without_a_driver_or_the_package_there_are_none_and_it_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in = nvml([H100], init="Driver Not Loaded")
    calls: list[None] = []
    begin = stand_in.nvmlInit
    stand_in.nvmlInit = lambda: (calls.append(None), begin())
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    sampler = Sampler(Path("/"))
    assert sampler.gpus() == () and sampler.gpus() == () and len(calls) == 1
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Sampler(Path("/")).gpus() == ()


def test_a_container_shows_its_own_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machines, "CGROUP", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sampler = Sampler(tmp_path / "not" / "made")
    whole = sampler.read()
    assert whole.total > GIB and whole.disk and whole.cpu is None
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB // 2}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 4}\n")
    inside = sampler.read()
    assert (inside.used, inside.total) == (GIB // 4, GIB) and inside.cpu is not None
    (tmp_path / "memory.max").write_text("max\n")
    assert sampler.read().total == whole.total


def test_a_system_that_tells_nothing_leaves_an_empty_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where /proc is hidden from users."""

    def hidden(*_: object) -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr("psutil.cpu_percent", hidden)
    monkeypatch.setattr("psutil.virtual_memory", hidden)
    monkeypatch.setattr("shutil.disk_usage", hidden)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = Sampler(tmp_path).read()
    assert found == Machine() and machine_line(found, 80) == []


def test_the_line_leaves_out_what_does_not_fit() -> None:
    full = "GPU 62% 41.0/80.0 GiB 54 °C 311 W   CPU 37%   memory 11.0/32.0 GiB"
    assert text_of(SAMPLE, 118) == f"{full}   disk 210 GiB free"
    assert text_of(SAMPLE, 78) == full
    assert text_of(SAMPLE, 45) == "GPU 62% 41.0/80.0 GiB 54 °C 311 W   CPU 37%"
    assert text_of(Machine(None, GIB, 2 * GIB), 78) == "memory 1.0/2.0 GiB"
    eight = Machine(0.5, GIB, 512 * GIB, None, (SAMPLE.gpus[0],) * 8)
    assert text_of(eight, 118) == (
        "8 GPUs 62% 328/640 GiB 54 °C 2488 W   CPU 50%   memory 1/512 GiB"
    )
    two = Machine(0.5, GIB, 8 * GIB, None, (SAMPLE.gpus[0], Gpu(total=GIB, used=0)))
    assert text_of(two, 118).startswith("GPU 0 62% 41.0/80.0 GiB 54 °C 311 W   GPU 1 0.0/1.0 GiB")


def test_what_runs_out_stands_out() -> None:
    hot = Gpu(0.5, 79 * GIB, 80 * GIB, 90.0, None)
    line = machine_line(Machine(0.5, 31 * GIB, 32 * GIB, 3 * GIB, (hot,)), 200)
    assert [text.strip() for text, role in line if role == "warn"] == [
        "79.0/80.0 GiB",
        "90 °C",
        "memory 31.0/32.0 GiB",
        "disk 3 GiB free",
    ]


@given(st.integers(1, 200), st.integers(0, 9))
def test_the_line_never_is_longer_than_its_room(width: int, count: int) -> None:
    machine = Machine(0.5, GIB, 64 * GIB, GIB, (SAMPLE.gpus[0],) * count)
    assert cell_len(text_of(machine, width)) <= width
