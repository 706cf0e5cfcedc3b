"""vllm: against a stand-in process: start, readiness, calls, failures, and that nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdharness.harness.config.evaluation import EvalConfig, parse_spec
from kdharness.harness.errors import ConfigError, JudgeError, ModelError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.engines import vllm, vllm_server
from kdharness.judges.engines.vllm import VLLMEngine, visible_devices
from support.files import WriteRows
from support.locations import ROOT
from support.waiting import wait_until

STAND_IN = ROOT / "tests" / "support" / "fake_vllm.py"
Configure = Callable[..., Path]


@pytest.fixture
def configure(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Return a function that makes the stand-in the home's vllm; it returns the record's path."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{STAND_IN}" "$@"\n')
    program.chmod(0o755)
    record = tmp_path / "record.jsonl"

    def write(settings: str = "", **faults: Any) -> Path:
        paths.home.mkdir(exist_ok=True)
        lines = f"vllm:\n  command: {program}\n{settings}"
        paths.settings.write_text(lines)
        monkeypatch.setenv("FAKE_VLLM", json.dumps({**faults, "record": str(record)}))
        return record

    return write


@pytest.fixture
def opened(paths: Paths, tiny_teacher: Path) -> Iterator[Callable[..., VLLMEngine]]:
    """Return a function that opens an engine, and close all of them."""
    engines: list[VLLMEngine] = []

    def make(**config: Any) -> VLLMEngine:
        spec = parse_spec(f"vllm:{tiny_teacher}")
        engines.append(VLLMEngine.open(spec, EvalConfig(**config), paths))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def ask(text: str = "Hello", **settings: Any) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": text},), **settings)


def read(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text().splitlines()]


def replies_of(engine: VLLMEngine, *requests: GenerationRequest) -> dict[int, Reply]:
    return dict(engine.stream(requests))


def gone(*pids: int) -> bool:
    return not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        for pid in pids
    )


def test_one_server_answers_and_is_gone_with_its_workers(
    configure: Configure, opened: Callable[..., VLLMEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    record = configure()
    engine = opened()
    assert engine.probe(logprobs=True).logprobs and not record.exists()
    sampled = ask(temperature=0.7, seed=3, max_new_tokens=5000)
    replies = replies_of(engine, sampled, ask(max_new_tokens=1, top_logprobs=2))
    assert replies[0].text == "Fine. Rating: [[7]]" and not replies[0].error
    assert dict(replies[1].top_logprobs or ()) == {"m": -0.2, "M": -1.8}
    start, *bodies = read(record)
    arguments = start["arguments"]
    assert arguments[0] == "serve" and arguments[1] == engine.source
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    # The distribution is the model's own, not cut by a generation config.
    assert arguments[arguments.index("--generation-config") + 1] == "vllm"
    # A key of its own in the environment, not on the command line; the user's is not handed on.
    key = start["environment"]["VLLM_API_KEY"]
    assert len(key) > 30 and key not in " ".join(arguments)
    assert start["environment"]["OPENAI_API_KEY"] is None
    body = next(b["body"] for b in bodies if b["body"].get("temperature"))
    assert body["seed"] == 3 and body["model"] == arguments[-1]
    # The reply fits into the context, and ends where the template ends a turn.
    assert 0 < body["max_tokens"] < 4096
    assert set(body["stop_token_ids"]) >= {engine._tokenizer.convert_tokens_to_ids("<|im_end|>")}
    replies_of(engine, ask("again"))
    assert sum("pid" in line for line in read(record)) == 1
    engine.close()
    assert gone(start["pid"], start["worker"])
    # A closed engine starts again when it is asked again.
    assert replies_of(engine, ask())[0].text


def test_a_prompt_beyond_the_context_is_an_error_of_that_reply(
    configure: Configure, opened: Callable[..., VLLMEngine]
) -> None:
    configure(context=40)
    replies = replies_of(opened(), ask("word " * 200), ask("Hi", thinking_room=4096))
    assert "context length is 40" in replies[0].error and replies[0].finish is Finish.ERROR
    assert not replies[1].error


def test_options_come_from_settings_and_config(
    configure: Configure, opened: Callable[..., VLLMEngine]
) -> None:
    record = configure(
        "  max_model_len: 2048\n  gpu_memory_utilization: 0.5\n  dtype: float16\n"
        "  tensor_parallel_size: 2\n  options: [--enforce-eager, --seed=1]\n"
    )
    replies_of(opened(dtype="bfloat16", trust_remote_code=True, device="cuda:1"), ask())
    start = read(record)[0]
    words = " ".join(start["arguments"])
    for part in (
        "--max-model-len 2048",
        "--gpu-memory-utilization 0.5",
        "--dtype bfloat16",
        "--tensor-parallel-size 2",
        "--enforce-eager --seed=1",
        "--trust-remote-code",
    ):
        assert part in words
    assert start["environment"]["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_hub_model_is_served_at_its_commit(
    configure: Configure, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure()
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr(vllm, "resolve_model", lambda source, _: f"{source}@{commit}")
    program = VLLMEngine("org/model", EvalConfig(), paths)._launch.program
    assert program[1:3] == ("serve", "org/model")
    for option in ("--revision", "--tokenizer-revision"):
        assert program[program.index(option) + 1] == commit


@pytest.mark.parametrize(
    "line",
    ["options: [--port=1]", "options: [--api_key, x]", "gpu_memory_utilization: 1.5", "speed: 3"],
)
def test_settings_that_cannot_be_honoured_are_refused(
    configure: Configure, opened: Callable[..., VLLMEngine], line: str
) -> None:
    configure(f"  {line}\n")
    with pytest.raises(ConfigError, match="vllm"):
        opened()


@pytest.mark.parametrize(
    ("device", "visible", "expected"),
    [
        ("auto", None, None),
        ("auto", "3,4", "3,4"),
        ("cpu", "3,4", ""),
        ("cuda:1", None, "1"),
        ("cuda:1", "3,4", "4"),
        ("cuda:0", "GPU-ab, GPU-cd", "GPU-ab"),
    ],
)
def test_devices_are_counted_among_the_visible_ones(
    device: str, visible: str | None, expected: str | None
) -> None:
    assert visible_devices(device, visible) == expected
    with pytest.raises(JudgeError, match="no device cuda:2"):
        visible_devices("cuda:2", "3,4")


def test_a_start_that_fails_shows_the_end_of_the_log(
    configure: Configure, opened: Callable[..., VLLMEngine], paths: Paths
) -> None:
    record = configure(
        fail="ValueError: Free memory is less than desired GPU memory utilization\n"
        "torch.OutOfMemoryError: CUDA out of memory"
    )
    engine = opened()
    with pytest.raises(JudgeError) as caught:
        replies_of(engine, ask())
    error = caught.value
    assert "exit code 1" in error.message and "CUDA out of memory" in error.message
    assert Path(error.where).read_text().startswith("loading")
    assert "gpu_memory_utilization" in error.hint and str(paths.settings) in error.hint
    assert gone(read(record)[0]["worker"])


def test_a_start_that_takes_too_long_is_given_up(
    configure: Configure, opened: Callable[..., VLLMEngine]
) -> None:
    record = configure("  startup_timeout: 1.2\n", delay=60)
    with pytest.raises(JudgeError, match=r"not ready after 1.2 s[\s\S]*loading"):
        replies_of(opened(), ask())
    assert gone(read(record)[0]["pid"], read(record)[0]["worker"])


def test_a_taken_port_is_tried_again(
    configure: Configure, opened: Callable[..., VLLMEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = configure()
    free = vllm_server._free_port
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        ports = [other.getsockname()[1]]
        monkeypatch.setattr(vllm_server, "_free_port", lambda: ports.pop() if ports else free())
        assert replies_of(opened(), ask())[0].text
    assert sum("pid" in line for line in read(record)) == 2


def test_a_server_that_dies_ends_the_run_with_its_log(
    configure: Configure, opened: Callable[..., VLLMEngine]
) -> None:
    record = configure(die_after=2)
    engine = opened(concurrency=1)
    replies = engine.stream([ask(str(n)) for n in range(6)])
    assert not next(replies)[1].error and not next(replies)[1].error
    with pytest.raises(JudgeError, match=r"vllm serve ended \(exit code 137\)[\s\S]*illegal"):
        next(replies)
    assert gone(read(record)[0]["worker"])


def test_a_server_that_ignores_sigterm_is_killed(
    configure: Configure, opened: Callable[..., VLLMEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "GRACE", 0.5)
    record = configure(stubborn=True)
    engine = opened()
    replies_of(engine, ask())
    start = read(record)[0]
    engine.close()
    assert gone(start["pid"], start["worker"])


def test_a_stop_request_ends_the_start(
    configure: Configure, opened: Callable[..., VLLMEngine]
) -> None:
    record = configure(delay=60)
    engine = opened()
    engine.idle = lambda: engine.stop_soon() if record.exists() else None
    assert replies_of(engine, ask()) == {}
    assert gone(read(record)[0]["pid"])


def test_a_model_is_served_once_at_a_time(
    configure: Configure, opened: Callable[..., VLLMEngine], capfd: pytest.CaptureFixture[str]
) -> None:
    """Another process waits for the lock; another engine of this one shares the server."""
    record = configure()
    first, second = opened(), opened()
    replies_of(first, ask())
    replies_of(second, ask())
    assert sum("pid" in line for line in read(record)) == 1
    waiting = vllm_server.VLLMServer(first._launch)
    looks = iter([False, False, True])
    assert waiting.start(lambda: next(looks)) is False
    assert "waiting" in capfd.readouterr().err
    first.close()
    assert waiting.start(lambda: False)
    waiting.close()


PARENT = """
import sys, time
from pathlib import Path
from kdharness.judges.engines.vllm_server import Launch, VLLMServer
program, folder, how = sys.argv[1:]
files = [Path(folder) / name for name in ("log", "lock", "settings.yaml")]
server = VLLMServer(Launch((program, "serve", "model"), "name", files[0], files[1], 60, files[2]))
print(server.start(lambda: False), flush=True)
if how == "end":
    raise SystemExit("a crash")
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["end", "SIGKILL", "SIGTERM", "SIGINT"])
def test_nothing_is_left_however_the_parent_ends(
    configure: Configure, paths: Paths, tmp_path: Path, how: str
) -> None:
    record = configure()
    command = [sys.executable, "-c", PARENT, str(tmp_path / "bin" / "vllm"), str(tmp_path), how]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "True\n"
    start = read(record)[0]
    if how != "end":
        parent.send_signal(signal.Signals[how])
    parent.communicate(timeout=20)
    if how == "SIGKILL":
        # The lock is free when the server is gone, not when its owner is.
        files = (tmp_path / "log", tmp_path / "lock")
        launch = vllm_server.Launch((command[3], "serve", "m"), "n", *files, 60, paths.settings)
        server = vllm_server.VLLMServer(launch)
        assert server.start(lambda: False) and gone(start["pid"], start["worker"])
        server.close()
    wait_until(lambda: gone(start["pid"], start["worker"]), 20)


def test_a_killed_keeper_takes_its_server_with_it(
    configure: Configure, opened: Callable[..., VLLMEngine]
) -> None:
    record = configure()
    engine = opened()
    replies_of(engine, ask())
    start = read(record)[0]
    parent = psutil.Process(start["pid"]).parent()
    assert parent is not None
    parent.kill()
    wait_until(lambda: gone(start["pid"]), 10)
    os.kill(start["worker"], signal.SIGKILL)


def test_an_evaluation_answers_and_judges_with_it(
    configure: Configure, paths: Paths, tiny_teacher: Path, write_jsonl: WriteRows
) -> None:
    """The judge's server is not started before the answers are there."""
    record = configure()
    bench = write_jsonl("mine.jsonl", [{"id": "1", "prompt": "p"}, {"id": "2", "prompt": "q"}])
    spec = f"vllm:{tiny_teacher}"
    config = EvalConfig(
        checkpoints=[str(tiny_teacher)], benches=[str(bench)], judge=[spec], answer_engine=spec
    )
    with Store(paths.store) as store:
        done = pipeline.run(config, paths, store, NullReporter())
        assert (done["answers"], done["judgments"], done["failed_judgments"]) == (2, 2, 0)
        rows = store.judgments(store.checkpoints()[0].id)
        assert {(row.judge, row.value) for row in rows} == {(spec, 7.0)}
        # Nothing is asked twice, and nothing is started for that.
        assert pipeline.run(config, paths, store, NullReporter())["judgments"] == 0
    lines = read(record)
    starts = [n for n, line in enumerate(lines) if "pid" in line]
    assert starts == [0, 3] and len(lines) == 6
    assert gone(*(line["pid"] for line in lines if "pid" in line))


# ---------------------------------------------------------------- refused


def test_without_vllm_the_spec_is_refused_with_what_to_install(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(JudgeError, match="not installed") as caught:
        VLLMEngine.open(parse_spec(f"vllm:{tiny_teacher}"), EvalConfig(), paths)
    assert "pip install vllm" in caught.value.hint and str(paths.settings) in caught.value.hint
    paths.home.mkdir(exist_ok=True)
    paths.settings.write_text("vllm: {command: /nowhere/vllm}")
    with pytest.raises(JudgeError, match="no such program: /nowhere/vllm"):
        VLLMEngine.open(parse_spec(f"vllm:{tiny_teacher}"), EvalConfig(), paths)


def test_adapters_and_missing_models_are_refused(
    configure: Configure, paths: Paths, tmp_path: Path, tiny_teacher: Path
) -> None:
    configure()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_teacher), "r": 2}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is an adapter") as caught:
        VLLMEngine.open(parse_spec(f"vllm:{adapter}"), EvalConfig(), paths)
    assert "kdharness merge-adapter" in caught.value.hint
    with pytest.raises(ModelError, match="missing"):
        VLLMEngine.open(parse_spec(f"vllm:{tmp_path / 'missing'}"), EvalConfig(), paths)
