"""Files of rows: arrays, lines, objects over several lines, Parquet, and invalid JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.config.data import SourceSpec
from kdharness.harness.errors import DataError
from kdharness.harness.util import untrusted
from kdharness.trainers.data.sources import read_source
from support.chat_rows import ASK, CALL, RED, read_messages
from support.files import WriteRows

PAIRS = [
    {"instruction": "Name a fruit.", "input": "", "output": "A pear."},
    {"instruction": "Name a tool.", "input": "for wood", "output": "A saw."},
]


def texts_of(path: Path, **fields: Any) -> list[tuple[str, list[str]]]:
    chats = read_source(SourceSpec(path=str(path), **fields))
    return [(chat["where"], [turn["content"] for turn in chat["messages"]]) for chat in chats]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.ndjson"])
@pytest.mark.parametrize("indent", [None, 1, 4])
def test_json_array_is_read_with_any_indentation(
    name: str, indent: int | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text("\ufeff" + json.dumps(PAIRS, indent=indent) + "\n", "utf-8")
    assert texts_of(path) == [
        (f"{path}: row 1", ["Name a fruit.", "A pear."]),
        (f"{path}: row 2", ["Name a tool.\n\nfor wood", "A saw."]),
    ]
    bad = [PAIRS[0], {**PAIRS[1], "output": None}]
    path.write_text(json.dumps(bad, indent=indent), "utf-8")
    with pytest.raises(DataError, match=r"row 2: this row is not in the alpaca format: output"):
        texts_of(path)


def test_bare_lists_of_turns_are_read_as_rows(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(talk) + "\n" for _ in range(2)))
    assert texts_of(path) == [(f"{path}:{n}", ["Hi", "Hello"]) for n in (1, 2)]
    for text in (json.dumps(talk), json.dumps(talk, indent=2)):
        path.write_text(text)
        assert texts_of(path) == [(f"{path}: row 1", ["Hi", "Hello"])]
    path.write_text(json.dumps([talk, talk], indent=2))
    assert [where for where, _ in texts_of(path)] == [f"{path}: row 1", f"{path}: row 2"]


def test_pretty_printed_object_is_read_as_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(PAIRS[0], indent=2))
    assert texts_of(path) == [(f"{path}: row 1", ["Name a fruit.", "A pear."])]
    path.write_text(json.dumps({"version": 1, "data": PAIRS}, indent=2))
    with pytest.raises(DataError, match=r"single object that is not a row \(fields: data, version"):
        texts_of(path)


GOOD = '{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + '{"prompt": "a", "comp', r":2: this line is not JSON: unexpected end"),
        (GOOD + '{"prompt": a}', r":2: this line is not JSON: unexpected text at column 12"),
        ('{"prompt": "a", completion: "b"}', r":1: this line is not JSON: unex.* at column 17"),
        (
            '[\n {"prompt": "a",\n  "completion": b}\n]',
            r":3: not JSON: unexpected text at column 17",
        ),
        ('[\n {"prompt": "a"', r"not JSON: unexpected end of input"),
        (
            '{\n "prompt": "a",\n',
            r":1: this line is not JSON: unexpected end of input",
        ),
        ("prompt,completion\na,b\n", r":1: this line is not JSON: unexpected text at column 1"),
        ("[]", "this data has no rows"),
    ],
)
def test_invalid_json_is_reported_with_line_and_column(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        texts_of(path)
    assert "char " not in str(caught.value) and "Expecting" not in str(caught.value)


def test_json_array_over_the_size_limit_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(PAIRS, indent=1))
    monkeypatch.setattr(untrusted, "FILE_BYTES", 50)
    with pytest.raises(DataError, match="an array of more than 50 bytes"):
        texts_of(path)


def write_parquet(path: Path, rows: list[Any]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_parquet_rows_match_jsonl_rows(tmp_path: Path, write_jsonl: WriteRows) -> None:
    """Parquet gives each object the fields of all the others; those nulls are ignored."""
    rows = [
        {
            "system": None,
            "tools": None,
            "messages": [
                {**ASK, "weight": None, "tool_calls": None},
                {**RED, "weight": 0},
                ASK,
                {**RED, "weight": 1},
            ],
        },
        {
            "system": "Be terse.",
            "messages": [
                ASK,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "wet"},
                RED,
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "rain",
                        "parameters": {"properties": {"town": {"type": "string"}}},
                    },
                },
                {
                    "type": "function",
                    "function": {
                        "name": "wind",
                        "parameters": {"properties": {"height": {"type": "number"}}},
                    },
                },
            ],
        },
    ]
    table = read_source(SourceSpec(path=str(write_parquet(tmp_path / "a.parquet", rows))))
    lines = read_source(SourceSpec(path=str(write_jsonl("a.jsonl", rows))))
    for name in ("messages", "tools", "unread", "unread_turns"):
        assert [chat[name] for chat in table] == [chat[name] for chat in lines], name
    assert table[0]["messages"][1]["train"] is False
    assert table[1]["tools"][1]["function"]["parameters"] == {
        "properties": {"height": {"type": "number"}}
    }


@settings(max_examples=60)
@given(flags=st.lists(st.sampled_from([None, 0, 1]), min_size=1, max_size=5))
def test_training_flags_select_the_same_answers_in_every_format(flags: list[int | None]) -> None:
    """Every row format trains on the same answers, but those of a prompt only where it says so."""
    answers = [f"answer {i}" for i in range(len(flags))]
    openai = [
        turn
        for text, flag in zip(answers, flags, strict=True)
        for turn in (ASK, {"role": "assistant", "content": text, "weight": flag})
    ]
    sharegpt = [
        turn
        for text, flag in zip(answers, flags, strict=True)
        for turn in (
            {"from": "human", "value": "What colour?"},
            {"from": "gpt", "value": text, "loss": None if flag is None else bool(flag)},
        )
    ]
    for row in (
        {"messages": openai},
        {"conversations": sharegpt},
        {"prompt": openai[:-1], "completion": openai[-1:]},
    ):
        trained = [
            turn["content"]
            for turn in read_messages(row)
            if turn["role"] == "assistant" and turn.get("train", True)
        ]
        unset = [None if "prompt" in row else 1] * (len(flags) - 1) + [1]
        assert trained == [
            answer
            for answer, flag, otherwise in zip(answers, flags, unset, strict=True)
            if (otherwise if flag is None else flag)
        ]


TWICE = '{"prompt": "a", "completion": "x", "completion": "y"}'
INSIDE = (
    '{"messages": [{"role": "user", "content": "q"}, '
    '{"role": "assistant", "content": "one", "content": "two"}]}'
)
PRETTY = TWICE.replace(", ", ",\n ")


@pytest.mark.parametrize(
    ("text", "field", "place"),
    [
        (f'{{"prompt": "q", "completion": "a"}}\n{TWICE}\n', "completion", ":2"),
        (INSIDE, "content", ":1"),
        (f"[{TWICE}]", "completion", ":1"),
        (PRETTY, "completion", ""),
        (json.dumps({"messages": INSIDE[len('{"messages": ') : -1]}), "content", ":1"),
    ],
)
def test_a_field_that_is_given_twice_is_refused(
    text: str, field: str, place: str, tmp_path: Path
) -> None:
    """The last one won, and nothing was said."""
    path = tmp_path / "rows.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=f"the field '{field}' is given twice") as caught:
        texts_of(path)
    assert caught.value.where == f"{path}{place}"


def test_other_files_may_repeat_a_field() -> None:
    assert untrusted.parse_json('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="'a' is given twice"):
        untrusted.parse_json('{"b": [{"a": 1, "a": 2}]}', unique=True)
