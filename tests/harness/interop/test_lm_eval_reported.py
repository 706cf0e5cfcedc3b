"""What users report about results of lm-evaluation-harness, and about reports of forgetting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.errors import DataError
from kdharness.harness.interop.lm_eval import import_lm_eval
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.evaluations import scores

STAMP = "2026-11-20T10-00-00.123456"


def sample(number: int, value: object, **changes: Any) -> dict[str, Any]:
    return {
        "doc_id": number,
        "doc": {"question": f"q{number}"},
        "target": "42",
        "arguments": {"gen_args_0": {"arg_0": f"Question {number}", "arg_1": {}}},
        "resps": [["So 42"]],
        "metrics": ["acc"],
        "doc_hash": f"{number:064x}",
        "acc": value,
        **changes,
    }


def write(
    folder: Path, model: str, rows: list[dict[str, Any]] | str, results: dict[str, Any], **more: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{STAMP}.json"
    path.write_text(
        json.dumps({"results": results, "model_name": model, "date": 1.0e9, **more}), "utf-8"
    )
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    if text:
        (folder / f"samples_quiz_{STAMP}.jsonl").write_text(text, "utf-8")
    return path


def texts(store: Store, model: str) -> list[str]:
    found = store.checkpoint(model)
    assert found is not None
    return [answer.text for answer in store.answers(found.id)]


def test_each_filter_logs_every_document_and_none_counts_twice(
    store: Store, paths: Paths, tmp_path: Path
) -> None:
    rows = [sample(n, float(n % 2), filter=f) for f in ("strict", "flexible") for n in range(10)]
    results = {"quiz": {"acc,strict": 0.5, "acc,flexible": 0.5}}
    import_lm_eval(store, write(tmp_path, "m", rows, results))
    found = scores(store, paths)
    assert found["m", "lm-eval-quiz", "acc/strict"].n == 10
    assert len(texts(store, "m")) == 10


@pytest.mark.parametrize("resps", [["So 42"], [["So 42", "No 41", "So 42"]], [["So 42"]]])
def test_flattened_and_repeated_answers_are_read(
    store: Store, tmp_path: Path, resps: list[Any]
) -> None:
    rows = [sample(n, 1.0, resps=resps) for n in range(3)]
    import_lm_eval(store, write(tmp_path, "m", rows, {"quiz": {"acc,none": 1.0}}))
    assert texts(store, "m") == ["So 42"] * 3


@pytest.mark.parametrize("error", ["N/A", [], None, "nan", float("nan"), False])
def test_a_standard_error_that_is_no_number_is_none(
    store: Store, paths: Paths, tmp_path: Path, error: object
) -> None:
    results = {"quiz": {"acc,none": 0.5, "acc_stderr,none": error, "alias": "quiz"}}
    import_lm_eval(store, write(tmp_path, "m", "", results))
    figure = scores(store, paths)["m", "lm-eval-quiz", "acc"]
    assert (figure.value, figure.ci_low, figure.ci_high) == (0.5, None, None)


def test_a_group_without_figures_of_its_own_is_no_task(store: Store, tmp_path: Path) -> None:
    results = {"tmmluplus": {" ": " ", "alias": "tmmluplus"}, "quiz": {"acc,none": 0.5}}
    (summary,) = import_lm_eval(store, write(tmp_path, "m", "", results))
    assert summary.benches == {"lm-eval-quiz"}


def test_two_objects_on_a_line_are_refused_by_line(store: Store, tmp_path: Path) -> None:
    text = json.dumps(sample(0, 1.0)) + "\n" + json.dumps(sample(1, 1.0)) * 2 + "\n"
    with pytest.raises(DataError) as caught:
        import_lm_eval(store, write(tmp_path, "m", text, {"quiz": {"acc,none": 1.0}}))
    assert "line 2" in str(caught.value)
    assert store.judgments("m", "lm-eval-quiz") == []


def test_documents_without_a_value_are_told_and_the_reported_figure_counts(
    store: Store, paths: Paths, tmp_path: Path
) -> None:
    rows = [sample(n, 1.0 if n else float("nan")) for n in range(4)]
    (summary,) = import_lm_eval(store, write(tmp_path, "m", rows, {"quiz": {"acc,none": 0.75}}))
    assert scores(store, paths)["m", "lm-eval-quiz", "acc"].value == 0.75
    assert any("imported without samples" in note for note in summary.notes)


def test_the_model_may_be_named_in_an_object(store: Store, tmp_path: Path) -> None:
    config = {"config": {"model": "hf", "model_args": {"pretrained": "org/m", "dtype": "auto"}}}
    path = write(tmp_path, "", "", {"quiz": {"acc,none": 0.5}}, **config)
    (summary,) = import_lm_eval(store, path)
    assert summary.models == {"org/m"}


# ---------------------------------------------------------------- forgetting


@pytest.fixture
def tuned(store: Store, paths: Paths, tmp_path: Path) -> Paths:
    """Return a home with a base that was right 24 times of 40, and models made from it."""
    more: dict[str, dict[str, Any]] = {
        "shots": {"n-shot": {"quiz": 5}},
        "limited": {"n-samples": {"quiz": {"original": 80, "effective": 40}}},
    }
    for name, right in (("base", 24), ("better", 36), ("worse", 8), ("shots", 8), ("limited", 8)):
        rows = [sample(n, float(n < right)) for n in range(40)]
        results = {"quiz": {"acc,none": right / 40}, "perplexity": {"word_perplexity,none": 9.0}}
        write(tmp_path / name, name, rows, results, **more.get(name, {}))
        import_lm_eval(store, tmp_path / name)
    return paths


def changes(kd: CommandLine, *names: str) -> dict[str, tuple[float, str]]:
    rows = kd.json("forgetting", "base", *names)
    return {r["checkpoint"]: (round(r["difference"], 3), r["change"]) for r in rows}


def test_a_gain_is_no_negative_forgetting(tuned: Paths, kd: CommandLine) -> None:
    """Elsewhere a negative figure is printed for a gain, and users ask what it means."""
    assert changes(kd, "better", "worse") == {"better": (0.3, "better"), "worse": (-0.4, "worse")}


def test_models_measured_in_another_way_are_left_out_by_name(tuned: Paths, kd: CommandLine) -> None:
    """Five examples in the prompt against none say nothing about forgetting."""
    assert changes(kd, "better", "shots", "limited").keys() == {"better"}
    code, _, err = kd("forgetting", "base", "better", "shots", "limited")
    assert code == 0 and "other settings than the reference: lm-eval-quiz (shots, limited)" in err
    assert "other settings" not in kd("forgetting", "base", "better", "worse")[2]


def test_figures_without_documents_are_told_to_be_left_out(tuned: Paths, kd: CommandLine) -> None:
    assert "lm-eval-perplexity" in kd("forgetting", "base", "better")[2]
