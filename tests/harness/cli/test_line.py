"""The command line as a whole: --home anywhere, names that do not exist, help, completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from kdharness.harness import cli
from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.cli.main import cli as root
from kdharness.harness.cli.main import globals_first
from kdharness.harness.paths import Paths
from support.commands import CommandLine
from support.store_rows import fill_store

READING = [
    ["runs"],
    ["show", "x"],
    ["logs", "x"],
    ["stop", "x"],
    ["leaderboard"],
    ["compare", "a", "b"],
    ["tradeoff"],
    ["forgetting", "a", "b"],
    ["rm", "x"],
    ["tag", "x"],
    ["judge", "list"],
    ["store", "check"],
    ["export", "model-card", "x"],
]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runs --home H", "--home H runs"),
        ("runs --home=H --format json", "--home=H runs --format json"),
        ("--home A store check --home B", "--home A --home B store check"),
        ("note x -- --home H", "note x -- --home H"),
        ("runs --home", "runs --home"),
        ("", ""),
    ],
)
def test_home_may_be_anywhere_in_the_line(line: str, expected: str) -> None:
    words = globals_first(line.split())
    assert [word for word in words if word] == expected.split()


def test_home_after_the_command(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    fill_store(paths.store, runs=1)
    assert cli.run(["runs", "--home", str(paths.home), "--format", "csv"]) == 0
    assert "kd-0" in capsys.readouterr().out


@pytest.mark.parametrize("args", READING, ids=" ".join)
def test_a_mistyped_home_is_refused_and_not_created(
    args: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_store(tmp_path / "experiments" / "kdharness.db", runs=1)
    typed = tmp_path / "experimnts"
    assert cli.run(["--home", str(typed), *args]) == 2
    err = capsys.readouterr().err
    assert f"no home at {typed}; did you mean {tmp_path / 'experiments'}?" in err
    assert not typed.exists()


@pytest.mark.parametrize("args", READING, ids=" ".join)
def test_reading_a_folder_without_a_store_creates_none(args: list[str], kd: CommandLine) -> None:
    code, _, err = kd(*args)
    assert code in (0, 1, 2) and "Traceback" not in err and not list(kd.home.glob("kdharness.db*"))


def test_help_of_a_reading_command_needs_no_home(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--home", "/nowhere/at/all", "runs", "--help"]) == 0


@pytest.mark.parametrize(
    ("args", "suggestion"),
    [
        (["da"], "data"),
        (["store", "chek"], "check"),
        (["judge", "lst"], "list"),
        (["export", "model-crd"], "model-card"),
        (["delete"], "rm"),
    ],
)
def test_mistyped_commands_of_groups_too(args: list[str], suggestion: str, kd: CommandLine) -> None:
    code, _, err = kd(*args)
    assert code == 2 and f"did you mean {suggestion}?" in err


@pytest.mark.parametrize(
    "args", [["runs", "--nope"], ["show"], ["nosuch"], ["runs", "--format", "xml"], ["eval"]]
)
def test_all_errors_have_one_form(args: list[str], kd: CommandLine) -> None:
    code, out, err = kd(*args)
    assert code == 2 and out == ""
    assert re.match(r"error: [a-z'`-]", err) and "Usage:" not in err and "Error:" not in err


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return every command's words."""
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*path, name))
        if isinstance(command, click.Group):
            assert isinstance(command, SuggestingGroup), name
            found += commands(command, (*path, name))
    return found


def test_no_help_line_is_cut_or_too_wide(kd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in [(), *commands(root)]:
        text = kd.ok(*words, "--help")
        assert max(map(len, text.splitlines())) <= 80, words
        assert not re.search(r"[a-z,]\.\.\.$", text, re.MULTILINE), words


HUB = """
from kdharness.harness import cli
cli.run(["--version"])
from huggingface_hub.utils import logging
log = logging.get_logger("huggingface_hub.utils._http")
log.warning("Retrying in 1s [Retry 1/5].")
log.error("a real error")
"""


def test_retries_of_the_hub_client_are_not_printed() -> None:
    """It logs each of them as a warning; we say once that the hub is unreachable."""
    rest = {name: value for name, value in os.environ.items() if name != "HF_HUB_VERBOSITY"}
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=rest, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "Retrying" not in done.stderr and "a real error" in done.stderr
    loud = {**rest, "HF_HUB_VERBOSITY": "warning"}
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=loud, capture_output=True, text=True, timeout=60
    )
    assert "Retrying" in done.stderr  # whoever asks for it, gets it


# ---------------------------------------------------------------- completion


def complete(line: str, **more: str) -> tuple[list[str], float]:
    """Return what tab completes at the end of a line in bash, and how long it took."""
    words = line.split(" ")
    given = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_KDHARNESS_COMPLETE": "bash_complete",
        **more,
    }
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from kdharness.harness.cli import main; main()"],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not done.stderr, done.stderr
    found = [item.partition(",")[2] for item in done.stdout.splitlines()]
    return found, time.monotonic() - began


def test_stored_names_are_completed(paths: Paths) -> None:
    fill_store(paths.store, runs=3, items=1)
    found, seconds = complete(f"kdharness show --home {paths.home} kd-")
    assert found == ["kd-2", "kd-1", "kd-0"] and seconds < 10
    found, _ = complete("kdharness compare kd-0 kd-1,", KDHARNESS_HOME=str(paths.home))
    assert found == ["kd-1,kd-2", "kd-1,kd-1", "kd-1,kd-0"]
    assert complete("kdharness leaderb")[0] == ["leaderboard"]
    assert complete("kdharness show --home /nowhere x")[0] == [""]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_or_installed(
    shell: str, kd: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = kd.ok("completion", shell)
    assert "_KDHARNESS_COMPLETE" in script and f"{shell}_complete" in script
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    code, _, err = kd("completion", "--install")
    (written,) = [path for path in tmp_path.rglob("*kdharness*") if path.is_file()]
    assert code == 0 and str(written) in err and written.read_text() + "\n" == script


def test_completion_for_an_unknown_shell(kd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    code, _, err = kd("completion")
    assert code == 2 and "bash, zsh, fish" in err
