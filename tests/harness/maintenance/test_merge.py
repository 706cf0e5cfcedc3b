"""Merging homes is idempotent and order-independent; successes replace failures."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdharness.harness.errors import StoreError
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Finish, JudgmentStatus
from support.commands import CommandLine
from support.store_rows import contents, fill_store, stored_answer, stored_judgment


def merge_into(folder: Path, *sources: Path) -> Path:
    path = folder / "kdharness.db"
    with Store(path) as store:
        for source in sources:
            merge(store, source)
    return path


def test_merge_copies_everything_and_is_idempotent(tmp_path: Path) -> None:
    source = tmp_path / "a" / "kdharness.db"
    fill_store(source)
    target = merge_into(tmp_path / "b", source)
    assert contents(target) == contents(source)
    with Store(target) as store, Store(source) as other:
        assert not any(merge(store, source).values())
        assert [row["checkpoint"] for row in store.judgment_groups()] == [
            row["checkpoint"] for row in other.judgment_groups()
        ]
    assert contents(target) == contents(source)


def test_runs_with_the_same_name_stay_separate(tmp_path: Path) -> None:
    local, remote = tmp_path / "a" / "kdharness.db", tmp_path / "b" / "kdharness.db"
    fill_store(local, runs=2)
    fill_store(remote, runs=2, host="there")
    with Store(local) as store:
        counts = merge(store, remote)
        assert counts["runs"] == counts["checkpoints"] == 2
        names = [run.id for run in store.runs()]
        assert len(names) == len(set(names)) == 4
        for run in store.runs():
            checkpoint = store.checkpoint(run.checkpoint or "")
            assert checkpoint is not None and checkpoint.run == run.id, run.id
            assert checkpoint.id.startswith(f"id-{run.host}-")
            assert len(store.curve(run.id, "loss")) == 10
            assert [event["kind"] for event in store.events(run.id)] == ["started", "ended"]
        assert not any(merge(store, remote).values())


def test_merge_keeps_successes_and_the_older_of_two(tmp_path: Path) -> None:
    paths = [tmp_path / name / "kdharness.db" for name in "ab"]
    for path in paths:
        with Store(path) as store:
            store.add_checkpoint(
                Checkpoint(id="id-m", name="m", method="model", path=str(path), created=1.0)
            )
    with Store(paths[0]) as store:
        store.add_judgments(
            [
                stored_judgment(
                    "m", 1, status=JudgmentStatus.FAILED, created=1.0, value=None, raw=""
                ),
                stored_judgment("m", 2, created=9.0, value=9.0),
            ]
        )
        store.add_answers([stored_answer("m", 1, finish=Finish.ERROR, created=1.0)])
    with Store(paths[1]) as store:
        store.add_judgments(
            [
                stored_judgment("m", 1, created=5.0, value=4.0),
                stored_judgment("m", 2, created=5.0, value=7.0),
            ]
        )
        store.add_answers([stored_answer("m", 1, created=2.0)])
    merged_paths = merge_into(tmp_path / "c", *paths), merge_into(tmp_path / "d", *reversed(paths))
    for path in merged_paths:
        with Store(path) as store:
            assert [j.value for j in store.judgments()] == [4.0, 7.0]
            assert [a.finish for a in store.answers("id-m")] == [Finish.STOP]
    first, second = map(contents, merged_paths)
    for table in ("answers", "judgments", "bench_notes", "runs"):
        assert first[table] == second[table]


ROW = st.tuples(
    st.integers(0, 5), st.sampled_from(list(JudgmentStatus)), st.integers(1, 3), st.integers(0, 2)
)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(ROW, max_size=6), min_size=3, max_size=3))
def test_merge_is_order_independent(tmp_path: Path, homes: list[list[tuple[int, ...]]]) -> None:
    shutil.rmtree(tmp_path, ignore_errors=True)
    sources = []
    for number, rows in enumerate(homes):
        source = tmp_path / f"s{number}" / "kdharness.db"
        with Store(source) as store:
            store.add_checkpoint(
                Checkpoint(id="id-m", name="m", method="model", path="", created=1.0)
            )
            store.add_judgments(
                stored_judgment(
                    "m",
                    item,
                    status=status,
                    created=float(when),
                    raw=f"{value}",
                    value=float(value),
                )
                for item, status, when, value in rows
            )
        sources.append(source)
    results = []
    for number, order in enumerate(itertools.permutations(sources)):
        path = merge_into(tmp_path / f"m{number}", *order, order[0])
        results.append(contents(path)["judgments"])
    assert all(result == results[0] for result in results)
    assert len(results[0]) == len({item for rows in homes for item, *_ in rows})


def test_run_continued_elsewhere_replaces_the_older_state(tmp_path: Path) -> None:
    local, remote = tmp_path / "a" / "kdharness.db", tmp_path / "b" / "kdharness.db"
    fill_store(local, runs=1)
    remote.parent.mkdir()
    merge_into(remote.parent, local)
    with Store(remote) as store:
        store.add_progress(
            "kd-0",
            points=[("loss", 11, 0.1, 1.0)],
            step=11,
            heartbeat=900.0,
            events=[(900.0, "note", "further", {})],
            finished=900.0,
        )
    for _ in range(2):
        with Store(local) as store:
            merge(store, remote)
            run = store.run("kd-0")
            assert run is not None and run.step == 11
            assert store.curve("kd-0", "loss")[-1] == (11, 0.1)
            assert [event["kind"] for event in store.events("kd-0")] == ["started", "ended", "note"]
    with Store(remote) as store:
        assert not any(merge(store, local).values())


def test_merge_with_files_copies_weights_and_updates_paths(
    kd: CommandLine, paths: Paths, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    fill_store(other / "kdharness.db", runs=1)
    weights = other / "runs" / "kd-0" / "final" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    code, _, err = kd("store", "merge", str(other), "--files")
    assert code == 0 and "1 runs" in err and "1 files" in err
    with Store(paths.store) as store:
        checkpoint = store.checkpoint("kd-0")
        assert checkpoint is not None and checkpoint.path == str(paths.run("kd-0") / "final")
    assert (paths.run("kd-0") / "final" / "model.safetensors").read_bytes() == b"weights"
    code, _, err = kd("store", "merge", str(other), "--files")
    assert code == 0 and "nothing new" in err


def test_merge_rejects_files_that_are_not_stores(
    kd: CommandLine, paths: Paths, tmp_path: Path
) -> None:
    (tmp_path / "text.db").write_text("hello " * 1000)
    code, _, err = kd("store", "merge", str(tmp_path / "text.db"))
    assert code == 1 and "damaged" in err and "Traceback" not in err
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, err = kd("store", "merge", str(empty))
    assert code == 1 and "no store found" in err
    fill_store(paths.store, runs=1)
    with Store(paths.store) as store, pytest.raises(StoreError, match="itself"):
        merge(store, paths.store)
