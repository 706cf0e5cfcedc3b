"""Homes of older versions: every row is adopted by the right model and no other."""

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

pytestmark = pytest.mark.slow


def scores(store: Store, paths: Paths) -> dict[tuple[str, str, str], tuple[float | None, int]]:
    return {(s.checkpoint, s.bench, s.metric): (s.value, s.n) for s in leaderboard(store, paths)}


def add_trained_run(paths: Paths, store: Store, name: str, model: Path, **changes: Any) -> Path:
    """Store a finished run with these weights; return its final folder."""
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


def add_old_run(paths: Paths, store: Store, name: str, model: Path) -> str:
    """Add such a run with its checkpoint as older versions stored it; return the sampled id."""
    final = add_trained_run(paths, store, name, model, checkpoint=name)
    assert find_model(str(final), paths, store)[0].run == name
    return age(store, name)


def test_folder_that_an_old_row_points_at_does_not_take_its_name(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Older versions pointed the base's row at whichever look-alike was evaluated last."""
    other = twin(base_model, tmp_path / "other")
    evaluate_briefly(paths, store, base_model)
    store.set_checkpoint_path(age(store, "base"), str(other))
    with pytest.raises(ModelError, match="samples of its weights"):
        resolve_model("base", paths)
    done, _ = evaluate_briefly(paths, store, other)
    assert done["checkpoints"] == ["other"] and done["answers"] == 2
    done, messages = evaluate_briefly(paths, store, base_model)
    assert done["checkpoints"] == ["base"]
    assert any("kept as base@old" in line for line in messages)
    loss_by_name = losses(store, paths)
    assert set(loss_by_name) == {"base", "base@old", "other"}
    assert loss_by_name["base"] == loss_by_name["base@old"] != loss_by_name["other"]


def test_two_runs_that_shared_a_row_are_separated(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    """The second run pointed the row at itself; scores from before belong to the first run."""
    old = add_old_run(paths, store, "one", base_model)
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
    # Loading (as a teacher, in a merge, as a judge) resolves names like evaluation does.
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


def test_answers_that_may_belong_to_another_run_are_not_adopted(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    add_old_run(paths, store, "one", base_model)
    second = add_trained_run(
        paths, store, "two", twin(base_model, tmp_path / "other"), checkpoint="one"
    )
    evaluate_briefly(paths, store, "one")
    store.set_checkpoint_path(age(store, "one"), str(second))
    done, messages = evaluate_briefly(paths, store, "one")
    assert done["answers"] == 2 and any("kept as one@old" in line for line in messages)
    assert evaluate_briefly(paths, store, "two")[0]["checkpoints"] == ["two"]


def test_moved_home_keeps_its_scores(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    add_old_run(paths, store, "one", base_model)
    evaluate_briefly(paths, store, "one")
    age(store, "one")
    before = scores(store, paths)
    store.close()
    moved = Paths(paths.home.rename(tmp_path / "moved"))
    with Store(moved.store) as moved_store:
        done, _ = evaluate_briefly(moved, moved_store, "one")
        assert (done["answers"], done["judgments"]) == (0, 0)
        assert scores(moved_store, moved) == before
        checkpoint = moved_store.checkpoint("one")
        assert checkpoint is not None and checkpoint.path == str(moved.runs / "one" / "final")


def test_copies_with_different_templates_are_not_mixed(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Equal weights with different templates used to be one checkpoint, with mixed answers."""
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


def test_adapter_whose_base_was_replaced_is_not_adopted(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Older versions identified an adapter without its base."""
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


def test_home_merged_with_its_own_older_copy_has_no_duplicates(
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
        checkpoint = store.checkpoint(name)
        assert checkpoint is not None
        store.adopt_checkpoint(checkpoint, f"sampled-{number}", "", "", path=checkpoint.path)
    store.db.execute("DELETE FROM former_ids")
    older = tmp_path / "older.db"
    assert kd("store", "backup", str(older))[0] == 0
    for name, folder in (("base", base_model), ("other", other)):
        model_identity, checkpoint = identify(folder), store.checkpoint(name)
        assert checkpoint is not None
        store.adopt_checkpoint(
            checkpoint,
            model_identity.id,
            model_identity.weights,
            model_identity.interface,
            path=str(folder),
        )
    before, names = scores(store, paths), [c.name for c in store.checkpoints()]
    judged = len(store.judgments())
    for _ in range(2):
        code, _, err = kd("store", "merge", str(older))
        assert code == 0 and "checkpoints" not in err and "judgments" not in err, err
    assert scores(store, paths) == before
    assert sorted(c.name for c in store.checkpoints()) == sorted(names)
    assert len(store.judgments()) == judged


def test_same_old_id_for_another_model_in_a_merged_home_stays_separate(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    """The same old id may refer to another model in the other home."""
    other_paths = Paths(tmp_path / "there")
    evaluate_briefly(paths, store, base_model)
    age(store, "base")
    evaluate_briefly(paths, store, base_model)
    with Store(other_paths.store) as other_store:
        look_alike = twin(base_model, tmp_path / "there-base")
        evaluate_briefly(other_paths, other_store, look_alike)
        age(other_store, "there-base")
    assert kd("store", "merge", str(other_paths.home))[0] == 0
    assert len(store.checkpoints()) == 2
    assert len(set(losses(store, paths).values())) == 2


def test_rehash_unifies_a_model_evaluated_in_two_homes(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    """One home is of the current version, one of an older one; the run's row keeps its name."""
    other_paths = Paths(tmp_path / "there")
    with Store(other_paths.store) as other_store:
        add_old_run(other_paths, other_store, "one", base_model)
        evaluate_briefly(other_paths, other_store, "one", benches=["heldout"])
        age(other_store, "one")
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    child = Checkpoint(
        "child", "child", "sft", "", 1.0, parents={"student": identify(base_model).id}
    )
    store.add_checkpoint(child)
    assert kd("store", "merge", str(other_paths.home))[0] == 0
    code, out, err = kd("store", "rehash")
    assert code == 0, err
    assert {c.name for c in store.checkpoints()} == {"one", "child"}, out
    checkpoint = store.checkpoint("one")
    assert (
        checkpoint is not None
        and checkpoint.run == "one"
        and checkpoint.id == identify(base_model).id
    )
    done, _ = evaluate_briefly(paths, store, base_model)
    assert (done["answers"], done["judgments"]) == (0, 0)
    assert {bench for _, bench, _ in scores(store, paths)} == {"shop", "heldout"}


def test_baseline_of_merged_pairs_gets_its_local_name(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    """If a home uses another name for the baseline, merged judgments use that name."""
    other_paths = Paths(tmp_path / "there")
    rival = twin(base_model, tmp_path / "rival", 3.0)
    bench = tmp_path / "pairs.jsonl"
    bench.write_text('{"prompt": "Say a word.", "metric": "pair"}\n', "utf-8")
    eval_options: dict[str, Any] = {
        "benches": [str(bench)],
        "baseline": str(rival),
        "judge": [f"local:{base_model}"],
        "judge_max_tokens": 2,
        "retry_failed": False,
    }
    with Store(other_paths.store) as other_store:
        evaluate_briefly(other_paths, other_store, base_model, **eval_options)
    local = rival.rename(tmp_path / "known-here-as")
    evaluate_briefly(paths, store, local, benches=["shop"])
    local.rename(rival)
    assert kd("store", "merge", str(other_paths.home))[0] == 0
    assert {j.baseline for j in store.judgments() if j.metric == "pair"} == {"known-here-as"}
    done, _ = evaluate_briefly(paths, store, base_model, **eval_options)
    assert (done["answers"], done["judgments"]) == (0, 0)


# ---------------------------------------------------------------- changed models


def test_agreement_is_recomputed_after_the_teacher_was_replaced(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    teacher = Path(shutil.copytree(base_model, tmp_path / "teacher"))
    eval_options: dict[str, Any] = {"benches": ["heldout"], "heldout": {"teacher": str(teacher)}}

    def agreement() -> tuple[float | None, int]:
        evaluate_briefly(paths, store, base_model, **eval_options)
        return scores(store, paths)["base", "heldout", "general_kl"]

    first = agreement()
    other = twin(base_model, tmp_path / "other")
    shutil.copy(teacher / "model.safetensors", tmp_path / "kept.safetensors")
    shutil.copy(other / "model.safetensors", teacher / "model.safetensors")
    second = agreement()
    assert first[1] == second[1] and second[0] != first[0]
    fresh = Paths(tmp_path / "fresh")
    with Store(fresh.store) as fresh_store:
        evaluate_briefly(fresh, fresh_store, base_model, **eval_options)
        assert scores(fresh_store, fresh)["base", "heldout", "general_kl"] == second
    shutil.copy(tmp_path / "kept.safetensors", teacher / "model.safetensors")
    assert agreement() == first


def test_scores_against_a_changed_baseline_use_the_current_one(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    rival = twin(base_model, tmp_path / "rival", 3.0)
    bench = tmp_path / "pairs.jsonl"
    bench.write_text(
        '{"prompt": "Say a word.", "metric": "pair"}\n{"prompt": "Two.", "metric": "pair"}\n',
        "utf-8",
    )
    eval_options: dict[str, Any] = {
        "benches": [str(bench)],
        "baseline": str(rival),
        "judge": [f"local:{base_model}"],
        "judge_max_tokens": 2,
        "retry_failed": False,
    }
    evaluate_briefly(paths, store, base_model, **eval_options)
    # A setting that changes no answer: the same prompts to the judge, but another opponent.
    tokenizer_config = rival / "tokenizer_config.json"
    tokenizer_config.write_text(
        tokenizer_config.read_text("utf-8").replace("{", '{"extra_setting": 1, ', 1), "utf-8"
    )
    done, messages = evaluate_briefly(paths, store, base_model, **eval_options)
    assert any("kept as rival@old" in line for line in messages)
    (base,) = (c for c in store.checkpoints() if c.name == "base")
    judgments = store.judgments(base.id, "pairs", f"local:{base_model}")
    assert sorted({j.baseline for j in judgments}) == ["rival", "rival@old"]
    assert len(judgments) == 8 and done["answers"] == 2
    judged = sum(
        n + s.n_failed
        for s in leaderboard(store, paths)
        if (s.checkpoint, s.metric) == ("base", "score")
        for n in [s.n]
    )
    assert judged == 4
