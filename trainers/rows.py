"""Data files as chats: reading JSONL, Parquet and hub data sets, and telling row formats apart.

Nothing is ever unpickled. A malformed line is an error that names the file and the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from kdharness.harness.config import SourceSpec
from kdharness.harness.errors import DataError
from kdharness.harness.paths import exists, local_path
from kdharness.harness.reading import parse_json, read_lines, whole_characters

Chat = dict[str, Any]
"""`{"messages": [...], "truncated": bool}` with roles system, user, assistant."""

SHIPPED = ("general", "shop")
SPLITS = ("train", "validation", "test")
PARQUET_ROWS = 1024
_ROLES = {
    "system": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "tool": "tool", "function": "tool",
}  # fmt: skip


def shipped_file(name: str) -> Path | None:
    """The file behind `general:train` or `shop:test`; None when the name is not of that form."""
    folder, sign, split = name.partition(":")
    if not sign or folder not in SHIPPED:
        return None
    path = Path(str(resources.files("kdharness.data"))) / folder / f"{split}.jsonl"
    if split not in SPLITS or not path.exists():
        raise DataError(f"no shipped data {name!r}", hint="splits: train, validation, test")
    return path


def read_source(source: SourceSpec) -> list[Chat]:
    """Every row of a source as a chat.

    Raises:
        DataError: a missing file, a malformed line (with its number), an unknown row format.
    """
    chats = []
    for where, row in _raw_rows(source):
        chats.append(to_chat(row, source.format, where))
        if source.limit is not None and len(chats) >= source.limit:
            break
    if not chats:
        raise DataError("this data has no rows", where=source.path)
    return chats


def _raw_rows(source: SourceSpec) -> Iterator[tuple[str, Any]]:
    if source.path.startswith("hub:"):
        yield from _hub_rows(source)
        return
    path = shipped_file(source.path) or local_path(source.path)
    if not exists(path, folder=False):
        raise DataError(
            "no such data file", where=str(path),
            hint="paths are relative to the config file; shipped data is named like shop:train",
        )  # fmt: skip
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix in {".jsonl", ".json", ".ndjson"}:
        yield from _jsonl_rows(path)
    else:
        raise DataError(
            f"cannot read {path.suffix or 'a file without an ending'}",
            where=str(path),
            hint="data is .jsonl or .parquet; pickles are never read",
        )


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in read_lines(path, DataError):
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"this line is not JSON: {error}", where=where) from error
        yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", whole_characters(row)
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"this is not a readable Parquet file: {error}", where=str(path)) from error


def _hub_rows(source: SourceSpec) -> Iterator[tuple[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "hub data sets need an extra", where=source.path, hint="pip install 'kdharness[hub]'"
        ) from error
    name = source.path.removeprefix("hub:")
    try:
        data = datasets.load_dataset(name, split=source.split)
    except Exception as error:  # the hub, the network and the data set's files each have theirs
        raise DataError(f"could not load the data set: {error}", where=source.path) from error
    for number, row in enumerate(data):
        yield f"{source.path}: row {number}", row


# ---------------------------------------------------------------- row formats


def detect_format(row: Any) -> str:
    """messages, prompt, alpaca or sharegpt, by the fields of a row; empty when none fits."""
    if not isinstance(row, dict):
        return ""
    if isinstance(row.get("messages"), list):
        return "messages"
    if isinstance(row.get("conversations"), list):
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if "prompt" in row and ("completion" in row or "response" in row):
        return "prompt"
    return ""


def to_chat(row: Any, form: str, where: str) -> Chat:
    """One row as a chat.

    Raises:
        DataError: fields that fit no format, an unknown role, empty or non-text content.
    """
    form = detect_format(row) if form == "auto" else form
    try:
        messages = _messages(row, form)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"this row is not in the {form} format: {error}", where=where) from error
    if not messages:
        fields = ", ".join(sorted(row))[:200] if isinstance(row, dict) else type(row).__name__
        raise DataError(
            f"cannot tell the format of this row (fields: {fields})", where=where,
            hint="use messages, prompt + completion, instruction + output, or conversations",
        )  # fmt: skip
    for turn in messages:
        if turn["role"] not in {"system", "user", "assistant", "tool"}:
            raise DataError(f"unknown role {turn['role'][:80]!r}", where=where)
        if not isinstance(turn["content"], str):
            raise DataError(f"the {turn['role']} turn's content is not text", where=where)
    expert = row.get("expert")
    if expert is not None and not isinstance(expert, str):
        raise DataError("expert is not a name", where=where)
    return {
        "messages": messages,
        "truncated": bool(row.get("truncated", False)),
        "expert": expert,
        "where": where,
    }


def _messages(row: Any, form: str) -> list[dict[str, Any]]:
    if form == "messages":
        return [_turn(turn, "role", "content") for turn in row["messages"]]
    if form == "sharegpt":
        return [_turn(turn, "from", "value") for turn in row["conversations"]]
    if form == "alpaca":
        prompt = row["instruction"]
        if row.get("input"):
            prompt = f"{prompt}\n\n{row['input']}"
        head = [{"role": "system", "content": row["system"]}] if row.get("system") else []
        return [*head, *_pair(prompt, row["output"])]
    if form == "prompt":
        answer = row["completion"] if "completion" in row else row["response"]
        if isinstance(row["prompt"], list):
            turns = [_turn(turn, "role", "content") for turn in row["prompt"]]
            rest = answer if isinstance(answer, list) else [
                {"role": "assistant", "content": answer}
            ]
            return turns + [_turn(turn, "role", "content") for turn in rest]
        return _pair(row["prompt"], answer)
    return []


def _turn(turn: Any, role: str, content: str) -> dict[str, Any]:
    name = turn[role]
    if not isinstance(name, str):
        raise TypeError(f"{role} is not text")
    kept: dict[str, Any] = {"role": _ROLES.get(name, name), "content": turn[content]}
    if turn.get("train") is not None:
        kept["train"] = turn["train"]
    return kept


def _pair(prompt: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
