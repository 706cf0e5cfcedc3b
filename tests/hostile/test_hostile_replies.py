"""Hostile judge endpoints: any JSON, no JSON, endless or oversized replies, and their parsing."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings

from kdharness.harness.errors import JudgeError
from kdharness.harness.store.rows import stored_json
from kdharness.harness.types import Finish, GenerationRequest, JudgmentStatus, Reply
from kdharness.judges.engines import http_limits
from kdharness.judges.engines.openai import OpenAIEngine
from kdharness.judges.engines.openai_probe import read_models
from kdharness.judges.engines.openai_wire import read_body
from kdharness.judges.engines.refusals import status_error
from kdharness.judges.engines.trouble import CallError, short
from kdharness.judges.scoring import verdicts
from kdharness.judges.scoring.exact_metrics import METRICS
from support.loopback import completion
from support.mutations import MALFORMED_FILES, as_json, corrupted, mutated
from support.timing import assert_not_quadratic

FAST = settings(settings.get_profile("hostile"), max_examples=150)
VALID_REPLY = completion("Fine. [[7]]", top=[("m", -0.1), ("M", -2.5)])
REQUEST = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 8, top_logprobs=0)
LOGPROBS_REQUEST = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 1, top_logprobs=5)


def assert_usable(reply: Reply) -> None:
    """Check that the reply can be stored and scored."""
    assert isinstance(reply.text, str) and reply.finish in (Finish.STOP, Finish.LENGTH)
    assert 0 <= reply.tokens < 2**63 and 0 <= reply.prompt_tokens < 2**63
    reply.text.encode("utf-8")
    for token, value in reply.top_logprobs or ():
        assert isinstance(token, str) and math.isfinite(value)
    json.loads(stored_json({"top": reply.top_logprobs}))
    for verdict in (
        verdicts.read_rating(reply.text),
        verdicts.read_winner(reply.text),
        verdicts.read_ranking(reply.text),
        verdicts.read_token(reply.text),
        verdicts.read_first_token(reply.top_logprobs),
    ):
        assert verdict.value is None or math.isfinite(verdict.value)
        json.dumps(verdict.info, allow_nan=False)


def assert_explained(error: CallError) -> None:
    """Check that the error message is a single short line."""
    assert error.message and len(error.message) < 1000 and "\n" not in error.message


@FAST
@given(value=mutated(VALID_REPLY))
@example(value={**VALID_REPLY, "usage": {"prompt_tokens": 2**80, "completion_tokens": True}})
@example(value={"error": {"message": {"a": [1]}}})
def test_mutated_replies(value: Any) -> None:
    raw = as_json(value).encode()
    for request in (REQUEST, LOGPROBS_REQUEST):
        try:
            reply = read_body(raw, request, 0.1)
        except CallError as error:
            assert_explained(error)
        else:
            assert_usable(reply)
    read_models(raw, "m")


@FAST
@given(raw=corrupted(json.dumps(VALID_REPLY).encode()))
def test_corrupted_replies(raw: bytes) -> None:
    try:
        assert_usable(read_body(raw, LOGPROBS_REQUEST, 0.1))
    except CallError as error:
        assert_explained(error)


@pytest.mark.parametrize("raw", MALFORMED_FILES, ids=lambda raw: repr(raw[:12]))
def test_malformed_bodies_are_rejected(raw: bytes) -> None:
    with pytest.raises(CallError):
        read_body(raw, REQUEST, 0.1)
    assert read_models(raw, "m") == ([], None)
    text = raw.decode("utf-8", "replace")
    assert len(status_error(500, text, None).message) < 400
    assert len(short(text)) <= 301


@FAST
@given(value=mutated({"data": [{"id": "m", "max_model_len": 8192, "meta": {"n_ctx_train": 1}}]}))
def test_mutated_model_listings(value: Any) -> None:
    names, context = read_models(as_json(value).encode(), "m")
    assert all(isinstance(name, str) for name in names)
    assert context is None or context > 0


COSTLY_TEXTS: dict[str, tuple[int, Callable[[int], str]]] = {
    "unclosed thoughts": (40_000, lambda n: "<think>" * n),
    "thoughts closed at the end": (
        40_000,
        lambda n: "<think>" * n + "</thinking" * 9 + "</think>",
    ),
    "closings": (20_000, lambda n: "</think>" * n),
    "channels": (12_000, lambda n: "<|channel|>analysis" * n),
    "reasoning": (20_000, lambda n: "<reasoning>" * n),
    "opening brackets": (80_000, lambda n: "[[" * n),
    "brackets and blanks": (80_000, lambda n: "[[" + " " * n + "7"),
    "a rating and blanks": (80_000, lambda n: "[[7" + " " * n + "x"),
    "a winner and blanks": (200, lambda n: ("[[A" + " " * 1000) * n),
    "digits": (80_000, lambda n: "[[" + "1" * n),
    "digits and dots": (80_000, lambda n: "[[" + "1." * n + "]]"),
    "rating words": (30_000, lambda n: "rating: " * n),
    "rating then digits": (80_000, lambda n: "score " + "1" * n + "!"),
    "rating then signs": (80_000, lambda n: "score 1" + "!" * n + "x"),
    "rating then blanks": (80_000, lambda n: "score 1" + " " * n + "x"),
    "blanks in a fence": (80_000, lambda n: "a" + " " * n + "b"),
    "fences": (80_000, lambda n: "```" * n),
    "nested lists": (80_000, lambda n: "[" * n),
    "nested parentheses": (5000, lambda n: "(" * n + ")" * n),
    "minus signs": (9000, lambda n: "-" * n + "1"),
    "braces": (20_000, lambda n: "{" * n),
    "objects": (20_000, lambda n: '{"a":' * n),
    "combining marks": (80_000, lambda n: "e" + "\u0301" * n),
}
"""Texts that are costly to parse: the largest size, and the text of a given size."""


@pytest.mark.parametrize("name", COSTLY_TEXTS)
def test_verdict_parsing_time_is_not_quadratic(name: str) -> None:
    largest, text_of = COSTLY_TEXTS[name]

    def parse(size: int) -> None:
        text = text_of(size)
        assert_usable(Reply(text=text, finish=Finish.STOP))
        for published in (True, False):
            value = verdicts.read_rating(text, published=published).value
            assert value is None or math.isfinite(value)
            verdicts.read_winner(text, published=published)
        short(text)

    assert_not_quadratic(parse, largest)


@pytest.mark.parametrize("name", ["braces", "objects", "nested parentheses", "minus signs"])
def test_exact_metric_time_is_not_quadratic(name: str) -> None:
    largest, text_of = COSTLY_TEXTS[name]

    def score(size: int) -> None:
        for metric in ("exact_match", "json_f1"):
            assert METRICS[metric](text_of(size), ['{"a": 1}']) == 0

    assert_not_quadratic(score, largest)


def test_verdict_patterns_are_unchanged() -> None:
    for text, value in (
        ("Rating: [[7]]", 7.0),
        ("[[8.5]]", 8.5),
        ("[[10/10]]", 10.0),
        ("[[ 7 ]]", 7.0),
        ("[[8.5 out of 10]]", 8.5),
        ("My rating is [6]", 6.0),
        ("score: 9/10", 9.0),
        ("7.", 7.0),
        ("<think>[[1]]</think>[[2]]", 2.0),
        ("[[1]]</think>[[3]]", 3.0),
        ("<think>[[1]]", None),
        ("[[85]]", None),
        ("see [1]", None),
        ("[[" + "9" * 400 + "]]", None),
    ):
        assert verdicts.read_rating(text).value == value, text
    assert verdicts.read_rating("[[" + "9" * 400 + "]]", published=True).value is None
    assert verdicts.read_rating("[[7.]]", published=True).value == 7.0
    assert verdicts.read_first_token([("m", -math.inf), ("M", -0.1)]).value == 2.0
    assert verdicts.read_first_token([("m", math.nan)]).status is JudgmentStatus.UNREADABLE


# ---------------------------------------------------------------- over the network


@contextmanager
def raw_server(answer: Any) -> Iterator[str]:
    """Serve raw connections: call `answer(connection)` after each request's head."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        try:
            connection.recv(65536)
            answer(connection)
            connection.close()
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()
        for connection in connections:
            connection.close()


def ask(url: str, timeout: float = 5.0) -> Reply | str:
    """Make one call without retries; return the reply or the error text."""
    engine = OpenAIEngine("m", url, timeout=timeout, retries=0, first_wait=0.01)
    try:
        return next(iter(engine.stream([REQUEST])))[1]
    except JudgeError as error:
        return str(error)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def endless(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")
    for _ in range(2000):
        connection.sendall(b'{"choices": "' + b"a" * 2**20)


def endless_chunks(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(2000):
        connection.sendall(b"100000\r\n" + b"a" * 2**20 + b"\r\n")


GZIP_BOMB = gzip.compress(b"a" * 2**27, 1) * 8
"""A gigabyte compressed to a few megabytes."""


def gzip_bomb(connection: socket.socket) -> None:
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(GZIP_BOMB)
    connection.sendall(head + GZIP_BOMB)


def huge_content_length(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 1152921504606846976\r\n\r\n{}")


def slow_drip(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


def silent(connection: socket.socket) -> None:
    time.sleep(120)


def garbled(connection: socket.socket) -> None:
    connection.sendall(b"\x16\x03\x01\x02\x00" * 1000)


def endless_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 1000))


def redirect(connection: socket.socket) -> None:
    connection.sendall(
        b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:9/stolen\r\nContent-Length: 0\r\n\r\n"
    )


def truncated(connection: socket.socket) -> None:
    connection.sendall(HEAD + b'Content-Length: 5000\r\n\r\n{"choices": [')


def web_page(connection: socket.socket) -> None:
    body = b"<!doctype html><html>" + b"<p>" * 100_000
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        endless,
        endless_chunks,
        gzip_bomb,
        huge_content_length,
        slow_drip,
        silent,
        garbled,
        endless_headers,
        redirect,
        truncated,
        web_page,
    ],
)
def test_misbehaving_servers_are_reported_in_time(answer: Any) -> None:
    with raw_server(answer) as url:
        outcome = ask(url, timeout=1.5)
    text = outcome if isinstance(outcome, str) else outcome.error
    assert text and len(text) < 1000
    if answer is endless:
        assert "larger than" in text
    if answer is gzip_bomb:
        assert "compressed" in text
    if answer is redirect:
        assert "307" in text


def test_endless_model_listing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "LARGEST_BODY", 2**20)
    with raw_server(endless) as url:
        engine = OpenAIEngine("m", url, timeout=2, retries=0, first_wait=0.01)
        with pytest.raises(JudgeError):
            asyncio.run(asyncio.wait_for(asyncio.to_thread(engine.probe), 30))
