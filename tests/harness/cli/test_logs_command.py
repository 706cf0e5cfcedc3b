"""The logs command: the lines that a terminal would leave, bars once."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from kdharness.harness.cli import runs
from kdharness.harness.paths import Paths
from kdharness.harness.runs import queue
from kdharness.harness.runs.log_output import TAIL_BYTES, log_path
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.tui_home import add_past_run

BARS = "".join(f"\rLoading: {n}%|#| {n}/100 [00:01<00:01]" for n in range(1, 101))


def test_a_bar_is_one_line_and_does_not_push_others_out(kd: CommandLine, paths: Paths) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "kd", "kd", 90)
    log = log_path(paths, "kd")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"began\n{BARS * 30}\nloaded \x1b[31mit\x1b[0m\n", "utf-8")
    assert kd.ok("logs", "kd").splitlines() == [
        "began",
        "Loading: 100%|#| 100/100 [00:01<00:01]",
        "loaded it",
    ]
    assert kd.ok("logs", "kd", "-n", "1") == "loaded it\n"


def growing(
    monkeypatch: pytest.MonkeyPatch, paths: Paths, *pieces: str, then: str = "finished"
) -> None:
    """Append a piece to the log each time that the command waits; then end the run."""
    left = iter(pieces)

    def wait(_: float) -> None:
        piece = next(left, None)
        if piece is None:
            with Store(paths.store) as store:
                store.update_run("kd", status=then)
            return
        log = log_path(paths, "kd")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            stream.write(piece)

    monkeypatch.setattr(runs, "time", SimpleNamespace(sleep=wait))


PIECES = ("one\nLoading: 1%|#| 1/9", "\rLoading: 9%|#| 9/9", "\nend", "ed")


def test_following_prints_each_line_once_and_the_last_without_its_end(
    kd: CommandLine, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "kd", "kd", 90, status="running", pid=os.getpid())
    log = log_path(paths, "kd")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("long ago\nbefore\nLoading: 0%|#| 0/9\r", "utf-8")
    growing(monkeypatch, paths, *PIECES)
    found = kd.ok("logs", "kd", "--follow", "-n", "1")
    assert found.splitlines() == [
        "before",
        "Loading: 0%|#| 0/9",
        "one",
        "Loading: 9%|#| 9/9",
        "ended",
    ]


def test_following_waits_for_the_log_of_a_run_that_is_queued(
    kd: CommandLine, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "kd", "kd", 90, status="stopped")
        queue.enqueue(paths, "kd")
    code, out, err = kd("logs", "kd")
    assert (code, out) == (0, "") and "kd has no log" in err
    growing(monkeypatch, paths, "began\n")
    code, out, err = kd("logs", "kd", "--follow")
    assert (code, out) == (0, "began\n") and "kd has no log yet" in err
    with Store(paths.store) as store:
        add_past_run(store, "dead", "kd", 90, status="failed")
    code, out, err = kd("logs", "dead", "--follow")
    assert (code, out) == (0, "") and "it did not start" in err


def test_a_log_of_one_bar_shows_its_last_state(kd: CommandLine, paths: Paths) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "kd", "kd", 90)
    log = log_path(paths, "kd")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(BARS * (2 * TAIL_BYTES // len(BARS)), "utf-8")
    assert kd.ok("logs", "kd") == "Loading: 100%|#| 100/100 [00:01<00:01]\n"
