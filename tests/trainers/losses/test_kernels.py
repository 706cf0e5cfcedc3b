"""Triton's kernels, interpreted beside the reference and compiled for a GPU, without one.

Whether Triton interprets is decided when it is imported, so each folder has a process of its own,
and no other test sees its environment. pytest does not collect the files by their names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
FOLDERS = {"interpreted": "1", "compiled": "0"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")
@pytest.mark.parametrize("folder", FOLDERS)
def test_kernels(folder: str) -> None:
    files = [str(path) for path in sorted((HERE / folder).glob("*.py"))]
    files = [file for file in files if not file.endswith("conftest.py")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pytest", "-p", "no:xdist", *files],
        cwd=ROOT,
        env={**clean, "TRITON_INTERPRET": FOLDERS[folder], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
