"""The doctor's checks of judges, keys, the hub and proxies, against a loopback server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdharness.harness import assets
from kdharness.harness.doctor import network
from kdharness.harness.models import engine_files
from kdharness.harness.paths import Paths
from support.doctor import Env, one, says
from support.gguf_files import write_gguf

# ---------------------------------------------------------------- judges and hub


@pytest.fixture
def endpoint() -> Iterator[SimpleNamespace]:
    """Run a server that lists models with a settable status and records the keys it receives."""
    state = SimpleNamespace(status=200, models=["judge-1"], keys=[], wait=0.0, url="")
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.keys.append((self.path, self.headers.get("Authorization")))
            ended.wait(state.wait)
            body = json.dumps({"data": [{"id": name} for name in state.models]}).encode()
            self.send_response(state.status)
            if 300 <= state.status < 400:
                self.send_header("Location", "/elsewhere/models")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield state
    ended.set()
    server.shutdown()
    server.server_close()


def test_judge_without_an_api_key(paths: Paths) -> None:
    (row,) = network.judge("openai:gpt-4o", paths, online=True)
    says(row, "broken", "no API key", "export OPENAI_API_KEY=")


def test_reachable_judge(paths: Paths, endpoint: SimpleNamespace, monkeypatch: Env) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    (row,) = network.judge(f"openai:judge-1@{endpoint.url}", paths, online=True)
    says(row, "ok", "lists the model", "")
    assert endpoint.keys == [("/v1/models", "Bearer sk-test")]
    monkeypatch.setenv("KDHARNESS_JUDGE_API_KEY", "other-key")
    endpoint.models, endpoint.keys[:] = ["judge-1", "other-key"], []
    (row,) = network.judge(f"openai:judge-2@{endpoint.url}", paths, online=True)
    says(row, "note", "lists judge-1, ***", "correct the name")
    assert endpoint.keys == [("/v1/models", "Bearer other-key")], "the client's own order"
    assert network.judge(f"openai:judge-1@{endpoint.url}", paths, online=False)[0].status == "ok"
    assert len(endpoint.keys) == 1, "--offline asks nobody"


@pytest.mark.parametrize(
    ("status", "models", "kind", "detail", "advice"),
    [
        (401, [], "broken", "requires an API key", "export OPENAI_API_KEY"),
        (403, [], "broken", "HTTP 403", "export OPENAI_API_KEY"),
        (404, [], "note", "lists no models", "often /v1"),
        (302, [], "broken", "redirects", "use the final URL"),
        (503, [], "note", "busy or failing", "try again"),
        (200, ["other"], "note", "does not list this model; it lists other", "correct the name"),
        (200, [], "ok", "reachable", ""),
    ],
)
def test_judge_error_responses(
    paths: Paths,
    endpoint: SimpleNamespace,
    status: int,
    models: list[str],
    kind: str,
    detail: str,
    advice: str,
) -> None:
    endpoint.status, endpoint.models = status, models
    (row,) = network.judge(f"openai:judge-1@{endpoint.url}", paths, online=True)
    says(row, kind, detail, advice)
    assert [path for path, _ in endpoint.keys] == ["/v1/models"]


def test_judge_that_is_not_running(paths: Paths) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    (row,) = network.judge(f"openai:x@http://127.0.0.1:{port}/v1", paths, online=True)
    says(row, "broken", "unreachable", "is the server running")


def test_judge_that_times_out(endpoint: SimpleNamespace, paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setattr(network, "SECONDS", 0.2)
    endpoint.wait = 120.0  # it would answer that it is well
    monkeypatch.setenv("KDHARNESS_JUDGE", f"openai:x@{endpoint.url}")
    row = one(network.run_checks(paths, online=True), f"judge openai:x@{endpoint.url}")
    says(row, "broken", "unreachable", "is the server running")


@pytest.mark.slow
def test_slow_name_resolution(paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setattr(network, "SECONDS", 0.1)
    resolved = threading.Event()
    monkeypatch.setattr(assets, "hub_reachable", lambda seconds: resolved.wait(120) or True)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    says(
        one(network.run_checks(paths, online=True), "model hub"),
        "note",
        "no response in",
        "does the name resolve",
    )
    resolved.set()


def test_api_key_over_plain_http_to_another_host(paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setenv("KDHARNESS_JUDGE_API_KEY", "secret-key")
    rows = network.judge("openai:x@http://gpu.example:8000/v1", paths, online=False)
    says(rows[0], "note", "plain http", "use https")
    assert "secret-key" not in str(rows)
    (row,) = network.judge("openai:x@http://localhost:8000/v1", paths, online=False)
    assert row.status == "ok"


def test_malformed_api_keys(paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test\n")
    (row,) = network.judge("openai:gpt-4o", paths, online=False)
    assert row.status == "ok"  # surrounding line breaks are stripped
    for key, problem in (
        ("sk-te–st", "EN DASH"),
        ("'sk-test'", "quotation marks"),
        ("sk-te\nst", "line break"),
    ):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        (row,) = network.judge("openai:gpt-4o", paths, online=True)
        assert row.status == "broken" and problem in row.detail
        assert "sk-te" not in str(row)


def test_invalid_and_missing_judges(paths: Paths, tmp_path: Path, monkeypatch: Env) -> None:
    (row,) = network.judge("gpt-4o", paths, online=True)
    says(row, "broken", "is not a valid judge spec", "openai:MODEL")
    (row,) = network.judge(f"local:{tmp_path}/none", paths, online=True)
    says(row, "broken", "does not exist", "correct the path")
    says(
        one(network.run_checks(paths, online=False), "judge"),
        "note",
        "none set",
        "KDHARNESS_JUDGE=SPEC",
    )


def test_judges_of_this_machine(
    paths: Paths, tmp_path: Path, tiny_teacher: Path, monkeypatch: Env
) -> None:
    """Without their packages they are broken, with what to install."""
    gguf = write_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr(engine_files, "LLAMA", "no_such_package")
    (row,) = network.judge(f"llama:{gguf}", paths, online=False)
    says(row, "broken", "needs llama-cpp-python", "pip install 'kdharness[llama]'")
    monkeypatch.setattr(engine_files, "LLAMA", "json")
    assert network.judge(f"llama:{gguf}", paths, online=False)[0].status == "ok"
    gguf.write_bytes(gguf.read_bytes()[:-40])
    says(network.judge(f"llama:{gguf}", paths, online=False)[0], "broken", "damaged", "again")
    (row,) = network.judge(f"llama:{tmp_path}/none.gguf", paths, online=False)
    says(row, "broken", "does not exist", "correct the path")
    monkeypatch.setenv("PATH", "/nowhere")
    (row,) = network.judge(f"vllm:{tiny_teacher}", paths, online=False)
    says(row, "broken", "not installed", "pip install vllm")
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (row,) = network.judge(f"vllm:{tiny_teacher}", paths, online=False)
    says(row, "ok", "starts when needed", "")


def test_model_hub(paths: Paths, monkeypatch: Env) -> None:
    says(network.hub(online=True), "note", "HF_HUB_OFFLINE set", "unset HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert network.hub(online=True).status == "ok"
    says(network.hub(online=True), "note", "unreachable", "HF_ENDPOINT")


def test_hub_folder_and_token(tmp_path: Path, monkeypatch: Env) -> None:
    monkeypatch.setenv("HF_HOME", "/proc/hub")
    says(network.hub_folder(), "broken", "/proc/hub is not writable", "export HF_HOME")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert network.hub_folder().status == "ok"
    assert network.hub_token().status == "ok"
    monkeypatch.setenv("HF_TOKEN", "'hf_abc'")
    says(network.hub_token(), "note", "does not look like a token", "without quotes")
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert network.hub_token().status == "ok"


def test_proxy_and_the_configured_judge(paths: Paths, monkeypatch: Env) -> None:
    assert network.proxy(paths).detail == "none"
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("KDHARNESS_JUDGE", "openai:x@http://127.0.0.1:8000/v1")
    says(network.proxy(paths), "ok", "for http", "")
    assert " use it" not in network.proxy(paths).detail
    monkeypatch.setenv("KDHARNESS_JUDGE", "openai:x@http://judge.example/v1")
    assert " use it" in network.proxy(paths).detail
    monkeypatch.setenv("no_proxy", "judge.example")
    assert " use it" not in network.proxy(paths).detail
