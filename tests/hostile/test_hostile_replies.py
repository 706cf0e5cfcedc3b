"""What a judge's endpoint may send: any JSON, none, too much, for ever; and what is read in it."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import socket
import threading
import time
from collections.abc import Iterator
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
from support.mutations import ALWAYS_HOSTILE, as_json, damaged, spoilt

FAST = settings(settings.get_profile("hostile"), max_examples=150)
WHOLE = completion("Fine. [[7]]", top=[("m", -0.1), ("M", -2.5)])
ASKED = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 8, top_logprobs=0)
WEIGHED = GenerationRequest(({"role": "user", "content": "x"},), 0.0, 1, top_logprobs=5)


def sound(reply: Reply) -> None:
    """Whatever was sent, this can be stored and scored."""
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


def said(error: CallError) -> None:
    """A refusal says why, in a line."""
    assert error.message and len(error.message) < 1000 and "\n" not in error.message


@FAST
@given(value=spoilt(WHOLE))
@example(value={**WHOLE, "usage": {"prompt_tokens": 2**80, "completion_tokens": True}})
@example(value={"error": {"message": {"a": [1]}}})
def test_spoilt_replies(value: Any) -> None:
    raw = as_json(value).encode()
    for request in (ASKED, WEIGHED):
        try:
            reply = read_body(raw, request, 0.1)
        except CallError as error:
            said(error)
        else:
            sound(reply)
    read_models(raw, "m")


@FAST
@given(raw=damaged(json.dumps(WHOLE).encode()))
def test_damaged_replies(raw: bytes) -> None:
    try:
        sound(read_body(raw, WEIGHED, 0.1))
    except CallError as error:
        said(error)


@pytest.mark.parametrize("raw", ALWAYS_HOSTILE, ids=lambda raw: repr(raw[:12]))
def test_bodies_that_are_no_reply(raw: bytes) -> None:
    with pytest.raises(CallError):
        read_body(raw, ASKED, 0.1)
    assert read_models(raw, "m") == ([], None)
    text = raw.decode("utf-8", "replace")
    assert len(status_error(500, text, None).message) < 400
    assert len(short(text)) <= 301


@FAST
@given(value=spoilt({"data": [{"id": "m", "max_model_len": 8192, "meta": {"n_ctx_train": 1}}]}))
def test_spoilt_listings_of_models(value: Any) -> None:
    names, context = read_models(as_json(value).encode(), "m")
    assert all(isinstance(name, str) for name in names)
    assert context is None or context > 0


LONG = 200_000
COSTLY = {
    "unclosed thoughts": "<think>" * 80_000,
    "thoughts closed at the end": "<think>" * 80_000 + "</thinking" * 9 + "</think>",
    "closings": "</think>" * 50_000,
    "channels": "<|channel|>analysis" * 30_000,
    "reasoning": "<reasoning>" * 50_000,
    "opening brackets": "[[" * LONG,
    "brackets and blanks": "[[" + " " * LONG + "7",
    "a rating and blanks": "[[7" + " " * LONG + "x",
    "a winner and blanks": ("[[A" + " " * 1000) * 500,
    "digits": "[[" + "1" * LONG,
    "digits and dots": "[[" + "1." * LONG + "]]",
    "rating words": "rating: " * 80_000,
    "rating then digits": "score " + "1" * LONG + "!",
    "rating then signs": "score 1" + "!" * LONG + "x",
    "rating then blanks": "score 1" + " " * LONG + "x",
    "blanks in a fence": "a" + " " * LONG + "b",
    "fences": "```" * LONG,
    "nested lists": "[" * LONG,
    "nested parentheses": "(" * 5000 + ")" * 5000,
    "minus signs": "-" * 9000 + "1",
    "braces": "{" * 20_000,
    "objects": '{"a":' * 20_000,
    "combining marks": "e" + "\u0301" * LONG,
}


@pytest.mark.parametrize("name", COSTLY)
def test_no_reply_costs_more_than_its_length(name: str) -> None:
    text = COSTLY[name]
    began = time.process_time()
    sound(Reply(text=text, finish=Finish.STOP))
    for published in (True, False):
        value = verdicts.read_rating(text, published=published).value
        assert value is None or math.isfinite(value)
        verdicts.read_winner(text, published=published)
    short(text)
    assert time.process_time() - began < 4


@pytest.mark.parametrize("name", ["braces", "objects", "nested parentheses", "minus signs"])
def test_no_answer_costs_more_than_its_length(name: str) -> None:
    began = time.process_time()
    for metric in ("exact_match", "json_f1"):
        assert METRICS[metric](COSTLY[name], ['{"a": 1}']) == 0
    assert time.process_time() - began < 4


def test_patterns_read_what_they_read_before() -> None:
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


# ---------------------------------------------------------------- over the wire


@contextmanager
def listening(answer: Any) -> Iterator[str]:
    """A raw one: `answer(connection)` after the request's head."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_now: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            open_now.append(connection)
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
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
        for connection in open_now:
            connection.close()


def ask(url: str, timeout: float = 5.0) -> Reply | str:
    """One call without retries: the reply, or what was said of it."""
    engine = OpenAIEngine("m", url, timeout=timeout, retries=0, first_wait=0.01)
    try:
        return next(iter(engine.stream([ASKED])))[1]
    except JudgeError as error:
        return str(error)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def endless(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")
    for _ in range(2000):
        connection.sendall(b'{"choices": "' + b"a" * 2**20)


def chunked(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(2000):
        connection.sendall(b"100000\r\n" + b"a" * 2**20 + b"\r\n")


PACKED = gzip.compress(b"a" * 2**27, 1) * 8
"""A gigabyte in a few megabytes."""


def packed(connection: socket.socket) -> None:
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(PACKED)
    connection.sendall(head + PACKED)


def claims_much(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 1152921504606846976\r\n\r\n{}")


def drips(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


def says_nothing(connection: socket.socket) -> None:
    time.sleep(20)


def garbled(connection: socket.socket) -> None:
    connection.sendall(b"\x16\x03\x01\x02\x00" * 1000)


def endless_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 1000))


def redirected(connection: socket.socket) -> None:
    connection.sendall(
        b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:9/stolen\r\nContent-Length: 0\r\n\r\n"
    )


def cut_off(connection: socket.socket) -> None:
    connection.sendall(HEAD + b'Content-Length: 5000\r\n\r\n{"choices": [')


def web_page(connection: socket.socket) -> None:
    body = b"<!doctype html><html>" + b"<p>" * 100_000
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )


@pytest.mark.parametrize(
    "answer",
    [
        endless,
        chunked,
        packed,
        claims_much,
        drips,
        says_nothing,
        garbled,
        endless_headers,
        redirected,
        cut_off,
        web_page,
    ],
)
def test_servers_that_do_not_play_by_the_rules(answer: Any) -> None:
    began = time.monotonic()
    with listening(answer) as url:
        found = ask(url, timeout=1.5)
    text = found if isinstance(found, str) else found.error
    assert text and len(text) < 1000
    assert time.monotonic() - began < 8
    if answer is endless:
        assert "larger than" in text
    if answer is packed:
        assert "compressed" in text
    if answer is redirected:
        assert "307" in text


def test_a_listing_without_end_is_no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_limits, "LARGEST_BODY", 2**20)
    with listening(endless) as url:
        engine = OpenAIEngine("m", url, timeout=2, retries=0, first_wait=0.01)
        with pytest.raises(JudgeError):
            asyncio.run(asyncio.wait_for(asyncio.to_thread(engine.probe), 30))
