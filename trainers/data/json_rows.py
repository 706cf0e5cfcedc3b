"""Rows of JSON files: one a line, or an array (of any layout) that fills the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.util import untrusted
from kdharness.harness.util.untrusted import parse_json, read_lines, read_text
from kdharness.trainers.data.fields import keys, looks_like_turn
from kdharness.trainers.data.formats import detect_format

_LAYOUT = "rows are JSON objects, one a line, or one array of them that fills the file"


def json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Read rows with the place of each.

    Raises:
        DataError: what is not JSON, with its line and column, or is not rows.
    """
    if _first_character(path) == "[":
        rows, error = _array(path)
        if rows is not None:
            for number, row in enumerate(rows, 1):
                yield f"{path}: row {number}", row
            return
        yield from _lines(path, error)
        return
    yield from _lines(path, None)


def _first_character(path: Path) -> str:
    """The first character that is not blank; empty where there is no regular file."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as stream:
            head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (OSError, ValueError):
        return ""
    return head[:1].decode("latin-1")


def _array(path: Path) -> tuple[list[Any] | None, DataError | None]:
    """The rows of a file that is one array, or why it is not."""
    try:
        if path.stat().st_size > untrusted.FILE_BYTES:
            return None, DataError(
                f"an array of more than {untrusted.FILE_BYTES:,} bytes",
                where=str(path),
                hint="write one row a line",
            )
        text = read_text(path, "the rows", error=DataError)
    except OSError:
        return None, None
    try:
        value = parse_json(text)
    except ValueError as error:
        line = getattr(error, "lineno", 0)
        return None, DataError(
            f"not JSON: {_reason(error)}",
            where=f"{path}:{line}" if line else str(path),
            hint=_LAYOUT,
        )
    chat = bool(value) and all(map(looks_like_turn, value))
    return ([value] if chat else value), None


def _lines(path: Path, error: DataError | None) -> Iterator[tuple[str, Any]]:
    """One row a line; `error` is why the whole file is not an array, where it begins like one."""
    first = True
    for number, line in read_lines(path, DataError):
        where = f"{path}:{number}"
        try:
            row = parse_json(line)
        except ValueError as problem:
            if first and error is not None:
                raise error from problem
            if first and line.lstrip().startswith(b"{") and _unfinished(problem):
                yield from _object(path, where, problem)
                return
            raise DataError(
                f"this line is not JSON: {_reason(problem)}", where=where, hint=_LAYOUT
            ) from problem
        first = False
        yield where, row


def _object(path: Path, where: str, problem: ValueError) -> Iterator[tuple[str, Any]]:
    """A file that is one object over several lines: a row, or something else."""
    try:
        row = parse_json(read_text(path, "the rows", error=DataError))
    except ValueError:
        raise DataError(
            "this line is not JSON: it ends before its value is complete",
            where=where,
            hint=_LAYOUT,
        ) from problem
    if not detect_format(row):
        raise DataError(
            f"a single object that is not a row (fields: {keys(row)})",
            where=str(path),
            hint=_LAYOUT,
        )
    yield f"{path}: row 1", row


def _unfinished(error: ValueError) -> bool:
    return isinstance(error, json.JSONDecodeError) and (
        error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
    )


def _reason(error: ValueError) -> str:
    """What is wrong with a text that should be JSON."""
    if _unfinished(error):
        return "it ends before its value is complete"
    if isinstance(error, json.JSONDecodeError):
        return f"unexpected text at column {error.colno}"
    return "it is not UTF-8 text" if isinstance(error, UnicodeError) else str(error)
