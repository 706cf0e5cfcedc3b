"""Evaluations killed at random and restarted never repeat a stored judgment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import JudgmentStatus
from support.benchmark_files import write_mt_bench
from support.loopback import Loopback
from support.store_rows import add_mt_bench_answers

WORK = """
import sys
from pathlib import Path
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.protocols import NullReporter
paths = Paths(Path(sys.argv[1]))
with Store(paths.store) as store:
    pipeline.run(EvalConfig.model_validate_json(sys.argv[2]), paths, store, NullReporter())
"""
N_ITEMS = 4 * 40
KILLS = 10


def stored_judgments(paths: Paths) -> set[tuple[str, int]]:
    """Return the (item, turn) pairs with a successful judgment in the store."""
    with Store(paths.store) as store:
        return {(j.item, j.turn) for j in store.judgments() if j.status is JudgmentStatus.OK}


@pytest.mark.slow
def test_evaluation_killed_ten_times_repeats_no_judgment(paths: Paths) -> None:
    write_mt_bench(paths.home / "assets" / "mt-bench", per_category=40)
    with Store(paths.store) as store:
        add_mt_bench_answers(store, N_ITEMS)
    rng = random.Random(8)
    with Loopback(delay=0.15) as server:
        config = json.dumps(
            {
                "imported": ["a"],
                "benches": ["mt-bench"],
                "judge": [server.spec],
                "concurrency": 4,
            }
        )
        kills, runs = 0, 0
        while True:
            before, calls = stored_judgments(paths), len(server.bodies)
            worker = subprocess.Popen(
                [sys.executable, "-c", WORK, str(paths.home), config], env=dict(os.environ)
            )
            runs += 1
            if kills < KILLS:
                # After its first request, at a random moment within half a second.
                deadline = time.monotonic() + 60
                while len(server.bodies) == calls and worker.poll() is None:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                time.sleep(rng.uniform(0, 0.5))
                if worker.poll() is None:
                    worker.send_signal(signal.SIGKILL)
                    kills += 1
            assert worker.wait(120) in (0, -signal.SIGKILL)
            requested = {_item_and_turn(body) for body in server.bodies[calls:]}
            assert not requested & before, "a stored verdict was asked for again"
            if worker.returncode == 0:
                break
    assert kills == KILLS and runs == KILLS + 1
    assert len(stored_judgments(paths)) == 2 * N_ITEMS
    # One call per judgment, plus those in flight or not yet stored at each kill.
    assert server.calls <= 2 * N_ITEMS + 2 * 4 * KILLS


def _item_and_turn(body: dict) -> tuple[str, int]:  # type: ignore[type-arg]
    """Return the item and turn that a prompt asks about: those of the last answer in it."""
    text = body["messages"][-1]["content"]
    item, turn = text.rsplit("<<", 1)[1].split(">>")[0].split(".")
    return item, int(turn)


@pytest.mark.slow
def test_killed_writer_leaves_only_complete_rows(tmp_path: Path) -> None:
    """After a kill during many writes, the store opens and contains only complete rows."""
    script = """
import sys, time
from kdharness.harness.store import Store
from kdharness.harness.types import Judgment, JudgmentStatus
store = Store(sys.argv[1])
print("ready", flush=True)
for n in range(10**9):
    store.add_judgments([Judgment(id=str(n), checkpoint="c", bench="b", revision="r", item=str(n),
        turn=1, category="", judge="j", metric="rating", status=JudgmentStatus.OK, created=n,
        value=5.0, raw="x" * 3000)])
"""
    path = tmp_path / "k.db"
    worker = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    worker.stdout.readline()
    time.sleep(0.5)
    worker.kill()
    worker.wait()
    with Store(path) as store:
        rows = store.judgments()
        assert next(store.db.query("PRAGMA integrity_check"))["integrity_check"] == "ok"
        groups = list(store.judgment_groups())
    assert [j.item for j in rows] == [str(n) for n in range(len(rows))] and rows
    assert groups[0]["changes"] == len(rows)
