"""The blocks of a report, and their Markdown form. `reports.html` renders the same blocks as HTML.

Names, answers and verdicts are untrusted text. In Markdown they are put into fences longer than
any they contain, or escaped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdharness.harness.util.text import safe_text


@dataclass(frozen=True)
class Heading:
    """A section heading; in HTML a folded section opens on a click."""

    text: str
    folded: bool = False


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class MatrixColumn:
    """A score of all checkpoints; pale if there are few items or the judge is untested."""

    title: str
    detail: str
    pale: bool = False


@dataclass(frozen=True)
class MatrixCell:
    """A score, its interval, what marks it, and where interval and score lie in 0 to 100."""

    value: str
    interval: str = ""
    mark: str = ""
    ends: tuple[float, float] | None = None
    place: float = 0.0


@dataclass(frozen=True)
class MatrixRow:
    """The scores of a checkpoint."""

    name: str
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class Matrix:
    """Checkpoints by scores."""

    columns: tuple[MatrixColumn, ...]
    rows: tuple[MatrixRow, ...]
    caption: str
    reference: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Code:
    """Verbatim text: a config, a command, a tree. With a `title` it is collapsible in HTML."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class PlotPoint:
    """One point of a scatter plot with its intervals (low, high)."""

    label: str
    x: float
    y: float
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None
    front: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points with intervals, and a line (the WiSE-FT curve).

    `paths` are further lines without a name; a reversed axis has its lowest value at its end.
    """

    title: str
    x_label: str
    y_label: str
    marks: tuple[PlotPoint, ...]
    line: tuple[tuple[float, float], ...] = ()
    line_label: str = ""
    paths: tuple[tuple[tuple[float, float], ...], ...] = ()
    x_reverse: bool = False
    y_reverse: bool = False


@dataclass(frozen=True)
class LinePlot:
    """Curves over steps, or over what `x_label` names; `log` makes the other axis logarithmic."""

    title: str
    y_label: str
    series: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    x_label: str = "step"
    log: bool = False


@dataclass(frozen=True)
class IntervalPlot:
    """Scores on one metric with their intervals, one per row."""

    title: str
    rows: tuple[tuple[str, float, float | None, float | None], ...]


@dataclass(frozen=True)
class Radar:
    """Scores of several checkpoints over categories, from `low` (the centre) to `high`."""

    title: str
    categories: tuple[str, ...]
    series: tuple[tuple[str, tuple[float | None, ...]], ...]
    low: float
    high: float


@dataclass(frozen=True)
class Transcript:
    """One item: its prompt, and the answers and scores of two checkpoints."""

    title: str
    prompt: str
    sides: tuple[tuple[str, str, str], ...] = field(default=())
    """(checkpoint, answer, verdict)"""
    others: tuple[tuple[str, str], ...] = ()
    """(whose it is, text) of what the answers were compared with"""


Picture = Scatter | LinePlot | IntervalPlot | Radar
Block = Heading | Paragraph | Table | Matrix | Code | Transcript | Picture


# ---------------------------------------------------------------- Markdown


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """Render the report as Markdown; figures become tables."""
    parts = [f"# {escape(title)}"]
    parts += [text for block in blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Escape a line of text for Markdown and HTML renderers."""
    plain = safe_text(text).replace("\n", " ").replace("\t", " ")
    return re.sub(r"([\\`*_{}\[\]<>#|~$!&])", r"\\\1", plain)


def fenced(text: str) -> str:
    """Put text into a fence that it cannot close."""
    clean = safe_text(text)
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{clean}\n{fence}"


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {escape(block.text)}"
    if isinstance(block, Paragraph):
        return escape(block.text)
    if isinstance(block, Table):
        caption = f"*{escape(block.caption)}*\n\n" if block.caption else ""
        return caption + _table(block.columns, block.rows)
    if isinstance(block, Matrix):
        return _matrix(block)
    if isinstance(block, Code):
        title = f"{escape(block.title)}:\n\n" if block.title else ""
        return title + fenced(block.text)
    if isinstance(block, Transcript):
        parts = [f"### {escape(block.title)}", "Prompt:", fenced(block.prompt)]
        for name, answer, verdict in block.sides:
            parts += [f"{escape(name)} ({escape(verdict)}):", fenced(answer)]
        for title, text in block.others:
            parts += [f"{escape(title)}:", fenced(text)]
        return "\n\n".join(parts)
    return _picture(block)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(escape, columns)) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(escape, row)) + " |" for row in rows]
    return "\n".join(lines)


def _matrix(block: Matrix) -> str:
    columns = ["checkpoint", *(f"{c.title} ({c.detail})" for c in block.columns)]
    rows = []
    for row in block.rows:
        cells = [
            " ".join(filter(None, [cell.value, cell.interval and f"[{cell.interval}]", cell.mark]))
            if cell
            else "–"
            for cell in row.cells
        ]
        name = f"{row.name} (reference)" if row.name == block.reference else row.name
        rows.append([name, *cells])
    notes = "".join(f"\n\n{escape(note)}" for note in block.notes)
    return f"*{escape(block.caption)}*\n\n{_table(columns, rows)}{notes}"


def _picture(block: Picture) -> str:
    """Render a figure's values, if no other table of the report has them."""
    if isinstance(block, LinePlot):
        rows = [
            (name, number(points[0][1]), number(points[-1][1]), f"{points[-1][0]:g}")
            for name, points in block.series
            if points
        ]
        return f"*{escape(block.title)}*\n\n" + _table(("run", "first", "last", "steps"), rows)
    if isinstance(block, Radar):
        names = [name for name, _ in block.series]
        cells = [
            (category, *(number(values[index]) for _, values in block.series))
            for index, category in enumerate(block.categories)
        ]
        return f"*{escape(block.title)}*\n\n" + _table(("category", *names), cells)
    return ""


def number(value: float | None) -> str:
    """Format a number with four digits; None is a dash."""
    return "–" if value is None else f"{value:z.4g}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Format `value [low, high]`, or only the value if there is no interval."""
    if value is None or low is None or high is None:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"
