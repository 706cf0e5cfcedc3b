"""What a form offers beside its fields: the YAML in an editor, rows of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel
from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType

from kdharness.harness.config.training import known_config
from kdharness.harness.errors import ConfigError
from kdharness.harness.util.text import safe_text
from kdharness.harness.util.untrusted import parse_yaml
from kdharness.tui.editor import edit
from kdharness.tui.screens.drafting import Drafting
from kdharness.tui.viewmodels.form import FormState, expand_short_forms, yaml_text
from kdharness.tui.viewmodels.form_pages import diff_lines, read_rows, rows_lines, yaml_lines
from kdharness.tui.viewmodels.rows import Line, text_lines

FIX = "fix the marked fields first: {form.error:n} goes to the next one"
HEADER = "# Save and quit to go back to the form; it does not keep comments.\n"


class FormTools(Drafting):
    """A form whose values can be edited as YAML, and whose data can be looked at."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "edit_yaml", "Edit YAML", id="form.edit"),
    ]
    page: str
    checked: FormState
    refused: tuple[object, str] = (None, "")
    rows: tuple[object, str] = (None, "")
    reading = False

    if TYPE_CHECKING:

        def rebuild(self) -> None:
            """See the form."""

        def _preview(self) -> None:
            """See the form."""

        def _page(self, name: str) -> None:
            """See the form."""

    # ------------------------------------------------------------ pages

    def page_lines(self) -> list[Line]:
        """Return the page beside the form."""
        if self.page == "diff":
            return diff_lines(self.base, self.values, self.origin)
        return self._rows_lines() if self.page == "rows" else yaml_lines(self.values)

    def _rows_lines(self) -> list[Line]:
        values, text = self.rows
        if self.reading:
            return [[("reading the rows (loading the tokenizer takes some seconds) …", "dim")]]
        if not text:
            return [[(self.harness.with_keys(FIX), "bad")]]
        changed = values != self.values
        again = self.harness.with_keys("changed since then: {new.rows:r} reads again")
        stale: list[Line] = [[(again, "warn")], []]
        lines = text_lines(text, "bad") if text.startswith("✗") else rows_lines(text)
        return [*stale, *lines] if changed else lines

    def action_rows(self) -> None:
        """Toggle the first rows of the data as the model sees them: labels, lengths, losses."""
        config, values = self.checked.config, self.values
        current = self.rows[0] == values and bool(self.rows[1])
        if self.page != "rows" or current or self.reading:
            self._page("rows")
        if self.page != "rows" or current or self.reading:
            return
        if config is None:
            self.rows = (values, "")
            self._preview()
            return
        self.reading = True
        self._preview()

        def show(text: str) -> None:
            self.rows, self.reading = (values, text), False
            self.while_here(self._preview)

        paths = self.harness.paths
        self.harness.in_thread(
            lambda: read_rows(paths, config), show, failed=lambda message: show(f"✗ {message}")
        )

    # ------------------------------------------------------------ the plan

    def plan_told(self, problem: str) -> None:
        """Note what the plan of these values said: what it refused, or nothing."""
        self.refused = (self.values, problem)
        self.while_here(self.rebuild)

    def refusal(self) -> str:
        """Return why these values cannot be started, as far as a plan has told."""
        values, problem = self.refused
        return problem if values == self.values else ""

    # ------------------------------------------------------------ the editor

    def action_edit_yaml(self) -> None:
        """Edit the YAML in VISUAL or EDITOR; errors are then shown beside their fields."""
        text = self.unread or HEADER + yaml_text(self.values)
        try:
            edited = edit(text, f"{self.values['method']}.yaml", self.app.suspend())
        except SuspendNotSupported:
            text = "this terminal cannot be handed to an editor: {form.write:w} writes a file"
            self.harness.complain(self.harness.with_keys(text))
            return
        self.app.refresh(layout=True)
        if edited.problem:
            self._keep(edited.text, text, edited.problem)
        elif edited.text != text or self.unread:
            self._take_text(edited.text, text)

    def model_for(self, values: Mapping[str, object]) -> type[BaseModel]:
        """Return the model of edited values. Raises ConfigError for another form's method."""
        method = self.values["method"]
        if values.get("method") != method:
            raise ConfigError(f"method: this form is for {method}, not {values.get('method')}")
        return known_config(method)

    def _take_text(self, edited: str, before: str) -> None:
        """Take over edited YAML, or keep its text for the next time if it is not a config."""
        # Whatever is wrong with it, and with us: the draft has the text.
        self.unread = edited
        try:
            values = parse_yaml(edited, "the YAML")
            if not isinstance(values, dict):
                what = "empty" if values is None else "not a mapping of fields"
                raise ConfigError(f"the YAML is {what}")
            model = self.model_for(values)
        except ConfigError as error:
            self._keep(edited, before, str(error))
            return
        self.values, self.unread = expand_short_forms(model, values), ""
        self.rebuild()
        if any(line.lstrip().startswith("#") for line in edited.replace(HEADER, "").splitlines()):
            self.notify("comments are not kept: the form has none", markup=False)

    def _keep(self, edited: str, before: str, problem: str) -> None:
        if edited != before or self.unread:
            self.unread = edited
            again = "\nThe form is unchanged; {form.edit:e} opens your text again."
            problem += self.harness.with_keys(again)
            self.rebuild()
        self.harness.complain(safe_text(problem, 600))
