"""Shared fixtures: an isolated environment, an empty home, and a tiny teacher."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.benchmark_files import write_assets
from support.commands import CommandLine
from support.environment import isolate_environment
from support.files import WriteRows
from support.fork_server import serve_forks
from support.models import make_llama

isolate_environment()

# On a busy machine any example may take longer than Hypothesis' limit of 200 ms.
settings.register_profile("kdharness", deadline=None)
settings.load_profile("kdharness")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fork workers from a process that has imported their libraries, one for all who run tests."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        forks = ExitStack()
        forks.enter_context(serve_forks())
        session.config.add_cleanup(forks.close)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through all that was imported, again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny teacher and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-teacher"
    make_llama(folder, seed=1, tie_word_embeddings=True)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_teacher: Path) -> Any:
    """Return the tiny teacher's tokenizer, which has a ChatML template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_teacher)


@pytest.fixture
def extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers see the packages of extras: see `support/plain_install`."""
    monkeypatch.setenv("TESTS_WITH_EXTRAS", "1")


@pytest.fixture
def model_folder(tiny_teacher: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny teacher that tests may modify."""
    return Path(shutil.copytree(tiny_teacher, tmp_path / "model"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Return the paths of an empty home."""
    return Paths(tmp_path / "home")


@pytest.fixture
def store(paths: Paths) -> Iterator[Store]:
    """Yield the open store of that home."""
    with Store(paths.store) as open_store:
        yield open_store


@pytest.fixture
def assets_home(paths: Paths) -> Paths:
    """Return that home with MT-Bench and AlpacaEval files in it."""
    write_assets(paths.assets)
    return paths


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteRows:
    """Return a function that writes rows to a JSONL file beside the home."""

    def write(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write


@pytest.fixture
def kd(paths: Paths, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Return the command line with that home."""
    return CommandLine(paths.home, capsys)
