"""The OpenAI-compatible client: concurrency, rate limits, retries, budget.

It uses the openai package's async client, but builds and parses the bodies itself: so it can report
what an endpoint omits or gets wrong, and a call takes half the CPU time. `stream` yields replies in
the order in which they arrive. A key comes from the environment and is sent only to the endpoint.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.endpoints import endpoint_of
from kdharness.harness.config.evaluation import CALL_TIMEOUT, EvalConfig, Spec, is_loopback_url
from kdharness.harness.config.settings import load_settings
from kdharness.harness.errors import JudgeError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Probe
from kdharness.harness.types import GenerationRequest, Reply
from kdharness.harness.util.redact import KEY_NAMES, find_key
from kdharness.judges.engines.dialect import (
    Dialect,
    adapt,
    body,
    left_out,
    refuses_a_role,
    token_limit,
)
from kdharness.judges.engines.http_limits import NotReached, http_client, send
from kdharness.judges.engines.openai_wire import (
    failed_reply,
    read_body,
    refusal,
    refuse_cut_thought,
)
from kdharness.judges.engines.openings import MOST_CALLS, read_endpoint
from kdharness.judges.engines.rate_limits import (
    FIRST_WAIT,
    LOOK,
    Bill,
    Bucket,
    Budget,
    Gate,
    Price,
    backoff,
    find_price,
)
from kdharness.judges.engines.streak import Streak
from kdharness.judges.engines.token_estimates import (
    TYPICAL_REPLY,
    endpoint_estimate,
    prompt_estimate,
)
from kdharness.judges.engines.trouble import CallError, Trouble, Used, advice

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# After this many consecutive connection failures, the rest would fail as well.
UNREACHABLE_AFTER = 40
PATIENCE = 60.0
"""Seconds of backoff after which a call is given up while others succeed."""
_DONE = object()


class OpenAIEngine:
    """A model behind an OpenAI-compatible URL."""

    deterministic = False
    identity = ""
    unchanged_since = 0.0
    key: str | None = None

    def __init__(
        self,
        model: str,
        url: str = "",
        *,
        concurrency: int = 16,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        timeout: float = CALL_TIMEOUT,
        total_timeout: float | None = None,
        retries: int = 10,
        budget: float | None = None,
        price: Price | None = None,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        """Send nothing before `probe` or `stream`. Times are in seconds, money in USD."""
        self.model = model
        self.url = url
        self.endpoint = endpoint_of(url)
        self.name = f"openai:{model}" + (f"@{url}" if url else "")
        self.concurrency = concurrency
        self.timeout = timeout
        self.total_timeout = total_timeout
        self.retries = retries
        self.price, self.first_wait = price, first_wait
        self.dialect, self.streak = Dialect(), Streak()
        self.requests, self.tokens = Bucket(requests_per_minute), Bucket(tokens_per_minute)
        self.gate, self.budget = Gate(), Budget(budget)
        self.idle: Callable[[], None] = lambda: None
        self.calls = 0
        self._failures, self._stopping, self._started = 0, False, time.monotonic()

    @classmethod
    def open(cls, spec: Spec, config: EvalConfig, paths: Paths) -> OpenAIEngine:
        """Create the engine from a SPEC and an evaluation's config.

        Raises:
            JudgeError: a budget without a price, or no API key for OpenAI itself.
        """
        price = find_price(load_settings(paths), spec.model)
        if config.budget is not None and price is None and not is_loopback_url(spec.url):
            raise JudgeError(
                f"a budget needs the price of {spec.model}",
                hint=f"add prices: {{{spec.model}: {{input: USD, output: USD}}}} "
                f"(per million tokens) to {paths.settings}",
            )
        if find_key() is None and not spec.url and not os.environ.get("OPENAI_BASE_URL"):
            raise JudgeError("missing API key", hint=f"set {' or '.join(reversed(KEY_NAMES))}")
        return cls(
            spec.model,
            spec.url,
            concurrency=config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            timeout=config.call_timeout(spec.kind),
            total_timeout=config.total_timeout,
            retries=config.retries,
            budget=config.budget,
            price=price,
        )

    def probe(self, *, logprobs: bool = False) -> Probe:
        """Check that the endpoint responds, has the model, and returns log-probabilities."""
        from kdharness.judges.engines.openai_probe import probe

        return probe(self, logprobs=logprobs)

    def estimate(self, requests: Sequence[GenerationRequest]) -> tuple[int, float | None]:
        """Return rough tokens and cost: four characters per token, replies of typical length."""
        read, written = endpoint_estimate(requests)
        price = self.price or (Price(0, 0) if is_loopback_url(self.url) else None)
        return read + written, price.of(read, written) if price else None

    def stop_soon(self) -> None:
        """Start no further calls; wait for those in progress."""
        self._stopping = True
        self.gate.open()

    def close(self) -> None:
        """Stop; connections exist only inside `stream`, so nothing else needs closing."""
        self._stopping = True

    # ------------------------------------------------------------ calling

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        """Yield replies as they arrive, from an event loop in a separate thread.

        While nothing arrives, `idle` is called periodically in the calling thread.

        Raises:
            JudgeError: the endpoint rejects every call (key, model, quota) or is unreachable.
        """
        self.streak.over = False
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        waiting = deque(range(len(requests)))

        def work() -> None:
            try:
                asyncio.run(self._run(requests, waiting, results))
                results.put(_DONE)
            except BaseException as error:
                results.put(error)

        thread = threading.Thread(target=work, name="judge-client", daemon=True)
        thread.start()
        try:
            while True:
                try:
                    entry = results.get(timeout=LOOK)
                except queue.Empty:
                    self.idle()
                    continue
                if entry is _DONE:
                    break
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
        results: queue.SimpleQueue[Any],
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
                results.put((index, reply))

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
        """Return the openai package's async client."""
        import openai

        key = self.key or find_key()
        return openai.AsyncOpenAI(
            api_key=key or "none",
            max_retries=0,
            timeout=self.timeout,
            base_url=self.endpoint.base,
            default_query=dict(self.endpoint.query),
            default_headers=self.endpoint.headers(key),
            http_client=http_client(self.timeout, self.endpoint.base),
        )

    def _time_left(self) -> float | None:
        if self.total_timeout is None:
            return None
        return max(0.0, self._started + self.total_timeout - time.monotonic())

    async def _ask(self, client: AsyncOpenAI, request: GenerationRequest) -> Reply | None:
        """Send one request until it is answered or given up; None if the budget is used up.

        Raises:
            JudgeError: an error that every other call would have too.
        """
        bill = Bill(self.budget, self.price)
        if not await self._reserve(bill, request):
            return None
        try:
            ask = partial(self._retrying, client, bill)
            reply = await (read_endpoint(ask, request) if request.opening else ask(request))
            if reply is None:
                return None
            info = {**reply.info, **bill.note()}
            return replace(reply, usd=bill.usd, info=info)
        finally:
            bill.close()

    async def _reserve(self, bill: Bill, request: GenerationRequest) -> bool:
        limit = token_limit(request, self.dialect)
        calls = MOST_CALLS if request.opening else 1
        return await bill.reserve(prompt_estimate(request) * 1.5 * calls, limit * calls)

    async def _retrying(
        self, client: AsyncOpenAI, bill: Bill, request: GenerationRequest
    ) -> Reply | None:
        """Return a reply, or an error reply after all retries failed.

        None if the run has ended in the meantime.

        Raises:
            JudgeError: an error that every other call would have too.
        """
        guess = prompt_estimate(request) + min(request.max_new_tokens, TYPICAL_REPLY)
        attempt, slept, answers = 0, 0.0, self.streak.answers
        waited_at = answers
        last: CallError | None = None
        while True:
            await self.gate.wait()
            await self.requests.take()
            await self.tokens.take(guess)
            if not await self.streak.turn():
                return None
            if last is not None and self._stopping:
                return self._given_up(last)
            roomy = self.dialect.thinks
            try:
                reply = await self.call(client, request)
            except CallError as error:
                last = error.after(last)
                if error.used is not None:
                    bill.add(error.used)
                if error.thinks and request.thinking_room and not roomy:
                    self.dialect.thinks = True
                    if await self._reserve(bill, request):
                        continue
                # While others succeed, a rate-limited call was not refused for good.
                spaced = error.wait is not None and self.streak.answers > waited_at
                waited_at = self.streak.answers
                attempt = 0 if spaced else attempt + 1
                patient = slept < PATIENCE or self.streak.answers == answers
                if not (error.is_retried(attempt, self.retries) and patient):
                    return self._given_up(error)
                if self._stopping or self.budget.is_passed:
                    return self._given_up(error)
                if error.wait is not None:
                    self.gate.close_for(error.wait)
                else:
                    slept += await self._sleep(backoff(attempt - 1, self.first_wait))
                continue
            self._failures = 0
            self.streak.answered()
            used = Used(reply.prompt_tokens, reply.tokens, "estimated" in reply.info)
            bill.add(used)
            if not used.estimated:
                self.tokens.correct(used.prompt + used.written - guess)
            return reply

    def _given_up(self, error: CallError) -> Reply:
        """Return a failed call as a reply.

        Raises:
            JudgeError: the other calls would fail as well.
        """
        if error.trouble is Trouble.FATAL:
            self.streak.over = True
            raise JudgeError(f"{self.name}: {error.message}", hint=advice(error)) from error
        if not self._stopping and self.streak.failed(error):
            self.streak.over = True
            raise JudgeError(
                f"{self.name}: {self.streak.count} consecutive calls failed: {error.message}",
                hint=advice(error),
            ) from error
        return failed_reply(error)

    async def _sleep(self, seconds: float) -> float:
        """Sleep for `seconds`, or less on a stop request; return `seconds`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopping:
            await asyncio.sleep(min(left, LOOK))
        return seconds

    async def call(self, client: AsyncOpenAI, request: GenerationRequest) -> Reply:
        """Send one call, adapting it to each parameter that the endpoint rejects.

        Raises:
            CallError: the call failed.
        """
        while True:
            sent = body(self.model, request, self.dialect)
            known = replace(self.dialect)
            started = time.monotonic()
            self.calls += 1
            with self.streak.call():
                status, headers, raw = await self._post(client, sent)
            if status < 300:
                reply = read_body(raw, request, time.monotonic() - started)
                reply = replace(reply, info={**left_out(request, known), **reply.info})
                if request.thinking_room and not known.thinks:
                    refuse_cut_thought(reply)
                return reply
            text = raw.decode("utf-8", "replace")
            # Another call may have learned the same while this one was in progress.
            adaptable = status in (400, 422) or (status == 500 and refuses_a_role(text))
            if adaptable and (known != self.dialect or adapt(self.dialect, text, sent)):
                continue
            raise refusal(status, text, headers, self.endpoint.base)

    async def _post(self, client: AsyncOpenAI, sent: dict[str, object]) -> tuple[int, Any, bytes]:
        """Return (status, headers, body); raise CallError without a reply."""
        content = json.dumps(sent, ensure_ascii=False).encode("utf-8", "replace")
        try:
            return await send(client, content, self.timeout, self.endpoint.base)
        except NotReached as error:
            self._failures += 1
            error.trouble = Trouble.FATAL if self._failures > UNREACHABLE_AFTER else error.trouble
            raise
