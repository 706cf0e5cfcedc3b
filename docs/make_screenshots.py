"""Pictures of the app for the docs: `python docs/make_screenshots.py --home DIR [--out FOLDER]`.

Opens the app on a store, presses keys, and draws the screen's cells with Pillow and the
monospaced font that matplotlib brings. Braille, blocks and box lines are drawn by hand, so that
a picture looks like a terminal with a complete font, and the same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

CELL = (9, 19)
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SHOTS: dict[str, tuple[tuple[int, int], list[str]]] = {
    "runs": ((80, 24), []),
    "run": ((120, 34), ["slash", *"method", "colon", *"dae", "enter", "enter", "wait"]),
    "leaderboard": ((120, 22), ["2", "wait"]),
    "tradeoff": ((120, 34), ["3", "wait"]),
    "compare": ((120, 26), ["4", "wait"]),
    "transcripts": ((120, 26), ["5", "wait", "d", "wait"]),
    "new-run": ((120, 36), ["n", "wait"]),
    "claims": ((120, 34), ["w", "wait", "c", "wait", "wait"]),
}
"""Name: (columns, rows), keys; `wait` lets threads finish."""


def cells(strips: Sequence[Any]) -> Iterator[tuple[int, int, str, Any]]:
    """(column, row, character, style) of every cell that holds something."""
    from rich.cells import cell_len

    for row, strip in enumerate(strips):
        column = 0
        for text, style, control in strip:
            if control:
                continue
            for char in text:
                size = cell_len(char)
                if size:
                    yield column, row, char, style
                column += size


def colour(value: Any, default: str) -> str:
    """A terminal colour as #rrggbb."""
    if value is None or value.is_default:
        return default
    return str(value.get_truecolor().hex)


def paint(strips: Sequence[Any], size: tuple[int, int], background: str, ink: str) -> Image.Image:
    """The screen as an image."""
    width, height = CELL
    image = Image.new("RGB", (size[0] * width + 16, size[1] * height + 16), background)
    draw = ImageDraw.Draw(image)
    fonts = {
        bold: ImageFont.truetype(str(FONTS / f"DejaVuSansMono{'-Bold' if bold else ''}.ttf"), 15)
        for bold in (False, True)
    }
    for column, row, char, style in cells(strips):
        x, y = 8 + column * width, 8 + row * height
        front = colour(style.color if style else None, ink)
        back = colour(style.bgcolor if style else None, background)
        if style is not None and style.reverse:
            front, back = back, front
        wide = 2 if _is_wide(char) else 1
        draw.rectangle((x, y, x + width * wide - 1, y + height - 1), fill=back)
        if not _by_hand(draw, char, x, y, front):
            draw.text((x, y), char, fill=front, font=fonts[bool(style and style.bold)])
        if style is not None and style.underline:
            draw.line((x, y + height - 2, x + width - 1, y + height - 2), fill=front)
    return image


def _is_wide(char: str) -> bool:
    from rich.cells import cell_len

    return cell_len(char) == 2


LINES = {
    "─": "lr",
    "│": "tb",
    "┌": "rb",
    "┐": "lb",
    "└": "tr",
    "┘": "tl",
    "├": "tbr",
    "┤": "tbl",
    "┬": "lrb",
    "┴": "lrt",
    "┼": "lrtb",
    "╭": "rb",
    "╮": "lb",
    "╰": "tr",
    "╯": "tl",
    "━": "lr",
}


def _by_hand(draw: ImageDraw.ImageDraw, char: str, x: int, y: int, ink: str) -> bool:
    """Braille, eighths and box lines, which fonts draw badly or not at all."""
    width, height = CELL
    code = ord(char)
    if 0x2800 <= code < 0x2900:
        for bit, (dx, dy) in enumerate(
            [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
        ):
            if (code - 0x2800) >> bit & 1:
                left, top = x + 1 + dx * 4, y + 2 + dy * 4.6
                draw.ellipse((left, top, left + 2.2, top + 2.2), fill=ink)
        return True
    if 0x2581 <= code <= 0x2588:
        share = (code - 0x2580) / 8
        top = y + round(height * (1 - share))
        draw.rectangle((x, top, x + width - 1, y + height - 1), fill=ink)
        return True
    if 0x2589 <= code <= 0x258F:
        share = (0x2590 - code) / 8
        draw.rectangle((x, y, x + round(width * share) - 1, y + height - 1), fill=ink)
        return True
    if char in LINES:
        middle = (x + width // 2, y + height // 2)
        ends = {
            "l": (x, middle[1]),
            "r": (x + width - 1, middle[1]),
            "t": (middle[0], y),
            "b": (middle[0], y + height - 1),
        }
        for side in LINES[char]:
            draw.line((*middle, *ends[side]), fill=ink, width=3 if char == "━" else 1)
        return True
    return False


async def shoot(
    home: Path, size: tuple[int, int], keys: Sequence[str], target: Path, clock: Any = None
) -> None:
    """Open the app, press keys, draw what is seen."""
    from kdharness.harness.paths import Paths
    from kdharness.tui.app import HarnessApp

    app = HarnessApp(Paths(home), **({"clock": clock} if clock else {}))
    async with app.run_test(size=size) as pilot:
        await pilot.pause(0.3)
        while app.busy:
            await pilot.pause(0.01)
        for key in keys:
            if key == "wait":
                while app.busy:
                    await pilot.pause(0.01)
                await pilot.pause(0.2)
            else:
                await pilot.press(key)
        await pilot.pause(0.3)
        theme = app.current_theme
        dark = "#14161f" if theme.ansi else str(theme.background)
        ink = "#d0d0d0" if theme.ansi else str(theme.foreground)
        strips = app.screen._compositor.render_strips()
    target.parent.mkdir(parents=True, exist_ok=True)
    paint(strips, size, dark, ink).quantize(96).save(target, optimize=True)


def main() -> None:
    """Make all pictures, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(SHOTS)}; all by default")
    parser.add_argument("--home", type=Path, required=True, help="a home with a store to show")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--size", help="COLUMNSxROWS instead of each picture's own")
    parser.add_argument("--keys", nargs="*", help="keys instead of each picture's own")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name in args.names or SHOTS:
        size, keys = SHOTS.get(name, ((80, 24), []))
        if args.size:
            columns, rows = args.size.split("x")
            size = (int(columns), int(rows))
        keys = args.keys if args.keys is not None else keys
        asyncio.run(shoot(args.home, size, keys, args.out / f"{name}.png"))
        print(args.out / f"{name}.png")


if __name__ == "__main__":
    main()
