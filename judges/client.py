"""The one OpenAI-compatible client: many calls at once, limits, retries, budget.

It asks through the openai package's async client, but sends and reads the bodies itself: what an
endpoint leaves out or gets wrong is then ours to name, and a call costs half the processor
time. Replies come out of `stream` in the order in which they arrive. A key comes from the
environment, is sent to the endpoint, and goes nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from kdharness.harness.config_eval import EvalConfig, Spec, is_here, load_settings
from kdharness.harness.errors import JudgeError
from kdharness.harness.paths import Paths
from kdharness.harness.secrets import KEY_NAMES, find_key, redact
from kdharness.harness.types import Finish, GenerationRequest, Probe, Reply
from kdharness.judges.limits import FIRST_WAIT, Bucket, Budget, Gate, Price, backoff, find_price
from kdharness.judges.limits import retry_after as asked_wait
from kdharness.judges.transport import TooLarge, http_client
from kdharness.judges.wire import CallError, Dialect, Trouble, adapt, body, read_body, status_error

# After so many failures in a row to even reach the endpoint, the rest would fail as well.
UNREACHABLE_AFTER = 40
TYPICAL_REPLY = 256
_DONE = object()


class OpenAIEngine:
    """A model behind an OpenAI-compatible URL."""

    deterministic = False
    identity = ""
    unchanged_since = 0.0

    def __init__(
        self,
        model: str,
        url: str = "",
        *,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = 120.0,
        total_timeout: float | None = None,
        retries: int = 10,
        budget: float | None = None,
        price: Price | None = None,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        """Nothing is sent before `probe` or `stream`. Times are in seconds, money in USD."""
        self.model = model
        self.url = url
        self.name = f"openai:{model}" + (f"@{url}" if url else "")
        self.concurrency = concurrency
        self.timeout = timeout
        self.total_timeout = total_timeout
        self.retries = retries
        self.price = price
        self.first_wait = first_wait
        self.dialect = Dialect()
        self.requests = Bucket(requests_per_minute)
        self.tokens = Bucket(tokens_per_minute)
        self.gate = Gate()
        self.budget = Budget(budget)
        self.calls = 0
        self._failures = 0
        self._stopping = False
        self._started = time.monotonic()

    @classmethod
    def open(cls, spec: Spec, config: EvalConfig, paths: Paths) -> OpenAIEngine:
        """From a SPEC and an evaluation's config.

        Raises:
            JudgeError: a budget without a price, or no key for OpenAI itself.
        """
        price = find_price(load_settings(paths), spec.model)
        if config.budget is not None and price is None and not _is_own(spec.url):
            raise JudgeError(
                f"a budget needs the price of {spec.model}",
                hint=f"in {paths.settings}: prices: {{{spec.model}: {{input: USD, output: USD}}}} "
                "for a million tokens",
            )
        if not spec.url and not os.environ.get("OPENAI_BASE_URL") and find_key() is None:
            raise JudgeError("no key for the judge", hint=f"set {' or '.join(reversed(KEY_NAMES))}")
        return cls(
            spec.model, spec.url, concurrency=config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute, timeout=config.timeout,
            total_timeout=config.total_timeout, retries=config.retries, budget=config.budget,
            price=price,
        )  # fmt: skip

    def probe(self, *, logprobs: bool = False) -> Probe:
        """Is it there, does it know the model, does it give log-probabilities?"""
        from kdharness.judges.probe import probe

        return probe(self, logprobs=logprobs)

    def estimate(self, requests: Sequence[GenerationRequest]) -> tuple[int, float | None]:
        """Rough tokens and price: four characters a token, replies of a typical length."""
        read = sum(prompt_estimate(request) for request in requests)
        written = sum(min(request.max_new_tokens, TYPICAL_REPLY) for request in requests)
        price = self.price or (Price(0, 0) if _is_own(self.url) else None)
        return read + written, price.of(read, written) if price else None

    def stop_soon(self) -> None:
        """Start no further call; those under way are waited for."""
        self._stopping = True

    def close(self) -> None:
        """Connections live in `stream` alone; nothing is left open."""
        self._stopping = True

    # ------------------------------------------------------------ calling

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        """Yield replies as they arrive, from a loop in a thread of its own.

        Raises:
            JudgeError: the endpoint refuses us (key, model, quota) or is gone for good.
        """
        found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        waiting = deque(range(len(requests)))

        def work() -> None:
            try:
                asyncio.run(self._run(requests, waiting, found))
                found.put(_DONE)
            except BaseException as error:
                found.put(error)

        thread = threading.Thread(target=work, name="judge-client", daemon=True)
        thread.start()
        try:
            while (entry := found.get()) is not _DONE:
                if isinstance(entry, BaseException):
                    raise entry
                yield entry
        finally:
            waiting.clear()
            self._stopping = True
            thread.join(timeout=1.0)
            self._stopping = False

    async def _run(
        self,
        requests: Sequence[GenerationRequest],
        waiting: deque[int],
        found: queue.SimpleQueue[Any],
    ) -> None:
        client = self.client()
        fatal: list[JudgeError] = []

        async def worker() -> None:
            while waiting and not fatal and not self._stopping:
                index = waiting.popleft()
                try:
                    reply = await self._ask(client, requests[index])
                except JudgeError as error:
                    fatal.append(error)
                    return
                if reply is None:
                    return
                found.put((index, reply))

        async with client:
            workers = [
                asyncio.create_task(worker()) for _ in range(min(self.concurrency, len(requests)))
            ]
            left = self._time_left()
            _, late = await asyncio.wait(workers, timeout=left) if workers else (set(), set())
            for task in late:
                task.cancel()
            ends = await asyncio.gather(*workers, return_exceptions=True)
        if fatal:
            raise fatal[0]
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def client(self) -> Any:
        """The openai package's async client; aiohttp carries it where that is installed."""
        import openai

        options: dict[str, Any] = {
            "api_key": find_key() or "none", "max_retries": 0, "timeout": self.timeout,
        }  # fmt: skip
        if self.url:
            options["base_url"] = self.url
        return openai.AsyncOpenAI(**options, http_client=http_client(self.timeout))

    def _time_left(self) -> float | None:
        if self.total_timeout is None:
            return None
        return max(0.0, self._started + self.total_timeout - time.monotonic())

    async def _ask(self, client: Any, request: GenerationRequest) -> Reply | None:
        """One request until it is answered or given up; None when the budget ends it.

        Raises:
            JudgeError: something that would fail every other call too.
        """
        guess = prompt_estimate(request)
        worst = self.price.of(guess * 1.5, request.max_new_tokens) if self.price else 0.0
        if not await self.budget.reserve(worst):
            return None
        usd = 0.0
        try:
            reply = await self._retrying(client, request, guess)
            if self.price:
                usd = self.price.of(reply.prompt_tokens, reply.tokens)
            return replace(reply, usd=usd)
        finally:
            self.budget.settle(worst, usd)

    async def _retrying(self, client: Any, request: GenerationRequest, guess: int) -> Reply:
        attempt = 0
        while True:
            await self.gate.wait()
            await self.requests.take()
            await self.tokens.take(guess + min(request.max_new_tokens, TYPICAL_REPLY))
            try:
                reply = await self.call(client, request)
            except CallError as error:
                if error.trouble is Trouble.FATAL:
                    raise JudgeError(f"{self.name}: {error.message}", hint=advice(error)) from error
                attempt += 1
                if error.trouble is Trouble.GIVE_UP or attempt > self.retries or self._stopping:
                    return Reply(error=error.message, finish=Finish.ERROR)
                if error.wait is not None:
                    self.gate.close_for(error.wait)
                else:
                    await asyncio.sleep(backoff(attempt - 1, self.first_wait))
                continue
            self._failures = 0
            used = reply.prompt_tokens + reply.tokens
            if used:
                self.tokens.correct(used - guess - min(request.max_new_tokens, TYPICAL_REPLY))
            return reply

    async def call(self, client: Any, request: GenerationRequest) -> Reply:
        """One call, adapted once to each thing that the endpoint refuses.

        Raises:
            CallError: it did not work.
        """
        while True:
            sent = body(self.model, request, self.dialect)
            known = replace_dialect(self.dialect)
            started = time.monotonic()
            self.calls += 1
            status, headers, raw = await self._post(client, sent)
            if status < 300:
                return read_body(raw, request, time.monotonic() - started)
            text = raw.decode("utf-8", "replace")
            # Another call may have learnt the same while this one was under way.
            if status in (400, 422) and (known != self.dialect or adapt(self.dialect, text, sent)):
                continue
            raise status_error(status, redact(text, shapes=True), asked_wait(headers))

    async def _post(self, client: Any, sent: dict[str, Any]) -> tuple[int, Any, bytes]:
        """(status, headers, body). Raises CallError when nothing came back."""
        import httpx2
        import openai

        content = json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace")
        try:
            async with asyncio.timeout(self.timeout):
                response = await client.post(
                    "/chat/completions", cast_to=httpx2.Response, content=content,
                    options={"headers": {"Content-Type": "application/json"}},
                )  # fmt: skip
                return response.status_code, response.headers, response.content
        except openai.APIStatusError as error:
            return error.response.status_code, error.response.headers, error.response.content
        except TooLarge as error:
            raise CallError(str(error), Trouble.GIVE_UP) from error
        except TimeoutError as error:
            raise CallError(f"no reply within {self.timeout:g} s", Trouble.RETRY) from error
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            cause = error.__cause__ or error
            # The aiohttp transport calls every failed connection a connect timeout.
            late = isinstance(error, openai.APITimeoutError)
            if late and not isinstance(cause, httpx2.ConnectTimeout):
                raise CallError(f"no reply within {self.timeout:g} s", Trouble.RETRY) from error
            self._failures += 1
            trouble = Trouble.FATAL if self._failures > UNREACHABLE_AFTER else Trouble.RETRY
            raise CallError(
                f"not reached: {redact(str(cause), shapes=True) or type(cause).__name__}", trouble
            ) from error
        except Exception as error:  # a server that does not speak HTTP, by any layer's own error
            told = redact(str(error), shapes=True)[:300] or type(error).__name__
            raise CallError(f"no HTTP reply: {told}", Trouble.RETRY) from error


def replace_dialect(dialect: Dialect) -> Dialect:
    """A copy, to see later whether it has changed."""
    return replace(dialect)


def prompt_estimate(request: GenerationRequest) -> int:
    """About how many tokens a prompt has."""
    return sum(len(message["content"]) for message in request.messages) // 4 + 8


def advice(error: CallError) -> str:
    """What to do about a refusal that ends the run."""
    text = error.message
    if text.startswith(("HTTP 401", "HTTP 403")):
        return f"check the key in {' or '.join(reversed(KEY_NAMES))}"
    if text.startswith("HTTP 404"):
        return "check the model's name and that the URL ends where its API begins (often /v1)"
    if text.startswith("HTTP 3"):
        return "give the URL that it leads to, if you trust it: redirects are not followed"
    if text.startswith(("HTTP 402", "HTTP 429")):
        return "the account's quota is used up; what was finished is stored"
    return "is the server running? What was finished is stored; run the same command again"


def _is_own(url: str) -> bool:
    """Whether a URL is this machine: it costs nothing."""
    return bool(url) and is_here(url)
