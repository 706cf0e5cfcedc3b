"""Mapping of folders to checkpoints through real evaluations: no two are confused."""

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


@pytest.mark.slow
def test_look_alike_is_a_separate_checkpoint(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Older versions showed the first model's scores for both."""
    other = twin(base_model, tmp_path / "other")
    assert sampled_fingerprint(base_model) == sampled_fingerprint(other)
    evaluate_briefly(paths, store, base_model)
    done, _ = evaluate_briefly(paths, store, other)
    assert done["checkpoints"] == ["other"] and done["answers"] == 2
    loss_by_name = losses(store, paths)
    assert set(loss_by_name) == {"base", "other"}
    assert abs(loss_by_name["base"] - loss_by_name["other"]) > 0.1


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


INTERFACE_FIELDS = ["interface"] * 2


@pytest.mark.slow
def test_changed_template_is_evaluated_again_under_the_same_name(
    base_model: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    first, _ = evaluate_briefly(paths, store, base_model)
    repeated, _ = evaluate_briefly(paths, store, base_model)
    assert (first["answers"], repeated["answers"], repeated["judgments"]) == (2, 0, 0)
    template = base_model / "chat_template.jinja"
    old = template.read_text("utf-8")
    template.write_text(old.replace("assistant", "helper"), "utf-8")
    after, messages = evaluate_briefly(paths, store, base_model)
    assert after["answers"] == 2 and after["judgments"] > 0
    assert after["checkpoints"] == ["base"]
    assert any("kept as base@old" in line for line in messages)
    assert set(losses(store, paths)) == {"base", "base@old"}
    weights = {c.name: c.weights for c in store.checkpoints()}
    assert weights["base"] == weights["base@old"]
    code, out, err = kd("compare", "base", "base@old", "--what", "settings", "--format", "json")
    assert code == 0 and [r["field"] for r in json.loads(out)] == [
        "path",
        "path",
        *INTERFACE_FIELDS,
    ], err
    # With the template restored, everything is reused.
    template.write_text(old, "utf-8")
    restored, _ = evaluate_briefly(paths, store, base_model)
    assert (restored["answers"], restored["judgments"], restored["checkpoints"]) == (0, 0, ["base"])
    assert set(losses(store, paths)) == {"base", "base@old"}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["generation_config.json", "tokenizer_config.json"])
def test_other_interface_changes_are_evaluated_again(
    file: str, base_model: Path, paths: Paths, store: Store
) -> None:
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    values = json.loads((base_model / file).read_text("utf-8"))
    (base_model / file).write_text(json.dumps({**values, "extra_setting": 1}), "utf-8")
    done, _ = evaluate_briefly(paths, store, base_model, benches=["shop"])
    assert done["answers"] == 2


@pytest.mark.slow
def test_changed_weights_in_a_folder_take_over_its_name(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    other = twin(base_model, tmp_path / "other")
    evaluate_briefly(paths, store, base_model)
    shutil.copy(other / "model.safetensors", base_model / "model.safetensors")
    done, messages = evaluate_briefly(paths, store, base_model)
    assert done["checkpoints"] == ["base"] and done["answers"] == 2
    assert any("its weights have changed" in line for line in messages)
    # The same weights in their original folder are the same checkpoint.
    assert evaluate_briefly(paths, store, other)[0]["answers"] == 0


def test_moved_folder_keeps_its_scores(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    moved = base_model.rename(tmp_path / "moved")
    assert evaluate_briefly(paths, store, moved, benches=["shop"])[0]["answers"] == 0
    assert evaluate_briefly(paths, store, "base", benches=["shop"])[0]["answers"] == 0
    checkpoint = store.checkpoint("base")
    assert checkpoint is not None and checkpoint.path == str(moved)


# ---------------------------------------------------------------- stores of older versions


@pytest.mark.slow
def test_older_store_keeps_all_rows_under_the_full_identity(
    base_model: Path, paths: Paths, store: Store
) -> None:
    evaluate_briefly(paths, store, base_model)
    before = losses(store, paths)
    child = Checkpoint("child", "child", "sft", "", 1.0, parents={"student": age(store, "base")})
    store.add_checkpoint(child)
    assert losses(store, paths) == before
    done, _ = evaluate_briefly(paths, store, base_model)
    assert (done["answers"], done["judgments"]) == (0, 0)
    checkpoint = store.checkpoint("base")
    assert checkpoint is not None and checkpoint.id == identify(base_model).id
    assert store.checkpoints()[0].parents == {"student": checkpoint.id}
    assert losses(store, paths) == before
    assert {g["checkpoint"] for g in store.judgment_groups()} == {checkpoint.id}


@pytest.mark.slow
def test_rehash_reports_the_result_for_each_checkpoint(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    deleted, changed = (
        twin(base_model, tmp_path / "gone"),
        twin(base_model, tmp_path / "changed", 3.0),
    )
    evaluate_briefly(paths, store, base_model, deleted, changed, benches=["shop"])
    age(store, "base")
    # These were stored when their sampled fingerprints differed: separate ids.
    for name in ("gone", "changed"):
        checkpoint = store.checkpoint(name)
        assert checkpoint is not None
        store.adopt_checkpoint(checkpoint, f"sampled-{name}", "", "", path=checkpoint.path)
    shutil.rmtree(deleted)
    code, out, err = kd("store", "rehash", "--format", "json")
    assert code == 0, err
    results = {row["checkpoint"]: row["result"] for row in json.loads(out)}
    assert results["gone"].endswith("its folder is gone")
    assert "has changed since it was evaluated" in results["changed"]
    assert results["base"] == "identified by every byte of its weights"
    assert set(results) == {"base", "gone", "changed"}
    ids = {checkpoint.name: checkpoint.id for checkpoint in store.checkpoints()}
    assert ids == {
        "base": identify(base_model).id,
        "gone": "sampled-gone",
        "changed": "sampled-changed",
    }


@pytest.mark.slow
def test_row_shared_by_two_models_is_not_adopted(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Their answers are in one row and cannot be attributed to either model."""
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
    assert [result.startswith("keeps") for _, result in adopt_all(paths, store)] == [True]
    done, _ = evaluate_briefly(paths, store, base_model, benches=["shop"])
    assert done["answers"] == 2
    names = {c.name: c.id for c in store.checkpoints()}
    assert names["base@old"] == old and names["base"] == identify(base_model).id


def test_look_alike_never_adopts_the_other_models_row(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Older versions pointed the row at whichever folder was evaluated last."""
    other = twin(base_model, tmp_path / "other")
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    old = age(store, "base")
    store.set_checkpoint_path(old, str(other))
    done, _ = evaluate_briefly(paths, store, other, benches=["shop"])
    assert done["answers"] == 2
    assert store.checkpoint(old) is not None


def test_row_is_not_adopted_if_the_template_changed_after_the_answers(
    base_model: Path, paths: Paths, store: Store
) -> None:
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    age(store, "base")
    later = time.time() + 3600
    os.utime(base_model / "chat_template.jinja", (later, later))
    assert evaluate_briefly(paths, store, base_model, benches=["shop"])[0]["answers"] == 2


def test_run_name_resolves_to_its_own_folder(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    """Runs with equal samples shared a checkpoint; the second name resolved to the first run."""
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
    second, path = find_model("two", paths, store)
    assert path == str(paths.runs / "two" / "final")
    first, _ = find_model("one", paths, store)
    assert (first.name, second.name) == ("one", "two") and first.weights != second.weights


def test_homes_with_different_templates_merge_without_mixing(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, kd: CommandLine
) -> None:
    other = Paths(tmp_path / "home-2")
    evaluate_briefly(paths, store, base_model, benches=["shop"])
    with Store(other.store) as other_store:
        template = base_model / "chat_template.jinja"
        template.write_text(template.read_text("utf-8") + " ", "utf-8")
        evaluate_briefly(other, other_store, base_model, benches=["shop"])
    code, _, err = kd("store", "merge", str(other.home))
    assert code == 0, err
    assert len({c.id for c in store.checkpoints()}) == 2
    assert len({c.weights for c in store.checkpoints()}) == 1


# ---------------------------------------------------------------- local judges


def test_changed_local_judge_judges_again(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store
) -> None:
    bench = tmp_path / "rate.jsonl"
    bench.write_text('{"prompt": "Say a word.", "metric": "rating"}\n', "utf-8")
    judge = Path(shutil.copytree(base_model, tmp_path / "judge"))
    eval_options: dict[str, Any] = {
        "benches": [str(bench)],
        "judge": [f"local:{judge}"],
        "judge_max_tokens": 2,
    }
    counts = [
        evaluate_briefly(paths, store, base_model, **eval_options)[0]["judgments"] for _ in range(2)
    ]
    assert counts == [1, 0]
    tensors = load_file(judge / "model.safetensors")
    tensors[UNSAMPLED] += 1
    save_file(tensors, judge / "model.safetensors", metadata={"format": "pt"})
    assert evaluate_briefly(paths, store, base_model, **eval_options)[0]["judgments"] == 1


def test_judgments_of_a_local_judge_from_older_versions_are_reused(
    base_model: Path, tmp_path: Path, paths: Paths, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were stored under the judge's name only: valid while its files are older."""
    from kdharness.judges.engines.local import LocalEngine

    # Replies that end with the line of their verdict are other calls than those of old.
    monkeypatch.setattr(LocalEngine, "verdict_ending", "")
    bench = tmp_path / "rate.jsonl"
    bench.write_text('{"prompt": "Say a word.", "metric": "rating"}\n', "utf-8")
    eval_options: dict[str, Any] = {
        "benches": [str(bench)],
        "judge": [f"local:{base_model}"],
        "judge_max_tokens": 2,
    }
    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "identity", "")
        assert evaluate_briefly(paths, store, base_model, **eval_options)[0]["judgments"] == 1
    assert evaluate_briefly(paths, store, base_model, **eval_options)[0]["judgments"] == 0
    later = time.time() + 3600
    os.utime(base_model / "model.safetensors", (later, later))
    assert evaluate_briefly(paths, store, base_model, **eval_options)[0]["judgments"] == 1


def test_adapter_judge_changes_with_its_base(
    base_model: Path, tmp_path: Path, paths: Paths
) -> None:
    """Old judgments are valid until either folder is written; a replaced file is detected too."""
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
    spare.replace(base_model / "model.safetensors")  # replaced by an older file
    assert LocalEngine(str(adapter), paths).unchanged_since > long_ago + 1800
