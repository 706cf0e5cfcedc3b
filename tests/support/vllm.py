"""Engines on the stand-in for `vllm serve`, and what it recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from kdharness.harness.types import GenerationRequest, Reply
from kdharness.judges.engines.vllm import VLLMEngine
from support.locations import ROOT

STAND_IN = ROOT / "tests" / "support" / "fake_vllm.py"
Configure = Callable[..., Path]
Opened = Callable[..., VLLMEngine]


def ask(text: str = "Hello", **settings: Any) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": text},), **settings)


def read(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


def replies_of(engine: VLLMEngine, *requests: GenerationRequest) -> dict[int, Reply]:
    return dict(engine.stream(requests))


def gone(*pids: int) -> bool:
    return not any(map(_is_alive, pids))


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
