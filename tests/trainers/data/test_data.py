"""From data files to labelled rows: formats, labels, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.chat.template import encode_chat
from kdharness.harness.config.data import DataSpec, SourceSpec
from kdharness.harness.errors import DataError
from kdharness.trainers.data.dataset import encode_sources, load_chats, marked
from kdharness.trainers.data.sources import read_source, to_chat
from support.files import WriteRows

TALK = [{"role": "user", "content": "What colour?"}, {"role": "assistant", "content": "Red."}]


def labelled_text(tokenizer: Any, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    chat = encode_chat(tokenizer, messages, **kwargs)
    return str(tokenizer.decode([label for label in chat.labels if label != -100]))


def test_only_answers_and_their_end_of_turn_are_labelled(tokenizer: Any) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        *TALK,
        {"role": "user", "content": "Size?"},
        {"role": "assistant", "content": "Large."},
    ]
    assert labelled_text(tokenizer, turns) == "Red.<|im_end|>Large.<|im_end|>"
    turns[2] = {**turns[2], "train": False}  # type: ignore[dict-item]
    assert labelled_text(tokenizer, turns) == "Large.<|im_end|>"
    assert labelled_text(tokenizer, TALK, truncated=True) == "Red."


def test_answer_equal_to_the_prompt_is_labelled_once(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "Red."}, {"role": "assistant", "content": "Red."}]
    assert labelled_text(tokenizer, turns) == "Red.<|im_end|>"


def test_answers_are_labelled_when_the_template_rewrites_earlier_turns(tokenizer: Any) -> None:
    """Some reasoning models drop the thinking of earlier turns when they render a chat."""
    import copy

    rewriting = copy.deepcopy(tokenizer)
    rewriting.chat_template = (
        "{% for m in messages %}{% if loop.last and m.role == 'assistant' %}<think></think>"
        "{% endif %}[{{ m.role }}] {{ m.content }}<|im_end|>{% endfor %}"
    )
    turns = [*TALK, {"role": "user", "content": "Size?"}, {"role": "assistant", "content": "L"}]
    assert labelled_text(rewriting, turns).replace(" ", "") in (
        "Red.<|im_end|>L<|im_end|>",
        "Red.<|im_end|><think></think>[assistant]L<|im_end|>",
    )


FORMATS = [
    {"messages": TALK},
    {"prompt": "What colour?", "completion": "Red."},
    {"prompt": TALK[:1], "response": "Red."},
    {"instruction": "What", "input": "colour?", "output": "Red."},
    {
        "conversations": [
            {"from": "human", "value": "What colour?"},
            {"from": "gpt", "value": "Red."},
        ]
    },
]


@pytest.mark.parametrize("row", FORMATS)
def test_every_row_format_is_converted_to_a_chat(row: dict[str, Any]) -> None:
    chat = to_chat(row, "auto", "here")
    assert [turn["role"] for turn in chat["messages"]] == ["user", "assistant"]
    assert chat["messages"][-1]["content"] == "Red."


def test_parquet_and_jsonl_yield_the_same_rows(tmp_path: Path, write_jsonl: WriteRows) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{"messages": TALK}, {"messages": TALK[::-1]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    lines = read_source(SourceSpec(path=str(write_jsonl("a.jsonl", rows))))
    table = read_source(SourceSpec(path=str(tmp_path / "a.parquet")))
    assert [c["messages"] for c in lines] == [c["messages"] for c in table]


def test_hub_dataset_is_read_by_name_and_split(
    tmp_path: Path, write_jsonl: WriteRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use the real `datasets` library, on a local dataset."""
    folder = tmp_path / "org" / "talks"
    folder.mkdir(parents=True)
    rows = [{"messages": TALK}, {"messages": TALK}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = SourceSpec(path=f"hub:{folder}")
    assert len(read_source(source)) == 2
    test = read_source(source.model_copy(update={"split": "test"}))
    assert [chat["messages"] for chat in test] == [TALK]
    with pytest.raises(DataError, match="could not load the dataset"):
        read_source(SourceSpec(path="hub:nobody/nothing-like-this"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"messages": []}\n{"mess', ":2"),
        ('{"text": "no format"}', "fields: text"),
        ('{"messages": [{"role": "narrator", "content": "x"}]}', "narrator"),
        ('{"messages": [{"role": "user", "content": null}]}', "has no content"),
        ('{"messages": [{"from": "user"}]}', "messages format"),
        ('"just a string"', "unknown row format"),
        ("", "no rows"),
    ],
)
def test_error_for_malformed_row_names_file_and_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text.replace('{"messages": []}', json.dumps({"messages": TALK})))
    with pytest.raises(DataError) as caught:
        read_source(SourceSpec(path=str(path)))
    assert "bad.jsonl" in str(caught.value)
    assert message in str(caught.value)


def test_pickles_and_missing_files_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(DataError, match="pickles are never loaded"):
        read_source(SourceSpec(path=str(tmp_path / "x.pkl")))
    with pytest.raises(DataError, match="no such data file"):
        read_source(SourceSpec(path=str(tmp_path / "absent.jsonl")))
    with pytest.raises(DataError, match="no shipped data"):
        read_source(SourceSpec(path="shop:nonsense"))


def test_dataset_without_labelled_rows_is_rejected(tokenizer: Any, write_jsonl: WriteRows) -> None:
    """The published code ignores such rows silently."""
    path = write_jsonl("mute.jsonl", [{"messages": TALK[:1]}] * 3)
    with pytest.raises(DataError, match=r"no row has a labelled token \(3 dropped\)"):
        encode_sources([SourceSpec(path=str(path))], tokenizer, 64)


def test_report_counts_truncated_and_dropped_rows(tokenizer: Any, write_jsonl: WriteRows) -> None:
    long = [TALK[0], {"role": "assistant", "content": "word " * 100}]
    path = write_jsonl(
        "mixed.jsonl", [{"messages": TALK}, {"messages": TALK[:1]}, {"messages": long}]
    )
    report = encode_sources([SourceSpec(path=str(path))], tokenizer, 40).reports[0]
    assert (report.rows, report.dropped, report.cut, report.longest) == (2, 1, 1, 40)
    assert "1 cut, 1 dropped" in report.line()


def test_rows_in_both_train_and_heldout_are_rejected(
    tokenizer: Any, write_jsonl: WriteRows
) -> None:
    path = write_jsonl("a.jsonl", [{"messages": TALK}])
    spec = DataSpec(train=[{"path": str(path)}], heldout=[{"path": str(path)}])
    with pytest.raises(DataError, match="1 held-out row is also in the training data"):
        load_chats(spec, tokenizer)
    load_chats(spec.model_copy(update={"allow_duplicates": True}), tokenizer)


def test_marked_rows_show_the_labelled_part(tokenizer: Any, write_jsonl: WriteRows) -> None:
    path = write_jsonl("a.jsonl", [{"messages": TALK}])
    row = encode_sources([SourceSpec(path=str(path))], tokenizer, 64).rows[0]
    assert "⟦Red.<|im_end|>⟧" in marked(row, tokenizer)
