"""The process of vllm:, against a stand-in: start, failures, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path

import psutil
import pytest

from kdharness.harness import worker
from kdharness.harness.config.files import make_eval_config
from kdharness.harness.errors import JudgeError
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from kdharness.judges.engines import vllm, vllm_server
from support.files import WriteRows
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
    assert "is already being served for another evaluation; waiting" in capfd.readouterr().err
    first.close()
    assert waiting.start(lambda: False)
    waiting.close()


def test_homes_of_one_machine_wait_for_each_other(
    configure: Configure, opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is on the machine, and the log in the home, where each machine has its own."""
    configure()
    here = opened()
    elsewhere = find_paths(tmp_path / "other")
    elsewhere.home.mkdir()
    elsewhere.settings.write_text(here.paths.settings.read_text())
    other = vllm.VLLMEngine(here.source, here.config, elsewhere)
    one, two = here._launch, other._launch
    assert one.lock == two.lock and one.log != two.log
    assert not one.lock.is_relative_to(here.paths.home)
    monkeypatch.setattr("platform.node", lambda: "another-machine")
    assert vllm.VLLMEngine(here.source, here.config, here.paths)._launch.log != one.log


def test_a_folder_for_locks_of_someone_else_is_refused(
    configure: Configure, opened: Opened, tmp_path: Path
) -> None:
    configure()
    folder = vllm_server.lock_folder()
    assert folder.parent == tmp_path
    folder.symlink_to(tmp_path / "bin")
    refused = pytest.raises(JudgeError, match="not a folder that you alone can write to")
    with refused as caught:
        replies_of(opened(), ask())
    assert caught.value.where == str(folder)
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with refused:
        replies_of(opened(), ask())
    folder.rmdir()
    assert replies_of(opened(), ask())[0].text
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_lock_whose_file_was_removed_excludes_the_next_ones_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = vllm_server._try_lock(path)
    assert first is not None and vllm_server._try_lock(path) is None
    path.unlink()
    second = vllm_server._try_lock(path)
    assert second is not None and vllm_server._try_lock(path) is None
    os.close(first)
    os.close(second)


def test_a_run_says_that_its_server_starts_or_waits(
    configure: Configure,
    paths: Paths,
    tiny_teacher: Path,
    write_jsonl: WriteRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As notes among the run's events, which the command line and the app show."""
    configure()
    bench = write_jsonl("mine.jsonl", [{"id": "1", "prompt": "p", "reference": "r"}])
    config = make_eval_config(
        checkpoints=[str(tiny_teacher)], benches=[str(bench)], answer_engine="vllm"
    ).model_dump(mode="json", by_alias=True)
    run = Run("r", "eval", RunStatus.RUNNING, config, "", str(paths.run("r")), 0.0)
    tries, lock = count(), vllm_server._try_lock
    monkeypatch.setattr(vllm_server, "_try_lock", lambda p: lock(p) if next(tries) else None)
    with Store(paths.store) as store:
        store.add_run(run)
        worker.do_work(paths, store, run, worker.StoreReporter(store, run), resume=False)
        notes = [event["message"] for event in store.events("r") if event["kind"] == "note"]
    said = [text for text in notes if "vllm:" in text]
    assert len(said) == 2
    assert "is already being served for another evaluation; waiting for it to finish" in said[0]
    assert said[1].startswith("starting vllm serve for vllm:") and said[1].endswith(".log")


PARENT = """
import signal, sys, time
from pathlib import Path
from kdharness.judges.engines.vllm_server import Launch, VLLMServer
program, folder, how = sys.argv[1:]
# A shell that starts tests in the background lets them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
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
