"""Which folder is which checkpoint, through the real evaluation: nothing is taken for another."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from kdharness.harness.models.adoption import adopt_all, sampled_fingerprint
from kdharness.harness.models.checkpoints import find_model
from kdharness.harness.models.identity import identify
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from support.commands import CommandLine
from support.look_alikes import UNSAMPLED, age, evaluate_briefly, losses, twin


def test_a_look_alike_is_a_checkpoint_of_its_own(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Older versions showed the first one's scores for both."""
    other = twin(base_model, tmp_path / "other")
    assert sampled_fingerprint(base_model) == sampled_fingerprint(other)
    evaluate_briefly(paths, store, base_model)
    done, _ = evaluate_briefly(paths, store, other)
    assert done["checkpoints"] == ["other"] and done["answers"] == 2
    found = losses(store, paths)
    assert set(found) == {"base", "other"}
    assert abs(found["base"] - found["other"]) > 0.1


@pytest.mark.slow
def test_merging_look_alikes_makes_new_checkpoints(
    base_model: Path, tmp_path: Path, paths: Paths, kd: CommandLine
) -> None:
    other = twin(base_model, tmp_path / "other")
    config = tmp_path / "wise.yaml"
    config.write_text(
        f"method: merge\nkind: wise-ft\nreference: {base_model}\nexpert: {other}\nalphas: [0.5]\n",
        "utf-8",
    )
    code, _, err = kd("merge", str(config), "--name", "wise")
    assert code == 0, err
    with Store(paths.store) as store:
        names = {c.name: c.weights for c in store.checkpoints()}
    assert len(set(names.values())) == 3 and "wise" in names


FACES = ["interface"] * 2


def test_a_mended_template_is_asked_again_under_the_same_name(
    base_model: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    first, _ = evaluate_briefly(paths, store, base_model)
    again, _ = evaluate_briefly(paths, store, base_model)
    assert (first["answers"], again["answers"], again["judgments"]) == (2, 0, 0)
    template = base_model / "chat_template.jinja"
    old = template.read_text("utf-8")
    template.write_text(old.replace("assistant", "helper"), "utf-8")
    after, said = evaluate_briefly(paths, store, base_model)
    assert after["answers"] == 2 and after["judgments"] > 0
    assert after["checkpoints"] == ["base"]
    assert any("kept as base@old" in line for line in said)
    assert set(losses(store, paths)) == {"base", "base@old"}
    weights = {c.name: c.weights for c in store.checkpoints()}
    assert weights["base"] == weights["base@old"]
    code, out, err = kd("compare", "base", "base@old", "--what", "settings", "--format", "json")
    assert code == 0 and [r["field"] for r in json.loads(out)] == ["path", "path", *FACES], err
    # Put back, it is what it was: nothing is asked.
    template.write_text(old, "utf-8")
    back, _ = evaluate_briefly(paths, store, base_model)
    assert (back["answers"], back["judgments"], back["checkpoints"]) == (0, 0, ["base"])
    assert set(losses(store, paths)) == {"base", "base@old"}


@pytest.mark.parametrize("file", ["generation_config.json", "tokenizer_config.json"])
def test_the_rest_of_the_interface_is_asked_again_too(
    file: str, base_model: Path, paths: Paths, store: Store
) -> None:
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    values = json.loads((base_model / file).read_text("utf-8"))
    (base_model / file).write_text(json.dumps({**values, "extra_setting": 1}), "utf-8")
    done, _ = evaluate_briefly(paths, store, base_model, benches=["shop"])
    assert done["answers"] == 2


def test_other_weights_in_the_same_folder_take_over_its_name(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    other = twin(base_model, tmp_path / "other")
    evaluate_briefly(paths, store, base_model)
    shutil.copy(other / "model.safetensors", base_model / "model.safetensors")
    done, said = evaluate_briefly(paths, store, base_model)
    assert done["checkpoints"] == ["base"] and done["answers"] == 2
    assert any("its weights have changed" in line for line in said)
    # The same weights in the folder they came from are the same checkpoint.
    assert evaluate_briefly(paths, store, other)[0]["answers"] == 0


def test_a_moved_folder_keeps_its_scores(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    moved = base_model.rename(tmp_path / "moved")
    assert evaluate_briefly(paths, store, moved, benches=["shop"])[0]["answers"] == 0
    assert evaluate_briefly(paths, store, "base", benches=["shop"])[0]["answers"] == 0
    found = store.checkpoint("base")
    assert found is not None and found.path == str(moved)


# ---------------------------------------------------------------- stores of older versions


def test_an_older_store_keeps_everything_under_the_full_identity(
    base_model: Path, paths: Paths, store: Store
) -> None:
    evaluate_briefly(paths, store, base_model)
    before = losses(store, paths)
    child = Checkpoint("child", "child", "sft", "", 1.0, parents={"student": age(store, "base")})
    store.add_checkpoint(child)
    assert losses(store, paths) == before
    done, _ = evaluate_briefly(paths, store, base_model)
    assert (done["answers"], done["judgments"]) == (0, 0)
    known = store.checkpoint("base")
    assert known is not None and known.id == identify(base_model).id
    assert store.checkpoints()[0].parents == {"student": known.id}
    assert losses(store, paths) == before
    assert {g["checkpoint"] for g in store.judgment_groups()} == {known.id}


def test_rehash_says_what_became_of_each(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    gone, changed = twin(base_model, tmp_path / "gone"), twin(base_model, tmp_path / "changed", 3.0)
    evaluate_briefly(paths, store, base_model, gone, changed, benches=["shop"])
    base_id = age(store, "base")
    # These were made when samples told them apart: ids of their own.
    for name in ("gone", "changed"):
        known = store.checkpoint(name)
        assert known is not None
        store.adopt_checkpoint(known, f"sampled-{name}", "", "", path=known.path)
    shutil.rmtree(gone)
    code, out, err = kd("store", "rehash", "--format", "json")
    assert code == 0, err
    told = {row["checkpoint"]: row["result"] for row in json.loads(out)}
    assert told["gone"].endswith("its folder is gone")
    assert "has changed since it was evaluated" in told["changed"]
    assert store.checkpoint(base_id) is None or told["base"].startswith("keeps")


def test_what_two_models_were_scored_under_is_left_alone(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Their answers lie in one row, and nothing says which are whose."""
    from kdharness.harness.types import Run, RunStatus

    other = twin(base_model, tmp_path / "other")
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    old = age(store, "base")
    for number, folder in enumerate((base_model, other)):
        store.add_run(
            Run(
                id=f"eval-{number}",
                method="eval",
                status=RunStatus.FINISHED,
                config={"checkpoints": [str(folder)]},
                config_hash="",
                folder="",
                created=1.0,
            )
        )
    assert [what.startswith("keeps") for _, what in adopt_all(paths, store)] == [True]
    done, _ = evaluate_briefly(paths, store, base_model, benches=["shop"])
    assert done["answers"] == 2
    names = {c.name: c.id for c in store.checkpoints()}
    assert names["base@old"] == old and names["base"] == identify(base_model).id


def test_a_look_alike_never_adopts_the_others_row(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Older versions pointed the row at whichever folder was scored last."""
    other = twin(base_model, tmp_path / "other")
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    old = age(store, "base")
    store.set_checkpoint_path(old, str(other))
    done, _ = evaluate_briefly(paths, store, other, benches=["shop"])
    assert done["answers"] == 2
    assert store.checkpoint(old) is not None


def test_a_template_that_changed_since_the_answers_is_not_adopted(
    base_model: Path, paths: Paths, store: Store
) -> None:
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    age(store, "base")
    later = time.time() + 3600
    os.utime(base_model / "chat_template.jinja", (later, later))
    assert evaluate_briefly(paths, store, base_model, benches=["shop"])[0]["answers"] == 2


def test_a_run_is_found_in_its_own_folder(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Two runs were one checkpoint where samples agreed; the second one's name led to the first."""
    from kdharness.harness.types import Run, RunStatus

    for name, folder in (("one", base_model), ("two", twin(base_model, tmp_path / "other"))):
        target = paths.runs / name / "final"
        shutil.copytree(folder, target)
        store.add_run(
            Run(
                id=name,
                method="sft",
                status=RunStatus.FINISHED,
                config={},
                config_hash="",
                folder=str(target.parent),
                created=1.0,
                checkpoint="one",
            )
        )
    old = sampled_fingerprint(paths.runs / "one" / "final")
    store.add_checkpoint(
        Checkpoint(old, "one", "sft", str(paths.runs / "one" / "final"), 1.0, run="one")
    )
    second, found = find_model("two", paths, store)
    assert found == str(paths.runs / "two" / "final")
    first, _ = find_model("one", paths, store)
    assert (first.name, second.name) == ("one", "two") and first.weights != second.weights


def test_old_and_new_homes_merge_without_mixing(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    other = Paths(tmp_path / "home-2")
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    with Store(other.store) as theirs:
        template = base_model / "chat_template.jinja"
        template.write_text(template.read_text("utf-8") + " ", "utf-8")
        evaluate_briefly(other, theirs, base_model, benches=["shop"])
    code, _, err = kd("store", "merge", str(other.home))
    assert code == 0, err
    assert len({c.id for c in store.checkpoints()}) == 2
    assert len({c.weights for c in store.checkpoints()}) == 1


# ---------------------------------------------------------------- local judges


def test_a_local_judge_that_changed_is_asked_again(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    bench = tmp_path / "rate.jsonl"
    bench.write_text('{"prompt": "Say a word.", "metric": "rating"}\n', "utf-8")
    judge = Path(shutil.copytree(base_model, tmp_path / "judge"))
    how: dict[str, Any] = {
        "benches": [str(bench)],
        "judge": [f"local:{judge}"],
        "judge_max_tokens": 2,
    }
    counts = [evaluate_briefly(paths, store, base_model, **how)[0]["judgments"] for _ in range(2)]
    assert counts == [1, 0]
    tensors = load_file(judge / "model.safetensors")
    tensors[UNSAMPLED] += 1
    save_file(tensors, judge / "model.safetensors", metadata={"format": "pt"})
    assert evaluate_briefly(paths, store, base_model, **how)[0]["judgments"] == 1


def test_verdicts_of_a_local_judge_from_older_versions_stand(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were kept under the judge's name alone: good as long as its files are older."""
    from kdharness.judges.engines.local import LocalEngine

    bench = tmp_path / "rate.jsonl"
    bench.write_text('{"prompt": "Say a word.", "metric": "rating"}\n', "utf-8")
    how: dict[str, Any] = {
        "benches": [str(bench)],
        "judge": [f"local:{base_model}"],
        "judge_max_tokens": 2,
    }
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "identity", "")
        assert evaluate_briefly(paths, store, base_model, **how)[0]["judgments"] == 1
    assert evaluate_briefly(paths, store, base_model, **how)[0]["judgments"] == 0
    later = time.time() + 3600
    os.utime(base_model / "model.safetensors", (later, later))
    assert evaluate_briefly(paths, store, base_model, **how)[0]["judgments"] == 1


def test_a_judge_that_is_an_adapter_changes_with_its_base(
    base_model: Path, tmp_path: Path, paths: Paths
) -> None:
    """A verdict of an older version stands while neither was written; a swapped file shows too."""
    from kdharness.judges.engines.local import LocalEngine

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(base_model)}), "utf-8"
    )
    long_ago = time.time() - 3600
    for folder in (adapter, base_model):
        for path in (*folder.iterdir(), folder):
            os.utime(path, (long_ago, long_ago))
    assert LocalEngine(str(adapter), paths).unchanged_since == pytest.approx(long_ago)
    spare = tmp_path / "spare.safetensors"
    shutil.copy2(base_model / "model.safetensors", spare)
    spare.replace(base_model / "model.safetensors")  # an older file in place of another
    assert LocalEngine(str(adapter), paths).unchanged_since > long_ago + 1800
