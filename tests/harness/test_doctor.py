"""The doctor: every bad state is really made, and the row says how bad it is and what to do."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdharness.harness import (
    assets,
    cli,
    doctor,
    doctor_home,
    doctor_machine,
    doctor_network,
    doctor_packages,
    mounts,
)
from kdharness.harness.findings import Finding
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus

Env = pytest.MonkeyPatch


def says(finding: Finding, status: str, detail: str, advice: str) -> None:
    assert (finding.status, detail in finding.detail, advice in finding.advice) == (
        status, True, True), finding  # fmt: skip


def one(findings: Any, check: str) -> Finding:
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, list(findings)
    return found[0]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: Env) -> None:
    """Nothing of the machine that runs the tests."""
    for name in (
        "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "HF_HOME", "KDHARNESS_ASSETS",
        "KDHARNESS_JOURNAL_MODE", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
        "http_proxy", "https_proxy", "all_proxy", "NO_PROXY", "no_proxy", "KDHARNESS_JUDGE",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------- packages


@pytest.fixture
def install(tmp_path: Path, monkeypatch: Env) -> Callable[..., None]:
    """Put a package's metadata before what is installed."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))

    def put(name: str, version: str, *requires: str) -> None:
        place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        place.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (place / "METADATA").write_text("\n".join(lines) + "\n", "utf-8")

    return put


@pytest.mark.parametrize(("version", "status", "advice"), [
    ("3.10.4", "broken", "new environment"), ("3.15.0", "note", "use Python 3.13"),
    ("3.12.1", "ok", ""),
])  # fmt: skip
def test_python(monkeypatch: Env, version: str, status: str, advice: str) -> None:
    monkeypatch.setattr("platform.python_version", lambda: version)
    says(doctor_packages.python(), status, version, advice)


def test_a_package_out_of_range(install: Callable[..., None]) -> None:
    install("transformers", "4.40.0")
    says(one(doctor_packages.packages(), "transformers"), "broken", "needs <6,>=5.23",
         "pip install 'transformers<6,>=5.23'")


def test_a_package_that_is_missing(monkeypatch: Env) -> None:
    real = doctor_packages.installed
    monkeypatch.setattr(doctor_packages, "installed",
                        lambda name: None if name == "pyarrow" else real(name))
    says(one(doctor_packages.packages(), "pyarrow"), "broken", "not installed",
         "pip install 'pyarrow>=18'")


def test_packages_that_are_fine_are_shown() -> None:
    assert one(doctor_packages.packages(), "torch").status == "ok"
    assert "more packages as asked" in one(doctor_packages.packages(), "kdharness").detail
    assert doctor_packages.together().status == "ok"


def test_torchvision_that_was_built_for_another_torch(install: Callable[..., None]) -> None:
    install("torchvision", "0.1.0", "numpy", "torch==1.13.0")
    says(doctor_packages.together(), "broken", "torchvision 0.1.0 needs torch==1.13.0",
         "'torch==1.13.0', or remove what asks for it")


def test_transformers_that_takes_torch_for_too_old(install: Callable[..., None]) -> None:
    install("torch", "2.1.0")
    says(doctor_packages.together(), "broken", "transformers", "pip install 'torch>=")


def test_extras(install: Callable[..., None]) -> None:
    says(doctor_packages.extras(), "ok", "teachers in 8 or 4 bits", "")
    for name in doctor_packages.EXTRAS:
        install(name, "1.0")
    says(doctor_packages.extras(), "ok", "bitsandbytes, deepspeed: installed", "")


# ---------------------------------------------------------------- accelerator


def fake_torch(**changes: Any) -> SimpleNamespace:
    """A torch that sees no GPU."""

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    values = {"version": SimpleNamespace(cuda="13.0", hip=None), "__version__": "2.13.0",
              "cuda": SimpleNamespace(init=init)}  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


@pytest.fixture
def card(tmp_path: Path, monkeypatch: Env) -> Path:
    """A machine with an NVIDIA driver."""
    path = tmp_path / "nvidia"
    path.write_text("NVRM version", "utf-8")
    monkeypatch.setattr(doctor_machine, "NVIDIA", path)
    return path


def test_no_gpu_at_all(tmp_path: Path, monkeypatch: Env) -> None:
    for name in ("NVIDIA", "AMD"):
        monkeypatch.setattr(doctor_machine, name, tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    says(doctor_machine.no_gpu(fake_torch()), "note", "runs on the CPU", "kdharness plan")


def test_a_gpu_but_a_torch_for_the_cpu(card: Path) -> None:
    torch = fake_torch(version=SimpleNamespace(cuda=None, hip=None))
    says(doctor_machine.no_gpu(torch), "broken", "built for the CPU alone", "pip uninstall torch")


def test_a_gpu_that_nvidia_smi_alone_shows(tmp_path: Path, monkeypatch: Env) -> None:
    monkeypatch.setattr(doctor_machine, "NVIDIA", tmp_path / "none")
    monkeypatch.setattr(doctor_machine, "AMD", tmp_path / "none")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    torch = fake_torch(version=SimpleNamespace(cuda=None, hip=None))

    def smi(script: str) -> Finding:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        program.chmod(0o755)
        return doctor_machine.no_gpu(torch)

    says(smi("echo 'GPU 0: H200'"), "broken", "an NVIDIA GPU is here", "pip install torch")
    says(smi("echo 'could not talk to the driver'; exit 9"), "broken", "NVIDIA GPU is here", "pip")
    says(smi("echo 'No devices were found'; exit 6"), "note", "none: training runs on", "plan")


def test_a_driver_that_is_too_old(card: Path) -> None:
    says(doctor_machine.no_gpu(fake_torch()), "broken", "too old (found version 11040)",
         "update the NVIDIA driver")


def test_a_driver_that_does_not_answer(card: Path) -> None:
    torch = fake_torch(cuda=SimpleNamespace(init=lambda: None))
    says(doctor_machine.no_gpu(torch), "broken", "cannot use it", "run nvidia-smi")


def test_a_hidden_gpu(card: Path, monkeypatch: Env) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    says(doctor_machine.no_gpu(fake_torch()), "note", "hidden by", "unset CUDA_VISIBLE_DEVICES")


def test_torch_that_does_not_load(tmp_path: Path, monkeypatch: Env) -> None:
    broken = tmp_path / "torch.py"
    broken.write_text("raise OSError('libcudart.so.13: cannot open shared object file')", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    says(doctor_machine.accelerator()[0], "broken", "libcudart.so.13", "--force-reinstall torch")


def test_what_a_gpu_lacks(monkeypatch: Env) -> None:
    import torch

    for name, value in {
        "is_available": lambda: True, "device_count": lambda: 1,
        "get_device_name": lambda index: "Tesla T4",
        "is_bf16_supported": lambda including_emulation: False,
        "mem_get_info": lambda: (2**29, 16 * 2**30),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    rows = doctor_machine.accelerator()
    says(one(rows, "accelerator"), "ok", "Tesla T4", "")
    says(one(rows, "bf16"), "note", "fp32, which takes twice the memory", "kdharness plan")
    says(one(rows, "gpu memory"), "note", "0.5 of 16.0 GiB", "nvidia-smi tells who")


# ---------------------------------------------------------------- memory, disks, limits


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: Env) -> Callable[..., None]:
    """A container's limits."""
    monkeypatch.setattr(doctor_machine, "CGROUP", tmp_path)

    def limit(**values: str) -> None:
        for name, value in values.items():
            (tmp_path / name.replace("_", ".", 1)).write_text(value + "\n", "utf-8")

    return limit


def test_little_memory_in_a_container(cgroup: Callable[..., None]) -> None:
    cgroup(memory_max=str(2**30), memory_current=str(2**29))
    says(doctor_machine.memory(), "note", "0.5 of 1.0 GiB free", "raise the container's limit")
    cgroup(memory_max="max")
    assert " of 1.0 GiB" not in doctor_machine.memory().detail


Usage = namedtuple("Usage", "total used free")


def full_disk(monkeypatch: Env, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**40, 2**40 - free, free))


@pytest.mark.parametrize(("free", "status"), [(2**28, "broken"), (2**31, "note"), (2**36, "ok")])
def test_little_disk(paths: Paths, monkeypatch: Env, free: int, status: str) -> None:
    full_disk(monkeypatch, free)
    says(doctor_home.disk(paths), status, "GiB free", "" if status == "ok" else "free some")


def test_a_disk_without_room_for_more_files(paths: Paths, monkeypatch: Env) -> None:
    full_disk(monkeypatch, 2**40)
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_favail=12))
    says(doctor_home.disk(paths), "broken", "only 12 more files", "delete many small files")


def test_little_room_for_temporary_files(monkeypatch: Env) -> None:
    full_disk(monkeypatch, 2**27)
    says(doctor_machine.temporary(), "note", "only 128 MiB", "set TMPDIR")


def test_no_folder_for_temporary_files(monkeypatch: Env) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    says(doctor_machine.temporary(), "broken", "No usable temporary", "set TMPDIR")


def test_little_shared_memory(tmp_path: Path, monkeypatch: Env) -> None:
    monkeypatch.setattr(doctor_machine, "SHARED_MEMORY", tmp_path)
    full_disk(monkeypatch, 2**26)
    says(doctor_machine.shared_memory(), "note", "64 MiB free", "--shm-size")
    monkeypatch.setattr(doctor_machine, "SHARED_MEMORY", tmp_path / "none")
    assert doctor_machine.shared_memory().status == "ok"


@pytest.mark.parametrize(("value", "detail"), [
    ("1", "one of 4 cores"), ("64", "hold each other up"), ("many", "no number of threads"),
])  # fmt: skip
def test_odd_threads(monkeypatch: Env, value: str, detail: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    says(one(doctor_machine.threads(), "threads"), "note", detail, "unset")


def test_threads_that_spin(monkeypatch: Env) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    says(one(doctor_machine.threads(), "threads"), "note", "active", "unset OMP_WAIT_POLICY")


def test_a_container_with_fewer_processors(cgroup: Callable[..., None], monkeypatch: Env) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    cgroup(cpu_max="250000 100000")
    says(one(doctor_machine.threads(), "processors"), "note", "may use 2.5", "OMP_NUM_THREADS=2")
    cgroup(cpu_max="max 100000")
    assert one(doctor_machine.threads(), "processors").status == "ok"


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_few_open_files() -> None:
    with limited(resource.RLIMIT_NOFILE, 256):
        says(doctor_machine.open_files(), "note", "at most 256", "ulimit -n 4096")


def test_small_files_only() -> None:
    with limited(resource.RLIMIT_FSIZE, 2**28):
        says(doctor_machine.file_size(), "note", "256 MiB", "ulimit -f unlimited")


def test_a_clock_in_the_past(monkeypatch: Env) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    says(doctor_machine.clock(), "broken", "is in the past", "set the clock")


def test_output_that_is_not_utf8(monkeypatch: Env) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    says(doctor_machine.words(), "note", "output in latin-1", "LANG=C.UTF-8")
    monkeypatch.undo()
    assert doctor_machine.words().status == "ok"


LOOK = ("from kdharness.harness.doctor_machine import terminal as t; f = t(); "
        "print(f.status, f.detail, f.advice, sep='|')")  # fmt: skip


@pytest.mark.parametrize(("kind", "rows", "columns", "status", "detail"), [
    ("dumb", 24, 80, "note", "TERM='dumb'"), ("xterm-256color", 20, 60, "note", "60×20"),
    ("xterm-256color", 24, 80, "ok", "80×24, without colour"),
])  # fmt: skip
def test_a_terminal(kind: str, rows: int, columns: int, status: str, detail: str) -> None:
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    done = subprocess.run(
        [sys.executable, "-c", LOOK], stdin=other, capture_output=True,
        env={**os.environ, "TERM": kind, "NO_COLOR": "1", "PYTHONUTF8": "1"},
    )  # fmt: skip
    os.close(main)
    os.close(other)
    found = done.stdout.decode().strip().split("|")
    assert found[0] == status and detail in found[1], done
    assert bool(found[2]) == (status != "ok")


# ---------------------------------------------------------------- home and file system


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    says(doctor_home.home(Paths(tmp_path / "file" / "home")), "broken", "cannot be written",
         "--home FOLDER")
    says(doctor_home.home(Paths(Path("/proc/kdharness"))), "broken", "cannot be written",
         "KDHARNESS_HOME")
    assert doctor_home.home(Paths(tmp_path / "new" / "home")).status == "ok"
    assert not (tmp_path / "new").exists()


@pytest.fixture
def network(paths: Paths, tmp_path: Path, monkeypatch: Env) -> None:
    """The home on NFS, as the kernel would list it."""
    listing = tmp_path / "mounts"
    listing.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n", "utf-8")
    monkeypatch.setattr(mounts, "MOUNTS", listing)


def test_a_network_file_system(paths: Paths, network: None, monkeypatch: Env) -> None:
    says(doctor_home.file_system(paths), "note", "nfs4", "KDHARNESS_JOURNAL_MODE=delete")
    monkeypatch.setenv("KDHARNESS_JOURNAL_MODE", "wal")
    says(doctor_home.file_system(paths), "broken", "damages stores", "unset KDHARNESS_JOURNAL_MODE")
    monkeypatch.setenv("KDHARNESS_JOURNAL_MODE", "wall")
    says(doctor_home.file_system(paths), "note", "ignored", "wal, delete")


# ---------------------------------------------------------------- store and runs


@pytest.fixture
def stored(paths: Paths) -> Paths:
    with Store(paths.store):
        pass
    return paths


def change(paths: Paths, sql: str) -> None:
    with closing(sqlite3.connect(paths.store)) as connection:
        connection.execute(sql)
        connection.commit()


def test_a_store_that_is_whole(stored: Paths) -> None:
    before = stored.store.read_bytes()
    says(doctor_home.store(stored), "ok", "whole", "")
    assert stored.store.read_bytes() == before


def test_no_store_yet(paths: Paths) -> None:
    says(doctor_home.store(paths), "ok", "none yet", "")
    assert not paths.home.exists()


def test_a_store_of_a_newer_version(stored: Paths) -> None:
    change(stored, "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
           "VALUES ('kdharness', 'm999_later', '2030-01-01')")
    says(doctor_home.store(stored), "broken", "m999_later", "pip install --upgrade kdharness")


def test_a_store_of_an_older_version(stored: Paths) -> None:
    change(stored, "DELETE FROM _sqlite_migrations WHERE name = 'm004_scored_facts'")
    says(doctor_home.store(stored), "note", "1 step behind", "copy kdharness.db first")
    with closing(sqlite3.connect(stored.store)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM _sqlite_migrations")]
    assert "m004_scored_facts" not in names, "looking must not upgrade"


def test_a_damaged_store(stored: Paths) -> None:
    change(stored, "PRAGMA journal_mode=delete")
    data = bytearray(stored.store.read_bytes())
    data[4096 * 2 : 4096 * 8] = b"\xa5" * (4096 * 6)
    stored.store.write_bytes(bytes(data))
    says(doctor_home.store(stored), "broken", str(stored.store), "kdharness store salvage")


def test_a_store_that_is_no_database(paths: Paths) -> None:
    paths.home.mkdir()
    paths.store.write_text("not a database at all, but long enough to be read" * 40, "utf-8")
    says(doctor_home.store(paths), "broken", "not a database", "kdharness store salvage")
    assert [row.status for row in doctor_home.runs(paths)] == []


def test_a_store_that_another_process_holds(stored: Paths, monkeypatch: Env) -> None:
    change(stored, "PRAGMA journal_mode=delete")
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "timeout": 0.05}))
    with closing(real(stored.store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        says(doctor_home.store(stored), "note", "held by another process", "look again")
    assert doctor_home.store(stored).status == "ok"


def test_a_database_of_somebody_else(paths: Paths) -> None:
    paths.home.mkdir()
    change(paths, "CREATE TABLE photos (id)")
    says(doctor_home.store(paths), "broken", "not a store of kdharness", "another --home")


def test_a_store_too_big_to_read_in_time(stored: Paths, monkeypatch: Env) -> None:
    change(stored, "CREATE TABLE big AS WITH RECURSIVE n(i) AS "
           "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT i FROM n")
    monkeypatch.setattr(doctor_home, "CHECK_SECONDS", 0.0)
    says(doctor_home.store(stored), "ok", "kdharness store check", "")


def add_run(paths: Paths, name: str, **values: Any) -> None:
    run: dict[str, Any] = {
        "id": name, "method": "kd", "status": RunStatus.RUNNING, "config": {}, "config_hash": "",
        "folder": "", "created": time.time() - 900,
    }  # fmt: skip
    with Store(paths.store) as store:
        store.add_run(Run(**{**run, **values}))


def test_runs_that_were_interrupted(stored: Paths) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    add_run(stored, "kd-gone", pid=gone.pid, pid_started=1.0, heartbeat=time.time() - 800)
    add_run(stored, "kd-done", status=RunStatus.FINISHED)
    (row,) = doctor_home.runs(stored)
    says(row, "note", "interrupted: kd-gone", "kdharness resume kd-gone")


def test_a_run_that_hangs(stored: Paths) -> None:
    from kdharness.harness.launch import process_started

    began = process_started(os.getpid())
    add_run(stored, "kd-hung", pid=os.getpid(), pid_started=began, heartbeat=time.time() - 700)
    (row,) = doctor_home.runs(stored)
    says(row, "note", "no sign of life for 10 minutes: kd-hung", "kdharness stop kd-hung")


def test_a_clock_that_went_back(stored: Paths) -> None:
    add_run(stored, "kd-later", host="elsewhere", pid=1, heartbeat=time.time() + 7200)
    row = doctor_home.runs(stored)[-1]
    says(row, "note", "written in the future: kd-later", "set the clock right")


def test_runs_that_are_fine(stored: Paths) -> None:
    add_run(stored, "kd-here", pid=os.getpid(), heartbeat=time.time())
    (row,) = doctor_home.runs(stored)
    says(row, "ok", "1 under way", "")


# ---------------------------------------------------------------- settings and assets


@pytest.mark.parametrize(("text", "status", "detail"), [
    ("judge: [", "broken", "settings.yaml: "), ("- a\n", "broken", "must be a mapping"),
    ("juge: openai:x\n", "note", "nothing reads juge"), ("theme: light\n", "ok", "theme set"),
])  # fmt: skip
def test_settings(paths: Paths, text: str, status: str, detail: str) -> None:
    paths.home.mkdir()
    paths.settings.write_text(text, "utf-8")
    says(doctor_home.settings(paths), status, detail, "" if status == "ok" else "judge, keys")


def test_assets(paths: Paths, tmp_path: Path, monkeypatch: Env) -> None:
    asset = next(iter(assets.manifest().values()))
    says(one(doctor_home.asset_files(paths), f"asset {asset.name}"), "note", "not pulled",
         f"kdharness data pull {asset.name}")
    (paths.assets / asset.name).mkdir(parents=True)
    says(one(doctor_home.asset_files(paths), f"asset {asset.name}"), "broken", "damaged",
         f"kdharness data pull {asset.name}")
    monkeypatch.setenv("KDHARNESS_ASSETS", "/proc/assets")
    says(one(doctor_home.asset_folder(paths), "assets"), "broken", "cannot be written", "unset it")


# ---------------------------------------------------------------- judges and hub


@pytest.fixture
def endpoint() -> Iterator[SimpleNamespace]:
    """A server that lists models, with the status it is told, and remembers the keys it saw."""
    state = SimpleNamespace(status=200, models=["judge-1"], keys=[], wait=0.0, url="")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.keys.append((self.path, self.headers.get("Authorization")))
            time.sleep(state.wait)
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
    server.shutdown()
    server.server_close()


def test_a_judge_without_a_key() -> None:
    (row,) = doctor_network.judge("openai:gpt-4o", online=True)
    says(row, "broken", "no key", "export OPENAI_API_KEY=")


def test_a_judge_that_is_there(endpoint: SimpleNamespace, monkeypatch: Env) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    (row,) = doctor_network.judge(f"openai:judge-1@{endpoint.url}", online=True)
    says(row, "ok", "knows the model", "")
    assert endpoint.keys == [("/v1/models", "Bearer sk-test")]
    monkeypatch.setenv("KDHARNESS_JUDGE_API_KEY", "other-key")
    endpoint.models, endpoint.keys[:] = ["judge-1", "other-key"], []
    (row,) = doctor_network.judge(f"openai:judge-2@{endpoint.url}", online=True)
    says(row, "note", "lists judge-1, ***", "correct the name")
    assert endpoint.keys == [("/v1/models", "Bearer other-key")], "the client's own order"
    assert doctor_network.judge(f"openai:judge-1@{endpoint.url}", online=False)[0].status == "ok"
    assert len(endpoint.keys) == 1, "--offline asks nobody"


@pytest.mark.parametrize(("status", "models", "kind", "detail", "advice"), [
    (401, [], "broken", "wants a key", "export OPENAI_API_KEY"),
    (403, [], "broken", "HTTP 403", "export OPENAI_API_KEY"),
    (404, [], "note", "lists no models", "often /v1"),
    (302, [], "broken", "sends its callers elsewhere", "name the final URL"),
    (503, [], "note", "busy or failing", "try again"),
    (200, ["other"], "note", "does not list this model; it lists other", "correct the name"),
    (200, [], "ok", "reachable", ""),
])  # fmt: skip
def test_judges_that_answer_oddly(
    endpoint: SimpleNamespace, status: int, models: list[str], kind: str, detail: str, advice: str
) -> None:
    endpoint.status, endpoint.models = status, models
    (row,) = doctor_network.judge(f"openai:judge-1@{endpoint.url}", online=True)
    says(row, kind, detail, advice)
    assert [path for path, _ in endpoint.keys] == ["/v1/models"]


def test_a_judge_that_is_not_running(endpoint: SimpleNamespace) -> None:
    port = int(endpoint.url.rsplit(":", 1)[1].split("/")[0])
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    (row,) = doctor_network.judge(f"openai:x@http://127.0.0.1:{port}/v1", online=True)
    says(row, "broken", "cannot be reached", "is the server running")


def test_a_judge_that_never_answers(
    endpoint: SimpleNamespace, paths: Paths, monkeypatch: Env
) -> None:
    monkeypatch.setattr(doctor_network, "SECONDS", 0.2)
    endpoint.wait = 2.0
    monkeypatch.setenv("KDHARNESS_JUDGE", f"openai:x@{endpoint.url}")
    began = time.monotonic()
    row = one(doctor_network.look(paths, online=True), f"judge openai:x@{endpoint.url}")
    assert time.monotonic() - began < 1.8
    says(row, "broken", "cannot be reached", "is the server running")


def test_a_name_that_resolves_too_slowly(paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setattr(doctor_network, "SECONDS", 0.1)
    monkeypatch.setattr(assets, "hub_reachable", lambda seconds: time.sleep(5) or True)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    began = time.monotonic()
    says(one(doctor_network.look(paths, online=True), "model hub"), "note", "no answer in",
         "does the name resolve")
    assert time.monotonic() - began < 2


def test_a_key_over_plain_http_to_another_host(monkeypatch: Env) -> None:
    monkeypatch.setenv("KDHARNESS_JUDGE_API_KEY", "secret-key")
    rows = doctor_network.judge("openai:x@http://gpu.example:8000/v1", online=False)
    says(rows[0], "note", "plain http", "use https")
    assert "secret-key" not in str(rows)
    (row,) = doctor_network.judge("openai:x@http://localhost:8000/v1", online=False)
    assert row.status == "ok"


def test_a_key_with_a_line_break(monkeypatch: Env) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test\n")
    (row,) = doctor_network.judge("openai:gpt-4o", online=True)
    says(row, "broken", "blanks", "export it again")
    assert "sk-test" not in str(row)


def test_judges_that_cannot_be(paths: Paths, tmp_path: Path, monkeypatch: Env) -> None:
    (row,) = doctor_network.judge("gpt-4o", online=True)
    says(row, "broken", "names no judge", "openai:MODEL")
    (row,) = doctor_network.judge(f"local:{tmp_path}/none", online=True)
    says(row, "broken", "does not exist", "correct the path")
    says(one(doctor_network.look(paths, online=False), "judge"), "note", "none set",
         "KDHARNESS_JUDGE=SPEC")


def test_the_hub(paths: Paths, monkeypatch: Env) -> None:
    says(doctor_network.hub(online=True), "note", "HF_HUB_OFFLINE set", "unset HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert doctor_network.hub(online=True).status == "ok"
    says(doctor_network.hub(online=True), "note", "cannot be reached", "HF_ENDPOINT")


def test_the_hubs_folder_and_token(tmp_path: Path, monkeypatch: Env) -> None:
    monkeypatch.setenv("HF_HOME", "/proc/hub")
    says(doctor_network.hub_folder(), "broken", "/proc/hub cannot be written", "export HF_HOME")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert doctor_network.hub_folder().status == "ok"
    assert doctor_network.hub_token().status == "ok"
    monkeypatch.setenv("HF_TOKEN", "'hf_abc'")
    says(doctor_network.hub_token(), "note", "does not look like one", "without quotes")
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert doctor_network.hub_token().status == "ok"


def test_a_proxy_before_the_own_judge(paths: Paths, monkeypatch: Env) -> None:
    assert doctor_network.proxy(paths).detail == "none"
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("KDHARNESS_JUDGE", "openai:x@http://127.0.0.1:8000/v1")
    says(doctor_network.proxy(paths), "note", "its calls go to the proxy", "NO_PROXY=127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    says(doctor_network.proxy(paths), "ok", "for http", "")


# ---------------------------------------------------------------- all together


def test_the_command(kd: Any, paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setattr(doctor_machine, "look", lambda: [doctor_machine.clock()])
    code, out, _ = kd("doctor", "--offline", "--format", "json")
    rows = json.loads(out)
    assert code == 0 and len(rows) >= 20
    assert len({row["check"] for row in rows}) == len(rows)
    assert all(set(row) == {"check", "status", "detail", "advice"} for row in rows)
    assert all(bool(row["advice"]) == (row["status"] != "ok") for row in rows)
    paths.home.mkdir()
    paths.settings.write_text("judge: [", "utf-8")
    code, out, _ = kd("doctor", "--offline")
    assert code == 1 and "what to do:\n  settings (broken): mend or remove" in out
    assert not paths.store.exists(), "looking makes no store"


def test_a_check_that_fails_itself(paths: Paths, monkeypatch: Env) -> None:
    monkeypatch.setattr(doctor_machine, "clock", lambda: 1 / 0)
    rows = {row["check"]: row for row in doctor.examine(paths, online=False)}
    assert rows["machine"]["status"] == "note" and "ZeroDivisionError" in rows["machine"]["detail"]
    assert rows["settings"]["status"] == "ok"


def test_it_is_quick(paths: Paths) -> None:
    with Store(paths.store):
        pass
    doctor.examine(paths, online=False)
    began = time.monotonic()
    doctor.examine(paths, online=False)
    assert time.monotonic() - began < 3
    assert cli.COMMANDS["doctor"]
