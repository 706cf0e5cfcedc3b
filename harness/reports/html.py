"""Render a report's blocks as one self-contained HTML file.

It has no scripts, and its content security policy forbids them, so that an answer that got past
the escaping still could not run. Figures are inline SVG.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from kdharness.harness.reports.blocks import (
    Block,
    Code,
    Heading,
    IntervalPlot,
    Paragraph,
    Table,
    Transcript,
)
from kdharness.harness.reports.svg import picture
from kdharness.harness.util.text import safe_text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #f2f4f6; --rule: #d0d7de }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #16191d; --soft: #22262b; --rule: #3a4048 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem;
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
nav a { margin-right: .9rem; color: inherit }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, blocks: Sequence[Block]) -> str:
    """Return the HTML file."""
    anchors = {block.text: f"s{n}" for n, block in enumerate(blocks) if isinstance(block, Heading)}
    links = "".join(f'<a href="#{key}">{esc(text)}</a>' for text, key in anchors.items())
    body = "\n".join(_block(block, anchors) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{esc(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{esc(title)}</h1>\n<nav>{links}</nav>\n{body}\n</body></html>\n"
    )


def esc(text: str) -> str:
    """Escape text for HTML."""
    return html.escape(safe_text(text), quote=True)


def _block(block: Block, anchors: dict[str, str]) -> str:
    if isinstance(block, Heading):
        return f'<h2 id="{anchors[block.text]}">{esc(block.text)}</h2>'
    if isinstance(block, Paragraph):
        return f"<p>{esc(block.text)}</p>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Code):
        if not block.title:
            return f"<pre>{esc(block.text)}</pre>"
        return (
            f"<details><summary>{esc(block.title)}</summary><pre>{esc(block.text)}</pre></details>"
        )
    if isinstance(block, Transcript):
        sides = "".join(
            f"<div><b>{esc(name)}</b> {esc(verdict)}<pre>{esc(answer)}</pre></div>"
            for name, answer, verdict in block.sides
        )
        others = "".join(
            f"<details><summary>{esc(title)}</summary><pre>{esc(text)}</pre></details>"
            for title, text in block.others
        )
        return (
            f"<h3>{esc(block.title)}</h3><pre>{esc(block.prompt)}</pre>"
            f'<div class="sides">{sides}</div>{others}'
        )
    kind = ' class="small"' if isinstance(block, IntervalPlot) else ""
    return f"<figure{kind}><figcaption>{esc(block.title)}</figcaption>{picture(block)}</figure>"


def _table(block: Table) -> str:
    caption = f"<caption>{esc(block.caption)}</caption>" if block.caption else ""
    head = "".join(f"<th>{esc(column)}</th>" for column in block.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{esc(value)}</td>" for value in row) + "</tr>" for row in block.rows
    )
    return (
        f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
