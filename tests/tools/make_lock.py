"""`requirements.lock` from pyproject.toml and constraints.txt: `make lock` (it needs uv).

uv resolves for every platform and Python at once and takes the sha256 of every file of every
release from PyPI. torch stays out, with what only some of its builds ask for: its CUDA, ROCm and
CPU builds are different files under one version, and people choose theirs by an index of their
own. pip is what Python brought.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOCK = ROOT / "requirements.lock"
LEFT_OUT = re.compile(r"torch|triton|cuda-.*|nvidia-.*|pip")
ELSEWHERE = re.compile(r"(sys_platform|platform_system) == '(win32|Windows|emscripten)'")
HEAD = """\
# Made by `make lock` from pyproject.toml and constraints.txt; do not edit.
# torch, and what only some builds of it ask for, is left out: see CONTRIBUTING.md.
"""


def resolve() -> str:
    """uv's answer."""
    command = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
        "--constraints",
        "constraints.txt",
        "--extra",
        "dev",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--default-index",
        "https://pypi.org/simple",
        "pyproject.toml",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def pins(text: str) -> dict[str, str]:
    """Name, spelt the same way everywhere, to version."""
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def kept(text: str, constraints: dict[str, str]) -> str:
    """Only what is installed here and is the same file for everybody."""
    blocks = []
    for block in re.split(r"\n(?=\S)", text.strip()):
        (name,) = pins(block)
        if LEFT_OUT.fullmatch(name) or ELSEWHERE.search(block.split("\n")[0]):
            continue
        if name not in constraints:
            sys.exit(f"{block.split()[0]} is not in constraints.txt: add it")
        blocks.append(block)
    return HEAD + "\n".join(blocks) + "\n"


if __name__ == "__main__":
    LOCK.write_text(kept(resolve(), pins((ROOT / "constraints.txt").read_text("utf-8"))), "utf-8")
