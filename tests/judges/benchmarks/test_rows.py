"""Custom benchmark files: rejected rows, null fields, and scores of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import DataError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Finish, Item, JudgmentStatus
from kdharness.judges.benchmarks.domain import UserBench, exact_judgment
from kdharness.judges.benchmarks.rows import read_rows
from support.files import WriteRows
from support.loopback import Loopback, completion

EXACT = {"prompt": "x", "metric": "exact_match"}
CHOICE = {"prompt": "x", "metric": "accuracy", "choices": ["Rome", "Oslo"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Two and two?", "answer": "4"}, "question (did you mean prompt?)"),
        ({"question": "Two and two?", "answer": "4"}, "answer (did you mean reference?)"),
        ({"prompt": "x", "options": ["a"]}, "options (did you mean choices?)"),
        ({"prompt": "x", "temprature": 1}, "temprature (did you mean temperature?)"),
        ({"prompt": "x", "zzz": 1}, "allowed fields: id, category"),
        # References that the metric cannot parse.
        ({**EXACT, "reference": ""}, "the reference is empty"),
        ({**EXACT, "reference": "  "}, "the reference is empty"),
        ({**EXACT, "references": ["a", ""]}, "the reference is empty"),
        ({**EXACT, "reference": True}, 'reference must be a string, not true: write "true"'),
        ({**EXACT, "reference": 4.5}, 'write "4.5"'),
        ({**EXACT, "references": [None]}, "not null"),
        ({**EXACT, "reference": {"a": 1}}, "use json_f1"),
        ({**EXACT, "reference": []}, "needs a ref"),
        ({**EXACT, "reference": "a", "references": ["b"]}, "not both"),
        (
            {"prompt": "x", "metric": "json_f1", "reference": "the colour is red"},
            "needs a JSON object",
        ),
        ({"prompt": "x", "metric": "json_f1", "reference": "{'colour': 'red'}"}, "double quotes"),
        ({"prompt": "x", "metric": "json_f1", "reference": "as in [1]"}, "needs a JSON object"),
        ({"prompt": "x", "metric": "json_f1", "reference": "42"}, "needs a JSON object"),
        (
            {"prompt": "x", "metric": "json_f1", "references": [{"a": 1}, "b"]},
            "needs a JSON object",
        ),
        (
            {"prompt": "x", "metric": "json_f1", "reference": [{"a": 1}, {"a": 2}]},
            "use references",
        ),
        (
            {"prompt": "x", "metric": "json_f1", "reference": [1, 2]},
            "[[…]] if the reference itself",
        ),
        ({**EXACT, "reference": "\u200b"}, "the reference is empty"),
        # Choices.
        (
            {**CHOICE, "references": ["a", "z"], "choices": ["a", "b"]},
            'not one of the choices: "z"',
        ),
        ({**CHOICE, "reference": "A"}, "not one of the choices"),
        ({**CHOICE, "choices": "ab", "reference": "a"}, "choices must be a list"),
        ({**CHOICE, "choices": ["a", "a"], "reference": "a"}, 'duplicate choice "a"'),
        ({**CHOICE, "choices": ["a", ""], "reference": "a"}, "a choice is empty"),
        ({**CHOICE, "choices": ["m", "M", "k"], "reference": "K"}, "not one of the choices"),
        # Fields that are not text.
        ({"prompt": "x", "rubric": 3}, "rubric must be a string, not 3"),
        ({"prompt": "x", "rubric": ["a"]}, "rubric must be a string"),
        ({"prompt": "x", "category": True}, "category must be a string, not true"),
        ({"prompt": "x", "system": 5}, "system must be a string, not 5"),
        ({"prompt": "x", "id": " "}, "id is empty"),
        ({"turns": ["x", ""]}, "a turn is empty"),
        ({"messages": [{"role": "user", "content": " "}]}, "the user turn is empty"),
        ({"prompt": "x", "id": True}, "id must be"),
        ({"prompt": "x", "id": [1]}, "id must be"),
        ({"prompt": "x", "temperature": True}, "temperature"),
        ({"prompt": None}, "exactly one of"),
        ({"prompt": "x", "metric": ["rating", None]}, "metric must be"),
        # Fields that would be ignored.
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "tool_calls"),
        (
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": "a"},
                ],
                "reference": "b",
                "metric": "exact_match",
            },
            "keep one",
        ),
        (
            {
                "system": "s",
                "messages": [{"role": "system", "content": "t"}, {"role": "user", "content": "x"}],
            },
            "keep one",
        ),
    ],
)
def test_invalid_rows_are_reported_with_their_line(
    paths: Paths, write_jsonl: WriteRows, row: dict[str, Any], message: str
) -> None:
    path = write_jsonl("mine.jsonl", [{"prompt": "fine"}, row])
    with pytest.raises(DataError) as caught:
        UserBench.load(paths, EvalConfig(), str(path))
    assert message in str(caught.value) and "line 2" in str(caught.value)


def test_null_fields_equal_missing_fields(write_jsonl: WriteRows) -> None:
    bare = {"prompt": "Name a prime.", "metric": "rating"}
    nulls = {
        **bare,
        "id": None,
        "category": None,
        "system": None,
        "reference": None,
        "references": None,
        "rubric": None,
        "choices": None,
        "max_new_tokens": None,
        "temperature": None,
        "messages": None,
        "turns": None,
    }
    assert read_rows(write_jsonl("a.jsonl", [nulls]), EvalConfig()) == read_rows(
        write_jsonl("b.jsonl", [bare]), EvalConfig()
    )
    (row,) = read_rows(write_jsonl("c.jsonl", [{"prompt": "x", "metric": None}]), EvalConfig())
    assert row.metrics == ("rating",)


def test_null_fields_do_not_appear_in_judge_prompts(paths: Paths, write_jsonl: WriteRows) -> None:
    """From a public report: a null rubric was sent to the judge as the word None."""
    path = write_jsonl("nulls.jsonl", [{"prompt": "x", "rubric": None, "category": None}])
    bench = UserBench.load(paths, EvalConfig(), str(path))
    answer = Answer(
        id="a",
        checkpoint="c",
        bench="nulls",
        revision="",
        item="1",
        turn=1,
        text="y",
        finish=Finish.STOP,
        prompt_hash="",
        settings="",
        created=0.0,
    )
    (call,) = bench.judge_calls([answer])
    assert "None" not in json.dumps(call.messages) and call.category == ""


def test_references_are_normalised_to_text(write_jsonl: WriteRows) -> None:
    rows = read_rows(
        write_jsonl(
            "a.jsonl",
            [
                {
                    "prompt": "Pick.",
                    "metric": "accuracy",
                    "choices": ["Yes", "No"],
                    "reference": "yes",
                },
                {"prompt": "Two and two?", "metric": "exact_match", "reference": 4},
                {"prompt": "JSON", "metric": "json_f1", "reference": [[1, 2]]},
                {"prompt": "JSON", "metric": ["json_f1", "rouge_l"], "reference": {"a": None}},
            ],
        ),
        EvalConfig(),
    )
    assert [row.item.references for row in rows] == [
        ("yes",),
        ("4",),
        ("[1, 2]",),
        ('{"a": null}',),
    ]


# ---------------------------------------------------------------- scores of answers


QUESTIONS: list[tuple[dict[str, Any], str, float]] = [
    ({"metric": "accuracy", "choices": list("ABCD"), "reference": "B"}, "B is a good choice.", 1),
    ({"metric": "accuracy", "choices": list("ABCD"), "reference": "A"}, "It is a mammal.", 0),
    ({"metric": "exact_match", "reference": "Paris"}, "<think>Rome?</think>Paris", 1),
    (
        {"metric": "accuracy", "choices": ["red", "green"], "reference": "green"},
        "<think>red or green</think>\n\nIt is green.",
        1,
    ),
    (
        {"metric": "json_f1", "reference": {"colour": "red", "size": 3}},
        '<think>{"colour": "?"}</think>{"colour": "red", "size": 3}',
        1,
    ),
    (
        {"metric": "rouge_l", "reference": "The ship left at noon."},
        "<think>Let me see what it did.</think>The ship left at noon.",
        1,
    ),
    ({"metric": "exact_match", "reference": "Paris"}, "<think>Paris", 0),
    ({"metric": "rouge_l", "reference": "今天天气非常好"}, "今天天气很好", 10 / 13),
    ({"metric": "rouge_l", "reference": "किताब"}, "पुस्तक", 0),
    ({"metric": "json_f1", "reference": {"answer": 42}}, 'See [1]: {"answer": 42}', 1),
    ({"metric": "exact_match", "reference": "*"}, "**", 0),
    ({"metric": "exact_match", "reference": "!"}, "?", 0),
    ({"metric": "accuracy", "choices": ["+", "-", "*", "/"], "reference": "+"}, "It is +", 1),
    ({"metric": "accuracy", "choices": ["m", "M"], "reference": "m"}, "M", 0),
]


def canned_answer(body: dict[str, Any]) -> dict[str, Any]:
    number = int(body["messages"][-1]["content"].split()[1])
    return completion(QUESTIONS[number][1])


def test_scores_of_reported_answers_end_to_end(
    paths: Paths, tiny_teacher: Path, write_jsonl: WriteRows
) -> None:
    """From public reports: each of these answers was scored wrong."""
    rows = [
        {**row, "prompt": f"Question {n} ?", "id": f"q{n}", "category": f"c{n:02}"}
        for n, (row, _, _) in enumerate(QUESTIONS)
    ]
    path = write_jsonl("mine.jsonl", rows)
    with Store(paths.store) as store, Loopback(answer=canned_answer) as server:
        config = EvalConfig(
            checkpoints=[str(tiny_teacher)], benches=[str(path)], answer_engine=server.spec
        )
        pipeline.run(config, paths, store, NullReporter())
        scores = {s.metric: s.value for s in leaderboard(store, paths)}
        for number, (_, text, value) in enumerate(QUESTIONS):
            assert scores[f"category:c{number:02}"] == pytest.approx(value), text
        cut_off = [j.item for j in store.judgments(judge="exact") if j.info.get("truncated")]
        assert cut_off == ["q6"]


def test_scores_by_older_rules_are_replaced(
    paths: Paths, tiny_teacher: Path, write_jsonl: WriteRows
) -> None:
    path = write_jsonl(
        "mine.jsonl",
        [
            {"prompt": "Question 2 ?", "metric": "exact_match", "reference": "Paris"},
            {"prompt": "Question 10 ?", "metric": "exact_match", "reference": "*"},
        ],
    )
    with Store(paths.store) as store, Loopback(answer=canned_answer) as server:
        config = EvalConfig(
            checkpoints=[str(tiny_teacher)], benches=[str(path)], answer_engine=server.spec
        )
        pipeline.run(config, paths, store, NullReporter())
        before = {j.id: j.value for j in store.judgments(judge="exact")}
        store.db.execute("UPDATE judgments SET value = 1 - value")
        store.db.conn.commit()
        done = pipeline.run(config, paths, store, NullReporter())
        assert (done["answers"], done["judgments"]) == (0, 2)
        assert {j.id: j.value for j in store.judgments(judge="exact")} == before
        score = next(s for s in leaderboard(store, paths) if s.metric == "score")
        assert (score.value, score.n) == (0.5, 2)
        assert pipeline.run(config, paths, store, NullReporter())["judgments"] == 0


def test_failed_answer_is_not_scored_as_zero(paths: Paths, write_jsonl: WriteRows) -> None:
    path = write_jsonl("mine.jsonl", [{**EXACT, "reference": "y"}])
    bench = UserBench.load(paths, EvalConfig(), str(path))
    item: Item = bench.items[0]
    failed = Answer(
        id="a",
        checkpoint="c",
        bench="mine",
        revision="",
        item="1",
        turn=1,
        text="",
        finish=Finish.ERROR,
        prompt_hash="",
        settings="",
        created=0.0,
    )
    judgment = exact_judgment("c", bench, item, failed, "exact_match")
    assert judgment.status is JudgmentStatus.FAILED and judgment.value is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_file_in_another_encoding_is_named(paths: Paths, tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(
        '{"prompt": "Où?", "reference": "là", "metric": "exact_match"}\n'.encode(encoding)
    )
    with pytest.raises(DataError) as caught:
        UserBench.load(paths, EvalConfig(), str(path))
    assert "codec" not in str(caught.value) and "line 1" in caught.value.where
    if encoding != "utf-16-le":  # without its mark, it is ASCII with zero bytes
        assert caught.value.hint == "save the file as UTF-8"
