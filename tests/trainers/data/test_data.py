"""From data files to planned batches: formats, labels, errors, shares, determinism."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.chat.template import encode_chat
from kdharness.harness.config.data import DataSpec, SourceSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError, DataError
from kdharness.trainers.data.batches import Collator, plan_batches
from kdharness.trainers.data.dataset import TrainRow, encode_sources, load_chats, marked
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
    with pytest.raises(DataError, match="1 held-out rows are also in the training data"):
        load_chats(spec, tokenizer)
    load_chats(spec.model_copy(update={"allow_duplicates": True}), tokenizer)


def test_marked_rows_show_the_labelled_part(tokenizer: Any, write_jsonl: WriteRows) -> None:
    path = write_jsonl("a.jsonl", [{"messages": TALK}])
    row = encode_sources([SourceSpec(path=str(path))], tokenizer, 64).rows[0]
    assert "⟦Red.<|im_end|>⟧" in marked(row, tokenizer)


# ---------------------------------------------------------------- batch plans


def make_rows(general: int, domain: int = 0) -> list[TrainRow]:
    rows = []
    for i in range(general + domain):
        length = 4 + (i * 7) % 23
        kind, source = ("general", 0) if i < general else ("domain", 1)
        labels = [-100] * 2 + list(range(length - 2))
        rows.append(TrainRow(list(range(length)), labels, kind, source, f"r{i}"))
    return rows


def data_spec(domain: bool = False, **changes: Any) -> DataSpec:
    train: list[dict[str, Any]] = [{"path": "g"}]
    if domain:
        train.append({"path": "d", "kind": "domain"})
    return DataSpec(train=train, **changes)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 90),
    size=st.integers(1, 9),
    accumulation=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_each_epoch_sees_every_row_once(rows: int, size: int, accumulation: int, seed: int) -> None:
    data = make_rows(rows)
    trainer = TrainerSpec(epochs=1, batch_size=size, accumulation=accumulation)
    plan = plan_batches(data, data_spec(), trainer, seed)
    seen = Counter(index for batch in plan.batches for index in batch)
    per_step = size * accumulation
    assert sum(seen.values()) == max(1, round(rows / per_step)) * per_step
    assert max(seen.values()) - min(seen[i] for i in range(rows)) <= 1 + per_step // rows


@pytest.mark.parametrize("share", [0.1, 0.37, 0.8])
@pytest.mark.parametrize(("general", "domain"), [(200, 10), (10, 200)])
def test_domain_share_is_independent_of_dataset_sizes(
    share: float, general: int, domain: int
) -> None:
    trainer = TrainerSpec(max_steps=100, batch_size=3, accumulation=2)
    plan = plan_batches(make_rows(general, domain), data_spec(True, domain_share=share), trainer, 1)
    assert plan.share["domain"] == pytest.approx(share, abs=0.01)


def test_rows_of_a_step_do_not_depend_on_batch_size_accumulation_or_world_size() -> None:
    rows, spec = make_rows(60, 60), data_spec(True, domain_share=0.3)

    def steps(size: int, accumulation: int, world: int) -> list[list[int]]:
        trainer = TrainerSpec(max_steps=12, batch_size=size, accumulation=accumulation)
        plan = plan_batches(rows, spec, trainer, 5, world)
        per = plan.per_step
        cut = [plan.batches[i : i + per] for i in range(0, per * 12, per)]
        return [sorted(index for batch in step for index in batch) for step in cut]

    whole = steps(8, 1, 1)
    assert steps(4, 2, 1) == steps(1, 8, 1) == steps(2, 2, 2) == steps(4, 1, 2) == whole


def test_two_ranks_split_one_batch_plan() -> None:
    trainer = TrainerSpec(max_steps=4, batch_size=2, accumulation=2)
    plan = plan_batches(make_rows(50), data_spec(), trainer, 3, world=2)
    first, second = plan.for_rank(0, 2), plan.for_rank(1, 2)
    assert [b for pair in zip(first, second, strict=True) for b in pair] == plan.batches
    assert len(first) == 8


def test_token_budgets_limit_padded_batches_and_total_tokens() -> None:
    trainer = TrainerSpec(max_tokens=900, tokens_per_batch=64)
    rows = make_rows(80)
    plan = plan_batches(rows, data_spec(), trainer, 2)
    for batch in plan.batches:
        assert max(len(rows[i]) for i in batch) * len(batch) <= 64
    assert 900 <= plan.tokens < 900 + 64
    assert plan.padding_share < 0.15


def test_length_bucketing_keeps_padding_low() -> None:
    rows = make_rows(240)
    plan = plan_batches(rows, data_spec(), TrainerSpec(epochs=1, batch_size=8), 1)
    assert plan.padding_share < 0.1


def test_batch_plan_is_deterministic_per_seed() -> None:
    rows, trainer = make_rows(70), TrainerSpec(epochs=2, batch_size=4)
    assert plan_batches(rows, data_spec(), trainer, 1) == plan_batches(
        rows, data_spec(), trainer, 1
    )
    assert plan_batches(rows, data_spec(), trainer, 1) != plan_batches(
        rows, data_spec(), trainer, 2
    )


def test_source_weights_set_the_sampling_ratio() -> None:
    rows = [TrainRow([1, 2, 3], [-100, 2, 3], "general", i % 2, str(i)) for i in range(40)]
    spec = DataSpec(train=[{"path": "a", "weight": 3}, {"path": "b", "weight": 1}])
    plan = plan_batches(rows, spec, TrainerSpec(max_steps=100, batch_size=4), 1)
    drawn = Counter(rows[i].source for batch in plan.batches for i in batch)
    assert drawn[0] / (drawn[0] + drawn[1]) == pytest.approx(0.75, abs=0.03)


def test_domain_share_without_domain_rows_is_rejected() -> None:
    with pytest.raises(ConfigError, match="only general rows"):
        plan_batches(make_rows(5), data_spec(domain_share=0.5), TrainerSpec(), 1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_collator_pads_labels_with_the_ignore_index(side: str) -> None:
    rows = [
        {"index": 4, "input_ids": [5, 6], "labels": [-100, 6], "kind": "domain"},
        {"index": 1, "input_ids": [7, 8, 9], "labels": [-100, 8, 9], "kind": "general"},
    ]
    batch = Collator(0, ["domain", "general"], side)(rows)
    pad = [[5, 6, 0]] if side == "right" else [[0, 5, 6]]
    assert batch["input_ids"].tolist() == [*pad, [7, 8, 9]]
    assert batch["labels"].ne(-100).sum() == 3
    assert batch["attention_mask"].sum() == 5
    assert batch["kind"].tolist() == [0, 1]
