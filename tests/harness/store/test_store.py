"""The store: round trips, concurrency, requests, derived state."""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.migrations import migrations
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Finish,
    Judgment,
    JudgmentStatus,
    Request,
    Run,
    RunStatus,
)


def make_run(name: str = "r", **changes: object) -> Run:
    run = Run(
        id=name,
        method="kd",
        status=RunStatus.STARTING,
        config={"a": [1, {"b": "ü"}]},
        config_hash="h",
        folder="/x",
        created=1.0,
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def make_judgment(name: str, **changes: object) -> Judgment:
    judgment = Judgment(
        id=name,
        checkpoint="c",
        bench="b",
        revision="1",
        item=name,
        turn=1,
        category="math",
        judge="j",
        metric="score",
        status=JudgmentStatus.OK,
        created=1.0,
        value=3.0,
        info={"n": 1},
    )
    return replace(judgment, **changes)  # type: ignore[arg-type]


def test_runs_round_trip_and_are_listed_newest_first(paths: Paths) -> None:
    with Store(paths.store) as store:
        store.add_run(make_run("old", created=1.0))
        store.add_run(make_run("new", created=2.0))
        assert [run.id for run in store.runs()] == ["new", "old"]
        assert store.run("old") == make_run("old", created=1.0)
        with pytest.raises(sqlite3.IntegrityError):
            store.add_run(make_run("old"))


def test_add_progress_commits_events_points_and_columns_together(paths: Paths) -> None:
    with Store(paths.store) as store, Store(paths.store) as other:
        store.add_run(make_run())
        store.add_progress(
            "r",
            events=[(1.0, "note", "hello", {"k": 1})],
            points=[("loss", 1, 2.5, 1.0), ("loss", 1, 2.0, 1.1)],
            step=1,
            loss=2.0,
        )
        run = other.run("r")
        assert run is not None and (run.step, run.loss) == (1, 2.0)
        assert other.curve("r", "loss") == [(1, 2.0)]
        assert other.events("r")[0]["info"] == {"k": 1}
        store.drop_points_after("r", 0)
        assert other.curve("r", "loss") == []


def test_the_last_events_are_the_newest_ones_of_the_run(paths: Paths) -> None:
    with Store(paths.store) as store:
        for name in ("r", "other"):
            store.add_run(make_run(name))
            notes = [(float(n), "note", f"{name} {n}", {"n": n}) for n in range(10_005)]
            store.add_progress(name, events=notes)
        last = store.last_events("r", 3)
        assert [event["message"] for event in last] == ["r 10002", "r 10003", "r 10004"]
        assert last[-1]["info"] == {"n": 10_004}
        assert len(store.last_events("r", 20_000)) == 10_005
        assert store.last_events("none", 3) == []


def test_requests_are_taken_once_in_order(paths: Paths) -> None:
    with Store(paths.store) as store:
        store.request("r", Request.PAUSE)
        store.request("r", Request.STOP)
        store.request("other", Request.STOP)
        assert store.take_requests("r") == [Request.PAUSE, Request.STOP]
        assert store.take_requests("r") == []


def test_run_with_identical_weights_shares_the_existing_checkpoint(paths: Paths) -> None:
    """Two seeds of a deterministic training give the same weights: one checkpoint, two runs."""
    with Store(paths.store) as store:
        weights = Checkpoint(id="w", name="a", method="sft", path="/a", created=1.0, run="a")
        store.add_run(make_run("a", checkpoint="a"))
        store.add_checkpoint(weights)
        store.add_run(make_run("b", checkpoint="a"))
        assert store.checkpoint("b") == weights
        assert store.checkpoint("c") is None


def test_checkpoint_lookup_by_fingerprint_name_and_path(paths: Paths) -> None:
    with Store(paths.store) as store:
        first = store.add_checkpoint(Checkpoint("f1", "kd", "kd", "/a", 1.0))
        second = store.add_checkpoint(Checkpoint("f2", "kd", "kd", "/b", 2.0))
        updated = store.add_checkpoint(Checkpoint("f1", "whatever", "kd", "/moved", 3.0))
        assert (first.name, second.name, updated.name) == ("kd", "kd-2", "kd")
        assert updated.path == "/moved"
        for key in ("f2", "kd-2", "/b"):
            checkpoint = store.checkpoint(key)
            assert checkpoint is not None and checkpoint.id == "f2"


def test_retried_judgment_replaces_the_failed_one(paths: Paths) -> None:
    with Store(paths.store) as store:
        failed = make_judgment("x", status=JudgmentStatus.FAILED, value=None, error="429")
        store.add_judgments([failed, make_judgment("y")])
        before = next(iter(store.judgment_groups()))["changes"]
        store.add_judgments([make_judgment("x")])
        assert [j.status for j in store.judgments("c")] == [JudgmentStatus.OK] * 2
        assert next(iter(store.judgment_groups()))["changes"] > before


def test_answers_with_lone_surrogates_and_nul_are_stored(paths: Paths) -> None:
    with Store(paths.store) as store:
        answer = Answer("a", "c", "b", "1", "q", 1, "bad \ud800 \x00 end", Finish.STOP, "p", "s", 1)
        store.add_answers([answer])
        text = store.answers("c")[0].text
        assert text.startswith("bad ") and text.endswith("\x00 end")


@pytest.mark.slow
def test_concurrent_writers_and_a_reader(paths: Paths) -> None:
    Store(paths.store).close()
    errors: list[Exception] = []

    def write(name: str) -> None:
        try:
            with Store(paths.store) as store:
                for i in range(50):
                    store.add_judgments([make_judgment(f"{name}{i}")])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    with Store(paths.store) as store:
        while any(thread.is_alive() for thread in threads):
            store.judgments("c")
        assert not errors
        assert len(store.judgments("c")) == 200


def test_concurrent_opens_migrate_safely(paths: Paths) -> None:
    opened: list[bool] = []

    def open_store() -> None:
        with Store(paths.store) as store:
            opened.append(not migrations.pending(store.db))

    threads = [threading.Thread(target=open_store) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [True] * 6


@pytest.mark.parametrize("kind", [sqlite3.OperationalError, sqlite3.IntegrityError])
def test_a_step_that_another_process_applied_meanwhile_is_tried_again(
    kind: type[sqlite3.Error], paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of a step is unique: the slower of two processes failed on it, for a moment."""
    apply, failed = migrations.apply, iter([kind("UNIQUE constraint failed"), None])

    def late(db: Any) -> None:
        if error := next(failed):
            raise error
        apply(db)

    monkeypatch.setattr(migrations, "apply", late)
    with Store(paths.store) as store:
        assert not migrations.pending(store.db)


def test_journal_mode_is_configurable(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(paths.store) as store:
        assert store.db.journal_mode == "wal"
    monkeypatch.setenv("KDHARNESS_JOURNAL_MODE", "delete")
    with Store(paths.store) as store:
        assert store.db.journal_mode == "delete"


def test_newest_judge_card_wins(paths: Paths) -> None:
    with Store(paths.store) as store:
        store.add_card("openai:x", {"n": 1})
        time.sleep(0.01)
        store.add_card("openai:x", {"n": 2})
        assert store.cards() == {"openai:x": {"n": 2}}
