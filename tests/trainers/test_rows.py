"""Rows from many programs: what is read, what is honoured, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.chat.template import encode_chat
from kdharness.harness.config.data import SourceSpec
from kdharness.harness.errors import DataError
from kdharness.harness.util import untrusted
from kdharness.trainers.data.sources import read_source, to_chat

from .chat_templates import FAMILIES, with_tokens

Write = Callable[[str, list[Any]], Path]
ASK = {"role": "user", "content": "What colour?"}
RED = {"role": "assistant", "content": "Red."}


def chat(row: Any, form: str = "auto") -> dict[str, Any]:
    return to_chat(row, form, "rows.jsonl:3")


def messages(row: Any, form: str = "auto") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat(row, form)["messages"]
    return found


def refused(row: Any, form: str = "auto") -> str:
    """The message of a refusal, which names the place and shows no Python."""
    with pytest.raises(DataError) as caught:
        to_chat(row, form, "rows.jsonl:3")
    text = str(caught.value)
    assert text.startswith("rows.jsonl:3: ")
    for word in ("KeyError", "NoneType", "Traceback", "object has no", "dict'", "(char "):
        assert word not in text
    return text


# ---------------------------------------------------------------- which turns are learnt

FORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "messages": lambda flag: {"messages": [ASK, {**RED, **flag}, ASK, RED]},
    "sharegpt": lambda flag: {
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b", **flag},
            {"from": "human", "value": "c"},
            {"from": "gpt", "value": "d"},
        ]
    },
    "prompt": lambda flag: {"prompt": [ASK, {**RED, **flag}, ASK], "completion": [RED]},
}
NAMES = ("train", "trainable", "train_on_turn", "training", "loss", "loss_mask", "weight")
OFF = (False, 0, 0.0, "false", "False", "no", "0", "off")
ON = (True, 1, 1.0, "true", "YES", "1", "on", None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_a_turn_says_whether_it_is_learnt(form: str, name: str) -> None:
    for value in OFF:
        turns = messages(FORMS[form]({name: value}))
        assert [turn.get("train", True) for turn in turns if turn["role"] == "assistant"] == [
            False,
            True,
        ], value
    for value in ON:
        turns = messages(FORMS[form]({name: value}))
        assert all(turn.get("train", True) for turn in turns), value
    for value in (0.5, 2, -1, "maybe", [], {}, "none"):
        assert f"turn 2: {name} is" in refused(FORMS[form]({name: value})), value


def test_masked_says_the_opposite() -> None:
    assert messages({"messages": [ASK, {**RED, "masked": True}]})[1]["train"] is False
    assert messages({"messages": [ASK, {**RED, "masked": 0}]})[1]["train"] is True


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        ({**RED, "weight": 0, "train": True}, "train and weight contradict each other"),
        ({**RED, "train_detail": [{"begin_offset": 0, "train": False}]}, "train_detail"),
        ({**RED, "mask": True}, "mask"),
        ({**RED, "prefix": True}, "prefix"),
        ({**RED, "rejected": "Blue."}, "rejected"),
        ({**RED, "thoughts": "Hm."}, "reasoning_content"),
        ({**RED, "content": [{"type": "text", "text": "Red.", "weight": 0}]}, "weight on a part"),
    ],
)
def test_what_a_turn_says_and_cannot_be_done_is_refused_by_name(
    turn: dict[str, Any], says: str
) -> None:
    assert says in refused({"messages": [ASK, turn]})


def test_only_the_assistants_turns_can_be_learnt() -> None:
    assert "weight asks to learn a user turn" in refused({"messages": [{**ASK, "weight": 1}, RED]})
    assert messages({"messages": [{**ASK, "weight": 0, "train": False}, RED]}) == [ASK, RED]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"weight": 0}, "weight: 0 on a whole row"),
        ({"weight": 0.3}, "weight: 0.3 on a whole row"),
        ({"train": False}, "train: false on a whole row"),
        ({"loss_mask": [0, 1, 1]}, "labels of single tokens"),
        ({"label": False}, "label"),
        ({"chosen": "x"}, "preference"),
        ({"rejected": "x"}, "preference"),
        ({"images": ["a.png"]}, "images"),
        ({"mask": "User"}, "mask"),
        ({"history": [["a", "b"]]}, "history stands beside"),
        ({"chat_template": "x"}, "data.chat_template"),
        ({"truncated": "perhaps"}, "truncated"),
    ],
)
def test_what_a_row_says_and_cannot_be_done_is_refused_by_name(
    row: dict[str, Any], says: str
) -> None:
    assert says in refused({"messages": [ASK, RED], **row})


def test_fields_that_say_nothing_are_listed() -> None:
    row = {
        "id": 7,
        "source": "web",
        "score": 0.2,
        "loss": 2.31,
        "train": "split-a",
        "weight": 1,
        "images": [],
        "chosen": None,
        "label": "colour",
        "metadata": {"a": 1},
        "text": "x",
        "prompt": "What colour?",
        "messages": [{**ASK, "timestamp": 4}, {**RED, "model": "m"}],
    }
    found = chat(row)
    assert found["messages"] == [ASK, RED]
    assert found["unread"] == (
        "id",
        "label",
        "loss",
        "metadata",
        "prompt",
        "score",
        "source",
        "text",
        "train",
    )
    assert found["unread_turns"] == ("model", "timestamp")


def test_a_row_may_be_truncated_in_any_spelling() -> None:
    for value in ("false", 0, None, False):
        assert chat({"messages": [ASK, RED], "truncated": value})["truncated"] is False
    assert chat({"messages": [ASK, RED], "truncated": "true"})["truncated"] is True


# ---------------------------------------------------------------- system, history, variables

HUMAN, GPT = {"from": "human", "value": "What colour?"}, {"from": "gpt", "value": "Red."}
SHAPES: list[dict[str, Any]] = [
    {"messages": [ASK, RED]},
    {"conversations": [HUMAN, GPT]},
    {"prompt": "What colour?", "completion": "Red."},
    {"prompt": [ASK], "response": "Red."},
    {"instruction": "What colour?", "output": "Red."},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_a_rows_system_text_is_its_first_turn(shape: dict[str, Any], name: str) -> None:
    head = {"role": "system", "content": "Be terse."}
    assert messages({**shape, name: "Be terse."}) == [head, ASK, RED]
    assert messages({**shape, name: ""}) == messages({**shape, name: None}) == [ASK, RED]
    assert "is not text" in refused({**shape, name: {"a": 1}})


def test_two_system_texts_are_refused_unless_they_are_one() -> None:
    own = {"messages": [{"role": "system", "content": "Be terse."}, ASK, RED]}
    assert messages({**own, "system": " Be terse."}) == own["messages"]
    assert "system stands beside another system turn" in refused({**own, "system": "Be kind."})
    assert "contradict" in refused({"messages": [ASK, RED], "system": "a", "system_prompt": "b"})


def test_alpaca_history_comes_first() -> None:
    row = {
        "instruction": "And then?",
        "input": "",
        "output": "Blue.",
        "history": [["What colour?", "Red."]],
    }
    assert [turn["content"] for turn in messages(row)] == [
        "What colour?",
        "Red.",
        "And then?",
        "Blue.",
    ]
    assert messages({**row, "history": []})[0]["content"] == "And then?"
    row["system"] = "Be terse."
    assert [turn["role"] for turn in messages(row)][:2] == ["system", "user"]
    assert "pairs" in refused({**row, "history": ["What colour?"]})
    assert "pairs" in refused({**row, "history": [["a", "b", "c"]]})


def test_the_context_of_a_question_is_not_lost() -> None:
    row = {"instruction": "Sum up.", "context": "A long text.", "response": "Text."}
    assert messages(row)[0]["content"] == "Sum up.\n\nA long text."
    assert "side by side" in refused({**row, "input": "Another text."})
    assert "context" in refused({"prompt": "a", "completion": "b", "context": "c"})
    assert "side by side" in refused({"prompt": "a", "completion": "b", "response": "c"})


def test_template_variables_come_with_the_row() -> None:
    row = {"messages": [ASK, RED], "chat_template_kwargs": {"enable_thinking": False}}
    assert chat(row)["variables"] == {"enable_thinking": False}
    assert chat({**SHAPES[0], "enable_thinking": "false"})["variables"] == {
        "enable_thinking": False
    }
    assert "contradict" in refused({**row, "enable_thinking": True})
    assert "not an object" in refused({**row, "chat_template_kwargs": [1]})
    tokenizer_variables = chat({**SHAPES[0], "chat_template_kwargs": {"tokenize": True}})
    with pytest.raises(DataError, match="'tokenize'"):
        encode_chat(None, [ASK, RED], variables=tokenizer_variables["variables"])


# ---------------------------------------------------------------- tools

CALL = {"type": "function", "function": {"name": "rain", "arguments": {"town": "Oslo"}}}


@pytest.mark.parametrize(
    "turn",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "function": {"name": "rain", "arguments": '{"town": "Oslo"}'}}
            ],
        },
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL])},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "rain", "arguments": {"town": "Oslo"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "function_call": {"name": "rain", "arguments": '{"town": "Oslo"}'},
        },
        {"from": "function_call", "value": '{"name": "rain", "arguments": {"town": "Oslo"}}'},
        {"role": "tool_call", "content": '{"name": "rain", "arguments": {"town": "Oslo"}}'},
    ],
)
def test_calls_are_read_in_every_spelling(turn: dict[str, Any]) -> None:
    for result in (
        {"role": "tool", "content": "wet"},
        {"from": "observation", "value": "wet"},
        {"role": "function", "name": "rain", "content": "wet"},
    ):
        found = messages({"messages": [ASK, turn, result, RED]})
        assert [one["role"] for one in found] == ["user", "assistant", "tool", "assistant"]
        assert found[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "rain"}}],
        [{"name": "rain"}],
        '[{"name": "rain"}]',
        ['{"name": "rain"}'],
    ],
)
def test_tools_are_read_in_every_spelling(tools: Any) -> None:
    wanted = [{"type": "function", "function": {"name": "rain"}}]
    assert chat({"messages": [ASK, RED], "tools": tools})["tools"] == wanted
    assert chat({"messages": [ASK, RED], "functions": tools})["tools"] == wanted


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {
                "messages": [
                    ASK,
                    {**RED, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
                ]
            },
            "the arguments of f is not JSON",
        ),
        (
            {
                "messages": [
                    ASK,
                    {**RED, "tool_calls": [{"function": {"name": "f", "arguments": "3"}}]},
                ]
            },
            "not a JSON object",
        ),
        ({"messages": [ASK, {**RED, "tool_calls": [{"id": "c"}]}]}, "call without a name"),
        ({"messages": [{**ASK, "tool_calls": [CALL]}, RED]}, "a user turn cannot call tools"),
        ({"messages": [ASK, {"from": "function_call", "value": "rain(Oslo)"}]}, "not JSON"),
        ({"messages": [ASK, RED], "tools": "rain"}, "tools is not JSON"),
        ({"messages": [ASK, RED], "tools": [{"description": "x"}]}, "schema without a name"),
        ({"messages": [ASK, RED], "tools": [CALL], "functions": [CALL]}, "side by side"),
        ({"messages": [{**ASK, "tools": [CALL]}, RED]}, "tools belong to the row"),
    ],
)
def test_tools_that_cannot_be_read_are_refused(row: dict[str, Any], says: str) -> None:
    assert says in refused(row)


# ---------------------------------------------------------------- shapes of rows


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [ASK, RED]},
        {"messages": [HUMAN, GPT]},
        {"conversation": [ASK, RED]},
        {"conversations": [{**HUMAN, "from": "Human"}, {**GPT, "from": " GPT "}]},
        {
            "messages": [
                {"role": "USER", "content": "What colour?"},
                {"role": "ASSISTANT", "content": "Red."},
            ]
        },
        {"messages": [ASK, {"from": "gpt", "value": "Red."}]},
        [HUMAN, GPT],
        {"messages": json.dumps([ASK, RED])},
        {"messages": {"role": ["user", "assistant"], "content": ["What colour?", "Red."]}},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What "},
                        {"type": "text", "text": "colour?"},
                    ],
                },
                RED,
            ]
        },
        {"prompt": [ASK], "completion": [RED]},
        {"prompt": "What colour?", "completion": [RED]},
    ],
)
def test_rows_of_every_shape_become_the_same_chat(row: Any) -> None:
    assert messages(row) == [ASK, RED]


@pytest.mark.parametrize("form", ["messages", "sharegpt", "prompt", "alpaca"])
def test_a_named_format_says_what_is_missing(form: str) -> None:
    text = refused({"text": "x", "id": 3}, form)
    assert f"not in the {form} format: no " in text and "(its fields: id, text)" in text


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "completion": None}, "completion is null"),
        ({"prompt": None, "completion": "a"}, "prompt is null"),
        ({"prompt": "a", "completion": 3}, "the completion is not text: 3"),
        ({"instruction": "a", "output": None}, "output is null"),
        (
            {"messages": [ASK, {"role": "assistant"}]},
            "turn 2: the assistant turn's content is not text",
        ),
        ({"messages": [ASK, {"content": "b"}]}, "turn 2: no role (its fields: content)"),
        ({"messages": [ASK, "b"]}, "turn 2: it is not an object"),
        ({"messages": [{"role": 3, "content": "b"}]}, "turn 1: the role is not text: 3"),
        ({"messages": [ASK, {"role": "narrator", "content": "b"}]}, "unknown role 'narrator'"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
                    RED,
                ]
            },
            'a part of type "image_url"',
        ),
        ({"messages": [{**ASK, "value": "Other"}, RED]}, "content and value contradict"),
        ({"messages": []}, "this row has no turns"),
        ({"messages": {"role": ["user"], "content": []}}, "fields of different lengths"),
        ({"messages": {"role": "user"}}, "its turns are not a list"),
        ({"messages": 3}, "cannot tell the format"),
        (
            {"text": "<s>[INST] Hi [/INST] Hello</s>"},
            "cannot tell the format of this row (fields: text)",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference pairs"),
        (["a", "b"], "cannot tell the format"),
        (3, "cannot tell the format"),
    ],
)
def test_what_is_no_row_is_told_in_our_own_words(row: Any, says: str) -> None:
    assert says in refused(row)


def test_thoughts_beside_the_content_are_kept() -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        assert messages({"messages": [ASK, {**RED, name: "Hm."}]})[1][name] == "Hm."
    both = {**RED, "reasoning": "a", "thinking": "b"}
    assert "more than one field" in refused({"messages": [ASK, both]})


# ---------------------------------------------------------------- files

PAIRS = [
    {"instruction": "Name a fruit.", "input": "", "output": "A pear."},
    {"instruction": "Name a tool.", "input": "for wood", "output": "A saw."},
]


def rows_of(path: Path, **more: Any) -> list[tuple[str, list[str]]]:
    found = read_source(SourceSpec(path=str(path), **more))
    return [(one["where"], [turn["content"] for turn in one["messages"]]) for one in found]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.ndjson"])
@pytest.mark.parametrize("indent", [None, 1, 4])
def test_an_array_of_rows_is_read_in_any_layout(
    name: str, indent: int | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text("\ufeff" + json.dumps(PAIRS, indent=indent) + "\n", "utf-8")
    assert rows_of(path) == [
        (f"{path}: row 1", ["Name a fruit.", "A pear."]),
        (f"{path}: row 2", ["Name a tool.\n\nfor wood", "A saw."]),
    ]
    bad = [PAIRS[0], {**PAIRS[1], "output": None}]
    path.write_text(json.dumps(bad, indent=indent), "utf-8")
    with pytest.raises(DataError, match=r"row 2: this row is not in the alpaca format: output"):
        rows_of(path)


def test_lists_of_turns_are_rows(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(talk) + "\n" for _ in range(2)))
    assert rows_of(path) == [(f"{path}:{n}", ["Hi", "Hello"]) for n in (1, 2)]
    for text in (json.dumps(talk), json.dumps(talk, indent=2)):
        path.write_text(text)
        assert rows_of(path) == [(f"{path}: row 1", ["Hi", "Hello"])]
    path.write_text(json.dumps([talk, talk], indent=2))
    assert [where for where, _ in rows_of(path)] == [f"{path}: row 1", f"{path}: row 2"]


def test_one_object_over_several_lines_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(PAIRS[0], indent=2))
    assert rows_of(path) == [(f"{path}: row 1", ["Name a fruit.", "A pear."])]
    path.write_text(json.dumps({"version": 1, "data": PAIRS}, indent=2))
    with pytest.raises(DataError, match=r"single object that is not a row \(fields: data, version"):
        rows_of(path)


GOOD = '{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + '{"prompt": "a", "comp', r":2: this line is not JSON: it ends"),
        (GOOD + '{"prompt": a}', r":2: this line is not JSON: unexpected text at column 12"),
        ('{"prompt": "a", completion: "b"}', r":1: this line is not JSON: unex.* at column 17"),
        (
            '[\n {"prompt": "a",\n  "completion": b}\n]',
            r":3: not JSON: unexpected text at column 17",
        ),
        ('[\n {"prompt": "a"', r"not JSON: it ends before its value is complete"),
        (
            '{\n "prompt": "a",\n',
            r":1: this line is not JSON: it ends before its value is complete",
        ),
        ("prompt,completion\na,b\n", r":1: this line is not JSON: unexpected text at column 1"),
        ("[]", "this data has no rows"),
    ],
)
def test_what_is_not_json_is_told_with_its_place(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        rows_of(path)
    assert "char " not in str(caught.value) and "Expecting" not in str(caught.value)


def test_an_array_is_read_whole_and_so_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(PAIRS, indent=1))
    monkeypatch.setattr(untrusted, "FILE_BYTES", 50)
    with pytest.raises(DataError, match="an array of more than 50 bytes"):
        rows_of(path)


def parquet(path: Path, rows: list[Any]) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_a_table_says_the_same_as_lines(tmp_path: Path, write_jsonl: Write) -> None:
    """It gives every object the fields of all others; they are null and mean nothing."""
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
    table = read_source(SourceSpec(path=str(parquet(tmp_path / "a.parquet", rows))))
    lines = read_source(SourceSpec(path=str(write_jsonl("a.jsonl", rows))))
    for name in ("messages", "tools", "unread", "unread_turns"):
        assert [one[name] for one in table] == [one[name] for one in lines], name
    assert table[0]["messages"][1]["train"] is False
    assert table[1]["tools"][1]["function"]["parameters"] == {
        "properties": {"height": {"type": "number"}}
    }


@settings(max_examples=60, deadline=None)
@given(flags=st.lists(st.sampled_from([None, 0, 1]), min_size=1, max_size=5))
def test_flags_choose_the_same_answers_in_every_format(flags: list[int | None]) -> None:
    """Whatever way a row is written in, the same answers are learnt."""
    answers = [f"answer {i}" for i in range(len(flags))]
    openai = [
        turn
        for text, flag in zip(answers, flags, strict=True)
        for turn in (ASK, {"role": "assistant", "content": text, "weight": flag})
    ]
    shared = [
        turn
        for text, flag in zip(answers, flags, strict=True)
        for turn in (
            {"from": "human", "value": "What colour?"},
            {"from": "gpt", "value": text, "loss": None if flag is None else bool(flag)},
        )
    ]
    for row in (
        {"messages": openai},
        {"conversations": shared},
        {"prompt": openai[:-1], "completion": openai[-1:]},
    ):
        learnt = [
            turn["content"]
            for turn in messages(row)
            if turn["role"] == "assistant" and turn.get("train", True)
        ]
        assert learnt == [a for a, flag in zip(answers, flags, strict=True) if flag != 0]


# ---------------------------------------------------------------- the command


@pytest.fixture
def show(
    tmp_path: Path, write_jsonl: Write, kd: Callable[..., tuple[int, str, str]], tiny_teacher: Path
) -> Callable[..., tuple[int, str, str]]:
    """`kdharness data show` on rows: (exit code, stdout, stderr)."""

    def call(rows: list[Any], template: str | None = None, model: Path = tiny_teacher) -> Any:
        write_jsonl("rows.jsonl", rows)
        extra = ""
        if template is not None and template != "chatml":
            (tmp_path / "t.jinja").write_text(template)
            template = str(tmp_path / "t.jinja")
        if template is not None:
            extra = f"  chat_template: {template}\n"
        (tmp_path / "c.yaml").write_text(
            f"method: sft\nstudent: {model}\ndata:\n  train: {tmp_path / 'rows.jsonl'}\n{extra}"
        )
        return kd("data", "show", str(tmp_path / "c.yaml"))

    return call


def test_the_command_tells_what_was_not_read_and_not_trained(show: Any) -> None:
    rows = [
        {"id": 1, "messages": [ASK, {**RED, "when": 3}]},
        {"source": "x", "messages": [ASK, {**RED, "content": " "}]},
    ]
    code, out, _ = show(rows)
    assert code == 0
    assert (
        "1 rows" in out and "1 dropped without a labelled token, 1 empty answer not trained" in out
    )
    assert "fields not read: id, source; fields of turns not read: when" in out
    assert "warning" not in out
    code, _, err = show(rows[1:])
    assert code == 2 and "1 dropped, 1 empty answer not trained" in err


def test_the_command_refuses_calls_that_the_template_drops(show: Any) -> None:
    code, _, err = show(
        [{"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}]}]
    )
    assert code == 2 and "rows.jsonl:1: this chat template does not render tool_calls" in err


def test_a_template_without_an_end_of_turn_is_told(show: Any) -> None:
    template = FAMILIES["chatml"].replace("<|im_end|>", "")
    code, out, _ = show([{"messages": [ASK, RED]}] * 2, template)
    assert code == 0 and "⟦Red.⟧" in out
    assert "warning: in 2 of 2 rows the labelled part does not end with a token that ends" in out
    assert "the chat template writes none after an answer" in out
    cut = [{"messages": [ASK, RED], "truncated": True}]
    assert "warning" not in show(cut, FAMILIES["chatml"])[1]


def test_chatml_for_a_tokenizer_without_its_tokens_is_told(show: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        ["What colour is it? Red."],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|endoftext|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    base = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    folder = tmp_path / "base"
    base.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama", "eos_token_id": 0}')
    code, out, _ = show([{"messages": [ASK, RED]}], "chatml", folder)
    assert code == 0
    assert "end of turn '<|im_end|>' is no token of this tokenizer and is split into" in out
    assert "generation still ends at '<|endoftext|>' alone" in out


def test_an_end_of_turn_that_only_kdharness_knows_is_told(show: Any, tmp_path: Path) -> None:
    from conftest import make_tokenizer

    tokenizer = make_tokenizer(tmp_path / "m")
    tokenizer = with_tokens(tokenizer, FAMILIES["llama3"])
    tokenizer.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llama"}')
    rows = [{"messages": [ASK, RED]}]
    out = show(rows, None, tmp_path / "m")[1]
    assert "answers end with '<|eot_id|>', which is not the checkpoint's end of sequence" in out
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, end]}))
    assert "warning" not in show(rows, None, tmp_path / "m")[1]


def test_thoughts_that_the_template_drops_are_counted(show: Any) -> None:
    rows = [{"messages": [ASK, {**RED, "content": "<think>Hm.</think>Red."}]}] * 3
    out = show(rows, FAMILIES["r1"].replace("<｜end▁of▁sentence｜>", "<|im_end|>"))[1]
    assert "warning: the chat template leaves out thoughts of 3 answers" in out


@pytest.mark.slow
def test_a_training_warns_before_its_first_step(
    tmp_path: Path, write_jsonl: Write, kd: Callable[..., tuple[int, str, str]], tiny_teacher: Path
) -> None:
    rows = write_jsonl("rows.jsonl", [{"messages": [ASK, RED]}] * 4)
    (tmp_path / "t.jinja").write_text(FAMILIES["chatml"].replace("<|im_end|>", ""))
    (tmp_path / "c.yaml").write_text(
        f"method: sft\nstudent: {tiny_teacher}\ndata:\n  train: {rows}\n"
        f"  chat_template: {tmp_path / 't.jinja'}\ntrainer: {{max_steps: 1, batch_size: 2}}\n"
    )
    code, out, err = kd("train", str(tmp_path / "c.yaml"), "--name", "t")
    assert code == 0, err
    assert "does not end with a token that ends generation" in " ".join((out + err).split())
