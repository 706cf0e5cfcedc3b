"""Probing an endpoint before the first paid call.

Optional features are probed, not assumed: OpenAI, vLLM, llama.cpp, Ollama and `transformers serve`
differ in whether they list models, report a context length, or return log-probabilities.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kdharness.harness.config.endpoints import explain_connection_error
from kdharness.harness.errors import JudgeError
from kdharness.harness.protocols import Probe
from kdharness.harness.types import GenerationRequest, Reply
from kdharness.harness.util.redact import redact
from kdharness.harness.util.untrusted import parse_json
from kdharness.judges.engines.http_limits import TooLarge
from kdharness.judges.engines.rate_limits import backoff
from kdharness.judges.engines.trouble import CallError, Trouble, advice
from kdharness.judges.scoring.verdicts import is_unfinished

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from kdharness.harness.config.endpoints import Endpoint

TRIES = 6
NO_LOGPROBS = "returns no log-probabilities"
THINKS = "reasoning model: its first token cannot be scored"
MOST_MODELS = 10_000
Result = TypeVar("Result")


class ProbeTarget(Protocol):
    """The part of an engine that a probe needs: list models and make one call."""

    name: str
    model: str
    timeout: float
    first_wait: float
    endpoint: Endpoint

    def client(self) -> AbstractAsyncContextManager[Any]:
        """Return a client with its connections."""
        ...

    async def call(self, client: AsyncOpenAI, request: GenerationRequest) -> Reply:
        """Return one completion; raise CallError."""
        ...


def probe(engine: ProbeTarget, *, logprobs: bool) -> Probe:
    """List the models and, if needed, request one tiny completion.

    Raises:
        JudgeError: unreachable, rejected, or a model the endpoint does not have.
    """
    return _run(_probe(engine, logprobs))


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in its own event loop, even if this thread has one running."""
    results: list[Any] = []

    def inside() -> None:
        try:
            results.append((True, asyncio.run(work)))
        except BaseException as error:
            results.append((False, error))

    thread = threading.Thread(target=inside, daemon=True)
    thread.start()
    thread.join()
    good, value = results[0]
    if not good:
        raise value
    result: Result = value
    return result


async def _probe(engine: ProbeTarget, logprobs: bool) -> Probe:
    started = time.monotonic()
    async with engine.client() as client:
        models, context = await _models(engine, client)
        known = _is_known(engine.model, models)
        has_logprobs, note = False, ""
        if logprobs or not known:
            # A model that is not listed may still be served: only a completion shows.
            has_logprobs, note = await _try(engine, client, logprobs, known, models)
            known = True
    return Probe(
        reachable=True,
        model_known=known,
        logprobs=has_logprobs,
        context=context,
        models=tuple(models),
        seconds=time.monotonic() - started,
        note=note,
    )


def _is_known(model: str, models: list[str]) -> bool | None:
    """Return whether a listing has the model; None without a listing."""
    return model in models if models else None


async def _models(engine: ProbeTarget, client: AsyncOpenAI) -> tuple[list[str], int | None]:
    """Return (model names, our model's context length in tokens) as far as they are reported.

    A missing or broken list is fine: `transformers serve` has one only if there is a Hub cache.
    """
    import httpx2
    import openai

    for attempt in range(TRIES):
        try:
            async with asyncio.timeout(min(engine.timeout, 30.0)):
                response = await client.get("/models", cast_to=httpx2.Response)
            return read_models(response.content, engine.model)
        except TooLarge:
            return [], None
        except openai.APIStatusError as error:
            # A key may be allowed to complete but not to list; 403 is left to the completion.
            if error.status_code == 401 and "scope" not in str(error).lower():
                raise JudgeError(
                    f"{engine.name} rejects the API key (HTTP {error.status_code})",
                    hint="set OPENAI_API_KEY or KDHARNESS_JUDGE_API_KEY",
                ) from error
            if error.status_code not in (429, 503) and (error.status_code < 500 or attempt >= 1):
                return [], None
        except (openai.APIConnectionError, httpx2.HTTPError, TimeoutError) as error:
            why = explain_connection_error(error, engine.endpoint.base)
            if why.final or attempt == TRIES - 1 or (attempt >= 1 and why.settled):
                raise JudgeError(
                    f"{engine.name} cannot be reached: {why.message}", hint=why.hint
                ) from error
        except Exception as error:  # from any layer; a server may not even speak HTTP
            if attempt == TRIES - 1:
                reason = redact(str(error.__cause__ or error), shapes=True)
                raise JudgeError(
                    f"{engine.name} cannot be reached: {reason or type(error).__name__}",
                    hint="is it an HTTP server, and is the URL the base URL of its API (often "
                    "ending in /v1)?",
                ) from error
        await asyncio.sleep(backoff(attempt, engine.first_wait))
    return [], None


def read_models(raw: bytes, model: str) -> tuple[list[str], int | None]:
    """Read an endpoint's list of models: its names, and the model's context length if stated."""
    try:
        entries = parse_json(raw)["data"][:MOST_MODELS]
        names = [redact(str(entry["id"])[:200]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        return [], None
    for entry in entries:
        if entry["id"] != model:
            continue
        meta = entry.get("meta") if isinstance(entry.get("meta"), dict) else {}
        for value in (
            entry.get("max_model_len"),
            entry.get("context_length"),
            entry.get("context_window"),
            meta.get("n_ctx_train"),
        ):
            if isinstance(value, int) and value > 0:
                return names, value
    return names, None


async def _try(
    engine: ProbeTarget, client: AsyncOpenAI, logprobs: bool, known: bool | None, models: list[str]
) -> tuple[bool, str]:
    """Return (whether it returns log-probabilities, a note) from one tiny completion."""
    question = ({"role": "user", "content": "Reply with the single letter m."},)
    last: CallError | None = None
    for top in [5, 0] if logprobs else [0]:
        request = GenerationRequest(question, 0.0, 16 if not top else 1, top_logprobs=top)
        for attempt in range(TRIES):
            try:
                reply = await engine.call(client, request)
                return bool(top), _note(reply, logprobs and not top)
            except CallError as error:
                last = error
                if error.trouble is Trouble.FATAL:
                    raise _unknown_model(engine, error, known, models) from error
                if error.thinks:
                    # A reasoning model: it works, but its first token is not a verdict.
                    return False, THINKS if top or not logprobs else f"{THINKS}; {NO_LOGPROBS}"
                if error.trouble is not Trouble.RETRY:
                    break
                if top and "no log-probabilities" in error.message and attempt >= 2:
                    break
                await asyncio.sleep(
                    backoff(attempt, engine.first_wait) if error.wait is None else error.wait
                )
    if last is not None and last.trouble is Trouble.REFUSED and not last.lacks_logprobs:
        raise _unknown_model(engine, last, known, models)
    raise JudgeError(
        f"{engine.name} does not respond: {last.message if last else '?'}",
        hint=last.hint if last else "",
    )


def _note(reply: Reply, no_logprobs: bool) -> str:
    """Return what a user should know about an endpoint that answered."""
    first = max(reply.top_logprobs or (("", 0.0),), key=lambda pair: pair[1])[0]
    notes = [NO_LOGPROBS] if no_logprobs else []
    if is_unfinished(first.strip()) or is_unfinished(reply.text):
        notes.append(THINKS)
    notes += [f"{name} is not supported" for name in reply.info.get("without", ())]
    return "; ".join(notes)


def _unknown_model(
    engine: ProbeTarget, error: CallError, known: bool | None, models: list[str]
) -> JudgeError:
    """Return the error, with the available models if ours is not one of them."""
    if known is False and error.message.startswith(("HTTP 404", "HTTP 400")):
        some = ", ".join(models[:8]) + (" …" if len(models) > 8 else "")
        return JudgeError(
            f"{engine.name}: the endpoint does not have this model", hint=f"available: {some}"
        )
    return JudgeError(f"{engine.name}: {error.message}", hint=advice(error))
