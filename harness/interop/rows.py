"""Read rows of other tools' files for an import.

Every value is validated as it is read, so that errors name the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.util.untrusted import parse_json, read_text

LONGEST_NAME = 200


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the (where, row) pairs of a JSON list or a JSON Lines file.

    Raises:
        DataError: unreadable, with the line or entry.
    """
    text = read_text(path, "the file", error=DataError)
    start = text.lstrip()
    if start.startswith("["):
        pairs = [(f"{path}, entry {n}", row) for n, row in enumerate(_parsed(text, path), start=1)]
    else:
        pairs = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                pairs.append((f"{path}, line {number}", parse_json(line)))
            except ValueError as error:
                raise _no_rows(text, line, f"{path}, line {number}") from error
    for where, row in pairs:
        if not isinstance(row, dict):
            raise DataError("not a JSON object", where=where)
    return pairs


def _parsed(text: str, path: Path) -> list[Any]:
    try:
        listed: list[Any] = parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"invalid JSON list at column {error.colno}",
            where=f"{path}:{error.lineno}",
        ) from error
    except ValueError as error:
        raise DataError(f"invalid JSON list: {describe_error(error)}", where=str(path)) from error
    return listed


def _no_rows(text: str, line: str, where: str) -> DataError:
    """Return the error for a line that is not JSON, depending on what the file looks like."""
    try:
        is_object = isinstance(parse_json(text), dict)
    except ValueError:
        is_object = False
    if is_object:
        return DataError(
            "a single JSON object over several lines",
            where=where,
            hint="use a list of objects, or one object per line",
        )
    if not line.lstrip().startswith("{") and ("," in line or "\t" in line):
        return DataError(
            "not JSON; this looks like a table (CSV or TSV)",
            where=where,
            hint="convert it to JSON: one object per line, with the columns as fields",
        )
    return DataError(
        "this line is not a JSON object",
        where=where,
        hint="use a list of objects, or one object per line",
    )


def inside(path: Path, folder: Path) -> bool:
    """Return whether a file is really inside a folder, after resolving symbolic links."""
    return path.resolve().is_relative_to(folder.resolve())


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Return the matching files of an untrusted folder.

    Raises:
        DataError: one is a symbolic link that points outside the folder.
    """
    paths = sorted(folder.rglob(pattern))
    for path in paths:
        if not inside(path, folder):
            raise DataError(
                "a symbolic link that points outside the imported folder",
                where=str(path),
                hint="to import it anyway, pass the file itself",
            )
    return paths


def describe_error(error: Exception) -> str:
    """Return a short description of an error in a row."""
    text = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
    return text if len(text) <= 200 else text[:200] + "…"


def read_name(value: object, field: str) -> str:
    """Return a name read from a file. Raises ValueError if it is not text, empty or too long."""
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME:
        raise ValueError(f"{field} must be a name of at most {LONGEST_NAME} characters")
    return value


def read_object(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object of a results file; empty if it is missing."""
    found = raw.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be an object, not {shown(found)}")
    return found


def read_string(value: object, field: str) -> str:
    """Return a text read from a file; null is empty. Raises ValueError for anything else."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field} must be text")
    return value or ""


def shown(value: object) -> str:
    """Return a value read from a file, shortened for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def number(value: Any, field: str) -> float:
    """Return a finite number, given as a number or as text. Raises ValueError."""
    try:
        if isinstance(value, bool):
            raise TypeError
        parsed = float(value)
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if not math.isfinite(parsed):
        raise ValueError(f"{field} must be a number, not {shown(value)}")
    return parsed


def read_integer(value: object, field: str) -> int:
    """Return an integer, given as a number or as text. Raises ValueError."""
    parsed = number(value, field)
    if parsed != int(parsed) or abs(parsed) > 1 << 40:
        raise ValueError(f"{field} must be an integer, not {shown(value)}")
    return int(parsed)


def read_time(value: object) -> float:
    """Return seconds since the epoch; 0 if missing. Raises ValueError."""
    seconds = number(0.0 if value in (None, "") else value, "tstamp")
    if not 0 <= seconds <= 1e11:
        raise ValueError(f"tstamp must be in seconds since 1970, not {shown(value)}")
    return seconds
