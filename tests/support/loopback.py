"""An OpenAI-compatible server on loopback, with faults on demand.

Plain asyncio and minimal HTTP, to keep its overhead low. It counts the requests received and
finished, which tests of resuming need.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Answerer = Callable[[dict[str, Any]], Any]


@dataclass
class Raw:
    """A raw response instead of a completion: any status, headers and body."""

    status: int = 200
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Return the bytes of the body."""
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


FAULTS = (
    "429",
    "500",
    "503",
    "hang",
    "cut",
    "html",
    "empty",
    "wrong-json",
    "no-choices",
    "no-logprobs",
)


def completion(
    text: str,
    *,
    finish: str = "stop",
    top: list[tuple[str, float]] | None = None,
    prompt_tokens: int = 10,
    tokens: int = 5,
) -> dict[str, Any]:
    """Return the body of a chat completion."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
    }
    if top is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": top[0][0],
                    "logprob": top[0][1],
                    "top_logprobs": [{"token": t, "logprob": v} for t, v in top],
                }
            ]
        }
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens},
    }


def a_judge(body: dict[str, Any]) -> dict[str, Any]:
    """Rate, and choose m or M, by the hash of the prompt: a deterministic judge."""
    chance = random.Random(json.dumps(body["messages"], sort_keys=True))
    if body.get("logprobs"):
        share = chance.uniform(-4, -0.02)
        return completion("m", finish="length", top=[("m", share), ("M", -0.02 - share)])
    if "[[A]]" in json.dumps(body["messages"]):
        return completion(f"Because. [[{chance.choice('ABC')}]]")
    return completion(f"It is fine. Rating: [[{chance.randint(1, 10)}]]")


@dataclass
class Loopback:
    """OpenAI-compatible server: `with Loopback() as server: server.url`."""

    answer: Answerer = a_judge
    delay: float = 0.0
    fault_rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    models: tuple[str, ...] | None = ("judge-1",)
    listing: Raw | None = None
    status: int = 200
    refusal: str = ""
    retry_after: str | None = "0"
    seed: int = 0
    calls: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keep_bodies: bool = True
    most_at_once: int = 0
    port: int = 0

    def __enter__(self) -> Loopback:
        self._chance = random.Random(self.seed)
        self._now = 0
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)

            async def begin() -> None:
                self._server = await asyncio.start_server(
                    self._connection, "127.0.0.1", self.port, backlog=1024
                )
                self.port = self._server.sockets[0].getsockname()[1]
                ready.set()

            self._loop.run_until_complete(begin())
            self._loop.run_forever()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        def stop() -> None:
            self._server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_soon(self._loop.stop)

        self._loop.call_soon_threadsafe(stop)
        self._thread.join(5)

    @property
    def url(self) -> str:
        """Return the base URL of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def spec(self) -> str:
        """Return the judge spec of the server."""
        return f"openai:judge-1@{self.url}"

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {
                    k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k
                }
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._serve(first, headers, raw, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _serve(
        self, first: str, headers: dict[str, str], raw: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if first.startswith("GET") and "/models" in first:
            if self.listing is not None:
                self._send(
                    writer, self.listing.status, self.listing.encoded(), self.listing.headers
                )
            elif self.models is None:
                self._send(writer, 404, b"{}")
            else:
                data = [{"id": name, "max_model_len": 8192} for name in self.models]
                self._send(writer, 200, json.dumps({"object": "list", "data": data}).encode())
            return
        self.calls += 1
        self.times.append(asyncio.get_running_loop().time())
        body = json.loads(raw)
        if self.keep_bodies:
            self.bodies.append(body)
            self.headers.append(headers)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._answer(body, writer)
        finally:
            self._now -= 1

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if self.status != 200:
            self._send(
                writer, self.status, json.dumps({"error": {"message": self.refusal}}).encode()
            )
            return
        fault = self._fault(body)
        if fault is not None:
            self.injected[fault] += 1
            await self._break(fault, body, writer)
            return
        reply = self.answer(body)
        if isinstance(reply, Raw):
            self._send(writer, reply.status, reply.encoded(), reply.headers)
            return
        self._send(writer, 200, json.dumps(reply).encode())
        await writer.drain()
        self.finished[json.dumps(body["messages"], sort_keys=True)] += 1

    def _fault(self, body: dict[str, Any]) -> str | None:
        if self._chance.random() >= self.fault_rate:
            return None
        fault = self._chance.choice(self.faults)
        return None if fault == "no-logprobs" and not body.get("logprobs") else fault

    async def _break(self, fault: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if fault == "429":
            extra = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            self._send(writer, 429, b'{"error": {"message": "slow down"}}', extra)
        elif fault in ("500", "503"):
            self._send(writer, int(fault), b"oops")
        elif fault == "hang":
            await asyncio.sleep(60)
        elif fault == "cut":
            data = json.dumps(self.answer(body)).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                + str(len(data)).encode()
                + b"\r\n\r\n"
                + data[: len(data) // 2]
            )
            writer.close()
        elif fault == "html":
            self._send(writer, 200, b"<html><body>Bad gateway</body></html>")
        elif fault == "empty":
            self._send(writer, 200, json.dumps(completion("")).encode())
        elif fault == "wrong-json":
            self._send(writer, 200, b'{"choices": [{"message": {"content": "[[9')
        elif fault == "no-choices":
            self._send(writer, 200, b'{"choices": []}')
        elif fault == "no-logprobs":
            self._send(writer, 200, json.dumps(completion("m")).encode())

    @staticmethod
    def _send(
        writer: asyncio.StreamWriter,
        status: int,
        body: bytes,
        extra: dict[str, str] | None = None,
    ) -> None:
        lines = [
            f"HTTP/1.1 {status} X",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        lines += [f"{name}: {value}" for name, value in (extra or {}).items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
