"""A form as a sheet of rows: title, value and error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from kdharness.tui.keys import NamesKeys
from kdharness.tui.viewmodels.form import MISSING, Field, FieldPath, get_value, text_of
from kdharness.tui.viewmodels.rows import Column, Part, Row
from kdharness.tui.widgets.table import Listing

COLUMNS = [
    Column("title", "field", 25, grow=2),
    Column("value", "value", 20, grow=3),
    Column("note", "", 18, grow=3),
]


NUMERIC = ("integer", "number", "numbers")
"""Kinds of fields that digits are typed into."""


class FormSheet(Listing):
    """The rows of a form; left and right change a choice."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Change", id="form.change"),
        Binding("space", "select", "Change", show=False, id="form.toggle"),
        Binding("left", "screen.turn(-1)", "Previous choice", show=False, id="form.left"),
        Binding("right", "screen.turn(1)", "Next choice", show=False, id="form.right"),
        Binding("s", "screen.start", "Start", id="form.start"),
        Binding("k", "move(-1)", show=False),
    ]

    class Digit(Message):
        """A number was typed on a field that takes one."""

        def __init__(self, field: Field, text: str) -> None:
            super().__init__()
            self.field, self.text = field, text

    def on_key(self, event: events.Key) -> None:
        """Take digits on numeric fields; elsewhere they go to another screen."""
        field = self.field
        if field is None or event.character is None or field.kind not in NUMERIC:
            return
        if event.character.isdigit() or event.character in "-.":
            event.stop()
            event.prevent_default()
            self.post_message(self.Digit(field, event.character))

    def __init__(self) -> None:
        super().__init__(COLUMNS, self._cell, id="sheet")
        self.active = -1

    def _cell(self, row: Row, column: Column, width: int) -> list[Part]:
        named = cast("NamesKeys", self.app).with_keys
        return form_cell(row, column, lambda field: named(hint(field)))

    @property
    def field(self) -> Field | None:
        """The field under the cursor."""
        row = self.row
        return row["field"] if row is not None else None

    def go_to(self, place: FieldPath) -> None:
        """Move the cursor to the row of a field path, or to its nearest ancestor."""
        for size in range(len(place), 0, -1):
            for index, row in enumerate(self.rows):
                if row["field"].place == place[:size]:
                    self.move_to(index)
                    return


def form_rows(
    fields: Sequence[Field], values: Mapping[str, object], errors: Mapping[FieldPath, str]
) -> list[dict[str, Any]]:
    """Return the sheet's rows; an error without a row of its own is shown at its ancestor."""
    places = {field.place for field in fields}
    shown: dict[FieldPath, list[str]] = {}
    for place, message in errors.items():
        at = place
        while at and at not in places:
            at = at[:-1]
        text = message if at == place else f"{'.'.join(map(str, place[len(at) :]))}: {message}"
        shown.setdefault(at, []).append(text)
    rows = []
    for field in fields:
        value = get_value(values, field.place)
        rows.append(
            {
                "id": field.id,
                "field": field,
                "title": field.title,
                "value": _shown_value(field, value),
                "set": value is not MISSING,
                "error": "; ".join(shown.get(field.place, [])),
            }
        )
    return rows


def _shown_value(field: Field, value: object) -> str:
    if field.kind == "item":
        return ""
    if field.kind == "group":
        if not field.optional:
            return ""
        return "off" if value in (MISSING, None) else "on"
    if field.kind in ("groups", "mapping"):
        count = len(value) if isinstance(value, (list, dict)) else 0
        return f"{count}" if count else "none"
    return text_of(value) if value is not MISSING else field.default


def form_cell(row: Row, column: Column, hint_of: Callable[[Field], str]) -> list[Part]:
    """Return the parts of one cell of the sheet."""
    field: Field = row["field"]
    heading = field.kind in ("group", "groups", "mapping", "item")
    if column.key == "title":
        return [("  " * field.depth + row["title"], "strong" if heading else "")]
    if column.key == "value":
        if not row["value"] and not heading:
            return [("not set" if not field.required else "…", "dim")]
        return [(str(row["value"]), "accent" if row["set"] and not heading else "dim")]
    if row["error"]:
        return [(f"✗ {row['error']}", "bad")]
    return [(hint_of(field), "dim")]


def hint(field: Field) -> str:
    """Return a short hint on what a field takes; its keys are named as in `with_keys`."""
    if field.kind == "choice":
        return " ".join(field.choices)
    if field.kind == "group":
        return "{form.toggle:Space} toggles" if field.optional else ""
    if field.kind in ("groups", "mapping"):
        return "{form.change:Enter} adds"
    if field.kind == "item":
        return "{form.reset:Del} removes"
    if field.limits:
        return field.limits
    return " ".join(field.choices) or ("{form.pick:o}: choose" if field.pick else "")
