"""Keys must not leak: plant keys in the environment and search all output for them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kdharness.harness import cli
from kdharness.harness.config.evaluation import is_loopback_url, parse_spec, plain_http_warning
from kdharness.harness.config.files import load_config
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from kdharness.harness.util.redact import holds_secret
from support.commands import CommandLine
from support.loopback import Loopback, completion
from support.models import make_llama
from support.planted_keys import KEY_ENCODINGS, KEYS, leaking_files, leaks, masked

# ---------------------------------------------------------------- configs and URLs


@pytest.mark.parametrize(
    "url",
    [
        "http://me:KEY@h/v1",
        "https://KEY@h/v1",
        "http://h/v1?api_key=KEY",
        "http://h/v1?x=1&key=KEY",
        "http://h/v1?access_token=KEY",
        "http://h/v1;token=KEY",
        "http://h/v1?SIG=KEY",
        "http://me:@h",
    ],
)
def test_url_with_a_key_is_rejected_without_printing_it(
    url: str, tmp_path: Path, kd: CommandLine
) -> None:
    secret = "planted" + "9x" * 8
    spec = f"openai:m@{url.replace('KEY', secret)}"
    assert holds_secret(url)
    with pytest.raises(ConfigError, match="must not contain") as caught:
        parse_spec(spec)
    assert secret not in str(caught.value)
    path = tmp_path / "eval.yaml"
    for line in (f"judge: ['{spec}']", f"answer_engine: '{spec}'", f"judge: '{spec}'"):
        path.write_text(f"method: eval\ncheckpoints: [x]\n{line}\n", "utf-8")
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert secret not in str(caught.value)
    for args in (
        ("judge", "check", spec),
        ("eval", "--ckpt", "x", "--judge", spec),
        ("eval", "--ckpt", "x", "--answer-engine", spec),
    ):
        code, out, err = kd(*args)
        assert code == 2 and secret not in out + err and "Traceback" not in err


def test_key_in_a_config_is_rejected_without_printing_it(
    tmp_path: Path, kd: CommandLine, paths: Paths, planted_keys: dict[str, str]
) -> None:
    path = tmp_path / "kd.yaml"
    for text in (
        "api_key: {}",
        "teacher: {{model: a/b, token: {}}}",
        "seed: {}",
        "trainer: {}",
        "method: {}",
        "trainer: {{epochs: {}}}",
    ):
        for key in planted_keys.values():
            path.write_text(
                "method: kd\n" * ("method" not in text)
                + text.format(json.dumps(key))
                + "\nstudent: a/b\ndata: {train: x.jsonl}\n",
                "utf-8",
            )
            code, out, err = kd("train", str(path))
            assert code == 2 and not leaks((out + err).encode()), err
    paths.settings.parent.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text(
        f"judge: [openai:m\napi_key: {planted_keys['OPENAI_API_KEY']}\n", "utf-8"
    )
    code, out, err = kd("judge", "list")
    assert code == 2 and not leaks((out + err).encode()) and "settings.yaml" in err


@pytest.mark.slow
def test_plain_http_to_a_remote_host_warns(kd: CommandLine) -> None:
    local_urls = (
        "http://localhost:8000/v1",
        "http://127.0.0.1/v1",
        "http://127.9.9.9:1/v1",
        "http://[::1]:8000/v1",
        f"http://{socket.gethostname()}/v1",
        "http://LOCALHOST/v1",
    )
    remote_urls = (
        "http://judge.example/v1",
        "http://10.0.0.7:8000/v1",
        "http://localhost.evil.example/v1",
        "http://127.0.0.1.evil.example/v1",
        "http://[2001:db8::1]/v1",
        "http://8.8.8.8/v1",
        "http://evil.example/127.0.0.1",
        "http://evil.example/v1#//localhost",
    )
    for url in local_urls:
        assert is_loopback_url(url) and not plain_http_warning(f"openai:m@{url}"), url
    for url in remote_urls:
        assert "unencrypted" in plain_http_warning(f"openai:m@{url}"), url
        assert not plain_http_warning(f"openai:m@{url.replace('http:', 'https:')}")
    assert not plain_http_warning("openai:gpt-x") and not plain_http_warning("local:x")
    _, _, err = kd(
        "eval", "--ckpt", "x", "--judge", "openai:m@http://judge.invalid/v1", "--dry-run"
    )
    assert "warning: openai:m@http://judge.invalid/v1: the key and all texts are sent" in err
    _, _, err = kd("eval", "--ckpt", "x", "--judge", "openai:m@http://127.0.0.1:9/v1", "--dry-run")
    assert "unencrypted" not in err


def test_app_warns_about_plain_http(paths: Paths) -> None:
    from types import SimpleNamespace

    from kdharness.harness.config.evaluation import EvalConfig
    from kdharness.tui.screens.evaluate import EvaluateScreen

    with Store(paths.store) as store:
        harness = SimpleNamespace(store=store, with_keys=lambda text: text)
        screen: Any = SimpleNamespace(harness=harness)
        for url, warned in (
            ("http://judge.invalid/v1", True),
            ("https://judge.invalid/v1", False),
            ("http://localhost:1/v1", False),
        ):
            config = EvalConfig(checkpoints=["x"], benches=["mt-bench"], judge=[f"openai:m@{url}"])
            assert ("unencrypted" in EvaluateScreen.known(screen, config)) is warned


# ---------------------------------------------------------------- crashes

CRASH = """
import os, sys
from kdharness.harness import cli{more}
def boom(*a, **k):
    secret = os.environ['OPENAI_API_KEY']
    raise ValueError('upstream said: Bearer ' + secret + ' and ' + os.environ['HF_TOKEN'])
{patch}
"""


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    """Run code in a subprocess with the planted environment."""
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, timeout=60)


def test_cli_traceback_redacts_keys(planted_keys: dict[str, str]) -> None:
    code = CRASH.format(more="", patch="cli.cli.main = boom\ncli.main(['runs'])")
    done = run_python(code)
    assert done.returncode == 1
    assert b"ValueError: upstream said" in done.stderr and b"Traceback" in done.stderr
    assert not leaks(done.stdout + done.stderr)


def test_worker_crash_redacts_keys(planted_keys: dict[str, str], paths: Paths) -> None:
    with Store(paths.store) as store:
        store.add_run(
            Run(
                id="r",
                method="sft",
                status=RunStatus.STARTING,
                config={},
                config_hash="h",
                folder=str(paths.run("r")),
                created=time.time(),
            )
        )
    code = CRASH.format(
        more=", worker",
        patch="worker.do_work = boom\nplain = worker.redact_output\n"
        "worker.redact_output = lambda: (plain(), print('KEY', os.environ['OPENAI_API_KEY']))\n"
        "worker.main()",
    )
    done = run_python(code, "--home", str(paths.home), "r")
    assert done.returncode == 1 and b"Traceback" in done.stdout + done.stderr
    assert b"KEY ***" in done.stdout
    assert not leaks(done.stdout + done.stderr)
    with Store(paths.store) as store:
        run = store.run("r")
        assert run is not None and "upstream said" in run.error
    assert leaking_files(paths.home) == {}


# ---------------------------------------------------------------- end to end


@dataclass
class ProcessWatch:
    """Check the command line of every process for keys, and note whether a worker was seen."""

    seen: set[str] = field(default_factory=set)
    leaked: set[str] = field(default_factory=set)
    done: threading.Event = field(default_factory=threading.Event)

    def scan(self) -> None:
        while not self.done.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    raw = path.read_bytes()
                except OSError:
                    continue
                self.leaked |= leaks(raw)
                if b"kdharness.harness.worker" in raw:
                    self.seen.add("worker")


@pytest.fixture
def processes() -> Iterator[ProcessWatch]:
    """Watch process command lines while the test runs."""
    watch = ProcessWatch()
    thread = threading.Thread(target=watch.scan, daemon=True)
    thread.start()
    yield watch
    watch.done.set()
    thread.join(5)


class EchoingJudge(Loopback):
    """A judge that echoes the key it received: in errors and replies, masked and escaped."""

    status_of_calls: tuple[int, ...] = (200,)

    async def _answer(self, body: dict[str, Any], writer: Any) -> None:
        sent = self.headers[-1].get("authorization", "")
        key = sent.removeprefix("Bearer ")
        status = self.status_of_calls[self.calls % len(self.status_of_calls)]
        echo = f"{sent} | {quote(key, safe='')} | {masked(key)} | {key[:6]}...{key[-4:]}"
        if status == 200:
            top = [("m", -0.1), ("M", -2.0)] if body.get("logprobs") else None
            text = f"You sent {echo}. Rating: [[7]]" if top is None else "m"
            self._send(writer, 200, json.dumps(completion(text, top=top)).encode())
        else:
            raw = json.dumps({"error": {"message": f"no: {echo}", "code": key}}).encode()
            self._send(writer, status, raw, {"X-Echo": quote(key), "Retry-After": "0"})


def run_reporting_commands(kd: CommandLine, paths: Paths, out: Path) -> str:
    """Run all reporting commands with their files below `out`; return their output."""
    with Store(paths.store) as store:
        runs = [run.id for run in store.runs()]
    output = ""
    commands = [
        ("runs",),
        ("leaderboard",),
        ("leaderboard", "--format", "json"),
        ("judge", "list"),
        ("report", "--output", str(out / "report.html")),
        ("export", "fastchat", str(out / "fc")),
        ("export", "alpaca-eval", str(out / "ae")),
        ("tradeoff",),
        ("doctor",),
        *(("show", run) for run in runs),
        *(("show", run, "--format", "json") for run in runs),
        *(("logs", run) for run in runs),
    ]
    for command in commands:
        _, stdout, stderr = kd(*command)
        assert "Traceback" not in stderr, (command, stderr)
        output += stdout + stderr
    return output


@pytest.mark.slow
@pytest.mark.usefixtures("unlimited_memory")
def test_no_key_leaks_end_to_end(
    planted_keys: dict[str, str],
    kd: CommandLine,
    paths: Paths,
    tmp_path: Path,
    processes: ProcessWatch,
) -> None:
    model = tmp_path / "tiny"
    make_llama(model, seed=3)
    rows = tmp_path / "mine.jsonl"
    rows.write_text(
        "".join(json.dumps({"id": str(n), "prompt": f"Say {n}"}) + "\n" for n in range(4)), "utf-8"
    )
    out = tmp_path / "out"
    out.mkdir()
    output = ""
    for statuses in ((200,), (400,), (401,), (429, 200), (500,), (200, 500, 400)):
        with EchoingJudge() as server:
            server.status_of_calls = statuses
            _, stdout, stderr = kd(
                "judge",
                "check",
                server.spec,
                "--items",
                "2",
                "--timeout",
                "5",
                *(["--probe-only"] if statuses != (200,) else []),
            )
            output += stdout + stderr
            if statuses in ((500,), (400,)):
                continue
            _, stdout, stderr = kd(
                "eval",
                "--ckpt",
                str(model),
                "--bench",
                str(rows),
                "--judge",
                server.spec,
                "--max-new-tokens",
                "4",
                "--timeout",
                "5",
                "--total-timeout",
                "6",
            )
            output += stdout + stderr
            assert server.headers, "nothing was asked"
            assert planted_keys["KDHARNESS_JUDGE_API_KEY"] in server.headers[0]["authorization"]
    output += run_reporting_commands(kd, paths, out)
    with Store(paths.store) as store:
        raws = [judgment.raw for judgment in store.judgments()]
        errors = [run.error for run in store.runs() if run.error]
    assert any("You sent Bearer ***" in raw for raw in raws), raws[:3]
    assert any("HTTP 401" in error and "***" in error for error in errors), errors
    assert "worker" in processes.seen and not processes.leaked
    assert not leaks(output.encode())
    assert leaking_files(paths.home) == {} and leaking_files(out) == {}
    assert any(out.rglob("*.html")) and any(paths.home.rglob("worker.log"))


def test_leak_search_finds_every_encoding(tmp_path: Path) -> None:
    for number, form in enumerate(KEY_ENCODINGS):
        (tmp_path / f"{number}").write_bytes(b"\x00" + form + b"\x01")
    assert len(leaking_files(tmp_path)) == len(KEY_ENCODINGS) and set(
        KEY_ENCODINGS.values()
    ) == set(KEYS)
    assert cli.COMMANDS
