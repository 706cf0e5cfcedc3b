"""The wheel has all packages and works without the source tree, from another folder and home.

torch and other dependencies come from the running environment through a .pth file, which takes
seconds where an installation takes minutes; kdharness itself comes only from the wheel.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import sysconfig
import termios
import time
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "trainers", "judges", "tui", "data")
IGNORED = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that no build folder appears beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=IGNORED)
    # Other content of a work tree, which must not be included.
    shutil.copytree(ROOT / "docs", source / "docs", ignore=IGNORED)
    (source / "tests").mkdir()
    (source / "tests" / "test_x.py").write_text("", "utf-8")
    (source / ".typing" / "kdharness").mkdir(parents=True)
    (source / ".typing" / "kdharness" / "harness").symlink_to("../../harness")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--wheel-dir",
        str(target),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=target)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` folder of an environment with kdharness installed only from the wheel."""
    venv = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--disable-pip-version-check",
            str(wheel),
        ],
        check=True,
    )
    (site,) = venv.glob("lib/python*/site-packages")
    # Editable installs use .pth files, which are not processed in a folder added by a .pth file.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return venv / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a new user with no variables set."""
    keep = {name: os.environ[name] for name in ("PATH", "HF_HUB_OFFLINE") if name in os.environ}
    return {**keep, "HOME": str(folder / "user"), "TERM": "xterm-256color", "LANG": "C.UTF-8"}


def test_wheel_contains_exactly_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata_file,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = Parser().parsestr(archive.read(metadata_file).decode())
        dist_info = {Path(name).name for name in archive.namelist() if ".dist-info/" in name}
    expected = {
        f"kdharness/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    version = metadata["Version"]
    expected |= {
        f"kdharness-{version}.data/data/share/kdharness/docs/{path.name}"
        for path in (ROOT / "docs").glob("*.md")
    }
    assert names == expected
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert {
        "kdharness/tui/kdharness.tcss",
        "kdharness/data/presets/kd-laptop.yaml",
        "kdharness/data/assets.json",
        "kdharness/harness/py.typed",
    } <= names
    assert {"entry_points.txt", "LICENSE"} <= dist_info
    assert (metadata["Name"], metadata["Requires-Python"]) == ("kdharness", ">=3.11")
    assert metadata["License-Expression"] == "Apache-2.0"


# In one process, which imports once.
CHECK_PRESETS = """
import sys
from kdharness.harness import cli
for preset in sys.argv[1:]:
    assert cli.run(["config", "init", preset, "--output", f"{preset}.yaml"]) == 0
    assert cli.run(["config", "check", f"{preset}.yaml"]) == 0
"""


def test_commands_work_from_another_folder(installed: Path, elsewhere: Path) -> None:
    def run(*args: str) -> str:
        done = subprocess.run(
            [str(installed / args[0]), *args[1:]],
            cwd=elsewhere,
            env=environment(elsewhere),
            capture_output=True,
            text=True,
        )
        # The doctor may report problems of this machine.
        assert done.returncode in ((0, 1) if "doctor" in args else (0,)), done.stderr
        return done.stdout

    print_files = "import kdharness.harness as h, kdharness.tui as t; print(h.__file__, t.__file__)"
    for name in run("python", "-c", print_files).split():
        assert name.startswith(str(installed.parent))
    assert run("kdharness", "--version").startswith("kdharness, version ")
    assert "doctor" in run("kdharness", "--help")
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    assert run("kdharness", "docs", "training") == page
    rows = {
        row["check"]: row
        for row in json.loads(run("kdharness", "doctor", "--offline", "--format", "json"))
    }
    assert str(installed.parent) in rows["kdharness"]["detail"]
    assert rows["home"]["detail"].startswith(str(elsewhere / "user"))
    presets = run("kdharness", "config", "init").split()
    checked = run("python", "-c", CHECK_PRESETS, *presets).splitlines()
    assert len(presets) > 3 and len(checked) == len(presets)
    assert all(line.startswith("ok: ") for line in checked), checked
    assert "CC-BY-NC-4.0" in run("kdharness", "data", "list")
    assert run("kdharness", "runs", "--format", "json").strip() == "[]"


def test_app_starts_and_quits_from_another_folder(installed: Path, elsewhere: Path) -> None:
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [str(installed / "kdharness")],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=elsewhere,
        env=environment(elsewhere),
        start_new_session=True,
    )
    os.close(other)
    try:
        assert b"run the demo" in _read_until(main, b"run the demo", 60)
        os.write(main, b"q")
        _read_until(main, b"\0never", 20)
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(main)


def _read_until(terminal: int, word: bytes, seconds: float) -> bytes:
    """Read terminal output until `word` appears, the program ends or the time is up."""
    seen, end = b"", time.monotonic() + seconds
    while word not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # on Linux: the other side is closed
                break
            if not part:
                break
            seen += part
    return seen
