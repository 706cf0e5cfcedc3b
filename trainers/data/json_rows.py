"""Rows of JSON files: one per line, or a single array (of any layout)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.util import untrusted
from kdharness.harness.util.repeated_fields import RepeatedFieldError
from kdharness.harness.util.untrusted import parse_json, read_lines, read_text
from kdharness.trainers.data.fields import keys, looks_like_turn
from kdharness.trainers.data.formats import detect_format

_LAYOUT = "rows are JSON objects, one per line, or a single array of them"


def json_rows(path: Path) -> Iterator[tuple[str, object]]:
    """Yield each row with its location.

    Raises:
        DataError: invalid JSON, with its line and column, or JSON that is not rows.
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
    """Return the first character that is not whitespace; empty if not a regular file."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as stream:
            head = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (OSError, ValueError):
        return ""
    return head[:1].decode("latin-1")


def _array(path: Path) -> tuple[list[Any] | None, DataError | None]:
    """Return the rows of a file that is a single array, or why it is not one."""
    try:
        if path.stat().st_size > untrusted.FILE_BYTES:
            return None, DataError(
                f"an array of more than {untrusted.FILE_BYTES:,} bytes",
                where=str(path),
                hint="write one row per line",
            )
        text = read_text(path, "the rows", error=DataError)
    except OSError:
        return None, None
    try:
        value = parse_json(text, unique=True)
    except RepeatedFieldError as error:
        return None, _repeated(error, str(path))
    except ValueError as error:
        line = getattr(error, "lineno", 0)
        return None, DataError(
            f"not JSON: {_reason(error)}",
            where=f"{path}:{line}" if line else str(path),
            hint=_LAYOUT,
        )
    chat = bool(value) and all(map(looks_like_turn, value))
    return ([value] if chat else value), None


def _lines(path: Path, error: DataError | None) -> Iterator[tuple[str, object]]:
    """Yield one row per line; `error` is why a file that starts like an array is not one."""
    first = True
    for number, line in read_lines(path, DataError):
        where = f"{path}:{number}"
        try:
            row = parse_json(line, unique=True)
        except RepeatedFieldError as cause:
            raise _repeated(cause, where) from cause
        except ValueError as cause:
            if first and error is not None:
                raise error from cause
            if first and line.lstrip().startswith(b"{") and _unfinished(cause):
                yield from _object(path, where, cause)
                return
            raise DataError(
                f"this line is not JSON: {_reason(cause)}", where=where, hint=_LAYOUT
            ) from cause
        first = False
        yield where, row


def _object(path: Path, where: str, cause: ValueError) -> Iterator[tuple[str, object]]:
    """Read a file that is one object over several lines: a single row, or an error."""
    try:
        row = parse_json(read_text(path, "the rows", error=DataError), unique=True)
    except RepeatedFieldError as error:
        raise _repeated(error, str(path)) from error
    except ValueError:
        raise DataError(
            "this line is not JSON: unexpected end of input",
            where=where,
            hint=_LAYOUT,
        ) from cause
    if not detect_format(row):
        raise DataError(
            f"a single object that is not a row (fields: {keys(row)})",
            where=str(path),
            hint=_LAYOUT,
        )
    yield f"{path}: row 1", row


def _repeated(error: RepeatedFieldError, where: str) -> DataError:
    return DataError(str(error), where=where, hint="remove one of them")


def _unfinished(error: ValueError) -> bool:
    return isinstance(error, json.JSONDecodeError) and (
        error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
    )


def _reason(error: ValueError) -> str:
    """Return what is wrong with a text that should be JSON."""
    if _unfinished(error):
        return "unexpected end of input"
    if isinstance(error, json.JSONDecodeError):
        return f"unexpected text at column {error.colno}"
    return "not UTF-8 text" if isinstance(error, UnicodeError) else str(error)
