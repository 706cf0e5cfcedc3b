"""Migrations: older stores are upgraded without loss; newer ones are left alone."""

from __future__ import annotations

import hashlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.migrations import migrations
from kdharness.harness.store.sqlite import Database
from kdharness.harness.types import JudgmentStatus
from support.commands import CommandLine
from support.locations import FIXTURES

STORES = FIXTURES / "stores"
STEPS = [migration.name for migration in migrations.pending(Database(memory=True))]


def from_fixture(step: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript((STORES / f"{step}.sql").read_text("utf-8"))
    connection.close()


def test_every_migration_has_a_fixture_store() -> None:
    assert sorted(path.stem for path in STORES.glob("*.sql")) == sorted(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_older_store_opens_with_all_its_rows(step: str, kd: CommandLine, paths: Paths) -> None:
    from_fixture(step, paths.store)
    with Store(paths.store) as store:
        assert not migrations.pending(store.db)
        run = store.run("kd-1")
        assert run is not None and run.config == {"seed": 3, "name": "ünï"} and run.step == 7
        assert store.curve("kd-1", "loss") == [(1, 2.5)]
        assert [event["message"] for event in store.events("kd-1")] == ["hi"]
        checkpoint = store.checkpoint("kd-1")
        assert checkpoint is not None and checkpoint.parents == {"student": "c0"}
        assert [a.text for a in store.answers("c1")] == ["An answer."]
        assert [(j.value, j.status) for j in store.judgments()] == [
            (7.0, JudgmentStatus.OK),
            (None, JudgmentStatus.FAILED),
        ]
        assert store.cards() == {"openai:j": {"trust": 1}}
    code, out, err = kd("leaderboard", "--format", "json")
    assert code == 0, err
    assert '"mt-bench"' in out
    assert kd("store", "check")[0] == 0


def test_judgments_of_an_older_store_are_in_the_groups(paths: Paths) -> None:
    """Groups were added in a later migration; judgments stored before it must be in them."""
    for step in STEPS:
        path = paths.home / step / "kdharness.db"
        from_fixture(step, path)
        with Store(path) as store:
            groups = [(row["checkpoint"], row["judge"]) for row in store.judgment_groups()]
        assert groups == [("c1", "openai:j")], step


def test_newer_store_is_rejected_and_left_unchanged(kd: CommandLine, paths: Paths) -> None:
    from_fixture(STEPS[-1], paths.store)
    connection = sqlite3.connect(paths.store)
    connection.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
        "VALUES ('kdharness', 'm999_from_the_future', '2030-01-01')"
    )
    connection.commit()
    connection.close()
    before = hashlib.sha256(paths.store.read_bytes()).hexdigest()
    for command in (["runs"], ["leaderboard"], ["show", "kd-1"], ["eval", "--ckpt", "x"]):
        code, _, err = kd(*command)
        assert code == 1, command
        assert "m999_from_the_future" in err and "upgrade" in err and "Traceback" not in err
    assert hashlib.sha256(paths.store.read_bytes()).hexdigest() == before
    assert [path.name for path in paths.home.iterdir()] == ["kdharness.db"]


UPGRADE = """
import sys
from kdharness.harness.store import Store
print("ready", flush=True)
sys.stdin.readline()
Store(sys.argv[1]).close()
"""


@pytest.mark.slow
def test_killed_migration_leaves_a_consistent_store(tmp_path: Path) -> None:
    """Each migration is one transaction: after a kill, the store is intact at some migration."""
    rng = random.Random(5)
    path = tmp_path / "kdharness.db"
    from_fixture(STEPS[0], path)
    fill_judgments(path, 20_000)
    template = path.read_bytes()
    reached = set()
    duration = 0.0  # of the first attempt, which is not killed
    for attempt in range(7):
        path.write_bytes(template)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        upgrade = subprocess.Popen(
            [sys.executable, "-c", UPGRADE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert upgrade.stdin is not None and upgrade.stdout is not None
        upgrade.stdout.readline()
        upgrade.stdin.write(b"\n")
        upgrade.stdin.flush()
        began = time.monotonic()
        if attempt == 0:
            assert upgrade.wait() == 0
            duration = time.monotonic() - began
        else:
            # Kill in the first 60 % of that time, so that a run that is faster is hit as well.
            time.sleep(rng.uniform(0, duration * 0.6))
            upgrade.send_signal(signal.SIGKILL)
            upgrade.wait()
        db = Database(sqlite3.connect(path))
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        applied = [step.name for step in migrations.applied(db)]
        assert applied == STEPS[: len(applied)]
        reached.add(len(applied))
        db.close()
        with Store(path) as store:
            assert not migrations.pending(store.db)
            assert len(store.judgments()) == 20_002
    assert min(reached) < len(STEPS), "no kill came in time; lengthen the work"


def fill_judgments(path: Path, count: int) -> None:
    connection = sqlite3.connect(path)
    connection.executemany(
        "INSERT INTO judgments (id, checkpoint, bench, revision, item, turn, category, judge, "
        "metric, status, created, value, raw) "
        "VALUES (?, 'c1', 'mt-bench', 'r', ?, 1, 'math', 'openai:k', 'rating', 'ok', 1.0, 5.0, ?)",
        [(f"x{n}", str(n), "because " * 30) for n in range(count)],
    )
    connection.commit()
    connection.close()
