"""The stand-in for `vllm serve` as the home's vllm."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.evaluation import EvalConfig, parse_spec
from kdharness.harness.paths import Paths
from kdharness.judges.engines import vllm_server
from kdharness.judges.engines.vllm import VLLMEngine
from support.vllm import STAND_IN, Configure, Opened


@pytest.fixture
def configure(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Return a function that makes the stand-in the home's vllm; it returns the record's path."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{STAND_IN}" "$@"\n')
    program.chmod(0o755)
    record = tmp_path / "record.jsonl"
    monkeypatch.setattr(vllm_server, "SHARED", tmp_path)

    def write(settings: str = "", **faults: Any) -> Path:
        paths.home.mkdir(exist_ok=True)
        lines = f"vllm:\n  command: {program}\n{settings}"
        paths.settings.write_text(lines)
        monkeypatch.setenv("FAKE_VLLM", json.dumps({**faults, "record": str(record)}))
        return record

    return write


@pytest.fixture
def opened(paths: Paths, tiny_teacher: Path) -> Iterator[Opened]:
    """Return a function that opens an engine, and close all of them."""
    engines: list[VLLMEngine] = []

    def make(**config: Any) -> VLLMEngine:
        spec = parse_spec(f"vllm:{tiny_teacher}")
        engines.append(VLLMEngine.open(spec, EvalConfig(**config), paths))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
