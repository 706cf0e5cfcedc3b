"""A process that has imported what workers import, and forks one at each request.

A worker imports for seconds before it trains a tiny model for one. `serve_forks` gives the workers
that tests start, and the processes of `accelerate launch`, a process that has imported already; see
`plain_install/fork_client` for the other end. A forked worker is a process like any other, with
a pid, a session, signals and output of its own. Those with other variables of the environment than
the tests' start as users start them, since a library may read them at its import.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

PRELOADED = (
    *("accelerate", "accelerate.commands.launch", "peft", "torch", "transformers"),
    *("torch.distributed.run", "torch.distributed.fsdp"),
    "transformers.conversion_mapping",
    "transformers.models.llama.modeling_llama",
    "kdharness.harness.evaluation.pipeline",
    "kdharness.harness.worker",
    "kdharness.trainers.loop",
)
ADDRESS = "TESTS_FORK_SERVER"
"""Variable of the environment: the path of the server's socket."""
SERVERS: dict[str, dict[str, str]] = {"": {}, "-extras": {"TESTS_WITH_EXTRAS": "1"}}
"""What follows the address -> variables of the workers that this server forks."""

READ_EARLY = (
    *("HF_HOME", "HF_HUB", "HOME", "HUGGINGFACE", "LANG", "LC_", "MKL", "OMP_WAIT", "PATH"),
    *("PYTHONIO", "PYTHONPATH", "PYTHONUTF8", "TESTS_", "TORCH_", "TRANSFORMERS", "TRITON", "XDG"),
)
"""Beginnings of the names of variables that a library may read at its import."""


SET_AT_WORK = (
    *("HF_HUB_VERBOSITY", "TORCH_NCCL_ASYNC_ERROR_HANDLING"),
    "TRANSFORMERS_VERBOSITY",  # a worker sets it, also one that runs in a test's own process
)
"""Variables that differ without having been chosen."""


@contextmanager
def serve_forks() -> Iterator[None]:
    """Fork the workers of tests. A server starts at its first request and ends with the tests."""
    if not hasattr(os, "pidfd_open"):
        yield
        return
    with (
        tempfile.TemporaryDirectory(prefix="kdharness-forks-") as folder,
        ExitStack() as servers,
    ):
        address = os.environ[ADDRESS] = os.path.join(folder, "server")
        servers.callback(os.environ.pop, ADDRESS)
        for suffix, variables in SERVERS.items():
            servers.enter_context(_server(address + suffix, {**os.environ, **variables}))
        yield


@contextmanager
def _server(address: str, environment: dict[str, str]) -> Iterator[None]:
    kind = (socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(*kind) as requests:
        requests.bind(address)
        requests.listen(64)
        tests, server = socket.socketpair(*kind)

        def start_at_first_request() -> None:
            if requests in select.select([requests, tests], [], [])[0]:
                passed = [requests.fileno(), server.fileno()]
                subprocess.Popen(
                    [sys.executable, __file__, *map(str, passed), "kdharness.harness.worker"],
                    pass_fds=passed,
                    env={**environment, "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )

        starting = threading.Thread(target=start_at_first_request, daemon=True)
        starting.start()
        try:
            yield
        finally:
            server.close()
            starting.join()
            tests.close()


class Forks:
    """The running workers, each with its pid, a descriptor of its process, and its stand-in."""

    def __init__(self) -> None:
        self.running: dict[int, tuple[int, socket.socket]] = {}

    def add(self, pid: int, stand_in: socket.socket) -> None:
        """Watch a worker that was just forked."""
        self.running[os.pidfd_open(pid)] = (pid, stand_in)
        _send(stand_in, pid)

    def waited_for(self) -> list[Any]:
        """Return what to wait for: the ends of workers and of their stand-ins."""
        return [*self.running, *(stand_in for _, stand_in in self.running.values())]

    def handle(self, ready: list[Any]) -> None:
        """Tell stand-ins how their workers ended, and kill workers whose stand-ins were killed."""
        for descriptor, (pid, stand_in) in list(self.running.items()):
            if descriptor in ready:
                _, status = os.waitpid(pid, 0)
                _send(stand_in, os.waitstatus_to_exitcode(status))
                stand_in.close()
                os.close(descriptor)
                del self.running[descriptor]
            elif stand_in in ready:
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Close this process's copies of the descriptors."""
        for descriptor, (_, stand_in) in self.running.items():
            os.close(descriptor)
            stand_in.close()


def _send(stand_in: socket.socket, number: int) -> None:
    try:
        stand_in.send(str(number).encode())
    except OSError:  # it was killed
        pass


def serve(
    requests: socket.socket, tests: socket.socket, environment: Mapping[str, str]
) -> dict[str, Any] | None:
    """Fork workers until the tests have ended; return in a worker, with its request.

    Args:
        requests: the socket on which stand-ins connect.
        tests: ends with the tests.
        environment: the variables that this process had at its imports.
    """
    forks = Forks()
    while True:
        ready, _, _ = select.select([requests, tests, *forks.waited_for()], [], [])
        if tests in ready:
            return None
        forks.handle(ready)
        if requests not in ready:
            continue
        stand_in, _ = requests.accept()
        message, streams, _, _ = socket.recv_fds(stand_in, 1 << 20, 3)
        request = json.loads(message or "null")
        if request is None or not _alike(_read_early(request["environment"]), environment):
            _send(stand_in, 0)
            stand_in.close()
        elif pid := os.fork():
            forks.add(pid, stand_in)
        else:
            forks.close()
            for other in (requests, tests, stand_in):
                other.close()
            become_worker(streams)
            return dict(request)
        for descriptor in streams:
            os.close(descriptor)


def _read_early(environment: Mapping[str, str]) -> dict[str, str]:
    early = {name: value for name, value in environment.items() if name.startswith(READ_EARLY)}
    return {name: value for name, value in early.items() if name not in SET_AT_WORK}


def _alike(requested: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Return whether a fork has what libraries read early; it can add folders before its path."""
    paths = requested.get("PYTHONPATH", ""), own.get("PYTHONPATH", "")
    added = f"{os.pathsep}{paths[0]}".endswith(f"{os.pathsep}{paths[1]}")
    return added and {**requested, "PYTHONPATH": ""} == {**own, "PYTHONPATH": ""}


def become_worker(streams: list[int]) -> None:
    """Give a forked process a session, standard streams and random numbers of its own."""
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # The old ones know whether their files could be seeked.
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8")
    sys.stdout = sys.__stdout__ = _unbuffered(1, sys.stdout.errors)
    sys.stderr = sys.__stderr__ = _unbuffered(2, sys.stderr.errors)
    random.seed()


def _unbuffered(descriptor: int, errors: str | None) -> io.TextIOWrapper:
    raw = os.fdopen(descriptor, "wb", buffering=0)
    return io.TextIOWrapper(raw, "utf-8", errors, write_through=True)


def main() -> None:
    """Import what workers need, then serve; in a worker, work."""
    requests, tests = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    early = _read_early(os.environ)
    for name in PRELOADED:
        importlib.import_module(name)
    # With its first model transformers compiles the names of all architectures' weights: a third of
    # what a worker takes to train a tiny model.
    sys.modules["transformers.conversion_mapping"].get_checkpoint_conversion_mapping("llama")
    # A collection would write to every object, and so copy all memory of each worker.
    gc.collect()
    gc.freeze()
    request = serve(requests, tests, early)
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["environment"])
    folders = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[1:1] = [path for path in folders if path not in sys.path]
    os.chdir(request["folder"])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        sys.modules["torch"].set_num_threads(int(threads))
    name, arguments = request["program"], request["arguments"]
    if name.endswith(".py"):
        sys.argv = [name, *arguments]
        sys.path.insert(0, os.path.dirname(name))
        runpy.run_path(name, run_name="__main__")
        return
    module = sys.modules[name]
    sys.argv = [str(module.__file__), *arguments]
    module.main()


if __name__ == "__main__":
    main()
