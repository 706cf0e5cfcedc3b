"""Homes of older versions: every row moves to the right model, and none to another one."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.errors import ModelError
from kdharness.harness.models.checkpoints import find_model
from kdharness.harness.models.identity import identify
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Run, RunStatus
from support.commands import CommandLine
from support.look_alikes import age, evaluate_briefly, losses, twin


def figures(store: Store, paths: Paths) -> dict[tuple[str, str, str], tuple[float | None, int]]:
    return {(s.checkpoint, s.bench, s.metric): (s.value, s.n) for s in leaderboard(store, paths)}


def add_trained_run(paths: Paths, store: Store, name: str, model: Path, **changes: Any) -> Path:
    """A finished training with these weights; returns its final folder."""
    final = Path(shutil.copytree(model, paths.runs / name / "final"))
    values: dict[str, Any] = {
        "id": name,
        "method": "sft",
        "status": RunStatus.FINISHED,
        "config": {},
        "config_hash": name,
        "folder": str(paths.runs / name),
        "created": time.time(),
        **changes,
    }
    store.add_run(Run(**values))
    return final


def old_run(paths: Paths, store: Store, name: str, model: Path) -> str:
    """The same with its checkpoint as an older version stored it; returns the sampled id."""
    final = add_trained_run(paths, store, name, model, checkpoint=name)
    assert find_model(str(final), paths, store)[0].run == name
    return age(store, name)


def test_a_folder_an_old_row_was_pointed_at_does_not_take_its_name(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """The older version led the base's row to whichever look-alike was scored last."""
    other = twin(base_model, tmp_path / "other")
    evaluate_briefly(paths, store, base_model)
    store.set_checkpoint_path(age(store, "base"), str(other))
    with pytest.raises(ModelError, match="samples of its weights"):
        resolve_model("base", paths)
    done, _ = evaluate_briefly(paths, store, other)
    assert done["checkpoints"] == ["other"] and done["answers"] == 2
    done, said = evaluate_briefly(paths, store, base_model)
    assert done["checkpoints"] == ["base"]
    assert any("kept as base@old" in line for line in said)
    found = losses(store, paths)
    assert set(found) == {"base", "base@old", "other"}
    assert found["base"] == found["base@old"] != found["other"]


def test_two_runs_that_were_one_row_come_apart(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    """The second training pointed the row at itself; what was scored before is the first's."""
    old = old_run(paths, store, "one", base_model)
    evaluate_briefly(paths, store, "one")
    before = losses(store, paths)["one"]
    old = age(store, "one")
    second = add_trained_run(
        paths,
        store,
        "two",
        twin(base_model, tmp_path / "other"),
        checkpoint="one",
        config={
            "method": "sft",
            "student": {"model": str(base_model)},
            "data": {"train": "shop:train"},
        },
    )
    store.set_checkpoint_path(old, str(second))
    # Loading goes the same way as scoring: as a teacher, in a merge, as a judge.
    assert resolve_model("one", paths) == str(paths.runs / "one" / "final")
    assert resolve_model("two", paths) == str(second)
    code, out, err = kd("store", "rehash")
    assert code == 0 and "no longer mistaken for one" in out, err
    names = {c.name: c for c in store.checkpoints()}
    assert names["one"].id == identify(base_model).id and names["one"].run == "one"
    assert names["two"].run == "two" and names["two"].id == identify(second).id
    assert names["two"].parents == {"student": identify(base_model).id}
    done, _ = evaluate_briefly(paths, store, "one")
    assert (done["answers"], done["judgments"]) == (0, 0)
    done, _ = evaluate_briefly(paths, store, "two")
    assert done["answers"] == 2 and done["checkpoints"] == ["two"]
    assert losses(store, paths)["one"] == before != losses(store, paths)["two"]


def test_answers_that_may_be_another_runs_are_left_alone(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    old_run(paths, store, "one", base_model)
    second = add_trained_run(
        paths, store, "two", twin(base_model, tmp_path / "other"), checkpoint="one"
    )
    evaluate_briefly(paths, store, "one")
    store.set_checkpoint_path(age(store, "one"), str(second))
    done, said = evaluate_briefly(paths, store, "one")
    assert done["answers"] == 2 and any("kept as one@old" in line for line in said)
    assert evaluate_briefly(paths, store, "two")[0]["checkpoints"] == ["two"]


def test_a_home_that_was_moved_is_adopted(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    old_run(paths, store, "one", base_model)
    evaluate_briefly(paths, store, "one")
    age(store, "one")
    before = figures(store, paths)
    store.close()
    moved = Paths(paths.home.rename(tmp_path / "moved"))
    with Store(moved.store) as found:
        done, _ = evaluate_briefly(moved, found, "one")
        assert (done["answers"], done["judgments"]) == (0, 0)
        assert figures(found, moved) == before
        known = found.checkpoint("one")
        assert known is not None and known.path == str(moved.runs / "one" / "final")


def test_a_template_of_another_copy_is_not_mixed_in(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """The same weights with another template were one checkpoint, whose answers differ."""
    other = Path(shutil.copytree(base_model, tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("assistant", "helper"), "utf-8")
    evaluate_briefly(paths, store, base_model)
    age(store, "base")
    store.add_run(
        Run(
            id="eval-1",
            method="eval",
            status=RunStatus.FINISHED,
            config_hash="",
            folder="",
            config={"checkpoints": [str(base_model), str(other)]},
            created=1.0,
        )
    )
    assert evaluate_briefly(paths, store, base_model)[0]["answers"] == 2


def test_an_adapter_whose_base_was_replaced_is_not_adopted(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Older versions knew an adapter without its base."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base_model)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base_model / file, folder / file)
    evaluate_briefly(paths, store, folder)
    age(store, "adapter")
    assert evaluate_briefly(paths, store, folder)[0]["answers"] == 0
    age(store, "adapter")
    later = time.time() + 3600
    os.utime(base_model / "model.safetensors", (later, later))
    assert evaluate_briefly(paths, store, folder)[0]["answers"] == 2


# ---------------------------------------------------------------- two homes


def test_a_home_merged_with_its_own_older_self_holds_nothing_twice(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    other = twin(base_model, tmp_path / "other", 3.0)
    bench = tmp_path / "pairs.jsonl"
    bench.write_text('{"prompt": "Say a word.", "metric": "pair"}\n', "utf-8")
    evaluate_briefly(paths, store, base_model, other)
    evaluate_briefly(
        paths,
        store,
        base_model,
        other,
        benches=[str(bench)],
        baseline="all",
        judge=[f"local:{base_model}"],
        judge_max_tokens=2,
        retry_failed=False,
    )
    for number, name in enumerate(("base", "other")):
        known = store.checkpoint(name)
        assert known is not None
        store.adopt_checkpoint(known, f"sampled-{number}", "", "", path=known.path)
    store.db.execute("DELETE FROM former_ids")
    older = tmp_path / "older.db"
    assert kd("store", "backup", str(older))[0] == 0
    for name, folder in (("base", base_model), ("other", other)):
        made, known = identify(folder), store.checkpoint(name)
        assert known is not None
        store.adopt_checkpoint(known, made.id, made.weights, made.interface, path=str(folder))
    before, names = figures(store, paths), [c.name for c in store.checkpoints()]
    judged = len(store.judgments())
    for _ in range(2):
        code, _, err = kd("store", "merge", str(older))
        assert code == 0 and "checkpoints" not in err and "judgments" not in err, err
    assert figures(store, paths) == before
    assert sorted(c.name for c in store.checkpoints()) == sorted(names)
    assert len(store.judgments()) == judged


def test_what_another_older_home_knows_besides_is_kept_apart(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    """The same old id may stand for another model there."""
    there = Paths(tmp_path / "there")
    evaluate_briefly(paths, store, base_model)
    age(store, "base")
    evaluate_briefly(paths, store, base_model)
    with Store(there.store) as theirs:
        look_alike = twin(base_model, tmp_path / "there-base")
        evaluate_briefly(there, theirs, look_alike)
        age(theirs, "there-base")
    assert kd("store", "merge", str(there.home))[0] == 0
    assert len(store.checkpoints()) == 2
    assert len(set(losses(store, paths).values())) == 2


def test_a_model_scored_in_two_homes_is_one_once_its_folder_is_read(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    """One home of today's version, one of an older one: the run's row gives the name."""
    there = Paths(tmp_path / "there")
    with Store(there.store) as theirs:
        old_run(there, theirs, "one", base_model)
        evaluate_briefly(there, theirs, "one", benches=["heldout"])
        age(theirs, "one")
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    child = Checkpoint(
        "child", "child", "sft", "", 1.0, parents={"student": identify(base_model).id}
    )
    store.add_checkpoint(child)
    assert kd("store", "merge", str(there.home))[0] == 0
    code, out, err = kd("store", "rehash")
    assert code == 0, err
    assert {c.name for c in store.checkpoints()} == {"one", "child"}, out
    known = store.checkpoint("one")
    assert known is not None and known.run == "one" and known.id == identify(base_model).id
    done, _ = evaluate_briefly(paths, store, base_model)
    assert (done["answers"], done["judgments"]) == (0, 0)
    assert {bench for _, bench, _ in figures(store, paths)} == {"shop", "heldout"}


def test_a_pairs_other_side_is_found_under_its_name_here(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    """A home that calls the same checkpoint otherwise: verdicts against it follow."""
    there = Paths(tmp_path / "there")
    rival = twin(base_model, tmp_path / "rival", 3.0)
    bench = tmp_path / "pairs.jsonl"
    bench.write_text('{"prompt": "Say a word.", "metric": "pair"}\n', "utf-8")
    how: dict[str, Any] = {
        "benches": [str(bench)],
        "baseline": str(rival),
        "judge": [f"local:{base_model}"],
        "judge_max_tokens": 2,
        "retry_failed": False,
    }
    with Store(there.store) as theirs:
        evaluate_briefly(there, theirs, base_model, **how)
    here = rival.rename(tmp_path / "known-here-as")
    evaluate_briefly(paths, store, here, benches=["shop"])
    here.rename(rival)
    assert kd("store", "merge", str(there.home))[0] == 0
    assert {j.baseline for j in store.judgments() if j.metric == "pair"} == {"known-here-as"}
    done, _ = evaluate_briefly(paths, store, base_model, **how)
    assert (done["answers"], done["judgments"]) == (0, 0)


# ---------------------------------------------------------------- what was changed is not mixed


def test_agreement_with_a_teacher_that_was_replaced_is_with_the_new_one(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    teacher = Path(shutil.copytree(base_model, tmp_path / "teacher"))
    how: dict[str, Any] = {"benches": ["heldout"], "heldout": {"teacher": str(teacher)}}

    def agreement() -> tuple[float | None, int]:
        evaluate_briefly(paths, store, base_model, **how)
        return figures(store, paths)["base", "heldout", "general_kl"]

    first = agreement()
    other = twin(base_model, tmp_path / "other")
    shutil.copy(teacher / "model.safetensors", tmp_path / "kept.safetensors")
    shutil.copy(other / "model.safetensors", teacher / "model.safetensors")
    second = agreement()
    assert first[1] == second[1] and second[0] != first[0]
    fresh = Paths(tmp_path / "fresh")
    with Store(fresh.store) as opened:
        evaluate_briefly(fresh, opened, base_model, **how)
        assert figures(opened, fresh)["base", "heldout", "general_kl"] == second
    shutil.copy(tmp_path / "kept.safetensors", teacher / "model.safetensors")
    assert agreement() == first


def test_verdicts_against_a_baseline_that_changed_are_those_of_today(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    rival = twin(base_model, tmp_path / "rival", 3.0)
    bench = tmp_path / "pairs.jsonl"
    bench.write_text(
        '{"prompt": "Say a word.", "metric": "pair"}\n{"prompt": "Two.", "metric": "pair"}\n',
        "utf-8",
    )
    how: dict[str, Any] = {
        "benches": [str(bench)],
        "baseline": str(rival),
        "judge": [f"local:{base_model}"],
        "judge_max_tokens": 2,
        "retry_failed": False,
    }
    evaluate_briefly(paths, store, base_model, **how)
    # A setting that changes no answer: the same questions to the judge, about another opponent.
    note = rival / "tokenizer_config.json"
    note.write_text(note.read_text("utf-8").replace("{", '{"extra_setting": 1, ', 1), "utf-8")
    done, said = evaluate_briefly(paths, store, base_model, **how)
    assert any("kept as rival@old" in line for line in said)
    (mine,) = (c for c in store.checkpoints() if c.name == "base")
    found = store.judgments(mine.id, "pairs", f"local:{base_model}")
    assert sorted({j.baseline for j in found}) == ["rival", "rival@old"]
    assert len(found) == 8 and done["answers"] == 2
    judged = sum(
        n + s.n_failed
        for s in leaderboard(store, paths)
        if (s.checkpoint, s.metric) == ("base", "score")
        for n in [s.n]
    )
    assert judged == 4
