"""Endpoint URLs, proxies, connection errors, and API keys as users paste them."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.endpoints import (
    DEFAULT_URL,
    endpoint_of,
    explain_connection_error,
    proxy_of,
)
from kdharness.harness.config.evaluation import is_loopback_url, parse_spec
from kdharness.harness.errors import ConfigError, JudgeError
from kdharness.harness.util.redact import find_key
from kdharness.judges.engines.openai import OpenAIEngine
from support.commands import CommandLine
from support.loopback import Loopback
from support.openai_calls import engine, requests

Env = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: Env) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def recording_server() -> Iterator[tuple[str, list[tuple[str, str, dict[str, str]]]]]:
    """A server that records (method, path with query, headers) and serves one model."""
    recorded: list[tuple[str, str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            recorded.append(
                (self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            )
            data = (
                b'{"choices": [{"message": {"content": "[[7]]"}, "finish_reason": "stop"}]}'
                if self.command == "POST"
                else b'{"data": [{"id": "g4"}]}'
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", recorded
    server.shutdown()


# ---------------------------------------------------------------- URLs


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", "/", "/chat/completions", "/chat/completions/"])
def test_query_string_stays_after_the_path(
    recording_server: tuple[str, list[Any]], suffix: str, kd: CommandLine, monkeypatch: Env
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefgh")
    base, recorded = recording_server
    spec = f"openai:g4@{base}/openai/deployments/g4{suffix}?api-version=2024-06-01"
    code, _, err = kd("judge", "check", spec, "--probe-only")
    assert code == 0, err
    paths = {(method, path) for method, path, _ in recorded}
    root = "/openai/deployments/g4"
    assert paths == {
        ("GET", f"{root}/models?api-version=2024-06-01"),
        ("POST", f"{root}/chat/completions?api-version=2024-06-01"),
    }
    # Such a deployment reads the key from `api-key`; the usual header is sent as well.
    assert all(headers["api-key"] == "sk-abcdefgh" for _, _, headers in recorded)


def test_engine_spec_round_trips_and_rejects_keys_in_the_url() -> None:
    url = "http://h:1/openai/deployments/g4?api-version=2024-06-01"
    assert parse_spec(f"openai:g4@{url}").url == url
    assert str(parse_spec(f"openai:g4@{url}")) == f"openai:g4@{url}"
    assert parse_spec("openai:m@http://h/v1/?a=b/").url == "http://h/v1?a=b/"
    for name in ("subscription-key", "api_key", "x-functions-key", "sig", "my-token"):
        with pytest.raises(ConfigError, match="key"):
            parse_spec(f"openai:m@http://h/v1?{name}=abc")


@pytest.mark.parametrize(
    "address",
    [
        "judges.internal:8000/v1",
        "localhost:11434/v1",
        "localhost",
        "127.0.0.1:80",
        "[::1]:80/v1",
        "htp://judges.internal/v1",
        "//judges.internal/v1",
        "judges.internal/v1",
    ],
)
def test_url_without_a_scheme_is_not_read_as_part_of_the_model_name(address: str) -> None:
    """If it were, requests would go to the default endpoint."""
    with pytest.raises(ConfigError, match="without http"):
        parse_spec(f"openai:m@{address}")


@pytest.mark.parametrize(
    "model",
    [
        "@cf/meta/llama-3",
        "claude@20240620",
        "llama@q4_0",
        "m@sha256:ab12",
        "@openai/x",
        "qwen:7b",
    ],
)
def test_model_name_may_contain_at_signs_and_colons(model: str) -> None:
    assert parse_spec(f"openai:{model}").model == model
    assert parse_spec(f"openai:{model}@HTTP://h/v1").url == "http://h/v1"


def test_endpoint_base_and_paths() -> None:
    assert endpoint_of("http://h/v1").path("/models") == "http://h/v1/models"
    assert endpoint_of("http://h/v1/chat/completions#top").base == "http://h/v1"
    assert endpoint_of("").base == DEFAULT_URL
    assert endpoint_of("http://h?a=b%20c").path("/models") == "http://h/models?a=b+c"


@given(st.text(max_size=40))
def test_endpoint_accepts_any_url_path(path: str) -> None:
    endpoint_of(f"http://h/{path}").path("/models")


# ---------------------------------------------------------------- proxies


def test_loopback_urls_bypass_the_proxy(monkeypatch: Env, kd: CommandLine) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Loopback() as server:
        replies = dict(engine(server).stream(requests(3)))
        assert not any(reply.error for reply in replies.values())
        code, _, err = kd("judge", "check", server.spec, "--probe-only")
        assert code == 0, err
        host = socket.gethostname()
        for name in ("localhost", "127.0.0.1", "judge.localhost", host, f"{host.upper()}."):
            assert is_loopback_url(f"http://{name}:{server.port}/v1")
            assert proxy_of(f"http://{name}:{server.port}/v1") is None


@pytest.mark.slow
def test_failing_proxy_is_named(monkeypatch: Env, kd: CommandLine) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret-word@127.0.0.1:9")
    code, _, err = kd("judge", "check", "openai:m@http://judge.invalid/v1", "--probe-only")
    assert code == 1 and "through the proxy http://" in err and "127.0.0.1:9 (http_proxy)" in err
    assert "NO_PROXY=judge.invalid" in err and "secret-word" not in err
    judge = OpenAIEngine("m", "http://judge.invalid/v1", retries=0, timeout=2)
    reply = dict(judge.stream(requests(1)))[0]
    assert reply.error.startswith("not reached through the proxy")
    monkeypatch.setenv("no_proxy", "judge.invalid")
    assert proxy_of("http://judge.invalid/v1") is None


# ---------------------------------------------------------------- connection errors


def chained(*errors: BaseException) -> BaseException:
    """Chain the errors: each is caused by the next."""
    for outer, inner in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("error", "message", "hint", "final"),
    [
        (
            ssl.SSLCertVerificationError(
                1,
                "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
                "self-signed certificate",
            ),
            "not trusted: self-signed certificate",
            "SSL_CERT_FILE",
            True,
        ),
        (
            ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"),
            "does not use TLS",
            "http://",
            True,
        ),
        (
            socket.gaierror(-2, "Name or service not known"),
            "cannot resolve host 'h.example'",
            "name",
            False,
        ),
        (
            socket.gaierror(-3, "Temporary failure in name resolution"),
            "cannot resolve host",
            "name",
            False,
        ),
        (ConnectionRefusedError(111, "Connect call failed"), "connection refused", "port", False),
        (OSError(113, "No route to host"), "unreachable", "port", False),
        (TimeoutError("timed out"), "connection timed out", "port", False),
    ],
)
def test_connection_errors_are_explained(
    error: BaseException, message: str, hint: str, final: bool
) -> None:
    outer = chained(
        RuntimeError("Connection error."),
        OSError("Cannot connect to host h.example:443 ssl:default"),
        error,
    )
    reason = explain_connection_error(outer, "https://h.example/v1")
    assert message in reason.message and hint in reason.hint and reason.final is final


def test_unresolvable_host_is_reported(kd: CommandLine) -> None:
    code, _, err = kd("judge", "check", "openai:m@http://judge.invalid/v1", "--probe-only")
    assert code == 1 and "cannot resolve host 'judge.invalid'" in err


# ---------------------------------------------------------------- keys


@pytest.mark.slow
@pytest.mark.parametrize("whitespace", ["\n", "\r\n", " ", "\t", "\r"])
def test_whitespace_around_a_key_is_stripped(
    monkeypatch: Env, whitespace: str, recording_server: tuple[str, list[Any]]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{whitespace}sk-abcdefgh{whitespace}")
    base, recorded = recording_server
    dict(OpenAIEngine("g4", f"{base}/v1").stream(requests(1)))
    assert recorded[0][2]["authorization"] == "Bearer sk-abcdefgh"
    monkeypatch.setenv("OPENAI_API_KEY", whitespace)
    assert find_key() is None


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sk-abc–defgh", "'–' (EN DASH)"),
        ("sk-abc…defgh", "HORIZONTAL ELLIPSIS"),
        ("sk-abc\u200bdefgh", "ZERO WIDTH SPACE"),
        ("\ufeffsk-abcdefgh", "NO-BREAK SPACE"),
        ("sk-abc\ndefgh", "line break"),
        ("sk-abc defgh", "SPACE"),
        ("'sk-abcdefgh'", "quotation"),
        ("Bearer sk-abcdefgh", "Bearer"),
        ("sk-abc\x00defgh".replace("\x00", "\x07"), "control"),
    ],
)
def test_key_invalid_in_a_header_is_reported(
    monkeypatch: Env, kd: CommandLine, key: str, message: str
) -> None:
    monkeypatch.setenv("KDHARNESS_JUDGE_API_KEY", key)
    with Loopback() as server:
        code, out, err = kd("judge", "check", server.spec, "--probe-only")
    assert code == 2 and message in err and "the key in KDHARNESS_JUDGE_API_KEY" in err
    assert "abc" not in out + err and "running" not in err


def test_invalid_key_is_rejected_by_a_served_teacher(monkeypatch: Env) -> None:
    from kdharness.trainers.teachers import served

    monkeypatch.setenv("OPENAI_API_KEY", "sk-abc–defgh")
    with pytest.raises(ConfigError, match="EN DASH"):
        served.ServedTeacher("m", "http://127.0.0.1:9/v1", 4)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefgh\n")
    teacher = served.ServedTeacher("m", "http://127.0.0.1:9/v1?api-version=1", 4)
    assert teacher.client.api_key == "sk-abcdefgh"
    assert str(teacher.client.base_url) == "http://127.0.0.1:9/v1/"
    assert teacher.client.default_query == {"api-version": "1"}


def test_untrusted_certificate_ends_the_run_at_once(monkeypatch: Env) -> None:
    from kdharness.judges.engines import http_limits

    reason = explain_connection_error(
        ssl.SSLCertVerificationError(1, "certificate verify failed: x"), "https://h"
    )
    monkeypatch.setattr(http_limits, "explain_connection_error", lambda error, url: reason)
    judge = OpenAIEngine("m", "http://127.0.0.1:9/v1", first_wait=5)
    with pytest.raises(JudgeError, match="not trusted") as caught:
        dict(judge.stream(requests(20)))
    assert "SSL_CERT_FILE" in caught.value.hint


def test_proxy_status_error_names_the_proxy(
    monkeypatch: Env, recording_server: tuple[str, list[Any]]
) -> None:
    class ProxyAuthRequired(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), ProxyAuthRequired)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    reply = dict(OpenAIEngine("m", "http://judge.invalid/v1", retries=0).stream(requests(1)))[0]
    server.shutdown()
    assert reply.error.startswith("HTTP 407")
    assert f"through the proxy http://127.0.0.1:{server.server_port}" in reply.error
