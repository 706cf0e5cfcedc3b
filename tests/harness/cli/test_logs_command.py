"""The logs command: the lines that a terminal would leave, bars once."""

from __future__ import annotations

import os
import threading
import time

from kdharness.harness.paths import Paths
from kdharness.harness.runs.launch import log_path
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


def test_following_prints_each_line_once_and_the_last_without_its_end(
    kd: CommandLine, paths: Paths
) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "kd", "kd", 90, status="running", pid=os.getpid())
    log = log_path(paths, "kd")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("before\n", "utf-8")

    def write() -> None:
        for text in ("one\nLoading: 1%|#| 1/9", "\rLoading: 9%|#| 9/9", "\nend", "ed"):
            time.sleep(0.5)
            with log.open("a", encoding="utf-8") as stream:
                stream.write(text)
        with Store(paths.store) as store:
            store.update_run("kd", status="finished")

    writer = threading.Thread(target=write)
    writer.start()
    found = kd.ok("logs", "kd", "--follow")
    writer.join()
    assert found.splitlines() == ["before", "one", "Loading: 9%|#| 9/9", "ended"]
