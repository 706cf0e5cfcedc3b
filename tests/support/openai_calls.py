"""Requests to an OpenAI-compatible server on the loopback, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kdharness.harness.types import GenerationRequest
from kdharness.judges.engines.openai import OpenAIEngine
from support.loopback import Loopback, Raw, completion


def refusal(message: str, **more: Any) -> str:
    return json.dumps({"error": {"message": message, **more}})


def requests(count: int, *, top: int = 0, seed: int = 0) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            ({"role": "user", "content": f"question {n}"},),
            0.7 if seed else 0.0,
            64,
            seed=seed,
            top_logprobs=top,
        )
        for n in range(count)
    ]


def engine(server: Loopback, **options: Any) -> OpenAIEngine:
    return OpenAIEngine("judge-1", server.url, **{"timeout": 2.0, "first_wait": 0.01, **options})


def first_then(*raws: Raw) -> Callable[[dict[str, Any]], Any]:
    """Answer with these in turn, then well for ever."""
    left = list(raws)
    return lambda body: left.pop(0) if left else completion("Good. [[7]]")
