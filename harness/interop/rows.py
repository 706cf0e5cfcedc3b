"""Rows of files that other tools wrote, as they are read for an import.

Every value is checked as it is taken, so that a mistake is told by its field, not by Python.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.util.untrusted import parse_json, read_text

LONGEST_NAME = 200


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(where, row) of a JSON list or of JSON lines.

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
            f"the JSON list is broken at column {error.colno} of this line",
            where=f"{path}:{error.lineno}",
        ) from error
    except ValueError as error:
        raise DataError(f"the JSON list is broken: {told(error)}", where=str(path)) from error
    return listed


def _no_rows(text: str, line: str, where: str) -> DataError:
    """The error for a line that is not JSON, by what the file looks like."""
    try:
        whole = isinstance(parse_json(text), dict)
    except ValueError:
        whole = False
    if whole:
        return DataError(
            "one JSON object spread over several lines",
            where=where,
            hint="a list of objects is needed, or one object per line",
        )
    if not line.lstrip().startswith("{") and ("," in line or "\t" in line):
        return DataError(
            "not JSON; this looks like a table (CSV or TSV)",
            where=where,
            hint="convert it to JSON: one object per line, the columns as fields",
        )
    return DataError(
        "this line is not a JSON object",
        where=where,
        hint="a list of objects is needed, or one object per line",
    )


def inside(path: Path, folder: Path) -> bool:
    """Whether a file found in a folder really lies there: a link may lead anywhere."""
    return path.resolve().is_relative_to(folder.resolve())


def files_below(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that came from somewhere.

    Raises:
        DataError: one is a link that leads out of the folder.
    """
    found = sorted(folder.rglob(pattern))
    for path in found:
        if not inside(path, folder):
            raise DataError(
                "is a link that leads out of the imported folder",
                where=str(path),
                hint="name the file itself if you mean it",
            )
    return found


def told(error: Exception) -> str:
    """What is wrong with a row, short enough to print."""
    text = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
    return text if len(text) <= 200 else text[:200] + "…"


def named(value: Any, field: str) -> str:
    """A name out of a file. Raises ValueError: it is not text, empty or a text of its own."""
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME:
        raise ValueError(f"{field} must be a name of at most {LONGEST_NAME} characters")
    return value


def said(value: Any, field: str) -> str:
    """A text out of a file; null is an empty one. Raises ValueError for anything else."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field} must be text")
    return value or ""


def shown(value: Any) -> str:
    """A value out of a file, short enough for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def number(value: Any, field: str) -> float:
    """A finite number, written as such or as text. Raises ValueError."""
    try:
        if isinstance(value, bool):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{field} must be a number, not {shown(value)}")
    return found


def whole(value: Any, field: str) -> int:
    """A small number out of a file, written as such or as text. Raises ValueError."""
    found = number(value, field)
    if found != int(found) or abs(found) > 1 << 40:
        raise ValueError(f"{field} must be a whole number, not {shown(value)}")
    return int(found)


def when(value: Any) -> float:
    """Seconds since the epoch; 0 where a file does not tell. Raises ValueError."""
    seconds = number(0.0 if value in (None, "") else value, "tstamp")
    if not 0 <= seconds <= 1e11:
        raise ValueError(f"tstamp must be in seconds since 1970, not {shown(value)}")
    return seconds
