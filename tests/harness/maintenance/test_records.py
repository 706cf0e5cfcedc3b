"""Removing, renaming, tagging: what goes, what is refused, and what stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.maintenance.records import plan_removal
from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import process_started
from kdharness.harness.store import Store
from kdharness.harness.store.removal import Annotation
from kdharness.harness.types import Checkpoint, Run, RunStatus
from support.commands import CommandLine
from support.store_rows import contents, fill_store, stored_answer, stored_judgment


@pytest.fixture
def home(paths: Paths) -> Paths:
    """Make a home with three runs, each a child of the one before, with files."""
    fill_store(paths.store, runs=3, items=4)
    for n in range(3):
        final = paths.runs / f"kd-{n}" / "final"
        final.mkdir(parents=True)
        (final / "model.safetensors").write_bytes(b"x" * 2**20)
    return paths


def add_run(paths: Paths, name: str, status: RunStatus, **more: object) -> None:
    """Store a run without a checkpoint."""
    with Store(paths.store) as store:
        folder = str(paths.run(name))
        values = {"config": {}, "method": "kd", "config_hash": "h", "created": 1.0, **more}
        store.add_run(Run(id=name, status=status, folder=folder, **values))  # type: ignore[arg-type]


def test_removing_a_run_lists_everything_and_takes_it(home: Paths, kd: CommandLine) -> None:
    code, _, err = kd("rm", "kd-2", "--yes")
    assert code == 0, err
    assert "runs: kd-2" in err and "checkpoints: kd-2" in err
    assert "results on mt-bench: 4 answers, 4 judgments, 3 labels" in err and "1.0 MiB" in err
    assert not (home.runs / "kd-2").exists() and (home.runs / "kd-1" / "final").exists()
    assert [row["run"] for row in kd.json("runs")] == ["kd-1", "kd-0"]
    rows = contents(home.store)
    assert not any("here-2" in str(table) or "kd-2" in str(table) for table in rows.values())
    assert kd("store", "check")[0] == 0


def test_something_that_others_descend_from_needs_a_decision(home: Paths, kd: CommandLine) -> None:
    before = contents(home.store)
    code, _, err = kd("rm", "kd-1", "--yes")
    assert code == 1 and "kd-2 depends on it" in err and "--cascade" in err and "--force" in err
    assert contents(home.store) == before and (home.runs / "kd-1").exists()
    code, _, err = kd("rm", "kd-1", "--yes", "--force")
    assert code == 0 and "kd-1 stays in the lineage" in err
    with Store(home.store) as store:
        child, kept = store.checkpoint("kd-2"), store.checkpoint("id-here-1")
        assert child is not None and child.parents == {"student": "id-here-1"}
        assert kept is not None and kept.path == "" and store.answers("id-here-1") == []


def test_cascade_takes_all_descendants(home: Paths, kd: CommandLine) -> None:
    code, _, err = kd("rm", "kd-0", "--yes", "--cascade")
    assert code == 0 and "runs: kd-0, kd-1, kd-2" in err
    assert kd.json("runs") == [] and not list(home.runs.glob("kd-*"))


def test_live_runs_and_what_they_use_are_refused(home: Paths, kd: CommandLine) -> None:
    alive = {
        "pid": os.getpid(),
        "pid_started": process_started(os.getpid()),
        "host": socket.gethostname(),
    }
    add_run(home, "busy", RunStatus.RUNNING, config={"student": {"model": "kd-2"}}, **alive)
    for args in (["rm", "busy"], ["rm", "kd-2", "--force"]):
        code, _, err = kd(*args, "--yes")
        assert code == 1 and "busy is running" in err and "kdharness stop busy" in err
    assert kd("rename", "busy", "other")[0] == 1
    assert kd("rename", "kd-2", "other", "--force")[0] == 1
    assert (home.runs / "kd-2" / "final").exists()


def test_an_unfinished_run_that_names_it_needs_force(home: Paths, kd: CommandLine) -> None:
    final = str(home.runs / "kd-2" / "final")
    add_run(home, "stopped", RunStatus.STOPPED, config={"expert": {"model": final}})
    code, _, err = kd("rm", "kd-2", "--yes")
    assert code == 1 and "stopped depends on it" in err
    code, _, err = kd("rename", "kd-2", "new")
    assert code == 1 and "stopped" in err
    assert kd("rename", "kd-2", "new", "--force")[0] == 0


def test_without_a_terminal_or_yes_nothing_is_removed(home: Paths, kd: CommandLine) -> None:
    code, _, err = kd("rm", "kd-2")
    assert code == 2 and "--yes" in err and (home.runs / "kd-2").exists()


def test_an_evaluation_leaves_the_scores_and_bench_takes_them(home: Paths, kd: CommandLine) -> None:
    add_run(home, "eval-1", RunStatus.FINISHED, method="eval", config={"checkpoints": ["kd-2"]})
    code, _, err = kd("rm", "eval-1", "--yes")
    assert code == 0 and "stay with its checkpoints" in err
    with Store(home.store) as store:
        assert len(store.answers("id-here-2")) == 4
    code, _, err = kd("rm", "kd-2", "--bench", "mt-bench", "--yes")
    assert code == 0 and (home.runs / "kd-2" / "final").exists()
    with Store(home.store) as store:
        assert store.answers("id-here-2") == [] and store.checkpoint("kd-2") is not None
    code, _, err = kd("rm", "kd-1", "--bench", "mt-bnch", "--yes")
    assert code == 2 and "did you mean mt-bench?" in err


def test_results_that_come_back_are_scored_anew(home: Paths, kd: CommandLine) -> None:
    """The cache of scores counts writes, and the count starts again."""

    def score() -> float | None:
        with Store(home.store) as store:
            found = leaderboard(store, home, checkpoints=["kd-2"])
        return next(s.value for s in found if s.metric == "score")

    before = score()
    assert kd("rm", "kd-2", "--bench", "mt-bench", "--yes")[0] == 0
    with Store(home.store) as store:
        store.add_answers(stored_answer("here-2", n) for n in range(4))
        store.add_judgments(stored_judgment("here-2", n, value=9.0) for n in range(4))
    assert before != 9.0 and score() == 9.0


def test_folders_outside_the_home_are_never_deleted(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    outside = tmp_path / "models" / "mine"
    outside.mkdir(parents=True)
    with Store(home.store) as store:
        store.set_checkpoint_path("id-here-2", str(outside))
        store.update_run("kd-2", folder=str(tmp_path))
    code, _, err = kd("rm", "kd-2", "--yes")
    assert code == 0 and "not deleted, outside this home" in err and outside.is_dir()


def test_a_folder_that_stays_is_listed_with_the_reason(home: Paths, tmp_path: Path) -> None:
    """An export may be anywhere in the home: nobody looks for it outside."""
    own, elsewhere = home.runs / "kd-2" / "final", tmp_path / "elsewhere"
    for path, reason in (
        (elsewhere, "outside this home"),
        (home.home / "out", "in this home, but neither in a run's folder nor among its models"),
        (home.runs / "kd-0" / "other", "in the folder of a run that stays"),
    ):
        path.mkdir(exist_ok=True)
        with Store(home.store) as store:
            store.set_checkpoint_path("id-here-2", str(path))
            plan = plan_removal(home, store, ["kd-2"])
        assert plan.kept_files == {str(path): reason} and path not in plan.files
        assert f"not deleted, {reason}: {path}" in list(plan.lines())
    with Store(home.store) as store:
        for key in ("id-here-1", "id-here-2"):
            store.set_checkpoint_path(key, str(own))
        assert plan_removal(home, store, ["id-here-2"]).kept_files == {
            str(own): "used by another checkpoint"
        }


def test_weights_of_another_run_are_never_deleted(home: Paths, kd: CommandLine) -> None:
    """Rows may lead into the folder of another run: they were merged, or have equal weights."""
    with Store(home.store) as store:
        store.set_checkpoint_path("id-here-2", str(home.runs / "kd-0" / "final"))
        store.update_run("kd-2", folder=str(home.runs / "kd-1"))
    code, _, err = kd("rm", "kd-2", "--yes")
    assert code == 0, err
    assert (home.runs / "kd-0" / "final").is_dir() and (home.runs / "kd-1" / "final").is_dir()
    assert not (home.runs / "kd-2").exists()


def test_a_run_that_made_the_same_weights_depends_on_it(home: Paths, kd: CommandLine) -> None:
    add_run(home, "again", RunStatus.FINISHED, checkpoint="kd-2")
    code, _, err = kd("rm", "kd-2", "--yes")
    assert code == 1 and "runs that made the same weights: again" in err
    assert kd("rm", "again", "--yes")[0] == 0 and kd("rm", "kd-2", "--yes")[0] == 0


def test_a_folder_that_cannot_be_moved_leaves_everything(
    home: Paths, kd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "kd-2":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    before = contents(home.store)
    code, _, err = kd("rm", "kd-0", "--cascade", "--yes")
    assert code != 0 and "Permission denied" in err and "Traceback" not in err
    assert contents(home.store) == before
    assert all((home.runs / f"kd-{n}" / "final").is_dir() for n in range(3))


def test_unknown_names_have_suggestions(home: Paths, kd: CommandLine) -> None:
    for args in (["rm", "kd-22", "--yes"], ["rename", "kd-22", "x"], ["tag", "kd-22", "x"]):
        code, _, err = kd(*args)
        assert code == 2 and "no run or checkpoint named 'kd-22'; did you mean kd-2" in err


def add_model(paths: Paths, name: str, folder: Path, **parents: str) -> None:
    """Store a checkpoint that no run made, with its folder."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x")
    with Store(paths.store) as store:
        made = Checkpoint(name, name, "model", str(folder), created=1.0, parents=parents)
        store.add_checkpoint(made)


def add_twin(paths: Paths) -> Path:
    """Store a later run with the weights of kd-2, whose checkpoint then leads to its folder."""
    add_run(paths, "twin", RunStatus.FINISHED, checkpoint="kd-2")
    final = paths.runs / "twin" / "final"
    shutil.copytree(paths.runs / "kd-2" / "final", final)
    with Store(paths.store) as store:
        store.set_checkpoint_path("id-here-2", str(final))
    return final


def path_of(paths: Paths, name: str) -> str:
    with Store(paths.store) as store:
        found = store.checkpoint(name)
    assert found is not None
    return found.path


def test_cascade_leaves_no_ancestor_of_a_model_without_a_run(home: Paths, kd: CommandLine) -> None:
    add_model(home, "merged", home.models / "merged", adapter="id-here-2")
    code, _, err = kd("rm", "kd-2", "--yes", "--cascade")
    assert code == 0 and "checkpoints: kd-2, merged" in err and "stays" not in err
    with Store(home.store) as store:
        assert store.checkpoint("id-here-2") is None and store.checkpoint("merged") is None
    assert not (home.models / "merged").exists()


def test_the_weights_of_a_twin_are_found_again(home: Paths, kd: CommandLine) -> None:
    """A repeated run has the checkpoint of the first one, which then leads to its folder."""
    add_twin(home)
    assert kd("rm", "twin", "--yes")[0] == 0
    assert path_of(home, "kd-2") == str(home.runs / "kd-2" / "final")


def test_the_only_weights_of_another_run_need_a_decision(home: Paths, kd: CommandLine) -> None:
    final = add_twin(home)
    shutil.rmtree(home.runs / "kd-2")
    code, _, err = kd("rm", "twin", "--yes")
    assert code == 1 and "runs that made the same weights: kd-2" in err and final.is_dir()
    assert kd("rm", "twin", "--yes", "--force")[0] == 0
    assert path_of(home, "kd-2") == ""


def test_evaluated_steps_go_with_their_run(home: Paths, kd: CommandLine) -> None:
    add_model(home, "kd-2/checkpoint-10", home.runs / "kd-2" / "checkpoint-10")
    code, _, err = kd("rm", "kd-2", "--yes")
    assert code == 0 and "checkpoints: kd-2, kd-2/checkpoint-10" in err
    with Store(home.store) as store:
        assert store.checkpoint("kd-2/checkpoint-10") is None


def test_kept_files_keep_their_place(home: Paths, kd: CommandLine) -> None:
    code, _, err = kd("rm", "kd-1", "--yes", "--force", "--keep-files")
    assert code == 0 and "kd-1 stays in the lineage, without scores" in err
    assert path_of(home, "kd-1") == str(home.runs / "kd-1" / "final")


# ---------------------------------------------------------------- renaming


def test_renaming_a_run_changes_no_score_and_no_identity(home: Paths, kd: CommandLine) -> None:
    with Store(home.store) as store:
        before = [(s.bench, s.metric, s.value) for s in leaderboard(store, home)]
    assert kd.ok("rename", "kd-1", "best").strip() == "best"
    assert not (home.runs / "kd-1").exists() and (home.runs / "best" / "final").is_dir()
    with Store(home.store) as store:
        assert [(s.bench, s.metric, s.value) for s in leaderboard(store, home)] == before
        made, child = store.checkpoint("best"), store.checkpoint("kd-2")
        assert made is not None and made.id == "id-here-1" and made.run == "best"
        assert made.path == str(home.runs / "best" / "final")
        assert child is not None and child.parents == {"student": "id-here-1"}
        assert len(store.curve("best", "loss")) == 10 and store.run("kd-1") is None
    shown = json.loads(kd.ok("show", "best", "--format", "json"))
    assert shown["checkpoint"] == "best" and shown["config_hash"] == "h1"
    assert kd("store", "check")[0] == 0


def test_all_weights_in_a_renamed_folder_are_found(home: Paths, kd: CommandLine) -> None:
    add_twin(home)
    add_model(home, "step", home.runs / "twin" / "checkpoint-10")
    kd.ok("rename", "twin", "again")
    assert path_of(home, "kd-2") == str(home.runs / "again" / "final")
    assert path_of(home, "step") == str(home.runs / "again" / "checkpoint-10")


@pytest.mark.parametrize("name", ["kd-0", "a/b", "..", "", "x" * 300])
def test_taken_and_invalid_names_are_refused(home: Paths, kd: CommandLine, name: str) -> None:
    before = contents(home.store)
    code, _, err = kd("rename", "kd-1", name)
    assert code == 2 and "Traceback" not in err and contents(home.store) == before
    assert (home.runs / "kd-1").is_dir()


def test_a_folder_in_the_way_is_refused(home: Paths, kd: CommandLine) -> None:
    (home.runs / "new").mkdir()
    assert kd("rename", "kd-1", "new")[0] == 2 and (home.runs / "kd-1").is_dir()


def test_a_run_of_an_experiment_would_run_again(home: Paths, kd: CommandLine) -> None:
    (home.home / "sweeps").mkdir()
    (home.home / "sweeps" / "kd.yaml").write_text("name: kd\n")
    code, _, err = kd("rename", "kd-1", "best")
    assert code == 1 and "experiment kd" in err
    assert kd("rename", "kd-1", "best", "--force")[0] == 0
    assert "the experiment kd would run it again" in kd("rm", "kd-2", "--yes")[2]


# ---------------------------------------------------------------- tags and notes


def test_tags_and_notes_are_shown_and_filter(home: Paths, kd: CommandLine) -> None:
    assert kd("runs", "--tag", "good")[0] == 2  # none has a tag yet
    assert kd.ok("tag", "kd-1", "good", "paper:v2").split() == ["good", "paper:v2"]
    kd.ok("tag", "kd-2", "good")
    kd.ok("note", "kd-1", "the one\nin the table")
    assert [row["run"] for row in kd.json("runs", "--tag", "good")] == ["kd-2", "kd-1"]
    assert [row["run"] for row in kd.json("runs", "--tag", "good,paper:v2")] == ["kd-1"]
    rows = {row["run"]: row for row in kd.json("runs")}
    assert rows["kd-1"]["tags"] == ["good", "paper:v2"] and "tags" not in rows["kd-0"]
    assert "the one in the table" in kd.ok("runs") and kd.ok("note", "kd-1").count("\n") == 2
    assert "paper:v2" in kd.ok("show", "kd-1")
    code, _, err = kd("runs", "--tag", "god")
    assert code == 2 and "no tag 'god'; did you mean good?" in err
    kd.ok("tag", "kd-1", "--remove", "good")
    kd.ok("note", "kd-1", "--clear")
    assert kd.ok("tag", "kd-1").split() == ["paper:v2"] and kd.ok("note", "kd-1") == ""
    assert kd("tag", "kd-1", "--remove", "good")[0] == 2


@pytest.mark.parametrize("tag", ["a b", "", "x" * 65, "a=b", 'a"b', "\x1b[31m", "é\u202e"])
def test_tags_that_cannot_be_typed_again_are_refused(
    home: Paths, kd: CommandLine, tag: str
) -> None:
    code, _, err = kd("tag", "kd-1", tag)
    assert code == 2 and kd.ok("tag", "kd-1") == "" and "\x1b" not in err


def test_tags_follow_renames_merges_and_end_with_the_run(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    kd.ok("tag", "kd-2", "good")
    kd.ok("rename", "kd-2", "best")
    assert kd.ok("tag", "best") == "good\n"
    other = Path(shutil.copytree(home.home, tmp_path / "other"))
    with Store(tmp_path / "third" / "kdharness.db") as store:
        merge(store, other / "kdharness.db")
        assert store.annotations()["run", "best"].tags == ("good",)
    kd.ok("rm", "best", "--yes")
    with Store(home.store) as store:
        assert store.annotations() == {}


def test_tags_and_notes_of_two_homes_are_united(home: Paths, tmp_path: Path) -> None:
    """As all of a merge, whichever home is merged into the other one."""
    other = Paths(Path(shutil.copytree(home.home, tmp_path / "other")))
    run, checkpoint = ("run", "kd-1"), ("checkpoint", "id-here-1")
    for paths, tag, note in ((home, "good", "ours"), (other, "bad", "theirs")):
        with Store(paths.store) as store:
            store.annotate(run, Annotation((tag, "both"), note))
            store.annotate(checkpoint, Annotation((), "the same"))
    third = Paths(Path(shutil.copytree(other.home, tmp_path / "third")))
    for target, source in ((home, other), (third, home), (home, other)):
        with Store(target.store) as store:
            merge(store, source.store)
            found = store.annotations()
        assert found[run] == Annotation(("bad", "both", "good"), "ours\ntheirs")
        assert found[checkpoint] == Annotation((), "the same")


def test_a_checkpoint_that_is_another_one_by_now_brings_its_note(home: Paths) -> None:
    with Store(home.store) as store:
        store.annotate(("checkpoint", "id-here-1"), Annotation(("good",), "ours"))
        store.annotate(("checkpoint", "id-here-2"), Annotation(("best",), "theirs"))
        old, new = store.checkpoint("id-here-1"), store.checkpoint("id-here-2")
        assert old is not None and new is not None
        store.adopt_checkpoint(old, new.id, new.weights, new.interface, path=new.path)
        assert store.annotations() == {
            ("checkpoint", "id-here-2"): Annotation(("best", "good"), "ours\ntheirs")
        }
