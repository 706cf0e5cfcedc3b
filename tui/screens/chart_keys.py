"""The keys of the Run screen's chart: zoom, pan, scale and smoothing."""

from __future__ import annotations

from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.viewmodels.curves import SMOOTHING, CurveBook


class ChartKeys(PlaceScreen):
    """A screen with a chart of one curve over steps, of several runs."""

    run_id: str
    others: list[str]
    book: CurveBook
    curve: str

    def __init__(self) -> None:
        super().__init__()
        self.log_axis = False
        self.weight = 0.0
        self.window: tuple[float, float] | None = None

    def draw(self) -> None:
        """Draw the chart; the screen implements it."""

    def action_zoom(self, factor: float) -> None:
        """Show fewer or more steps around the middle."""
        runs = [self.run_id, *self.others]
        whole = self.book.span(runs, self.curve)
        low, high = self.window or whole
        middle, half = (low + high) / 2, (high - low) / 2 / factor
        if half >= (whole[1] - whole[0]) / 2:
            self.window = None
        elif half >= 1:
            self.window = (max(whole[0], middle - half), min(whole[1], middle + half))
        self.draw()

    def action_pan(self, by: int) -> None:
        """Pan by a quarter of the visible steps."""
        if self.window is None:
            return
        whole = self.book.span([self.run_id, *self.others], self.curve)
        low, high = self.window
        shift = max(whole[0] - low, min(by * (high - low) / 4, whole[1] - high))
        self.window = (low + shift, high + shift)
        self.draw()

    def action_whole(self) -> None:
        """Show all steps."""
        self.window = None
        self.draw()

    def action_log_scale(self) -> None:
        """Toggle the logarithmic scale."""
        self.log_axis = not self.log_axis
        self.draw()

    def action_smooth(self) -> None:
        """Cycle through the smoothing weights."""
        self.weight = SMOOTHING[(SMOOTHING.index(self.weight) + 1) % len(SMOOTHING)]
        self.draw()
