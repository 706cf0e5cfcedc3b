"""Render a report's blocks as one self-contained HTML file, through `report.html.jinja`.

It has no scripts, and its content security policy forbids them, so that an answer that got past
the escaping still could not run. Figures are inline SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise

from jinja2 import Environment

from kdharness.harness.reports.blocks import Block, Heading, Scatter
from kdharness.harness.reports.svg import picture
from kdharness.harness.util.text import safe_text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #f2f4f6; --rule: #d0d7de;
  --dim: #57606a }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #16191d; --soft: #22262b; --rule: #3a4048;
    --dim: #9aa4ae }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 76rem; margin: 1rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: .5rem 0 } h2 { font-size: 1.1rem; margin: 1.2rem 0 .5rem;
  border-bottom: 1px solid var(--rule) } h3 { font-size: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .88rem }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; font-variant-numeric: tabular-nums }
caption { text-align: left; font-style: italic; padding-bottom: .3rem }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 26rem; unicode-bidi: plaintext }
figure { margin: 1rem 0 } figcaption { font-style: italic }
.small { display: inline-block; width: min(100%, 30rem); vertical-align: top }
svg { width: 100%; max-width: 46rem; height: auto } svg text { fill: currentColor;
  font: 11px system-ui, sans-serif } .grid { stroke: var(--rule); stroke-width: 1 }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem }
th small, td small { display: block; font-weight: normal; color: var(--dim); white-space: nowrap }
.matrix th[scope=row] { position: sticky; left: 0; background: var(--paper) }
.pale { opacity: .6 } .mark { color: #b3541e } .note { color: var(--dim); font-size: .88rem;
  margin: .2rem 0 }
.bar { width: 7rem; height: .6rem } .reach { stroke: #0072b2; stroke-width: 3 }
.dot { fill: #0072b2 }
details.section > summary { cursor: pointer; margin-top: 1rem } summary h2 { display: inline-block;
  margin: 0; border: 0 }
@media (min-width: 60rem) { .top { display: grid; grid-template-columns: 1fr 34rem;
  grid-template-rows: auto 1fr; gap: 0 2rem } .beside { grid-column: 2; grid-row: 1 / 3 } }
@media print { body { max-width: none; margin: 0 } ::details-content { content-visibility: visible;
  display: block } pre { max-height: none } .wide { overflow: visible } }
@media (max-width: 40rem) { body { margin: 1rem auto } th, td { padding: .2rem .35rem } }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    key: str
    folded: bool
    blocks: tuple[Block, ...]

    @property
    def picture(self) -> bool:
        """Whether it begins with the trade-off's picture."""
        return isinstance(next(iter(self.blocks), None), Scatter)


def page(title: str, blocks: Sequence[Block]) -> str:
    """Return the HTML file."""
    environment = Environment(autoescape=True, finalize=_safe, trim_blocks=True)
    source = resources.files("kdharness.harness.reports").joinpath("report.html.jinja")
    template = environment.from_string(source.read_text("utf-8"))
    sections = list(_sections(blocks))
    # The answer and its picture side by side, the matrix below: one screen.
    end = next((n for n, section in enumerate(sections, 1) if section.picture), 0)
    return template.render(
        title=title,
        top=sections[:end],
        sections=sections[end:],
        style=STYLE,
        policy=POLICY,
        picture=picture,
    )


def _sections(blocks: Sequence[Block]) -> Iterator[Section]:
    """Yield the sections that headings begin."""
    starts = [n for n, block in enumerate(blocks) if isinstance(block, Heading)]
    if not starts or starts[0]:
        first = starts[0] if starts else len(blocks)
        yield Section("", "start", False, tuple(blocks[:first]))
    for number, (start, end) in enumerate(pairwise([*starts, len(blocks)])):
        heading = blocks[start]
        assert isinstance(heading, Heading)
        part = tuple(blocks[start + 1 : end])
        yield Section(heading.text, f"s{number}", heading.folded, part)


def _safe(value: object) -> object:
    """Make text harmless for a terminal or an editor as well; jinja escapes it for HTML."""
    return safe_text(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
