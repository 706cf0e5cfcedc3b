"""What a report is made of, and its Markdown form. `report_html` writes the same blocks as HTML.

Names, answers and verdicts are hostile text. In Markdown they stand in fences longer than any
they hold, or with everything escaped that a renderer could take for markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdharness.harness.util.text import safe_text


@dataclass(frozen=True)
class Heading:
    """A section begins."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain words."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of text under columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Text as it is: a config, a command, a tree. `title` makes it unfold in HTML."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class PlotPoint:
    """One point of a scatter with its intervals (low, high), both or neither known."""

    label: str
    x: float
    y: float
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None
    front: bool = False


@dataclass(frozen=True)
class Scatter:
    """Points with intervals, and a line through some places (the WiSE-FT curve)."""

    title: str
    x_label: str
    y_label: str
    marks: tuple[PlotPoint, ...]
    line: tuple[tuple[float, float], ...] = ()
    line_label: str = ""


@dataclass(frozen=True)
class LinePlot:
    """Curves over steps."""

    title: str
    y_label: str
    series: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]


@dataclass(frozen=True)
class IntervalPlot:
    """Figures of one kind with their intervals, one a row."""

    title: str
    rows: tuple[tuple[str, float, float | None, float | None], ...]


@dataclass(frozen=True)
class Radar:
    """Figures of several checkpoints over categories, from `low` (the middle) to `high`."""

    title: str
    categories: tuple[str, ...]
    series: tuple[tuple[str, tuple[float | None, ...]], ...]
    low: float
    high: float


@dataclass(frozen=True)
class Transcript:
    """One item: its prompt, and what two checkpoints answered and were given for it."""

    title: str
    prompt: str
    sides: tuple[tuple[str, str, str], ...] = field(default=())
    """(checkpoint, answer, verdict)"""


Picture = Scatter | LinePlot | IntervalPlot | Radar
Block = Heading | Paragraph | Table | Code | Transcript | Picture


# ---------------------------------------------------------------- Markdown


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """The report as Markdown; pictures become the tables behind them."""
    parts = [f"# {escape(title)}"]
    parts += [text for block in blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """One line of text that Markdown and HTML renderers show as it is."""
    plain = safe_text(text).replace("\n", " ").replace("\t", " ")
    return re.sub(r"([\\`*_{}\[\]<>#|~$!&])", r"\\\1", plain)


def fenced(text: str) -> str:
    """Text in a fence that it cannot close."""
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
    if isinstance(block, Code):
        title = f"{escape(block.title)}:\n\n" if block.title else ""
        return title + fenced(block.text)
    if isinstance(block, Transcript):
        parts = [f"### {escape(block.title)}", "Prompt:", fenced(block.prompt)]
        for name, answer, verdict in block.sides:
            parts += [f"{escape(name)} ({escape(verdict)}):", fenced(answer)]
        return "\n\n".join(parts)
    return _picture(block)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(escape, columns)) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(escape, row)) + " |" for row in rows]
    return "\n".join(lines)


def _picture(block: Picture) -> str:
    """The figures of a picture that no table beside it holds."""
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
            (category, *(number(values[place]) for _, values in block.series))
            for place, category in enumerate(block.categories)
        ]
        return f"*{escape(block.title)}*\n\n" + _table(("category", *names), cells)
    return ""


def number(value: float | None) -> str:
    """A figure in four digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """`value [low, high]`, as much as is known."""
    if value is None or low is None or high is None:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"
