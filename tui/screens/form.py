"""A screen with a form: the sheet, a preview next to it, and an input line below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Input, Static

from kdharness.harness.config.training import known_config
from kdharness.harness.util.text import safe_text
from kdharness.tui.screens.dialogs import Ask, Choose
from kdharness.tui.screens.form_tools import FormTools
from kdharness.tui.screens.panes import WIDE
from kdharness.tui.screens.pickers import pick
from kdharness.tui.viewmodels.form import (
    MISSING,
    Field,
    FieldPath,
    FormState,
    check,
    expand_short_forms,
    fields_of,
    get_value,
    set_value,
    text_of,
    value_of,
    yaml_text,
)
from kdharness.tui.viewmodels.form_pages import section
from kdharness.tui.viewmodels.rows import Column
from kdharness.tui.widgets.edit_line import EditLine
from kdharness.tui.widgets.form_sheet import FormSheet, form_rows
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView


class FormScreen(FormTools):
    """The base of New run and Evaluate. Values are plain data; pydantic validates them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "pick", "Choose", id="form.pick"),
        Binding(
            "delete,backspace",
            "reset",
            "Default/remove",
            key_display="Del",
            show=False,
            id="form.reset",
        ),
        Binding("y", "yaml", "YAML", id="form.yaml"),
        Binding("d", "diff", "Diff", id="form.diff"),
        Binding("w", "write", "Write", id="form.write"),
        Binding(
            "right_square_bracket",
            "section(1)",
            "Next section",
            key_display="]",
            show=False,
            id="form.next",
        ),
        Binding(
            "left_square_bracket",
            "section(-1)",
            "Previous section",
            key_display="[",
            show=False,
            id="form.previous",
        ),
        Binding("n", "error", "Next error", show=False, id="form.error"),
        Binding("slash", "find", "Find a field", key_display="/", show=False, id="form.find"),
    ]

    def __init__(
        self, values: Mapping[str, object], base: Mapping[str, object], origin: str
    ) -> None:
        super().__init__()
        model = known_config(values["method"])
        self.values = expand_short_forms(model, dict(values))
        self.base = expand_short_forms(model, dict(base))
        self.origin = origin
        self.fields: list[Field] = []
        self.checked = FormState(None, {})
        self.page = ""
        self.editing: Field | None = None
        self.before: Any = MISSING
        self.kept = self.values

    def body(self) -> Iterable[Widget]:
        """Yield head, sheet and preview, the input line, and help."""
        yield Static(classes="line", id="head")
        with Horizontal(id="form"):
            yield FormSheet()
            yield TextView(id="preview")
        yield Static(classes="detail", id="help")
        with Horizontal(id="edit"):
            yield Static(id="label")
            yield EditLine(id="line")

    def on_mount(self) -> None:
        """Show the form, and the preview if there is room."""
        self.seen = self.harness.version
        self.query_one("#edit").display = False
        self.rebuild()
        self.query_one(FormSheet).focus()

    def on_resize(self) -> None:
        """Switch between one and two panes."""
        self._panes()

    @property
    def model(self) -> Any:
        """The pydantic model of the chosen method."""
        return known_config(self.values["method"])

    # ------------------------------------------------------------ showing

    def rebuild(self) -> None:
        """Recompute fields, errors and preview from the values."""
        self.fields = fields_of(self.model, self.values)
        self.checked = self.look()
        sheet = self.query_one(FormSheet)
        sheet.set_rows(form_rows(self.fields, self.values, self.checked.errors))
        self._head()
        self._preview()
        self._help(sheet.field)
        self._panes()

    def look(self) -> FormState:
        """Validate the values."""
        return check(self.values)

    def heading(self) -> str:
        """Return the title of the form."""
        return self.title_text

    def _head(self) -> None:
        sheet = self.query_one(FormSheet)
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(safe_text(self.heading()), "bold")
        text.append(safe_text(f"  {self.origin}  "))
        count = len(self.checked.errors)
        if count:
            key = self.harness.with_keys("{form.error:n}")
            text.append(f"✗ {count} error{'s' * (count != 1)} ({key})", sheet.style_of("bad"))
            if () in self.checked.errors:
                text.append(f" {safe_text(self.checked.errors[()], 200)}")
        elif reason := self.refusal():
            text.append(f"✗ {safe_text(reason, 200)}", sheet.style_of("bad"))
        else:
            valid = "✓ fields are valid: {form.start:s} shows the plan"
            text.append(self.harness.with_keys(valid), sheet.style_of("good"))
        if self.unread:
            unread = "  ! {form.edit:e}: edited text that is no config yet"
            text.append(self.harness.with_keys(unread), sheet.style_of("warn"))
        self.query_one("#head", Static).update(text)

    def _panes(self) -> None:
        wide = self.size.width >= WIDE
        self.query_one(FormSheet).display = wide or not self.page
        self.query_one("#preview").display = wide or bool(self.page)

    def _preview(self) -> None:
        self.query_one("#preview", TextView).set_lines(self.page_lines())

    def _help(self, field: Field | None) -> None:
        text = Text()
        if field is not None:
            error = next((e for p, e in self.checked.errors.items() if p == field.place), "")
            text.append(field.title, "bold")
            text.append(f"  {safe_text(field.id)}", "dim")
            text.append(f"\n{field.help}" if field.help else "\n")
            facts = [field.limits] if field.limits else []
            facts += [f"one of {', '.join(field.choices)}"] if field.choices else []
            facts += [f"default {field.default}"] if field.default else []
            facts += ["optional"] if field.optional else []
            text.append(f"\n{'; '.join(facts)}" if facts else "", "dim")
            if error:
                style = self.query_one(FormSheet).style_of("bad")
                text.append(f"\n✗ {safe_text(error, 300)}", style)
        self.query_one("#help", Static).update(text)

    @on(Listing.Highlighted, "#sheet")
    def _moved(self) -> None:
        self._help(self.query_one(FormSheet).field)

    # ------------------------------------------------------------ changing

    def put(self, place: FieldPath, value: object) -> None:
        """Change one value and validate again."""
        self.values = set_value(self.values, place, value)
        self.rebuild()

    @on(Listing.Selected, "#sheet")
    def _change(self, event: Listing.Selected) -> None:
        self.query_one("#line", Input).select_on_focus = True
        field = event.row["field"] if event.row else None
        if field is None or field.kind == "item":
            return
        value = get_value(self.values, field.place)
        if field.kind == "flag":
            on_now = value if isinstance(value, bool) else field.default == "yes"
            self.put(field.place, not on_now)
        elif field.kind == "choice":
            self._choose(field, text_of(value) or field.default)
        elif field.kind == "group" and field.optional:
            self.put(field.place, {} if value in (MISSING, None) else MISSING)
        elif field.kind == "groups":
            items = value if isinstance(value, list) else []
            first = field.first
            self.put((*field.place, len(items)), {first: ""})
            self.query_one(FormSheet).go_to((*field.place, len(items), first))
        elif field.kind == "mapping":
            self._name_one(field)
        elif field.kind != "group":
            self.edit(field)

    def _choose(self, field: Field, current: str) -> None:
        def take(chosen: list[str] | None) -> None:
            if chosen:
                self.put(field.place, chosen[0])

        rows = [{"id": choice} for choice in field.choices]
        columns = [Column("id", field.title, 20, grow=1)]
        self.app.push_screen(Choose(field.title, rows, columns, current=current), take)

    def _name_one(self, field: Field) -> None:
        def take(name: str | None) -> None:
            if name:
                self.put((*field.place, name), {"model": ""})
                self.query_one(FormSheet).go_to((*field.place, name, "model"))

        self.app.push_screen(Ask(f"{field.title}: a name", help_text=field.help), take)

    def on_form_sheet_digit(self, event: FormSheet.Digit) -> None:
        """Begin to edit a number with its first character, which would go to another screen."""
        line = self.query_one("#line", Input)
        line.select_on_focus = False
        self.edit(event.field)
        line.value = event.text
        line.cursor_position = len(event.text)

    def edit(self, field: Field) -> None:
        """Edit a value in the input line; errors show next to the field while typing."""
        self.editing, self.before = field, get_value(self.values, field.place)
        line = self.query_one("#line", Input)
        self.query_one("#label", Static).update(Text(f" {field.title} ", "bold"))
        self.query_one("#edit").display = True
        with line.prevent(Input.Changed):
            line.value = text_of(self.before)
        line.placeholder = field.default
        line.cursor_position = len(line.value)
        line.focus()

    @on(Input.Changed, "#line")
    def _typed(self, event: Input.Changed) -> None:
        if self.editing is not None:
            self.put(self.editing.place, value_of(self.editing, event.value))

    @on(Input.Submitted, "#line")
    def _done(self) -> None:
        self.close_edit()

    def close_edit(self, *, undo: bool = False) -> bool:
        """Close the input line; `undo` restores the old value. Return whether it was open."""
        field, self.editing = self.editing, None
        self.query_one("#edit").display = False
        self.query_one(FormSheet).focus()
        if field is not None and undo:
            self.put(field.place, self.before)
        return field is not None

    def leave_filter(self) -> bool:
        """Close the input line, or return from the preview."""
        if self.editing is not None:
            return self.close_edit(undo=True)
        if self.page and self.size.width < WIDE:
            self.page = ""
            self._panes()
            self.query_one(FormSheet).focus()
            return True
        return False

    # ------------------------------------------------------------ actions

    def action_turn(self, by: int) -> None:
        """Select the next or previous choice."""
        field = self.query_one(FormSheet).field
        if field is None or field.kind != "choice":
            return
        value = get_value(self.values, field.place)
        now = text_of(value) or field.default
        index = field.choices.index(now) if now in field.choices else 0
        self.put(field.place, field.choices[(index + by) % len(field.choices)])

    def action_pick(self) -> None:
        """Choose a model, a file, checkpoints, benchmarks or judges."""
        field = self.query_one(FormSheet).field
        if field is not None and field.pick:
            pick(
                self.harness,
                field,
                get_value(self.values, field.place),
                lambda value: self.put(field.place, value),
            )
        elif field is not None and field.kind == "choice":
            self._choose(field, text_of(get_value(self.values, field.place)))

    def action_reset(self) -> None:
        """Reset a field to its default, or remove an entry of a list."""
        field = self.query_one(FormSheet).field
        if field is not None:
            self.put(field.place, MISSING)

    def action_yaml(self) -> None:
        """Toggle the YAML preview."""
        self._page("yaml")

    def action_diff(self) -> None:
        """Toggle the differences from the starting values."""
        self._page("diff")

    def _page(self, name: str) -> None:
        self.page = "" if self.page == name else name
        self._preview()
        self._panes()
        if self.page and self.size.width < WIDE:
            self.query_one("#preview").focus()
        else:
            self.query_one(FormSheet).focus()

    def action_section(self, by: int) -> None:
        """Go to the next or previous section of the form."""
        sheet = self.query_one(FormSheet)
        sheet.move_to(section(self.fields, sheet.cursor, by))

    def action_find(self) -> None:
        """Find a field by part of its name."""
        rows = [{"id": field.id, "title": field.title, "help": field.help} for field in self.fields]
        columns = [
            Column("title", "field", 24),
            Column("id", "name", 26, grow=1),
            Column("help", "", 10, grow=1, leave=1),
        ]

        def chosen(names: list[str] | None) -> None:
            if names:
                ids = [field.id for field in self.fields]
                self.query_one(FormSheet).move_to(ids.index(names[0]))

        self.app.push_screen(Choose("Find a field", rows, columns, narrow=True), chosen)

    def action_error(self) -> None:
        """Go to the next field with an error."""
        sheet = self.query_one(FormSheet)
        rows = sheet.rows
        order = [*range(sheet.cursor + 1, len(rows)), *range(sheet.cursor + 1)]
        index = next((i for i in order if rows[i]["error"]), None)
        if index is not None:
            sheet.move_to(index)
        else:
            self.notify("no errors", timeout=2, markup=False)

    def action_start(self) -> None:
        """Start what the form describes; subclasses implement it."""

    def action_write(self) -> None:
        """Save the YAML to a file."""
        self.harness.export_text(
            f"{self.values.get('name') or self.values['method']}.yaml", yaml_text(self.values)
        )
