"""The demo in bf16, where a CPU is faster in it, and as it began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import RunError
from kdharness.harness.experiments.demo import begun_in_bf16, load_demo
from kdharness.harness.models import loading
from kdharness.harness.models.loading import is_cpu_faster_in_bf16
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.tui_home import add_past_run, stored_config


def settings(config: Any) -> dict[str, Any]:
    """Return a run's config without its number formats."""
    values: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    values.pop("dtype", None)
    values.get("trainer", {}).pop("precision", None)
    for role in ("teacher", "reference", "expert"):
        if values.get(role):
            values[role].pop("dtype")
    return values


@pytest.mark.parametrize("smoke", [False, True])
def test_in_bf16_nothing_but_number_formats_differs(smoke: bool) -> None:
    plain, faster = (load_demo(smoke=smoke, judge=None, bf16=bf16)[1] for bf16 in (False, True))
    assert [run.name for run in plain] == [run.name for run in faster]
    for one, other in zip(plain, faster, strict=True):
        assert settings(one.config) == settings(other.config)
        config: Any = other.config
        if isinstance(config, EvalConfig):
            assert config.dtype == "bfloat16"
            continue
        assert config.trainer.precision == "mixed"
        for role in ("teacher", "reference", "expert"):
            teacher = getattr(config, role, None)
            assert teacher is None or teacher.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("device", "flags", "expected"),
    [
        ("cpu", "avx2 amx_bf16 amx_tile", True),
        # These instructions alone take longer than fp32.
        ("cpu", "avx2 avx512_bf16", False),
        ("cuda", "avx2 amx_bf16 amx_tile", False),
        ("mps", "", False),
    ],
)
def test_bf16_is_for_cpus_with_amx(
    device: str, flags: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "pick_device", lambda: device)
    processors = tmp_path / "cpuinfo"
    assert not is_cpu_faster_in_bf16(processors)
    processors.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: spectre_v1\n")
    assert is_cpu_faster_in_bf16(processors) is expected


@pytest.mark.parametrize("precision", ["auto", "mixed"])
def test_a_demo_stays_as_it_began(
    precision: str, store: Store, kd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its home may have moved to a machine with other instructions."""
    assert begun_in_bf16(store) is None
    config = stored_config("sft")
    config["trainer"]["precision"] = precision
    add_past_run(store, "demo-sft", "sft", 60.0, config=config)
    assert begun_in_bf16(store) is (precision == "mixed")
    asked: list[bool] = []

    def load(*, bf16: bool, **options: Any) -> Any:
        asked.append(bf16)
        raise RunError("no further in this test")

    monkeypatch.setattr("kdharness.harness.cli.demo.load_demo", load)
    monkeypatch.setattr(
        "kdharness.harness.cli.demo.is_cpu_faster_in_bf16", lambda: precision != "mixed"
    )
    _, _, err = kd("demo")
    assert asked == [precision == "mixed"]
    assert ("computes in bf16" in err) is (precision == "mixed")
