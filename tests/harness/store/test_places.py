"""A home that is copied, moved, linked or merged leads to its own files, not the original's."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness import worker
from kdharness.harness.config.training import SFTConfig
from kdharness.harness.doctor.home import weights
from kdharness.harness.errors import Interrupted
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.maintenance.salvage import salvage
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.store import Store
from kdharness.harness.store.first_page import first_page
from kdharness.harness.store.migrations import migrations
from kdharness.harness.store.places import Places
from kdharness.harness.store.sqlite import Database
from kdharness.harness.types import Checkpoint, Run, RunStatus
from support.commands import CommandLine
from support.store_rows import fill_store

BEFORE = "m010_label_designs"


def add_model(folder: Path) -> Path:
    """Write a folder that counts as a model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def make_home(home: Path) -> Paths:
    """Make a home with two runs, their weights, and a model made from one of them."""
    paths = Paths(home.resolve())
    fill_store(paths.store, runs=2, items=3)
    for n in range(2):
        add_model(paths.runs / f"kd-{n}" / "final")
    add_model(paths.models / "cut")
    with Store(paths.store) as store:
        store.add_checkpoint(Checkpoint("cut", "cut", "cut", str(paths.models / "cut"), 1.0))
    return paths


def raw(paths: Paths) -> list[str]:
    """Return the paths as they are in the file."""
    connection = sqlite3.connect(paths.store)
    found = connection.execute("SELECT folder FROM runs UNION SELECT path FROM checkpoints")
    rows = sorted(row[0] for row in found)
    connection.close()
    return rows


def as_before(paths: Paths) -> None:
    """Give the store the absolute paths that older versions stored, and their schema."""
    with Store(paths.store) as store:
        folders = [(run.folder, run.id) for run in store.runs()]
        weights_of = [(c.path, c.id) for c in store.checkpoints()]
    connection = sqlite3.connect(paths.store)
    connection.executemany("UPDATE runs SET folder = ? WHERE id = ?", folders)
    connection.executemany("UPDATE checkpoints SET path = ? WHERE id = ?", weights_of)
    for table in ("homes", "annotations"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("DELETE FROM _sqlite_migrations WHERE name > ?", [BEFORE])
    connection.commit()
    connection.close()


INSIDE = [
    "home:models/cut",
    "home:runs/kd-0",
    "home:runs/kd-0/final",
    "home:runs/kd-1",
    "home:runs/kd-1/final",
]


def test_paths_inside_the_home_are_stored_relative_and_read_absolute(tmp_path: Path) -> None:
    paths = make_home(tmp_path / "home")
    assert raw(paths) == INSIDE
    with Store(paths.store) as store:
        assert store.runs()[0].folder == str(paths.runs / "kd-1")
        final = str(paths.runs / "kd-1" / "final")
        found = store.checkpoint(final)
        assert found is not None and found.path == final
    assert first_page(paths)[0].folder == str(paths.runs / "kd-1")


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "old-version"])
@pytest.mark.parametrize("how", ["copied", "moved", "opened-first"])
def test_a_copy_leads_to_its_own_files(tmp_path: Path, is_old: bool, how: str) -> None:
    original = make_home(tmp_path / "original")
    if is_old:
        as_before(original)
    if how == "opened-first":  # it may be migrated before it is copied
        Store(original.store).close()
    place = tmp_path / "elsewhere" / "copy"
    (shutil.move if how == "moved" else shutil.copytree)(str(original.home), str(place))
    copy = Paths(place.resolve())
    with Store(copy.store) as store:
        assert {run.folder for run in store.runs()} == {
            str(copy.runs / "kd-0"),
            str(copy.runs / "kd-1"),
        }
        assert all(Path(c.path).is_relative_to(copy.home) for c in store.checkpoints())
        # The original's path, in a config or an adapter, means the copy's folder.
        old = str(original.runs / "kd-0" / "final")
        assert resolve_model(old, copy) == str(copy.runs / "kd-0" / "final")
        found = store.checkpoint(old)
        assert found is not None and found.name == "kd-0"
        assert store.places.moved({"a": [old], "b": 1}) == {
            "a": [str(copy.runs / "kd-0" / "final")],
            "b": 1,
        }
    assert raw(copy) == INSIDE
    assert resolve_model("kd-0", copy) == str(copy.runs / "kd-0" / "final")
    assert [result.status for result in weights(copy)] == ["ok"]


def test_what_is_not_in_the_copy_is_left_as_written(tmp_path: Path) -> None:
    original = make_home(tmp_path / "original")
    copy = Paths(Path(shutil.copytree(original.home, tmp_path / "copy")).resolve())
    later = add_model(original.runs / "later" / "final")
    assert resolve_model(str(later), copy) == str(later)


def test_doctor_names_runs_outside(tmp_path: Path) -> None:
    other, mine = make_home(tmp_path / "other"), Paths((tmp_path / "mine").resolve())
    with Store(mine.store) as store:
        merge(store, other.store)
        assert {run.folder for run in store.runs()} == {str(other.runs / f"kd-{n}") for n in (0, 1)}
    assert raw(mine)[0] == str(other.models / "cut")
    (found,) = weights(mine)
    assert found.status == "note" and str(other.runs / "kd-0") in found.detail
    with Store(mine.store) as store:
        merge(store, other.store, home=mine.home, files=True)
    (found,) = weights(mine)
    assert found.status == "ok" and str(other.models / "cut") in found.detail


def test_merging_an_old_copy_takes_the_files_of_the_copy(tmp_path: Path) -> None:
    original = make_home(tmp_path / "original")
    as_before(original)
    copy = Path(shutil.copytree(original.home, tmp_path / "copy")).resolve()
    mine = Paths((tmp_path / "mine").resolve())
    with Store(mine.store) as store:
        merge(store, copy / "kdharness.db")
        assert all(Path(c.path).is_relative_to(copy) for c in store.checkpoints())


def test_a_run_of_another_home_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    """An older version merged a run under another name; this home has a folder of its old name."""
    home, other = make_home(tmp_path / "home"), tmp_path / "other" / "runs" / "kd-0"
    add_model(other / "final")
    with Store(home.store) as store:
        run = Run("kd-0-ab", "kd", RunStatus.FINISHED, {}, "h", str(other), 1.0)
        store.add_run(run)
        final = str(other / "final")
        store.add_checkpoint(Checkpoint("other", "kd-0-ab", "kd", final, 1.0, run="kd-0-ab"))
    as_before(home)
    with Store(home.store) as store:
        stored = store.checkpoint("other")
        assert stored is not None and stored.path == final
        assert raw(home) == sorted([*INSIDE, str(other), final])


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_links_to_other_disks_and_to_the_home(tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "runs"
    disk.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "runs").symlink_to(disk)
    paths = make_home(tmp_path / "home")
    assert raw(paths) == INSIDE
    with Store(paths.store) as store:
        # As `resolve_model` gives it, and so the row is found again.
        assert store.runs()[0].folder == str(disk / "kd-1")
        assert store.checkpoint(str(disk / "kd-1" / "final")) is not None
    assert resolve_model("kd-1", paths) == str(disk / "kd-1" / "final")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    linked = tmp_path / "link" / "kdharness.db"
    with Store(linked) as store:
        assert store.places.home == paths.home and store.places.former == ()
        assert store.places.stored(str(tmp_path / "link" / "models" / "x")) == "home:models/x"


def test_a_home_given_relative_and_one_that_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_home(tmp_path / "home")
    monkeypatch.chdir(tmp_path)
    with Store(Path("home", "..", "home", "kdharness.db")) as store:
        assert store.runs()[0].folder == str(paths.runs / "kd-1")


@pytest.mark.parametrize(
    "path", ["org/name@abc", "", "runs/kd", "/" + "x" * 300, "/a\0b", "C:/x", "/elsewhere/runs/kd"]
)
def test_other_paths_are_stored_as_they_are(tmp_path: Path, path: str) -> None:
    places = Places(tmp_path)
    assert places.stored(path) == path and places.absolute(path) == path


PART = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n"), min_size=1, max_size=6)


@given(st.lists(PART.filter(lambda part: part not in (".", "..")), min_size=1, max_size=4))
def test_a_path_inside_comes_back_in_any_home(parts: list[str]) -> None:
    first, second = Places(Path("/nowhere/a")), Places(Path("/nowhere/b"))
    stored = first.stored(str(Path("/nowhere/a", *parts)))
    assert stored.startswith("home:") and first.stored(stored) == stored
    assert second.absolute(stored) == str(Path("/nowhere/b", *parts))


def test_dots_do_not_lead_outside_unnoticed(tmp_path: Path) -> None:
    places = Places(tmp_path / "home")
    outside = str(tmp_path / "home" / ".." / "other")
    assert places.stored(outside) == outside


def test_every_process_of_a_run_reads_this_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process read the copy's rows, and the others those of the original."""
    original, copy = make_home(tmp_path / "home"), tmp_path / "copy"
    rows = original.home / "rows.jsonl"
    rows.write_text("")
    config = {"method": "sft", "student": "kd-0", "data": {"train": str(rows)}}
    with Store(original.store) as store:
        store.update_run("kd-1", config=config, method="sft")
    shutil.copytree(original.home, copy)
    read: list[str] = []

    def train(config: SFTConfig, job: Job) -> Outcome:
        read.extend(source.path for source in config.data.train)
        raise Interrupted("enough")

    monkeypatch.setattr(worker, "_train", train)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "argv", ["worker", "kd-1", "--home", str(copy)])
    with pytest.raises(SystemExit) as caught:
        worker.main()
    assert caught.value.code == 130 and read == [str(copy / "rows.jsonl")]


def test_salvage_keeps_paths_and_places(tmp_path: Path) -> None:
    paths = make_home(tmp_path / "home")
    copy = Paths(Path(shutil.copytree(paths.home, tmp_path / "copy")).resolve())
    Store(copy.store).close()
    salvage(copy)
    assert raw(copy) == INSIDE
    with Store(copy.store) as store:
        assert store.places.former == (paths.home,)


def test_migrated_in_memory_stores_have_no_home() -> None:
    db = Database(sqlite3.connect(":memory:"))
    migrations.apply(db)
    assert db.execute("SELECT COUNT(*) FROM homes").fetchone() == (0,)


def test_show_and_check_of_a_copy(tmp_path: Path, kd: CommandLine, paths: Paths) -> None:
    make_home(paths.home)
    copy = shutil.copytree(paths.home, tmp_path / "copy")
    kd.home = Path(copy)
    shown = json.loads(kd.ok("show", "kd-0", "--format", "json"))
    assert shown["folder"] == os.path.join(str(copy), "runs", "kd-0")
    assert kd("store", "check")[0] == 0
