"""Requests to an OpenAI-compatible server on loopback, and its error bodies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kdharness.harness.types import GenerationRequest
from kdharness.judges.engines.openai import OpenAIEngine
from support.loopback import Loopback, Raw, completion


def refusal(message: str, **fields: Any) -> str:
    """Return an error body in the format of OpenAI-compatible servers."""
    return json.dumps({"error": {"message": message, **fields}})


def requests(count: int, *, top: int = 0, seed: int = 0) -> list[GenerationRequest]:
    """Make `count` requests with distinct texts."""
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
    """Make a client of the server with short waits."""
    return OpenAIEngine("judge-1", server.url, **{"timeout": 2.0, "first_wait": 0.01, **options})


def responses_then_success(*raws: Raw) -> Callable[[dict[str, Any]], Any]:
    """Answer with the given responses in turn, then always with a completion."""
    left = list(raws)
    return lambda body: left.pop(0) if left else completion("Good. [[7]]")
