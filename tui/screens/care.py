"""Dialogs that delete, rename, tag and annotate runs and checkpoints, as the commands do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Static, TextArea

from kdharness.harness.errors import ConfigError, StoreError
from kdharness.harness.maintenance.annotating import (
    NOTE_CHARACTERS,
    TAG,
    annotation_of,
    change_note,
    change_tags,
)
from kdharness.harness.maintenance.records import (
    Removal,
    check_new_name,
    find,
    plan_removal,
    remove_records,
    rename_record,
)
from kdharness.harness.runs.status import effective_status
from kdharness.harness.store import Store
from kdharness.harness.util.text import listed, safe_text
from kdharness.tui.protocol import AppProtocol
from kdharness.tui.screens.caring import CARE
from kdharness.tui.screens.dialogs import Ask, Choose, Confirm
from kdharness.tui.screens.modal import Dialog, Modal, clickable_key
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.viewmodels.rows import Column


def choose_and_care(app: AppProtocol, what: str, current: str = "") -> None:
    """Let the user choose runs and checkpoints by name, and do it to them."""
    rows = [
        {"id": run.id, "what": f"run, {effective_status(run).value}", "method": run.method}
        for run in app.store.runs()
    ]
    runs = {row["id"] for row in rows}
    rows += [
        {"id": c.name, "what": f"checkpoint of {c.run}" if c.run else "checkpoint", "method": ""}
        for c in reversed(app.store.checkpoints())
        if c.name not in runs
    ]
    columns = [
        Column("id", "name", 20, grow=2),
        Column("method", "kind", 6),
        Column("what", "", 16, grow=1),
    ]

    def chosen(names: list[str] | None) -> None:
        if names:
            app.care(what, names)

    many = what == "remove"
    app.push_screen(Choose(CARE[what], rows, columns, many=many, current=current), chosen)


def care_for(app: AppProtocol, what: str, names: Sequence[str]) -> None:
    """Delete these, or rename, tag or annotate the first."""
    try:
        for name in names:
            find(app.store, name)
    except ConfigError as error:
        app.complain(str(error))
        return
    if what == "remove":
        _remove(app, list(names))
    else:
        {"rename": _rename, "tags": _tags, "note": _note}[what](app, names[0])


# ---------------------------------------------------------------- deleting


class Remove(Dialog[tuple[Removal, bool, bool] | None]):
    """What would go with a run or checkpoint, before it does; a question of its own.

    The result is the plan that was shown, and whether to force it and to keep the files.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes", "Delete", id="dialog.yes"),
        Binding("n,escape,q", "dismiss(None)", "No", id="dialog.no"),
        Binding("c", "option('cascade')", "What descends from it too", id="remove.cascade"),
        Binding("f", "option('force')", "Although something needs it", id="remove.force"),
        Binding("k", "option('keep')", "Keep the files", id="remove.keep"),
    ]

    def __init__(self, app: AppProtocol, names: Sequence[str]) -> None:
        super().__init__()
        self.harness, self.names = app, list(names)
        self.options = {"cascade": False, "force": False, "keep": False}
        self.plan: Removal | None = None
        self.text = Text("looking at what goes with it …")

    def compose(self) -> ComposeResult:
        """Yield the question, the plan, the options and the answers."""
        with Vertical(classes="dialog wide"):
            yield Static(Text(safe_text(f"Delete {listed(self.names)}?", 400), "bold"))
            with VerticalScroll():
                yield Static(self.text, id="detail")
            yield Static(self._options(), id="options")

    def look(self) -> None:
        """Plan it in a thread: folders are measured."""
        paths, cascade = self.harness.paths, self.options["cascade"]

        def work() -> Removal:
            with Store(paths.store) as store:
                return plan_removal(paths, store, self.names, cascade=cascade)

        def failed(message: str) -> None:
            self.plan = None
            self._tell(f"✗ {message}")

        self.harness.in_thread(work, self._planned, failed=failed)

    def _planned(self, plan: Removal) -> None:
        self.plan = plan
        self._tell("\n".join(plan.lines()))

    def _tell(self, text: str) -> None:
        self.text = Text(safe_text(text, 20_000))
        if self.is_mounted and self.is_attached:
            self.query_one("#detail", Static).update(self.text)
            self.query_one("#options", Static).update(self._options())

    @property
    def _needed(self) -> bool:
        """Whether something that stays depends on it."""
        return self.plan is not None and bool(self.plan.dependents)

    def _options(self) -> Text:
        text = Text("\n")
        words = {
            "cascade": ("{remove.cascade:c}", "also delete what descends from it"),
            "force": ("{remove.force:f}", "delete it although something needs it"),
            "keep": ("{remove.keep:k}", "keep the files"),
        }
        for name, (key, label) in words.items():
            box = "[x]" if self.options[name] else "[ ]"
            option = (self.with_keys(key), f"{box} {label}", f"option('{name}')", "bold")
            text.append(clickable_key(*option)).append("\n")
        text.append("\n")
        if self.plan is not None and (self.options["force"] or not self._needed):
            yes = self.with_keys("{dialog.yes:y}")
            text.append(clickable_key(yes, "delete", "yes")).append("   ")
        elif self._needed:
            text.append(f"{self._first_choose()}   ")
        return text.append(clickable_key(self.with_keys("{dialog.no:n}"), "no", self.LEAVE))

    def _first_choose(self) -> str:
        text = "something depends on it: {remove.cascade:c} or {remove.force:f} first"
        return self.with_keys(text)

    def action_option(self, name: str) -> None:
        """Change an option; descendants are planned again."""
        self.options[name] = not self.options[name]
        self.query_one("#options", Static).update(self._options())
        if name == "cascade":
            self.plan = None
            self.look()

    def action_yes(self) -> None:
        """Delete what is shown, once it is known and nothing prevents it."""
        if self.plan is None:
            return
        if self._needed and not self.options["force"]:
            self.notify(self._first_choose(), severity="warning")
            return
        self.dismiss((self.plan, self.options["force"], self.options["keep"]))


def _remove(app: AppProtocol, names: list[str]) -> None:
    for name in names:
        run, _ = find(app.store, name)
        if run is not None and (status := effective_status(run)).is_live:
            first = app.with_keys("stop it first ({runs.stop:X} on Runs)")
            app.complain(f"{run.id} is {status.value}: {first}")
            return

    def answered(answer: tuple[Removal, bool, bool] | None) -> None:
        if answer is None:
            return
        plan, force, keep = answer

        def work() -> list[str]:
            with Store(app.paths.store) as store:
                return remove_records(app.paths, store, plan, force=force, keep_files=keep)

        def done(kept: list[str]) -> None:
            gone = [*(run.id for run in plan.runs), *(c.name for c in plan.checkpoints)]
            gone = list(dict.fromkeys(name for name in gone if name not in kept))
            stay = f"; {listed(kept)} stays in the lineage" if kept else ""
            app.tell(safe_text(f"deleted {listed(gone)}{stay}", 600))
            _leave(app, {run.id for run in plan.runs})
            app.follow()

        app.in_thread(work, done)

    dialog = Remove(app, names)
    app.push_screen(dialog, answered)
    dialog.look()


def _leave(app: AppProtocol, runs: set[str]) -> None:
    """Close the screen of a run that is no longer there."""
    if isinstance(app.screen, RunScreen) and app.screen.run_id in runs:
        app.pop_screen()


# ---------------------------------------------------------------- renaming


def _rename(app: AppProtocol, name: str) -> None:
    is_run = find(app.store, name)[0] is not None

    def check(text: str) -> str:
        if text == name:
            return ""
        try:
            check_new_name(app.paths, app.store, text, is_run=is_run)
        except ConfigError as error:
            return str(error)
        return ""

    def take(text: str | None) -> None:
        if text and text != name:
            _rename_to(app, name, text)

    help_text = "Scores and lineage stay."
    if is_run:
        help_text = f"Its folder and its checkpoints are renamed too. {help_text}"
    app.push_screen(Ask(f"Rename {name}", name, help_text, check), take)


def _rename_to(app: AppProtocol, old: str, new: str, *, force: bool = False) -> None:
    """Rename it; where something refers to it by name, ask first."""
    selected = app.selection.names

    def work() -> dict[str, str] | str:
        with Store(app.paths.store) as store:
            ids = {name: c.id for name in selected if (c := store.checkpoint(name))}
            try:
                rename_record(app.paths, store, old, new, force=force)
            except StoreError as error:
                if force or store.read_only:
                    raise
                return str(error)
            found = {name: store.checkpoint(key) for name, key in ids.items()}
            return {old: new} | {name: c.name for name, c in found.items() if c}

    def done(result: dict[str, str] | str) -> None:
        if isinstance(result, str):
            app.push_screen(Confirm(f"Rename {old} nevertheless?", result), again)
            return
        app.rename_selected(result)
        if isinstance(app.screen, RunScreen) and app.screen.run_id == old:
            app.switch_screen(RunScreen(new))
        app.tell(safe_text(f"{old} is now {new}", 300))
        app.follow()

    def again(yes: bool | None) -> None:
        if yes:
            _rename_to(app, old, new, force=True)

    app.in_thread(work, done)


# ---------------------------------------------------------------- tags and notes


def _tags(app: AppProtocol, name: str) -> None:
    before = annotation_of(app.store, name).tags

    def check(text: str) -> str:
        wrong = [tag for tag in _split(text) if not TAG.fullmatch(tag)]
        if not wrong:
            return ""
        return f"{wrong[0][:40]}: use up to 64 letters, digits and . : / + @ # - _"

    def take(text: str | None) -> None:
        if text is None:
            return
        wanted = _split(text)
        added = [tag for tag in wanted if tag not in before]
        removed = [tag for tag in before if tag not in wanted]
        if added or removed:
            _write(app, lambda store: change_tags(store, name, added, removed), f"{name}: tagged")

    app.push_screen(Ask(f"Tags of {name}", " ".join(before), "Words with spaces", check), take)


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(text.replace(",", " ").split()))


class Note(Modal[str | None]):
    """A text of several lines; a changed one is not lost by one Escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f2,ctrl+s", "save", "Save", id="note.save", priority=True),
        Binding("escape", "close", "Cancel", id="note.cancel", priority=True),
    ]

    def __init__(self, heading: str, text: str) -> None:
        super().__init__()
        self.heading, self.text, self.warned = heading, text, ""

    def compose(self) -> ComposeResult:
        """Yield the text in a frame."""
        with Vertical(classes="dialog wide") as frame:
            frame.border_title = Text(safe_text(self.heading, 60)).plain
            text = "{note.save:F2} save · {note.cancel:Esc} cancel"
            frame.border_subtitle = self.with_keys(text)
            yield TextArea(self.text, id="note", soft_wrap=True)

    def on_mount(self) -> None:
        """Begin at the end of the text."""
        area = self.query_one(TextArea)
        area.focus()
        area.move_cursor(area.document.end)

    def action_save(self) -> None:
        """Save the note; an empty one is removed."""
        text = self.query_one(TextArea).text
        if len(text) > NOTE_CHARACTERS:
            too_many = f"a note has at most {NOTE_CHARACTERS:,} characters, this has {len(text):,}"
            self.notify(too_many, severity="warning", markup=False)
        else:
            self.dismiss(text)

    def action_close(self) -> None:
        """Close the dialog; a changed text is dropped by a second press only."""
        text = self.query_one(TextArea).text
        if text in (self.text, self.warned):
            self.dismiss(None)
            return
        self.warned = text
        warning = "not saved: {note.save:F2} saves it, {note.cancel:Esc} again drops it"
        self.notify(self.with_keys(warning), severity="warning")


def _note(app: AppProtocol, name: str) -> None:
    before = safe_text(annotation_of(app.store, name).note)

    def take(text: str | None) -> None:
        if text is not None and text != before:
            done = f"{name}: note {'saved' if text.strip() else 'removed'}"
            _write(app, lambda store: change_note(store, name, text), done)

    app.push_screen(Note(f"Note on {name}", before), take)


def _write(app: AppProtocol, change: Callable[[Store], object], done: str) -> None:
    def work() -> None:
        with Store(app.paths.store) as store:
            change(store)

    def told(_: None) -> None:
        app.tell(safe_text(done, 300))
        app.follow()

    app.in_thread(work, told)
