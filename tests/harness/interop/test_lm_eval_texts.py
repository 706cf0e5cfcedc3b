"""Prompts, answers and targets of lm-evaluation-harness's samples, as transcripts show them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.analysis.compared_with import OtherText, texts_and_others
from kdharness.harness.interop.lm_eval import import_lm_eval
from kdharness.harness.interop.lm_eval_samples import read_sample, sample_answers
from kdharness.harness.paths import Paths
from kdharness.harness.reports.blocks import Transcript
from kdharness.harness.reports.transcripts import largest_differences
from kdharness.harness.store import Store
from kdharness.tui.viewmodels.transcripts import read_transcript

STAMP = "2026-11-20T10-00-00.123456"


def choice(number: int, scores: list[Any], target: object = 1) -> dict[str, Any]:
    """Make a sample of a multiple-choice task, as version 0.4.9 logs it."""
    continuations = [" Oslo", " Rome", " Bern"]
    return {
        "doc_id": number,
        "doc": {"question": "Capital?", "choices": ["Oslo", "Rome", "Bern"]},
        "target": target,
        "arguments": {
            f"gen_args_{n}": {"arg_0": f"Question {number}: capital?", "arg_1": text}
            for n, text in enumerate(continuations)
        },
        "resps": [[score] for score in scores],
        "filtered_resps": scores,
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"{number:064x}",
        "acc": 1.0,
    }


def written(number: int, text: str, **changes: Any) -> dict[str, Any]:
    """Make a sample of a task that generates."""
    return {
        "doc_id": number,
        "doc": {"question": "6 x 7?"},
        "target": "42",
        "arguments": {
            "gen_args_0": {"arg_0": f"Question {number}: 6 x 7?", "arg_1": {"until": []}}
        },
        "resps": [[text]],
        "filter": "strict-match",
        "metrics": ["acc"],
        "acc": 1.0,
        **changes,
    }


def texts(row: dict[str, Any]) -> tuple[str, str, str] | None:
    """Return the answer, the prompt and the target of a sample."""
    for answer in sample_answers([read_sample(row)], "m", "b", "r", 1.0).values():
        return answer.text, answer.info["prompt"], answer.info["target"]
    return None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (written(3, "So 42."), ("So 42.", "Question 3: 6 x 7?", "42")),
        (written(3, ""), ("", "Question 3: 6 x 7?", "42")),
        (
            written(3, "So 42.", arguments=[["Old prompt", {"until": []}]]),
            ("So 42.", "Old prompt", "42"),
        ),
        (
            choice(1, [[-3.0, False], [-1.0, True], [-2.0, False]]),
            ("Rome", "Question 1: capital?", "Rome"),
        ),
        (
            choice(1, [["-1.5", "False"], ["-9.0", "False"], ["-2.0", "False"]], "2"),
            ("Oslo", "Question 1: capital?", "Bern"),
        ),
        (written(1, "", resps=[[-12.5]]), None),
        (written(1, "", resps=[["-12.5", "True"]], arguments=[["a", "b"]]), None),
        (written(1, "", resps=[]), None),
        (written(1, "", resps=None), None),
        (written(1, "x", arguments=None, target=None), ("x", "", "")),
    ],
)
def test_answers_are_read_in_every_versions_form(
    row: dict[str, Any], expected: tuple[str, str, str] | None
) -> None:
    assert texts(row) == expected


def test_of_a_long_prompt_the_question_at_its_end_is_kept() -> None:
    row = written(1, "x", arguments=[["example " * 5000 + "the question", {}]])
    found = texts(row)
    assert found is not None and found[1].endswith("the question") and len(found[1]) < 5000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON, JSON, JSON, JSON)
def test_texts_of_any_shape_are_read_or_left_out(
    arguments: object, resps: object, doc: object, target: object
) -> None:
    found = texts(written(1, "", arguments=arguments, resps=resps, doc=doc, target=target))
    assert found is None or all(isinstance(text, str) for text in found)


def write_results(folder: Path, model: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    mean = sum(row["acc"] for row in rows) / len(rows)
    results = {"results": {"quiz": {"acc,none": mean}}, "model_name": model, "date": 1.0e9}
    path = folder / f"results_{STAMP}.json"
    path.write_text(json.dumps(results), "utf-8")
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / f"samples_quiz_{STAMP}.jsonl").write_text("".join(lines), "utf-8")
    return path


def test_imported_samples_are_in_the_report_and_the_app(
    paths: Paths, store: Store, tmp_path: Path
) -> None:
    good, bad = [[-3.0, False], [-1.0, True], [-2.0, False]], [[-1.0, True], [-3.0, 0], [-2.0, 0]]
    import_lm_eval(store, write_results(tmp_path / "a", "a", [choice(n, good) for n in range(4)]))
    rows = [{**choice(n, bad), "acc": 0.0} for n in range(2)] + [choice(n, good) for n in (2, 3)]
    path = write_results(tmp_path / "b", "b", rows)
    for _ in range(2):
        import_lm_eval(store, path)
    blocks = largest_differences(store, paths, ("a", "b"), 9)
    found = [b for b in blocks if isinstance(b, Transcript)]
    assert len(found) == 2 and {b.others for b in found} == {(("reference", "Rome"),)}
    assert {tuple(answer for _, answer, _ in b.sides) for b in found} == {("Rome", "Oslo")}
    assert all(b.prompt.startswith("Question") for b in found)
    read, others = texts_and_others(store, paths, "lm-eval-quiz", ("a", "b"), store.bench_notes())
    transcript = read_transcript(store, "lm-eval-quiz", ("a", "b"), read.prompts, others)
    (first, *_) = transcript.exchanges
    assert first.turns == ("Question 0: capital?",)
    assert first.others == (OtherText("reference", "Rome"),)
    assert [a.text for side in (first.first, first.second) for a in side.answers] == [
        "Rome",
        "Oslo",
    ]
