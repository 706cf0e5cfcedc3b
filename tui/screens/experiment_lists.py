"""The two lists of the Experiments screen."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from kdharness.tui.viewmodels.rows import Column
from kdharness.tui.widgets.table import Listing

EXPERIMENT_COLUMNS = [
    Column("name", "experiment", 14, grow=2, name=True),
    Column("status", "status", 18),
    Column("from", "from", 8, grow=1, leave=1),
    Column("question", "question", 20, grow=5),
]
PLAN_COLUMNS = [
    Column("id", "run", 14, grow=2, frozen=True, name=True),
    Column("status", "status", 16),
    Column("progress", "progress", 14, grow=1),
    Column("loss", "loss", 6, right=True),
    Column("needs", "needs", 14, grow=2, leave=1),
]


class Sheet(Listing):
    """A listing in the order of the file: `s` starts instead of sorting."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "screen.start", "Start", id="experiments.start"),
    ]
