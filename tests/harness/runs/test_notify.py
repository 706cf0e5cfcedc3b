"""The user's command when a run has ended: how it is written, run, and fails."""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdharness.harness.config.settings import UserSettings, load_settings
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.notify import (
    MOST_BYTES,
    Alerts,
    _shorten,
    run_command,
    tell,
    tell_end,
    tell_interrupted,
    user_environment,
)
from kdharness.harness.runs.status import end_message
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from support.tui_home import add_past_run

VALUES = dict.fromkeys(("run", "state", "message", "method", "folder", "home"), "-") | {
    "run": "kd",
    "message": "kd failed; rm -rf",
}


def test_a_command_is_a_line_or_words_or_a_mapping() -> None:
    def argv(value: object) -> list[str]:
        return UserSettings.model_validate({"notify": value}).notify.argv(VALUES)

    assert argv("notify-send kdharness '{message}'") == [
        "notify-send",
        "kdharness",
        "kd failed; rm -rf",
    ]
    assert argv(["say", "{run}"]) == ["say", "kd"]
    assert argv({"command": "say {run}", "when": ["failed"]}) == ["say", "kd"]
    assert argv({"shell": 'echo "$KDHARNESS_RUN" >> log'})[:2] == ["/bin/sh", "-c"]
    assert argv('curl -d \'{"text": "{message}"}\' URL')[2] == '{"text": "kd failed; rm -rf"}'
    assert argv(None) == []
    assert argv("~/bin/say ~ {run}") == [f"{Path.home()}/bin/say", "~", "kd"]


SHELL = 'is not filled in for a shell, which could run what is in it: write "$KDHARNESS_MESSAGE"'


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ('bash -c "echo {message}"', SHELL),
        ("/bin/sh -c 'echo {message}'", SHELL),
        ("bash -ec 'echo {message}'", SHELL),
        ("bash -e -c -o pipefail 'echo {message}' _", SHELL),
        ("bash --norc -c -- 'echo {message}'", SHELL),
        ("bash -c {message}", SHELL),
        ("zsh -fc 'echo {message}' x", SHELL),
        ("fish -c true -C 'echo {message}'", SHELL),
        ("fish --command='echo {message}'", SHELL),
        ("fish --command 'echo {message}'", SHELL),
        ("env bash -c 'echo {message}'", SHELL),
        ("/usr/bin/env -i A=b nice -n 5 bash -c 'echo {message}'", SHELL),
        ("env -S \"bash -c 'echo {message}'\"", SHELL),
        ("env '-Sbash -c' 'echo {message}'", SHELL),
        ("busybox sh -c 'echo {message}'", SHELL),
        ("timeout 5 sh -c 'echo {message}'", SHELL),
        ("python3 -c 'print(\"{message}\")'", "python3, which could run what is in it: read KDH"),
        ("osascript -e 'display notification \"{message}\"'", "is not filled in for osascript"),
        ("perl -we 'print 1' -e '\"{message}\"'", "is not filled in for perl"),
        ("ssh desk notify-send {message}", 'with shell: printf %s "$KDHARNESS_MESSAGE" | ssh'),
    ],
)
def test_nothing_is_filled_into_what_a_shell_will_run(command: str, problem: str) -> None:
    with pytest.raises(ValidationError) as raised:
        UserSettings.model_validate({"notify": command})
    assert "{message}" in str(raised.value) and problem in str(raised.value)


@pytest.mark.parametrize(
    "command",
    [
        """bash -c 'echo "$1"' _ {message}""",
        """env bash -c 'echo "$KDHARNESS_MESSAGE"'""",
        """bash -c 'echo "$@"' _ --title {message}""",
        "bash tell.sh {message}",
        "sh ./tell -c {message}",
        "python3 -c 'import sys; print(sys.argv)' -x {message}",
        "python3 -m tell -c {message}",
        "perl -e 'print @ARGV' -- {message}",
        "notify-send sh {message}",
        "curl -sS -d {message} ntfy.sh/mine",
    ],
)
def test_arguments_are_filled_beside_code(command: str) -> None:
    argv = UserSettings.model_validate({"notify": command}).notify.argv(VALUES)
    filled = [word.replace("{message}", VALUES["message"]) for word in shlex.split(command)]
    assert argv == filled


@given(
    before=st.lists(st.sampled_from(["env", "A=b", "nice", "-i", "exec"]), max_size=3),
    shell=st.sampled_from(["sh", "bash", "/bin/dash", "zsh"]),
    options=st.lists(st.sampled_from(["-e", "-u", "+x", "-o posix"]), max_size=3),
    end=st.sampled_from([[], ["--"]]),
    code=st.sampled_from(["{message}", "echo '{run}'", 'say "{folder}"']),
)
def test_no_code_of_a_shell_holds_a_placeholder(
    before: list[str], shell: str, options: list[str], end: list[str], code: str
) -> None:
    listed = " ".join(options).split()
    command = [*before, shell, "-c", *listed, *end, code]
    with pytest.raises(ValidationError):
        UserSettings.model_validate({"notify": command})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("say {name}", "nothing fills {name}; there are {run}"),
        ("say 'open", "no closing quotation"),
        ({"command": "say", "shell": "say"}, "give one"),
        ({"shell": "say {message}"}, 'write "$KDHARNESS_MESSAGE"'),
        ("say $KDHARNESS_RUN", "means something to a shell only"),
        ("say done | cat", "means something to a shell only"),
        ({"command": "say", "when": ["ended"]}, "finished"),
        ({"comand": "say"}, "command"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(paths: Paths, value: object, problem: str) -> None:
    import yaml

    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text(yaml.safe_dump({"notify": value}))
    with pytest.raises(ConfigError) as raised:
        load_settings(paths)
    assert problem in str(raised.value) and "notify" in str(raised.value)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("pass", ""),
        ("import sys; print('no display'); sys.exit(3)", "ended with code 3: no display"),
        ("import time; time.sleep(60)", "was killed: it took longer than"),
    ],
)
def test_a_command_that_fails_or_hangs_is_named(tmp_path: Path, code: str, problem: str) -> None:
    found = run_command([sys.executable, "-c", code], tmp_path, timeout=0.5)
    assert problem in found and bool(found) == bool(problem)
    assert "cannot be started: No such file" in run_command(["no-such-program"], tmp_path)


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """The child holds the pipe open: waiting for its end would hang."""
    began = time.monotonic()
    assert "was killed" in run_command(["sh", "-c", "sleep 30 & sleep 30"], tmp_path, timeout=0.3)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("line", ["sleep 5 &", "sleep 5 & exit 3", "(sleep 5; echo late) & :"])
def test_a_program_left_in_the_background_is_not_waited_for(line: str, tmp_path: Path) -> None:
    began = time.monotonic()
    found = run_command(["sh", "-c", f"echo told; {line}"], tmp_path, timeout=4)
    assert found == ("sh ended with code 3: told" if "exit" in line else "")
    assert time.monotonic() - began < 3


def test_a_command_in_the_background_goes_on(tmp_path: Path) -> None:
    """It has a place to write to: a closed pipe would end it."""
    assert run_command(["sh", "-c", "(sleep 0.3; echo x; touch done) &"], tmp_path) == ""
    until((tmp_path / "done").exists)


def test_of_much_output_only_the_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        "kdharness.harness.runs.notify._shorten", lambda path: sizes.append(path.stat().st_size)
    )
    assert "was killed" in run_command(["yes"], tmp_path, timeout=0.3)
    assert sizes and max(sizes) > MOST_BYTES
    monkeypatch.undo()
    path = tmp_path / "output"
    path.write_bytes(b"x" * (MOST_BYTES + 1))
    _shorten(path)
    assert path.stat().st_size == 0
    code = "import sys; sys.stdout.write('x' * 10**6 + '\\nno bus\\n'); sys.exit(7)"
    assert "ended with code 7: no bus" in run_command([sys.executable, "-c", code], tmp_path)


def test_a_full_disk_keeps_nobody_from_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    assert run_command(["sh", "-c", "echo x; exit 3"], tmp_path) == "sh ended with code 3"


def test_the_command_has_the_users_environment() -> None:
    environ = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "HOME": "/h", "KDHARNESS_RUN": "kd"}
    assert user_environment(environ) == {"HOME": "/h", "KDHARNESS_RUN": "kd"}


def stored(paths: Paths, name: str, **fields: object) -> Run:
    """Add a run to a home."""
    with Store(paths.store) as store:
        add_past_run(store, name, "kd", 60, **fields)
        run = store.run(name)
    assert run is not None
    return run


def until(found: Callable[[], bool]) -> None:
    """Wait for another process."""
    for _ in range(200):
        if found():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


@pytest.mark.slow
def test_the_command_runs_by_itself_and_a_failure_is_in_the_log(paths: Paths) -> None:
    run = stored(paths, "kd")
    out = paths.home / "out"
    paths.settings.write_text(
        'notify: {shell: \'echo "$KDHARNESS_RUN|$KDHARNESS_STATE|$KDHARNESS_MESSAGE" > out;'
        " echo no bus; exit 7'}\n"
    )
    with Store(paths.store) as store:
        began = time.monotonic()
        tell_end(paths, store, run, RunStatus.FAILED, "out of memory\nmore")
        assert time.monotonic() - began < 2
        until(lambda: any(e["kind"] == "warning" for e in store.events("kd")))
        assert out.read_text() == "kd|failed|kd failed: out of memory\n"
        assert store.events("kd")[0]["message"] == "notify: /bin/sh ended with code 7: no bus"


def test_only_what_the_user_asked_for_is_told(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def start(command: object, variables: dict[str, str]) -> None:
        told.append(variables["KDHARNESS_MESSAGE"])

    monkeypatch.setattr("kdharness.harness.runs.notify.start_detached", start)
    alone, part = stored(paths, "alone"), stored(paths, "part", info={"in_experiment": True})
    with Store(paths.store) as store:
        tell_end(paths, store, alone, RunStatus.FINISHED)
        assert told == []
        paths.settings.write_text("notify: say\n")
        for run in (alone, part):
            for status in (RunStatus.FINISHED, RunStatus.STOPPED, RunStatus.FAILED):
                tell_end(paths, store, run, status)
        assert told == ["alone finished", "alone stopped", "alone failed", "part failed"]
        paths.settings.write_text("notify: {command: say, when: [failed]}\n")
        tell_end(paths, store, alone, RunStatus.FINISHED)
        assert len(told) == 4
        # Settings that cannot be read change nothing about the run; its log says so.
        paths.settings.write_text("notify: [\n")
        tell(paths, store, alone, "failed", "x")
        assert len(told) == 4
        assert "settings.yaml" in store.events("alone")[-1]["message"]


def test_messages_are_one_harmless_line(paths: Paths) -> None:
    run = stored(paths, "kd")
    message = end_message(run, "failed", "a\x1b]0;x\x07b\nTraceback")
    assert message == "kd failed: a\\x1b]0;x\\x07b"


def test_a_rule_is_told_in_the_log_once_also_after_a_resume(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdharness.harness.worker import StoreReporter

    states: list[str] = []

    def start(command: object, variables: dict[str, str]) -> None:
        states.append(f"{variables['KDHARNESS_STATE']} {variables['KDHARNESS_MESSAGE']}")

    monkeypatch.setattr("kdharness.harness.runs.notify.start_detached", start)
    run = stored(paths, "kd", pid=os.getpid(), status="running")
    paths.settings.write_text("notify: say\nalerts: [domain_loss rose two times, loss > 5]\n")
    with Store(paths.store) as store:
        for values in ((1.0, 2.0), (3.0, 4.0, 1.0, 2.0, 3.0)):
            reporter = StoreReporter(store, run)
            reporter.alerts = Alerts(paths, store, run)
            for step, value in enumerate(values, len(store.curve("kd", "domain_loss")) + 1):
                reporter.advance(step, domain_loss=value)
            reporter.flush()
        found = [e for e in store.events("kd") if e["kind"] == "alert"]
    assert reporter.alerts is not None
    assert reporter.alerts.without_a_curve() == ["the alert 'loss > 5' found no curve 'loss'"]
    assert states == ["alert kd: domain_loss rose 2 times in a row, from 1 to 3"]
    assert [e["info"] for e in found] == [{"rule": "domain_loss rose two times"}]


def test_what_was_told_counts_after_any_number_of_events(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[str] = []

    def start(command: object, variables: dict[str, str]) -> None:
        states.append(variables["KDHARNESS_STATE"])

    monkeypatch.setattr("kdharness.harness.runs.notify.start_detached", start)
    run = stored(paths, "kd", pid=os.getpid(), status="running")
    paths.settings.write_text("notify: say\nalerts: loss > 5\n")
    messages = [(1.0, "log", f"line {n}", {}) for n in range(10_100)]
    with Store(paths.store) as store:
        store.add_progress("kd", events=[*messages, (2.0, "alert", "", {"rule": "loss > 5"})])
        assert Alerts(paths, store, run).see({"loss": 6.0}) == []
        tell_interrupted(paths, store, run)
        tell_interrupted(paths, store, run)
        assert store.newest_event("kd") == len(messages) + 2
        assert store.newest_event("other") == 0
    assert states == ["interrupted"]


def test_a_store_that_cannot_be_written_prints_the_problem(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    run = stored(paths, "kd")
    paths.settings.write_text("notify: [")
    monkeypatch.setattr(Store, "add_event", locked)
    with Store(paths.store) as store:
        tell(paths, store, run, "failed", "kd failed")
    assert "notify: " in capsys.readouterr().err
