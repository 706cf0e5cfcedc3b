"""Check, vacuum, backup, prune, archive and salvage a store."""

from __future__ import annotations

import math
import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from kdharness.harness.errors import StoreError
from kdharness.harness.maintenance.salvage import salvage
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.removal import Annotation
from kdharness.harness.types import Checkpoint, Run, RunStatus
from kdharness.harness.util.atomic import seal
from support.commands import CommandLine
from support.store_rows import contents, fill_store


def test_check_reports_invalid_rows(kd: CommandLine, paths: Paths) -> None:
    fill_store(paths.store)
    code, out, _ = kd("store", "check", "--format", "json")
    assert code == 0 and '"ok"' in out
    with Store(paths.store) as store:
        store.db.execute("UPDATE checkpoints SET info = '{' WHERE id = 'id-here-0'")
        store.db.conn.commit()
    code, out, err = kd("store", "check")
    assert code == 1 and "1 rows with invalid JSON in info" in out and "salvage" in err


@pytest.mark.slow
def test_vacuum_frees_space_and_refuses_while_runs_are_active(
    kd: CommandLine, paths: Paths
) -> None:
    fill_store(paths.store, runs=2, items=200, words=400)
    before = paths.store.stat().st_size
    with Store(paths.store) as store:
        store.forget_runs(["kd-1"])
        kept = [run.id for run in store.runs()]
    code, _, err = kd("store", "vacuum")
    assert code == 0 and "before" in err
    assert paths.store.stat().st_size < 0.7 * before
    with Store(paths.store) as store:
        assert [run.id for run in store.runs()] == kept == ["kd-0"]
        import os

        from kdharness.harness.runs.status import process_started

        store.add_run(
            Run(
                id="live",
                method="kd",
                status=RunStatus.RUNNING,
                config={},
                config_hash="",
                folder="",
                created=1.0,
                pid=os.getpid(),
                pid_started=process_started(os.getpid()),
            )
        )
    code, _, err = kd("store", "vacuum")
    assert code == 1 and "live" in err


def test_backup_is_complete_during_concurrent_writes(kd: CommandLine, paths: Paths) -> None:
    fill_store(paths.store)
    with Store(paths.store) as writer:
        writer.add_event("kd-0", "note", "not yet in the main file")
        code, _, _ = kd("store", "backup", str(paths.home / "copy.db"))
        assert code == 0
    assert contents(paths.home / "copy.db") == contents(paths.store)
    code, _, err = kd("store", "backup", str(paths.home / "copy.db"))
    assert code == 1 and "exists" in err


def make_step_checkpoint(folder: Path, *, complete: bool) -> None:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    if complete:
        seal(folder)


def test_prune_lists_first_and_deletes_only_unneeded_files(kd: CommandLine, paths: Paths) -> None:
    fill_store(paths.store, runs=2)
    with Store(paths.store) as store:
        store.update_run("kd-1", status=RunStatus.STOPPED.value)
    for run in ("kd-0", "kd-1"):
        make_step_checkpoint(paths.run(run) / "checkpoint-5", complete=True)
        make_step_checkpoint(paths.run(run) / "checkpoint-10", complete=False)
        make_step_checkpoint(paths.run(run) / "final", complete=False)
    code, out, err = kd("store", "prune")
    assert code == 0 and "would be freed" in err and out.count("half-written") == 2
    assert (paths.run("kd-0") / "checkpoint-5").exists()
    code, _, _ = kd("store", "prune", "--yes")
    assert code == 0
    remaining = sorted(str(p.relative_to(paths.runs)) for p in paths.runs.glob("*/*"))
    # A stopped run resumes from its step checkpoint, which is therefore kept.
    assert remaining == ["kd-0/final", "kd-1/checkpoint-5", "kd-1/final"]


def test_archive_is_a_home_and_can_be_merged_back(
    kd: CommandLine, paths: Paths, tmp_path: Path
) -> None:
    fill_store(paths.store, runs=3)
    for n in range(3):
        make_step_checkpoint(paths.run(f"kd-{n}") / "final", complete=False)
    before = contents(paths.store)
    archive = tmp_path / "archive"
    code, _, err = kd("store", "archive", "kd-0", "kd-2", "--to", str(archive))
    assert code == 0 and "moved" in err
    assert not paths.run("kd-0").exists() and (archive / "runs" / "kd-0" / "final").is_dir()
    with Store(paths.store) as store:
        assert [run.id for run in store.runs()] == ["kd-1"]
        # kd-1 descends from kd-0, whose path now points into the archive.
        parent = store.checkpoint("id-here-0")
        assert parent is not None and parent.path == str(archive / "runs" / "kd-0" / "final")
        assert store.checkpoint("id-here-2") is None
        assert {j.checkpoint for j in store.judgments()} == {"id-here-1"}
    with Store(archive / "kdharness.db") as store:
        assert {j.checkpoint for j in store.judgments()} >= {"id-here-0", "id-here-2"}
    code, _, _ = kd("store", "merge", str(archive), "--files")
    assert code == 0
    after = contents(paths.store)
    for table in ("runs", "events", "points", "answers", "judgments"):
        assert after[table] == before[table], table
    with Store(paths.store) as store:
        assert {c.path for c in store.checkpoints()} == {
            str(paths.run(f"kd-{n}") / "final") for n in range(3)
        }


def test_weights_in_an_archived_folder_are_found(
    kd: CommandLine, paths: Paths, tmp_path: Path
) -> None:
    """An evaluated step stays in the home, and so does the checkpoint of a run with a twin."""
    fill_store(paths.store, runs=3)
    for n in range(3):
        make_step_checkpoint(paths.run(f"kd-{n}") / "final", complete=False)
    step = paths.run("kd-2") / "checkpoint-10"
    make_step_checkpoint(step, complete=True)
    with Store(paths.store) as store:
        store.add_checkpoint(Checkpoint("step", "step", "model", str(step), created=1.0))
        store.update_run("kd-2", checkpoint="kd-1")
        store.set_checkpoint_path("id-here-1", str(paths.run("kd-2") / "final"))
    archive = tmp_path / "archive"
    assert kd("store", "archive", "kd-2", "--to", str(archive))[0] == 0
    with Store(paths.store) as store:
        places = {c.id: c.path for c in store.checkpoints()}
    assert places["step"] == str(archive / "runs" / "kd-2" / "checkpoint-10")
    assert places["id-here-1"] == str(paths.run("kd-1") / "final")
    assert all(Path(place).is_dir() for place in places.values())


def test_archive_with_an_unknown_run_changes_nothing(
    kd: CommandLine, paths: Paths, tmp_path: Path
) -> None:
    fill_store(paths.store)
    before = contents(paths.store)
    code, _, err = kd("store", "archive", "kd-0", "nope", "--to", str(tmp_path / "x"))
    assert code == 1 and "no run named 'nope'" in err
    assert contents(paths.store) == before and not (tmp_path / "x").exists()


# ---------------------------------------------------------------- damage


def break_pages(path: Path, pages: list[int]) -> None:
    with path.open("r+b") as stream:
        for page in pages:
            stream.seek(4096 * page)
            stream.write(random.Random(page).randbytes(4096))


def big_store(paths: Paths) -> int:
    """Fill a store with many pages, all in the main file; return their number."""
    fill_store(paths.store, runs=4, items=150, words=200)
    with Store(paths.store) as store:
        store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return paths.store.stat().st_size // 4096


@pytest.mark.slow
def test_salvage_recovers_all_rows_outside_damaged_pages(kd: CommandLine, paths: Paths) -> None:
    pages = big_store(paths)
    original = contents(paths.store)
    with Store(paths.store) as store:
        leaves = [
            row[0]
            for row in store.db.execute(
                "SELECT pageno FROM dbstat WHERE name = 'judgments' AND pagetype = 'leaf'"
            ).fetchall()
        ]
    broken = random.Random(3).sample(leaves, 3)
    break_pages(paths.store, [page - 1 for page in broken])
    damaged = paths.store.read_bytes()
    assert pages > 400
    code, _, err = kd("store", "check")
    assert code == 1 and "damaged" in err and "salvage" in err and "Traceback" not in err
    code, _, err = kd("store", "salvage")
    assert code == 0, err
    saved = contents(paths.store)
    for table in ("runs", "checkpoints", "events", "points", "answers"):
        assert saved[table] == original[table], table
    lost = set(original["judgments"]) - set(saved["judgments"])
    assert set(saved["judgments"]) <= set(original["judgments"])
    # A page holds a few rows; only those of the three damaged pages are lost.
    assert 0 < len(lost) <= 3 * 12
    assert kd("store", "check")[0] == 0
    backup = next(paths.home.glob("kdharness.db.damaged-*"))
    assert backup.read_bytes() == damaged


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_damage_never_causes_a_traceback(kd: CommandLine, paths: Paths, seed: int) -> None:
    pages = big_store(paths)
    rng = random.Random(seed)
    break_pages(paths.store, rng.sample(range(1, pages), 8))
    for command in (["runs"], ["leaderboard"], ["store", "check"], ["show", "kd-0"]):
        code, _, err = kd(*command)
        assert code in (0, 1), (command, err)
        assert code == 0 or "error:" in err
    code, _, err = kd("store", "salvage")
    assert code == 0 or "no row of this store is readable" in err
    assert list(paths.home.glob("kdharness.db.damaged-*"))
    if code == 0:
        assert kd("store", "check")[0] == 0
        assert kd("runs")[0] == 0


def test_tags_that_cannot_be_read_are_left_out(paths: Paths) -> None:
    fill_store(paths.store, runs=2)
    with Store(paths.store) as store:
        for run in ("kd-0", "kd-1"):
            store.annotate(("run", run), Annotation(("good",), run))
        store.db.execute("UPDATE annotations SET tags = '[\"go' WHERE id = 'kd-0'")
    salvage(paths)
    with Store(paths.store) as store:
        assert store.annotations() == {("run", "kd-1"): Annotation(("good",), "kd-1")}


def test_file_that_is_not_a_store_is_left_unchanged(kd: CommandLine, paths: Paths) -> None:
    paths.home.mkdir(parents=True)
    paths.store.write_bytes(b"not a database at all\n" * 500)
    for command in (["runs"], ["leaderboard"], ["eval", "--ckpt", "x"], ["store", "salvage"]):
        code, _, err = kd(*command)
        assert code == 1 and "error:" in err and "Traceback" not in err, (command, err)
    assert paths.store.read_bytes() == b"not a database at all\n" * 500


def test_salvage_reads_the_wal_file(paths: Paths) -> None:
    fill_store(paths.store, runs=1)
    store = Store(paths.store)
    store.add_event("kd-0", "note", "only in the log")
    assert sqlite3.connect(paths.store).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    counts, _ = salvage(paths)
    store.close()
    assert counts["events"] == (3, 0)
    with Store(paths.store) as salvaged:
        assert salvaged.events("kd-0")[-1]["message"] == "only in the log"


def test_salvage_without_a_store_fails(paths: Paths) -> None:
    with pytest.raises(StoreError, match="no store found"):
        salvage(paths)


def test_forget_runs_keeps_parents_of_other_checkpoints(paths: Paths) -> None:
    fill_store(paths.store, runs=3)
    with Store(paths.store) as store:
        assert store.forget_runs(["kd-0"]) == ["id-here-0"]
        assert store.checkpoint("id-here-0") is not None
        assert store.forget_runs(["kd-2"]) == []
        store.add_checkpoint(Checkpoint(id="z", name="z", method="kd", path="", created=1.0))
        assert {c.id for c in store.checkpoints()} == {"id-here-0", "id-here-1", "z"}
        assert {row["checkpoint"] for row in store.judgment_groups()} == {"id-here-1"}


def test_infinity_in_a_config_is_not_reported_as_damage(kd: CommandLine, paths: Paths) -> None:
    """`max_loss: .inf` is stored as `Infinity`, which SQLite's json_valid rejects."""
    fill_store(paths.store, runs=1)
    with Store(paths.store) as store:
        run = store.run("kd-0")
        assert run is not None
        store.add_run(replace(run, id="free", config={"trainer": {"max_loss": math.inf}}))
    code, out, err = kd("store", "check")
    assert code == 0 and "invalid JSON" not in out + err
