"""What every test shares: a quiet machine, an empty home, and a tiny teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.paths import Paths
from support.environment import isolate_environment
from support.models import make_llama

isolate_environment()


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny teacher and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-teacher"
    make_llama(folder, seed=1, tie_word_embeddings=True)
    return folder


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An empty home."""
    return Paths(tmp_path / "home")


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, list[Any]], Path]:
    """Write rows as a JSONL file beside the home."""

    def write(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write


@pytest.fixture
def kd(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line on an empty home: (exit code, stdout, stderr)."""
    from kdharness.harness import cli

    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(["--home", str(paths.home), *args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
