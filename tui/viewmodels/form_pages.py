"""What is shown beside a form: its YAML, what differs, and rows of its data. No widgets."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kdharness.harness.config.files import dump_config
from kdharness.harness.config.summary import config_diff
from kdharness.harness.config.training import AnyConfig
from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.util.text import safe_text
from kdharness.tui.commands import run_command
from kdharness.tui.viewmodels.form import Field, text_of, yaml_text
from kdharness.tui.viewmodels.rows import Line, text_lines

EXAMPLES = 8
"""Rows that are shown of a form's data, over all of its sources."""
EXAMPLE = re.compile(r".+ \([\w-]+, \d+ tokens\)")
"""The line above an example: where the row is, its kind, and its length."""
LOSSES = re.compile(r"\b[1-9]\d* (?:cut|dropped|empty answers?)\b")
LABELS = {"⟦": "good", "⟧": ""}
"""What opens and closes a labelled part -> the role of the text after it."""


def yaml_lines(values: Mapping[str, object]) -> list[Line]:
    """Return the values as YAML, its keys in colour."""
    lines: list[Line] = []
    for row in text_lines(yaml_text(values)):
        text = row[0][0]
        key, colon, rest = text.partition(":")
        lines.append([(key + colon, "series-1"), (rest, "")] if colon else [(text, "")])
    return lines


def diff_lines(base: Mapping[str, object], values: Mapping[str, object], origin: str) -> list[Line]:
    """Return what differs from the values that the form started from."""
    lines: list[Line] = [[(f"compared with {origin}", "strong")], []]
    for name, (old, new) in config_diff(base, values):
        lines.append([(name, "strong")])
        if old is not None:
            lines.append([(f"  - {safe_text(text_of(old), 200)}", "bad")])
        if new is not None:
            lines.append([(f"  + {safe_text(text_of(new), 200)}", "good")])
    return lines if len(lines) > 2 else [*lines, [("no differences", "dim")]]


def read_rows(paths: Paths, config: AnyConfig) -> str:
    """Return what `kdharness data show` prints for a config, from a process of its own.

    Raises:
        RunError: the rows cannot be read; the message is the command's.
    """
    with tempfile.TemporaryDirectory(prefix="kdharness-rows-") as scratch:
        file = Path(scratch) / "config.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        done = run_command(paths.home, "data", "show", str(file), "--rows", str(EXAMPLES))
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RunError("\n".join(lines[-6:]).removeprefix("error: ") or "no error message")
    return done.stdout


def rows_lines(text: str) -> list[Line]:
    """Return the rows with labelled parts, lengths and losses marked."""
    lines: list[Line] = []
    role = ""
    for row in text_lines(text):
        line = row[0][0]
        if line.startswith("warning: "):
            lines.append([("! ", "warn"), (line.removeprefix("warning: "), "warn")])
        elif not role and EXAMPLE.fullmatch(line):
            lines.append([(line, "strong")])
        elif "⟦" in line or "⟧" in line or role:
            parts, role = _labelled(line, role)
            lines.append(parts)
        else:
            lines.append(list(_losses(line)))
    return lines


def _labelled(line: str, role: str) -> tuple[Line, str]:
    """Return a line's parts, and the role that the next line begins with."""
    parts: Line = []
    for piece in re.split("([⟦⟧])", line):
        if piece in LABELS:
            role = LABELS[piece]
            parts.append((piece, "dim"))
        elif piece:
            parts.append((piece, role))
    return parts or [("", "")], role


def _losses(line: str) -> Iterable[tuple[str, str]]:
    """Yield a line's parts; numbers of lost rows stand out."""
    at = 0
    for found in LOSSES.finditer(line):
        yield line[at : found.start()], ""
        yield found[0], "warn"
        at = found.end()
    yield line[at:], ""


def section(fields: Sequence[Field], index: int, step: int) -> int:
    """Return the next or previous row without indentation."""
    tops = [i for i, field in enumerate(fields) if field.depth == 0]
    if step > 0:
        return next((i for i in tops if i > index), index)
    return next((i for i in reversed(tops) if i < index), 0)
