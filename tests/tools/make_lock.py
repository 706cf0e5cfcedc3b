"""Write `requirements.lock` from pyproject.toml and constraints.txt: `make lock` (needs uv).

uv resolves for all platforms and Python versions at once and takes the sha256 of every file of
every release from PyPI. torch is left out, with the dependencies of only some of its builds: its
CUDA, ROCm and CPU builds are different files under one version, selected by a separate index. pip
comes with Python.
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
    """Return the output of `uv pip compile`."""
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
    """Map normalised package names to versions."""
    versions = re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in versions}


def kept(text: str, constraints: dict[str, str]) -> str:
    """Keep only requirements that apply here and are the same file for everyone."""
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
