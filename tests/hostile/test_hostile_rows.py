"""Hostile training rows, chats and benchmark files, through the readers that runs use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdharness.harness.config.data import SourceSpec
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import DataError
from kdharness.harness.paths import Paths
from kdharness.harness.util import untrusted
from kdharness.judges.benchmarks.domain import UserBench
from kdharness.judges.benchmarks.heldout import Heldout
from kdharness.trainers.data.dataset import encode_sources
from kdharness.trainers.data.sources import read_source
from support.mutations import MALFORMED_FILES, as_json, corrupted, error_of, mutated

FAST = settings(settings.get_profile("hostile"), max_examples=100)
ROWS = (
    {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello!", "train": True},
        ],
        "truncated": False,
        "expert": "domain",
    },
    {"prompt": "Hi", "completion": "Hello!"},
    {"prompt": [{"role": "user", "content": "Hi"}], "response": "Hello!"},
    {"instruction": "Add", "input": "1 2", "output": "3", "system": "Count."},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
)
ITEMS = (
    {"id": "a", "prompt": "2 + 2?", "reference": "4", "metric": "exact_match", "category": "sums"},
    {
        "id": 7,
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}],
        "metric": ["rating", "rouge_l"],
        "rubric": "short",
        "max_new_tokens": 9,
        "temperature": 0.5,
    },
    {"turns": ["Hi", "And?"], "system": "Be kind.", "references": ["x", {"a": 1}]},
    {"prompt": "Which?", "reference": "b", "choices": ["a", "b"], "metric": "accuracy"},
)


def reader(path: Path, tokenizer: Any = None) -> Callable[[], Any]:
    """Return a call that reads the rows as training does, and encodes them given a tokenizer."""
    spec = SourceSpec(path=str(path))
    if tokenizer is None:
        return lambda: read_source(spec)
    return lambda: encode_sources([spec], tokenizer, 64)


@pytest.mark.slow
@FAST
@given(rows=st.lists(mutated(*ROWS), min_size=1, max_size=3))
@example(rows=[{"messages": [{"role": "assistant", "content": "\ud800 half"}]}])
@example(rows=[{"messages": [{"role": ["user"], "content": "x"}]}])
@example(rows=[{"prompt": "a", "completion": "b", "expert": {"a": 1}}])
def test_mutated_rows(rows: list[Any], tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(as_json, rows)), "utf-8")
    error = error_of(reader(path, tokenizer))
    if error is None:
        encoded = encode_sources([SourceSpec(path=str(path))], tokenizer, 64)
        assert encoded.rows and all(0 < len(row) <= 64 for row in encoded.rows)
    else:
        assert str(path) in str(error)


@pytest.mark.slow
@FAST
@given(raw=corrupted("\n".join(map(as_json, ROWS)).encode()))
def test_corrupted_rows(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    error_of(reader(path))


@pytest.mark.parametrize("raw", MALFORMED_FILES, ids=lambda raw: repr(raw[:12]))
def test_malformed_row_files_are_rejected(raw: bytes, tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.parquet"):
        path = tmp_path / name
        path.write_bytes(raw)
        error = error_of(reader(path))
        assert isinstance(error, DataError) and name in str(error)
    assert error_of(
        lambda: UserBench.load(Paths(tmp_path), EvalConfig(), str(tmp_path / "rows.jsonl"))
    )


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[1]).encode())
    assert len(read_source(SourceSpec(path=str(path)))) == 1


def test_overlong_lines_and_non_files_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untrusted, "LINE_BYTES", 10_000)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(ROWS[1]).encode() + b'\n{"prompt": "' + b"a" * 20_000)
    with pytest.raises(DataError, match=r"rows\.jsonl:2.*longer than"):
        reader(path)()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name in (
        "pipe.jsonl",
        "folder.jsonl",
        "none.jsonl",
        "a\0b.jsonl",
        "x" * 5000 + ".jsonl",
        "~nobody/rows.jsonl",
    ):
        assert error_of(reader(tmp_path / name)), name
        assert error_of(
            lambda name=name: UserBench.load(Paths(tmp_path), EvalConfig(), str(tmp_path / name))
        )


@pytest.mark.parametrize(
    "name",
    [
        "shop:../../../../etc/passwd",
        "general:../shop/train",
        "shop:train/../train",
        "shop:",
        "shop:/etc/passwd",
    ],
)
def test_shipped_data_names_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(DataError):
        read_source(SourceSpec(path=name))


def test_pickled_rows_are_rejected(tmp_path: Path) -> None:
    for name in ("rows.pkl", "rows.pt", "rows.bin", "rows"):
        (tmp_path / name).write_bytes(b"\x80\x04}q\x00.")
        with pytest.raises(DataError, match="pickles are never loaded"):
            reader(tmp_path / name)()


@pytest.mark.slow
@settings(FAST, max_examples=60)
@given(rows=st.lists(mutated(*ROWS), min_size=1, max_size=3), data=st.data())
def test_mutated_parquet(rows: list[Any], data: st.DataObject, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([r for r in rows if r]), path)
    except Exception:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROWS[0]]), path)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(corrupted(path.read_bytes())))
    error = error_of(reader(path))
    assert error is None or str(path) in str(error)


@pytest.mark.slow
@FAST
@given(rows=st.lists(mutated(*ITEMS), min_size=1, max_size=3), pairs=st.booleans())
@example(rows=[{"prompt": "x", "metric": []}], pairs=False)
@example(rows=[{"prompt": "x", "metric": [["rating"]]}], pairs=False)
@example(rows=[{"prompt": "x", "max_new_tokens": 10**30}], pairs=False)
@example(rows=[{"prompt": "x", "temperature": float("nan")}], pairs=False)
@example(rows=[{"prompt": "x", "id": {"a": [1]}}], pairs=True)
def test_mutated_benchmarks(rows: list[Any], pairs: bool, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(as_json, rows)), "utf-8")
    config = EvalConfig(baseline="other" if pairs else None)

    def load() -> None:
        bench = UserBench.load(Paths(tmp_path), config, str(path))
        assert bench.items and all(item.max_new_tokens >= 1 for item in bench.items)
        json.dumps([item.turns for item in bench.items]).encode("utf-8")

    error = error_of(load)
    assert error is None or "mine.jsonl" in str(error)


@settings(FAST, max_examples=40)
@given(rows=st.lists(mutated(*ROWS), min_size=1, max_size=3))
def test_mutated_heldout_rows(rows: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "held.jsonl"
    path.write_text("\n".join(map(as_json, rows)), "utf-8")
    config = EvalConfig(heldout={"general": str(path)})
    error_of(lambda: Heldout.load(Paths(tmp_path), config))
