"""The process of vllm:, against a stand-in: start, failures, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from kdharness.harness.errors import JudgeError
from kdharness.harness.paths import Paths
from kdharness.judges.engines import vllm_server
from support.vllm import Configure, Opened, ask, gone, read, replies_of
from support.waiting import wait_until


def test_a_start_that_fails_shows_the_end_of_the_log(
    configure: Configure, opened: Opened, paths: Paths
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


def test_a_start_that_takes_too_long_is_given_up(configure: Configure, opened: Opened) -> None:
    record = configure("  startup_timeout: 1.2\n", delay=60)
    with pytest.raises(JudgeError, match=r"not ready after 1.2 s[\s\S]*loading"):
        replies_of(opened(), ask())
    assert gone(read(record)[0]["pid"], read(record)[0]["worker"])


def test_a_taken_port_is_tried_again(
    configure: Configure, opened: Opened, monkeypatch: pytest.MonkeyPatch
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


def test_a_server_that_dies_ends_the_run_with_its_log(configure: Configure, opened: Opened) -> None:
    record = configure(die_after=2)
    engine = opened(concurrency=1)
    replies = engine.stream([ask(str(n)) for n in range(6)])
    assert not next(replies)[1].error and not next(replies)[1].error
    with pytest.raises(JudgeError, match=r"vllm serve ended \(exit code 137\)[\s\S]*illegal"):
        next(replies)
    assert gone(read(record)[0]["worker"])


def test_a_server_that_ignores_sigterm_is_killed(
    configure: Configure, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "GRACE", 0.5)
    record = configure(stubborn=True)
    engine = opened()
    replies_of(engine, ask())
    start = read(record)[0]
    engine.close()
    assert gone(start["pid"], start["worker"])


def test_a_stop_request_ends_the_start(configure: Configure, opened: Opened) -> None:
    record = configure(delay=60)
    engine = opened()
    engine.idle = lambda: engine.stop_soon() if record.exists() else None
    assert replies_of(engine, ask()) == {}
    assert gone(read(record)[0]["pid"])


def test_a_model_is_served_once_at_a_time(
    configure: Configure, opened: Opened, capfd: pytest.CaptureFixture[str]
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


def test_a_killed_keeper_takes_its_server_with_it(configure: Configure, opened: Opened) -> None:
    record = configure()
    engine = opened()
    replies_of(engine, ask())
    start = read(record)[0]
    parent = psutil.Process(start["pid"]).parent()
    assert parent is not None
    parent.kill()
    wait_until(lambda: gone(start["pid"]), 10)
    os.kill(start["worker"], signal.SIGKILL)
