"""The report: its sections, self-contained HTML, and escaping of hostile answers."""

from __future__ import annotations

import html.parser
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdharness.harness import cli
from kdharness.harness.analysis import tradeoff
from kdharness.harness.analysis.tradeoff import Axis, Roles, TradeOffView
from kdharness.harness.analysis.tradeoff_groups import TradeOff, TradeOffStatistics
from kdharness.harness.paths import Paths
from kdharness.harness.reports.blocks import (
    Code,
    Heading,
    IntervalPlot,
    LinePlot,
    Paragraph,
    PlotPoint,
    Radar,
    Scatter,
    Table,
    Transcript,
    escape,
    fenced,
    markdown,
)
from kdharness.harness.reports.build import collect
from kdharness.harness.reports.html import page
from kdharness.harness.reports.sections import summary_section
from kdharness.harness.reports.svg import picture
from kdharness.harness.stats.inference import Interval
from kdharness.harness.stats.tradeoff import PointStats
from kdharness.harness.store import Store
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Finish,
    Judgment,
    JudgmentStatus,
    Run,
    RunStatus,
    digest,
)
from kdharness.harness.util.ticks import ticks

HOSTILE = (
    "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b]52;c;aGk=\x07 \u202egnp.exe "
    "```\n````\n# not a heading\n[click](javascript:alert(3)) & <b>bold</b> '\"| |"
)
LEVELS = {"ref": (6.0, 0.2), "expert": (4.8, 0.7), "wise": (5.7, 0.4), "dae": (5.95, 0.66)}
METHODS = {"ref": "kd", "expert": "sft", "wise": "merge", "dae": "dae"}


class Page(html.parser.HTMLParser):
    """Parse HTML: its tags and attributes, and whether every opened tag is closed."""

    VOID = frozenset({"meta", "line", "path", "circle", "rect", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def fill_report_home(paths: Paths, text: str = "a plain answer") -> None:
    """Store a reference, an expert, a merge and a DAE checkpoint with rows, curves and a judge."""
    rng = np.random.default_rng(2)
    ids = {name: digest(name) for name in LEVELS}
    with Store(paths.store) as store:
        for n, (name, (general, domain)) in enumerate(LEVELS.items()):
            parents = {
                r: ids[r_]
                for r, r_ in (("reference", "ref"), ("expert", "expert"))
                if name in ("wise", "dae")
            }
            store.add_run(
                Run(
                    id=name,
                    method=METHODS[name],
                    status=RunStatus.FINISHED,
                    config_hash=name,
                    config={"method": METHODS[name], "seed": 1, "student": {"model": text}},
                    folder="",
                    created=1e9 + n,
                    started=1e9,
                    finished=1e9 + 60,
                    checkpoint=name,
                    info={"tokens": 1234},
                    error=text if name == "expert" else "",
                )
            )
            store.add_progress(name, points=[("loss", s, 3 - s / 9, 1.0) for s in range(1, 9)])
            store.add_checkpoint(
                Checkpoint(
                    id=ids[name],
                    name=name,
                    method=METHODS[name],
                    path="",
                    created=float(n),
                    run=name,
                    parents=parents,
                    info={"alpha": 0.5} if name == "wise" else {"flops": 2e12},
                )
            )
            for bench, mean, spread, judge in (
                ("mt-bench", general, 0.1, "openai:judge"),
                ("shop", domain, 0.1, "exact"),
            ):
                store.add_answers(
                    Answer(
                        id=f"{name}{bench}{i}",
                        checkpoint=ids[name],
                        bench=bench,
                        revision="1",
                        item=str(i),
                        turn=1,
                        text=f"{text} {name}",
                        finish=Finish.STOP,
                        prompt_hash="",
                        settings="",
                        created=1.0,
                    )
                    for i in range(40)
                )
                store.add_judgments(
                    Judgment(
                        id=f"{name}{bench}{i}",
                        checkpoint=ids[name],
                        bench=bench,
                        revision="1",
                        item=str(i),
                        turn=1,
                        category=f"{text[:9]}{i % 4}",
                        judge=judge,
                        metric="rating",
                        status=JudgmentStatus.OK,
                        created=1.0,
                        value=float(mean + rng.normal(0, spread)),
                        usd=0.01,
                        tokens=5,
                    )
                    for i in range(40)
                )
        store.add_card(
            "openai:judge",
            {
                "labels": ["talks-back"],
                "calls": 3,
                "failed": 0,
                "created": 1e9,
                "checks": {"readable": {"share": 0.9, "low": 0.8, "high": 1.0, "n": 20}},
                "ratings": {
                    "intact_above_spoilt": {"share": 0.7, "low": 0.5, "high": 0.9, "n": 20}
                },
            },
        )


def report(paths: Paths, tmp_path: Path, *more: str) -> tuple[str, str]:
    out = tmp_path / "out.html"
    assert cli.run(["--home", str(paths.home), "report", "--output", str(out), *more]) == 0
    return out.read_text("utf-8"), out.with_suffix(".md").read_text("utf-8")


@pytest.mark.slow
def test_report_has_all_sections(paths: Paths, tmp_path: Path) -> None:
    fill_report_home(paths)
    for text in report(paths, tmp_path, "--question", "Does it keep?"):
        for heading in (
            "Question",
            "Summary",
            "Runs",
            "Lineage",
            "Leaderboard",
            "Trade-off",
            "Differences from the reference",
            "Curves",
            "Categories",
            "Judges",
            "Flags",
            "Costs",
            "Transcripts with the largest differences",
            "How to reproduce",
        ):
            assert heading in text, heading
        for words in (
            "Does it keep?",
            "Against the WiSE-FT curve, significantly above: dae",
            "expert: expert",
            "1,234",
            "a plain answer dae",
            "kdharness train",
        ):
            assert words in text, words
        assert re.search(r"retains at least 0\.98 of the general score: dae", text)


@pytest.mark.slow
def test_the_answer_its_picture_and_the_matrix_come_first(paths: Paths, tmp_path: Path) -> None:
    fill_report_home(paths)
    text, twin = report(paths, tmp_path)
    opened = re.findall(r"<section id=.*?<h2>(.*?)</h2>", text)
    assert opened[:4] == ["Question", "Summary", "Trade-off", "Scores"]
    folded = re.findall(r'<details class="section".*?<h2>(.*?)</h2>', text)
    assert {"Trade-off in numbers", "Leaderboard", "Runs", "Costs"} <= set(folded)
    assert not set(opened) & set(folded)
    matrix = text.split('<table class="matrix">')[1].split("</table>")[0]
    assert '<th scope="row">' in matrix and '<th scope="col"' in matrix
    assert "<th>" not in text
    order = re.findall(r"^## (.*)$", twin, re.M)
    assert order[:4] == ["Question", "Summary", "Trade-off", "Scores"]


@pytest.mark.slow
def test_the_leaderboard_is_computed_once(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trade-off reads its points from the scores that the report has already."""

    def again(*_: object, **__: object) -> None:
        raise AssertionError("the leaderboard is computed a second time")

    fill_report_home(paths)
    monkeypatch.setattr(tradeoff, "leaderboard", again)
    with Store(paths.store) as store:
        assert Heading("Trade-off") in collect(store, paths)


@pytest.mark.slow
def test_costs_count_each_training_once(paths: Paths, tmp_path: Path) -> None:
    fill_report_home(paths)
    _, twin = report(paths, tmp_path)
    rows: dict[str, list[str]] = {}
    for line in twin.split("## Costs")[1].split("## ")[0].splitlines():
        name, *cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
        rows.setdefault(name, cells)
    assert rows["dae"][:3] == ["1,234", "2e12", "6e12"] and rows["wise"][:3] == ["0", "0", "4e12"]
    assert rows["dae"][4:] == ["40", "0.40"] and rows["openai:judge"][0] == "160"


@pytest.mark.slow
def test_html_is_well_formed_and_self_contained(paths: Paths, tmp_path: Path) -> None:
    fill_report_home(paths)
    text, _ = report(paths, tmp_path)
    parsed = Page(text)
    assert not parsed.open
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attrs in parsed.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "src"], tag
        assert str(attrs.get("href", "#")).startswith("#")
    assert "url(" not in text and "@import" not in text
    svgs = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(svgs) >= 6
    for svg in svgs:
        ET.fromstring(svg)
        assert "nan" not in svg and "inf" not in svg


@pytest.mark.slow
def test_hostile_answers_names_and_errors_are_escaped(paths: Paths, tmp_path: Path) -> None:
    fill_report_home(paths, HOSTILE)
    text, twin = report(paths, tmp_path, "--title", HOSTILE, "--question", HOSTILE)
    parsed = Page(text)
    assert not parsed.open
    assert not {tag for tag, _ in parsed.tags} & {"script", "img"}
    assert "<script" not in text and "<img" not in text and "javascript:" in parsed.words
    for raw in (text, twin):
        assert "\x1b" not in raw and "\x07" not in raw and "\u202e" not in raw
    # Outside fences nothing is parsed as markup; inside, no line closes the fence early.
    fence = ""
    for line in twin.splitlines():
        opened = re.match(r"(`{3,})(text)?$", line)
        if not fence and opened and opened[2]:
            fence = opened[1]
        elif fence and line == fence:
            fence = ""
        elif not fence:
            assert not re.search(r"(?<!\\)<(script|img|b)", line), line
            assert "](javascript" not in line.replace("\\]", "")
    assert not fence


def test_report_of_an_empty_home_states_that_data_is_missing(paths: Paths, tmp_path: Path) -> None:
    paths.home.mkdir()
    text, twin = report(paths, tmp_path)
    assert "No trade-off available yet" in text and "No scores yet" in twin
    assert not Page(text).open


def test_invalid_arguments_exit_with_2(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths.home.mkdir()
    home = ["--home", str(paths.home), "report"]
    assert cli.run([*home, "--output", str(tmp_path / "a.md")]) == 2
    assert cli.run([*home, "--output", str(tmp_path / "no" / "a.html")]) == 2
    assert cli.run([*home, "--output", str(tmp_path / "a.html"), "--general", "no:thing"]) == 2
    assert "no checkpoint has no:thing" in capsys.readouterr().err


@pytest.mark.slow
def test_non_significant_difference_is_reported_as_such(paths: Paths) -> None:
    fill_report_home(paths)
    with Store(paths.store) as store:
        twin = Checkpoint(id="t", name="twin", method="dae", path="", created=9.0)
        store.add_checkpoint(twin)
        for bench in ("mt-bench", "shop"):
            store.add_judgments(
                [
                    Judgment(**{**vars(j), "id": f"t{j.id}", "checkpoint": "t"})
                    for j in store.judgments(digest("wise"), bench)
                ]
            )
        words = " ".join(b.text for b in collect(store, paths) if isinstance(b, Paragraph))
    assert re.search(r"WiSE-FT curve, .*not significantly above or below: [^;]*twin", words)


# ---------------------------------------------------------------- pieces

EDGE_CASES: list[Any] = [
    Scatter("t", "x", "y", (PlotPoint("only", 1.0, 1.0),)),
    Scatter(
        "t",
        "x",
        "y",
        (PlotPoint(HOSTILE, 0.0, -5.0, (-1.0, 1.0), (-6.0, -4.0), True), PlotPoint("b", 1e9, 3.0)),
        ((0.0, 0.0), (1.0, 1.0)),
        "line",
    ),
    LinePlot("t", "loss", (("a", ((1.0, 2.0),)), ("b", ((1.0, float("nan")), (2.0, 1.0))))),
    LinePlot("t", "loss", (("a", ()),)),
    IntervalPlot("t", (("a", 0.0, None, None), (HOSTILE, 0.0, 0.0, 0.0))),
    Radar("t", ("a", "b", "c"), (("m", (1.0, None, 20.0)), ("n", (None, None, None))), 0.0, 10.0),
    Radar("t", ("a", "b", "c"), (("m", (0.0, 0.0, 0.0)),), 0.0, 0.0),
    # Infinite scores of a benchmark of one's own.
    IntervalPlot("t", (("a", math.inf, -math.inf, math.inf), ("b", 0.0, 0.0, 1.0))),
    Radar("t", ("a", "b", "c"), (("m", (math.inf, -math.inf, 0.0)),), 0.0, 1.0),
    Scatter("t", "x", "y", (PlotPoint("a", -math.inf, math.inf, (0.0, math.inf)),)),
]


@pytest.mark.parametrize("block", EDGE_CASES)
def test_plots_of_edge_cases_are_valid_svg(block: Any) -> None:
    svg = picture(block)
    ET.fromstring(svg)
    assert "nan" not in svg and '"inf' not in svg and "<script" not in svg
    assert markdown("t", [block]).startswith("# t")


def test_ticks_are_round_and_within_range() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(3, 3) == [3]
    for low, high in ((-1e-7, 3e-7), (0.013, 0.48), (-5e8, 9e9)):
        values = ticks(low, high)
        assert 3 <= len(values) <= 7 and low <= values[0] and values[-1] <= high * (1 + 1e-9)


def test_blocks_are_escaped_in_html_and_markdown() -> None:
    blocks: list[Any] = [
        Heading("<h>"),
        Paragraph("*a* <b>"),
        Table(("a|b",), (("x|<y>",),), "<c>"),
        Code("<script>", "t"),
        Transcript("<t>", HOSTILE, (("<n>", HOSTILE, "<v>"),)),
    ]
    text = page("<title>", blocks)
    assert not re.search(r"<(h|b|y|c|t|n|v|script|title)>(?!&lt;)", text.split("<body>")[1])
    assert "\\*a\\* \\<b\\>" in markdown("t", blocks)
    assert escape("a|b\nc") == "a\\|b c"
    assert fenced("```").startswith("````text\n")


def test_report_draws_no_conclusion_from_few_items() -> None:
    def short_answer(n: int, low: float | None) -> str:
        above = Interval(0.3, low, None if low is None else 0.5, n)
        view = TradeOffView(Axis("x", "x", False), Axis("y", "y", False), [], Roles("a", "b"))
        stats = TradeOffStatistics((PointStats("c", None, None, above),), keep=0.9)
        trade_off = TradeOff(view, (0.0, 0.0), None, stats)
        return " ".join(str(block) for block in summary_section(trade_off))

    assert "significantly above: c" in short_answer(5, 0.1)
    assert all("not significantly" in short_answer(*few) for few in ((4, 0.1), (2, None)))
