"""Data files as chats: JSON, Parquet and Hub datasets, and their row formats.

Nothing is ever unpickled. A malformed line is an error with the file and the line. A row's fields
are honoured or refused by name; fields without meaning for training are listed as ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdharness.harness.config.data import SourceSpec
from kdharness.harness.config.shipped_data import shipped_file
from kdharness.harness.errors import DataError
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.untrusted import replace_surrogates
from kdharness.trainers.data.fields import (
    REASONING,
    joined,
    keys,
    looks_like_turn,
    parsed,
    read_tools,
    read_turns,
    without_nulls,
)
from kdharness.trainers.data.formats import ANSWERS, CHATS, detect_format
from kdharness.trainers.data.json_rows import json_rows
from kdharness.trainers.data.learning_flags import CUT, row_flags, shown, truth, was_cut
from kdharness.trainers.data.prompts import with_answers

Chat = dict[str, Any]
"""`{"messages": [...], "truncated": bool}` with roles system, user, assistant and tool; `tools`
and `variables` for the template; `unread` lists the ignored fields of the row and its turns."""

PARQUET_ROWS = 1024


def read_source(source: SourceSpec, *, former: bool = False) -> list[Chat]:
    """Read every row of a source as a chat.

    Args:
        source: where the rows are.
        former: learn the assistant's turns of a prompt as well, as runs of older versions do.

    Raises:
        DataError: a missing file, a malformed line (with its number), an unknown row format.
    """
    chats = []
    for where, row in _raw_rows(source):
        chats.append(to_chat(row, source.format, where, former=former))
        if source.limit is not None and len(chats) >= source.limit:
            break
    if not chats:
        raise DataError("this data has no rows", where=source.path)
    return chats


def _raw_rows(source: SourceSpec) -> Iterator[tuple[str, object]]:
    if source.path.startswith("hub:"):
        yield from _hub_rows(source)
        return
    path = shipped_file(source.path) or local_path(source.path)
    if exists(path, folder=True):
        raise DataError("is a folder", where=str(path), hint="give the data files in it")
    if not exists(path, folder=False):
        raise DataError(
            f"no such data file: {source.path[:200]}",
            where=str(path),
            hint="paths are relative to the config file; built-in data is named like shop:train, "
            "Hub datasets like hub:org/name",
        )
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
    elif path.suffix in {".jsonl", ".json", ".ndjson"}:
        yield from json_rows(path)
    else:
        raise DataError(
            f"unsupported data file type {path.suffix or '(no extension)'}",
            where=str(path),
            hint="use .jsonl, .json, .ndjson or .parquet; pickles are never loaded",
        )


def _parquet_rows(path: Path) -> Iterator[tuple[str, object]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", _table_row(replace_surrogates(row))
    except (pyarrow.ArrowException, OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"not a readable Parquet file: {error}", where=str(path)) from error


def _hub_rows(source: SourceSpec) -> Iterator[tuple[str, object]]:
    if not source.path.removeprefix("hub:").strip():
        raise DataError("missing dataset name", where=source.path, hint="use hub:org/name")
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "Hub datasets need the extra 'hub'",
            where=source.path,
            hint="pip install 'kdharness[hub]'",
        ) from error
    name = source.path.removeprefix("hub:")
    try:
        data = datasets.load_dataset(name, split=source.split)
    except Exception as error:  # the Hub, the network and the dataset's files each raise their own
        raise DataError(f"could not load the dataset: {error}", where=source.path) from error
    for number, row in enumerate(data):
        yield f"{source.path}: row {number}", _table_row(replace_surrogates(row))


def _table_row(row: object) -> object:
    """Drop the nulls of a table's row: tables give every object the fields of all others."""
    if not isinstance(row, Mapping):
        return row
    return {name: without_nulls(value) for name, value in row.items()}


# ---------------------------------------------------------------- row formats

_SYSTEM = ("system", "system_prompt", "system_message")
_REFUSED = {
    "chosen": "preference pairs are not supported: keep the chosen answer as the completion",
    "rejected": "preference pairs are not supported: keep the chosen answer as the completion",
    "chat_template": "set data.chat_template instead",
    **dict.fromkeys(
        ("image", "images", "audio", "audios", "video", "videos"), "only text is supported"
    ),
}
_READ = {
    *_SYSTEM,
    *_REFUSED,
    "truncated",
    "expert",
    "tools",
    "functions",
    "chat_template_kwargs",
    "enable_thinking",
    "documents",
    *CUT,
}


def to_chat(row: object, form: str, where: str, *, former: bool = False) -> Chat:
    """Read one row as a chat; for `former` see `read_source`.

    Raises:
        DataError: fields that fit no format, an unknown role, empty or non-text content, or a
            field that can be neither honoured nor ignored.
    """
    form = detect_format(row) if form == "auto" else form
    try:
        return _chat(row, form, where, former=former)
    except DataError as error:
        raise DataError(error.message, where=where, hint=error.hint) from error


def _chat(row: object, form: str, where: str, *, former: bool) -> Chat:
    fields: Mapping[str, object] = row if isinstance(row, Mapping) else {}
    for name, reason in _REFUSED.items():
        if fields.get(name):
            raise DataError(f"the field {name} is not supported: {reason}")
    if not form:
        raise DataError(
            f"unknown row format (fields: {keys(row)})",
            hint="use messages, prompt + completion, instruction + output, or conversations",
        )
    used: set[str] = set()
    unread_turns: set[str] = set()
    try:
        messages = _messages(row, form, used, unread_turns, former=former)
        messages = _with_system(fields, messages)
    except DataError as error:
        raise DataError(
            f"this row is not in the {form} format: {error.message}", hint=error.hint
        ) from error
    if not messages:
        raise DataError("this row has no turns")
    expert = fields.get("expert")
    if expert is not None and not isinstance(expert, str):
        raise DataError("expert is not a string")
    unread = {str(name) for name, value in fields.items() if value is not None}
    return {
        "messages": messages,
        "truncated": _cut(fields, messages),
        "expert": expert,
        "where": where,
        "tools": read_tools(fields),
        "variables": _variables(fields),
        "unread": tuple(sorted(unread - used - _READ - row_flags(fields, form))),
        "unread_turns": tuple(sorted(unread_turns)),
    }


def _cut(fields: Mapping[str, object], messages: list[dict[str, Any]]) -> bool:
    """Return whether the last answer was truncated when it was generated."""
    cut = [message.pop("cut", False) for message in messages]
    if any(c and m.get("train", True) for c, m in zip(cut[:-1], messages, strict=False)):
        raise DataError(
            "an answer before the last one was truncated when it was generated",
            hint="remove the turns after it, or set train: false on it",
        )
    truncated = fields.get("truncated") is not None and truth(fields["truncated"], "truncated")
    return truncated or cut[-1] or was_cut(fields)


def _messages(
    row: object, form: str, used: set[str], unread: set[str], *, former: bool
) -> list[dict[str, Any]]:
    if form == "sharegpt" and isinstance(row, list):
        return read_turns(row, unread)
    if not isinstance(row, Mapping):
        raise DataError(f"not an object: {shown(row)}")
    if form in CHATS:
        name = _given(row, CHATS[form], used)
        for field in ("reasoning_content", "tool_calls"):
            if row.get(field):
                raise DataError(f"{field} is given next to {name}", hint="move it into its turn")
        return [*_history(row, form, used), *read_turns(row[name], unread)]
    asked = _given(row, ("instruction",) if form == "alpaca" else ("prompt",), used)
    answer = _given(row, ANSWERS[form], used)
    question = row[asked]
    if form == "alpaca":
        more = _given(row, ("input", "context"), used, needed=False)
        question = joined(question, asked)
        parts = [question, joined(row[more], more) if more else ""]
        question = "\n\n".join(part for part in parts if part.strip())
    elif row.get("context"):
        raise DataError("context is not supported with prompt", hint="move it into the prompt")
    asks = (
        read_turns(question, unread)
        if _is_turns(question)
        else read_turns([{"role": "user", "content": _text(question, asked)}], unread)
    )
    answers = _answers(row, answer, used, unread)
    turns = [*asks, *answers] if former else with_answers(asks, answers)
    return [*_history(row, form, used), *turns]


def _answers(
    row: Mapping[str, object], answer: str, used: set[str], unread: set[str]
) -> list[dict[str, object]]:
    """Return a row's answer as turns, with the reasoning and calls given next to it."""
    beside = {
        name: row[name]
        for name in (*REASONING, "tool_calls")
        if row.get(name) and not (name == "reasoning" and row[name] in ("on", "off"))
    }
    if not _is_turns(row[answer]):
        used.update(beside)
        turn = {"role": "assistant", "content": _text(row[answer], answer), **beside}
        return read_turns([turn], unread)
    for name in beside.keys() & {"reasoning_content", "tool_calls"}:
        raise DataError(
            f"{name} is given next to a {answer} that is a list of turns",
            hint="move it into its turn",
        )
    return read_turns(row[answer], unread)


def _is_turns(value: object) -> bool:
    return isinstance(value, list) and all(map(looks_like_turn, value))


def _text(value: object, name: str) -> str:
    return joined(value, f"the {name}")


def _given(
    row: Mapping[str, object], names: tuple[str, ...], used: set[str], *, needed: bool = True
) -> str:
    """Return the one of these aliases that the row has."""
    present = [name for name in names if row.get(name) is not None]
    used.update(present)
    if len({shown(row[name]) for name in present if row[name] != ""}) > 1:
        raise DataError(f"{' and '.join(present)} contradict each other")
    if not present and needed:
        missing = " or ".join(names)
        null = next((name for name in names if name in row), None)
        raise DataError(f"{null} is null" if null else f"no {missing} (fields: {keys(row)})")
    return next((name for name in present if row[name] != ""), present[0] if present else "")


def _history(row: Mapping[str, object], form: str, used: set[str]) -> list[dict[str, object]]:
    """Return the earlier turns of a row, from its (question, answer) pairs."""
    history = row.get("history")
    if not history:
        return []
    if form in CHATS:
        raise DataError(f"history is given next to {CHATS[form][0]}")
    used.add("history")
    if isinstance(history, str):
        history = parsed(history, "history")
    if not isinstance(history, list) or not all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(isinstance(text, str) for text in pair)
        for pair in history
    ):
        raise DataError(f"history is not a list of [question, answer] pairs: {shown(history)}")
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for pair in history
        for role, text in zip(roles, pair, strict=True)
    ]


def _with_system(row: Mapping[str, object], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prepend the row's system text as its first turn."""
    given = {name: joined(row[name], name) for name in _SYSTEM if row.get(name)}
    if len(set(given.values())) > 1:
        raise DataError(f"{' and '.join(given)} contradict each other")
    if not given:
        return messages
    name, text = next(iter(given.items()))
    own = [turn for turn in messages if turn["role"] == "system"]
    if not own:
        return [{"role": "system", "content": text}, *messages]
    if own[0] is messages[0] and own[0]["content"].strip() == text.strip():
        return messages
    raise DataError(f"{name} conflicts with a system turn", hint="keep one of them")


def _variables(row: Mapping[str, object]) -> dict[str, object]:
    """Return the variables a row passes to the chat template."""
    given = row.get("chat_template_kwargs") or {}
    if isinstance(given, str):
        given = parsed(given, "chat_template_kwargs")
    if not isinstance(given, Mapping):
        raise DataError(f"chat_template_kwargs is not an object: {shown(given)}")
    variables = {str(name): value for name, value in given.items() if value is not None}
    if row.get("enable_thinking") is not None:
        wanted = truth(row["enable_thinking"], "enable_thinking")
        if variables.setdefault("enable_thinking", wanted) != wanted:
            raise DataError("enable_thinking and chat_template_kwargs contradict each other")
    documents = row.get("documents")
    if documents:
        if not isinstance(documents, list) or not all(isinstance(d, Mapping) for d in documents):
            raise DataError(f"documents is not a list of objects: {shown(documents)}")
        variables["documents"] = documents
    return variables
