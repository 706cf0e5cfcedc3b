"""Imperfect result files: import what is unambiguous; report the rest with its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.errors import DataError
from kdharness.harness.interop.alpaca_eval import generators, import_alpaca_eval, preference_of
from kdharness.harness.interop.fastchat import import_fastchat
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import JudgmentStatus
from support.commands import CommandLine
from support.files import WriteRows
from support.result_files import alpaca_annotation, fastchat_answer, pair_judgment, single_judgment

PAIR = pair_judgment()


def without(row: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != field}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        # From public reports: hash ids and missing scores.
        (
            {**fastchat_answer(81), "question_id": "328c149ed45a41c0"},
            "question_id must be a number",
        ),
        (
            {**single_judgment(81, 1, 7), "question_id": None},
            "question_id must be a number, not null",
        ),
        (
            {**single_judgment(81, 1, 7), "question_id": 81.5},
            "question_id must be an integer, not 81.5",
        ),
        (without(fastchat_answer(81), "question_id"), "question_id is missing"),
        ({**single_judgment(81, 1, 7), "score": "high"}, 'score must be a number, not "high"'),
        ({**single_judgment(81, 1, 7), "score": True}, "score must be a number, not true"),
        ({**single_judgment(81, 1, 7), "score": [7]}, "score must be a number"),
        ({**single_judgment(81, 1, 7), "turn": "second"}, "turn must be a number"),
        ({**single_judgment(81, 1, 7), "turn": 0}, "turn must be 1 or more"),
        ({**single_judgment(81, 1, 7), "tstamp": "yesterday"}, "tstamp must be a number"),
        ({**fastchat_answer(81), "choices": []}, "choices must be a list of objects"),
        ({**fastchat_answer(81), "choices": {"turns": ["x"]}}, "choices must be a list of objects"),
        ({**fastchat_answer(81), "choices": [{"index": 0}]}, "turns must be a list of strings"),
        ({**fastchat_answer(81), "choices": [{"turns": []}]}, "turns must be a list of strings"),
        ({**fastchat_answer(81), "model_id": None}, "model_id must be a name"),
        (without(PAIR, "g2_winner"), "g2_winner is missing"),
        ({**PAIR, "model_2": 3}, "model_2 must be a name"),
        ({**PAIR, "model_2": "m"}, "model_1 and model_2 are the same: m"),
        ({**PAIR, "g1_winner": "A"}, 'g1_winner must be model_1, model_2, tie or error, not "A"'),
        ({**PAIR, "g2_winner": 1}, "g2_winner must be model_1"),
        ({"question_id": 81, "category": "a", "turns": ["x"]}, "this is a file of questions"),
        (
            {"question_id": 81, "model_a": "m", "model_b": "n", "winner": "model_a", "turn": 1},
            "votes",
        ),
        ({"instruction": "a", "output": "b"}, "kdharness import alpaca-eval"),
    ],
)
def test_invalid_fastchat_fields_are_reported(
    paths: Paths, write_jsonl: WriteRows, row: dict[str, Any], message: str
) -> None:
    path = write_jsonl("rows.jsonl", [row])
    with Store(paths.store) as store, pytest.raises(DataError) as caught:
        import_fastchat(store, path)
    error = str(caught.value)
    assert message in error and "line 1" in error
    assert not any(word in error for word in ("invalid literal", "NoneType", "indices", "convert"))


@pytest.mark.parametrize("score", [None, float("nan"), -1])
def test_missing_score_is_a_failed_judgment(paths: Paths, tmp_path: Path, score: Any) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{**single_judgment(81, 1, 7), "score": score}, single_judgment(82, 1, 8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with Store(paths.store) as store:
        assert import_fastchat(store, path).new == 2
        score_row = next(s for s in leaderboard(store) if s.metric == "score")
        assert (score_row.value, score_row.n, score_row.n_failed) == (8.0, 1, 1)
        assert import_fastchat(store, path).new == 0
        failed = [j for j in store.judgments() if j.status is not JudgmentStatus.OK]
        assert [j.info for j in failed] == [{}]


def test_questions_outside_mt_bench_get_their_own_benchmark(paths: Paths, tmp_path: Path) -> None:
    """Vicuna's 80 questions, and custom ones, use FastChat's row format as well."""
    folder = tmp_path / "data" / "vicuna_bench" / "model_judgment"
    folder.mkdir(parents=True)
    path = folder / "gpt-4_single.jsonl"
    path.write_text("\n".join(json.dumps(single_judgment(n, 1, 5)) for n in (1, 2, 85)))
    with Store(paths.store) as store:
        summary = import_fastchat(store, path)
        assert summary.benches == {"fastchat-vicuna_bench"}
        assert "not one of MT-Bench's" in summary.notes[0]
        own = tmp_path / "own.jsonl"
        own.write_text(json.dumps(fastchat_answer(1001)) + "\n" + json.dumps(fastchat_answer(81)))
        assert import_fastchat(store, own).benches == {"fastchat"}
        games = tmp_path / "games.jsonl"
        games.write_text(json.dumps({**PAIR, "question_id": 5}))
        assert import_fastchat(store, games).benches == {"fastchat-pair"}
        rows = leaderboard(store)
        assert {s.bench for s in rows} == {"fastchat-vicuna_bench", "fastchat-pair"}
        scored = {(s.bench, s.metric): s.value for s in rows}
        assert scored["fastchat-vicuna_bench", "score"] == 5
        assert ("fastchat-pair", "win_rate") in scored
        assert not any(s.metric.startswith("category:w") for s in rows)
        checkpoint_id = next(c.id for c in store.checkpoints() if c.name == "m")
        assert {a.bench for a in store.answers(checkpoint_id)} == {"fastchat"}


def test_ignored_choices_are_reported(
    paths: Paths, write_jsonl: WriteRows, kd: CommandLine
) -> None:
    row = {**fastchat_answer(81), "choices": [{"turns": ["x"]}, {"turns": ["better"]}]}
    path = write_jsonl("a.jsonl", [row, {**row, "tstamp": 2}])
    code, _, err = kd("import", "fastchat", str(path))
    assert code == 0 and err.count("only the first was imported") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question_id,model,score\n81,m,7\n", "looks like a table (CSV or TSV)"),
        (
            '{\n  "question_id": 81,\n  "model": "m"\n}\n',
            "a single JSON object over several lines",
        ),
        ("some words\n", "this line is not a JSON object"),
        ("{broken\n", "not a JSON object"),
        ('[{"question_id": 81},\n {"a": }]', ":2: invalid JSON list at column"),
        ("", "the file has no rows"),
        ('"text"\n', "not a JSON object"),
        ("[[1]]", "entry 1: not a JSON object"),
    ],
)
def test_wrong_file_formats_are_recognized(
    paths: Paths, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    for import_file in (import_fastchat, import_alpaca_eval):
        with Store(paths.store) as store, pytest.raises(DataError) as caught:
            import_file(store, path)
        assert message in str(caught.value)
        assert "Expecting value" not in str(caught.value)


def test_byte_order_mark_is_accepted(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(single_judgment(81, 1, 7)).encode())
    with Store(paths.store) as store:
        assert import_fastchat(store, path).new == 1


# ---------------------------------------------------------------- alpaca_eval


@pytest.mark.parametrize(
    ("row", "sides"),
    [
        ({"generator_1": "b", "generator_2": "m"}, ("b", "m")),
        # From a public report: the baseline's name has no number.
        ({"generator": "gpt4_1106_preview", "generator_2": "m"}, ("gpt4_1106_preview", "m")),
        ({"generator": "gpt4_1106_preview"}, ("gpt4_1106_preview", "")),
        ({"generator_1": "b", "generator": "m"}, ("b", "m")),
        ({"generator": "m"}, ("", "m")),
        ({"generator": "x", "generator_1": "b", "generator_2": "m"}, ("b", "m")),
        ({}, ("", "")),
        ({"generator": None, "generator_1": None, "generator_2": "m"}, ("", "m")),
    ],
)
def test_generators_of_alpaca_rows(row: dict[str, Any], sides: tuple[str, str]) -> None:
    assert generators(row) == sides


def test_generator_without_a_number_is_the_baseline(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    rows = [
        {**without(alpaca_annotation(text, 2), "generator_1"), "generator": "gpt4_1106_preview"}
        for text in "abc"
    ]
    path.write_text(json.dumps(rows))
    with Store(paths.store) as store:
        import_alpaca_eval(store, path)
        score = next(s for s in leaderboard(store) if s.metric == "win_rate")
        assert (score.bench, score.checkpoint) == ("alpaca-eval-2", "m")
        assert not any(flag.startswith("baseline") for flag in score.flags)
        assert {j.baseline for j in store.judgments()} == {"gpt4_1106_preview"}
        assert import_alpaca_eval(store, path).new == 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (2.0, 2.0),
        (1.25, 1.25),
        (0, 1.5),
        (1.5, 1.5),
        ("2", 2.0),
        ("1.5", 1.5),
        (None, None),
        ("", None),
        (float("nan"), None),
        (3, None),
        (-1, None),
        (10**400, None),
    ],
)
def test_preference_values(value: Any, expected: float | None) -> None:
    assert preference_of(value) == expected


@pytest.mark.parametrize("value", ["model_2", True, [1], {"a": 1}, float("inf")])
def test_invalid_preferences_are_rejected(paths: Paths, tmp_path: Path, value: Any) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([alpaca_annotation("a", 2), alpaca_annotation("b", value)]))
    with Store(paths.store) as store, pytest.raises(DataError) as caught:
        import_alpaca_eval(store, path)
    assert "preference must be a number from 1 to 2" in str(caught.value)
    assert "entry 2" in str(caught.value)


def test_null_answer_has_length_zero(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([alpaca_annotation("a", 1, output_2=None)]))
    with Store(paths.store) as store:
        import_alpaca_eval(store, path)
        (judgment,) = store.judgments()
        assert judgment.info == {"len_1": 4, "len_2": 0}


def test_missing_alpaca_fields_are_reported(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    for rows, message in (
        ([without(alpaca_annotation("a", 2), "output_1")], "missing fields in a row: output_1"),
        ([{"instruction": "a"}], "missing fields in a row: output (fields: instruction)"),
        (
            [{"instruction": "a", "output": "b"}, alpaca_annotation("a", 2)],
            "missing fields in a row",
        ),
        ([{"instruction": "a", "output": 3}], "output must be text"),
        ([{"instruction": None, "output": "b"}], "instruction is empty"),
    ):
        path.write_text(json.dumps(rows))
        with Store(paths.store) as store, pytest.raises(DataError) as caught:
            import_alpaca_eval(store, path)
        assert message in str(caught.value) and "entry 1" in str(caught.value)
