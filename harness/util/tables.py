"""Listings: any list of rows as a table, JSON, CSV or Markdown.

Text from models and users is untrusted: control characters, escape sequences and bidi marks are
escaped before anything reaches a terminal (`safe_text`).
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence

from kdharness.harness.util.text import safe_text

FORMATS = ("table", "json", "csv", "md")


def escape_unencodable() -> None:
    """Escape characters that the output streams' encoding lacks, instead of failing.

    Windows consoles and `LANG=C` do not encode all of Unicode, and a listing contains whatever
    models and users wrote.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def cell(value: object) -> str:
    """Format one value as table text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:z.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return " ".join(str(part) for part in value)
    return safe_text(str(value).replace("\n", " "), 200)


def finite(value: object) -> object:
    """Return plain data in which NaN and infinite numbers, which JSON does not have, are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return value


def format_rows(rows: Sequence[Mapping[str, object]], columns: Sequence[str], form: str) -> str:
    """Format rows in one of `FORMATS`. JSON keeps every key; the others show `columns`."""
    if form == "json":
        return json.dumps(finite(list(rows)), indent=2, ensure_ascii=True, default=str)
    if form == "csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(["" if row.get(c) is None else csv_value(row[c]) for c in columns])
        return buffer.getvalue().rstrip("\n")
    if form == "md":
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in rows:
            values = (cell(row.get(c)).replace("|", "\\|") for c in columns)
            lines.append("| " + " | ".join(values) + " |")
        return "\n".join(lines)
    return _table(rows, columns)


def csv_value(value: object) -> str:
    """Format a CSV cell; text with a leading =, +, - or @ is quoted against formula injection."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    text = safe_text(str(value))
    return f"'{text}" if isinstance(value, str) and text[:1] in "=+-@" else text


def _table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Align columns as plain text: numbers to the right, no rules, never cut to the terminal."""
    from rich.cells import cell_len

    body = [[cell(row.get(column)) for column in columns] for row in rows]
    numeric = [
        all(isinstance(row.get(c), (int, float)) or row.get(c) is None for row in rows) and rows
        for c in columns
    ]
    widths = [
        max([cell_len(column), *(cell_len(line[i]) for line in body)])
        for i, column in enumerate(columns)
    ]

    def line(values: Sequence[str]) -> str:
        parts = []
        for value, width, right in zip(values, widths, numeric, strict=True):
            pad = " " * (width - cell_len(value))
            parts.append(pad + value if right else value + pad)
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(columns)), *(line(values) for values in body)])


def print_table(rows: Sequence[Mapping[str, object]], columns: Sequence[str], form: str) -> None:
    """Print a listing to stdout; the note about an empty one goes to stderr."""
    if not rows and form == "table":
        print("nothing to show yet", file=sys.stderr)
        return
    print(format_rows(rows, columns, form))
