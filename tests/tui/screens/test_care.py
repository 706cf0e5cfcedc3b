"""Deleting, renaming, tagging and annotating runs and checkpoints by keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.maintenance.annotating import annotation_of, change_note, change_tags
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.removal import Annotation
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens.care import Remove
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.viewmodels.selection import Selection
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, SMALL, AppOn, Press, Shown
from support.tui_home import add_past_run


def cursor_on(app: HarnessApp, name: str) -> None:
    """Move the cursor of the list to a row."""
    listing = app.screen.query_one("#list", Listing)
    listing.move_to([row["id"] for row in listing.rows].index(name))


def plan_of(app: HarnessApp) -> str:
    """Return what the question tells about a deletion."""
    assert isinstance(app.screen, Remove)
    return app.screen.text.plain


@pytest.fixture
def spare(filled: Paths) -> Path:
    """The folder of a stopped run `spare` that nothing depends on, with a file in it."""
    folder = filled.run("spare")
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"x" * 1000)
    with Store(filled.store) as store:
        add_past_run(store, "spare", "sft", 50, status="stopped")
        store.update_run("spare", folder=str(folder))
    return folder


async def test_d_tells_what_goes_with_a_run_and_deletes_it_after_a_yes(
    filled: Paths, spare: Path, app_on: AppOn, press: Press, shown: Shown, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        cursor_on(app, "spare")
        await press(pilot, "d")
        text = plan_of(app)
        assert "runs: spare" in text and "runs/spare" in text
        await press(pilot, "enter", "n")
        assert spare.is_dir()
        await press(pilot, "d", "y")
        assert not spare.exists() and "deleted spare" in notified(app)
        names = [row["id"] for row in app.screen.query_one("#list", Listing).rows]
        assert "spare" not in names and "kd" in names


async def test_files_are_kept_if_asked(
    filled: Paths, spare: Path, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        cursor_on(app, "spare")
        await press(pilot, "d", "k", "y")
        assert (spare / "weights.bin").exists() and app.store.run("spare") is None


async def test_what_something_depends_on_goes_only_with_it_or_by_force(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        with Store(filled.store) as store:
            store.update_run("dae", status="stopped")
        cursor_on(app, "kd")
        await press(pilot, "d", "y")
        assert "expert" in shown(app) and "depends on it" in notified(app)
        await press(pilot, "c")
        assert "checkpoints: " in shown(app) and "descend from it" not in shown(app)
        await press(pilot, "c", "f", "y")
        assert app.store.run("kd") is None and app.store.run("expert") is not None


async def test_a_live_run_is_not_deleted(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        cursor_on(app, "dae")
        await press(pilot, "delete")
        assert "dae is running: stop it first (X on Runs)" in notified(app)
        await press(pilot)
        cursor_on(app, "expert")
        await press(pilot, "d")
        assert "dae is running and needs it" in plan_of(app)
        await press(pilot, "y", "escape")
        assert app.store.run("expert") is not None
        assert isinstance(app.screen, type(app.screen_stack[0])) and len(app.screen_stack) == 1


async def test_a_run_whose_process_is_gone_can_be_deleted(
    filled: Paths, spare: Path, app_on: AppOn, press: Press
) -> None:
    """As in public reports of crashed runs that stay in progress for ever."""
    with Store(filled.store) as store:
        store.update_run("spare", status="running", pid=2**22 - 3, pid_started=1.0)
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        cursor_on(app, "spare")
        await press(pilot, "d", "y")
        assert app.store.run("spare") is None and not spare.exists()


async def test_the_cursor_stays_where_it_was_after_a_deletion(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    """As in public reports of cursors that jump to the top."""
    with Store(filled.store) as store:
        for age in (1, 2, 3):
            add_past_run(store, f"old-{age}", "sft", 10_000_000 + age)
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        listing = app.screen.query_one("#list", Listing)
        cursor_on(app, "old-2")
        at = listing.cursor
        await press(pilot, "d", "y")
        assert listing.cursor == at and listing.row and listing.row["id"] == "old-3"
        await press(pilot, "d", "y")
        assert listing.row and listing.row["id"] == "old-1"


async def test_deleting_the_run_that_is_open_leaves_its_screen_and_the_selection(
    filled: Paths, spare: Path, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        cursor_on(app, "spare")
        await press(pilot, "space", "enter")
        assert isinstance(app.screen, RunScreen) and app.selection.names == ("spare",)
        await press(pilot, "d", "y")
        assert app.screen.place == "runs" and not isinstance(app.screen, RunScreen)
        assert app.selection.names == ()


async def test_renaming_checks_the_name_while_it_is_typed_and_the_selection_follows(
    filled: Paths, spare: Path, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        app.select(Selection(("spare", "kd")))
        cursor_on(app, "spare")
        await press(pilot, "R", "slash")
        assert "invalid run name" in shown(app)
        await press(pilot, "ctrl+u", "k", "d", "enter")
        assert "the name 'kd' is taken" in shown(app)
        await press(pilot, "2", "enter")
        assert app.selection.names == ("kd2", "kd")
        assert (filled.run("kd2") / "weights.bin").exists() and not spare.exists()
        row = app.screen.query_one("#list", Listing).rows[0]
        assert row["id"] == "kd2"


async def test_a_name_that_is_referred_to_is_changed_after_a_question(
    filled: Paths, spare: Path, app_on: AppOn, press: Press, shown: Shown
) -> None:
    with Store(filled.store) as store:
        waiting = {"method": "sft", "student": {"model": "spare"}}
        add_past_run(store, "waiting", "sft", 5, status="stopped", config=waiting)
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        app.open_run("spare")
        await press(pilot, "R", "ctrl+u", *"new", "enter")
        assert "waiting" in shown(app) and app.store.run("spare") is not None
        await press(pilot, "y")
        assert app.store.run("new") is not None
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "new"


@pytest.mark.slow
async def test_tags_and_notes_are_written_and_shown(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        cursor_on(app, "sft")
        await press(pilot, "number_sign", *"good,", "exclamation_mark", "enter")
        assert "use up to 64 letters" in shown(app)
        await press(pilot, "backspace", *"v1", "enter")
        assert annotation_of(app.store, "sft").tags == ("good", "v1")
        await press(pilot, "N", *"first", "enter", *"second", "f2")
        assert annotation_of(app.store, "sft").note == "first\nsecond"
        assert "#good #v1: first" in shown(app)
        await press(pilot, "number_sign", "ctrl+u", *"v1", "enter")
        assert annotation_of(app.store, "sft").tags == ("v1",)


async def test_a_changed_note_is_not_lost_by_one_escape(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        cursor_on(app, "sft")
        await press(pilot, "N", *"kept", "escape")
        assert "not saved" in notified(app) and len(app.screen_stack) == 2
        await press(pilot, "ctrl+s")
        assert annotation_of(app.store, "sft").note == "kept"
        await press(pilot, "N", "escape")
        assert len(app.screen_stack) == 1


@pytest.mark.slow
async def test_the_palette_deletes_several_from_any_screen(
    filled: Paths, spare: Path, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "9", "colon", *"delete a run", "enter")
        await press(pilot, "slash", *"spare", "enter", "space")
        await press(pilot, "slash", "ctrl+u", *"broken", "enter", "space", "enter")
        assert "runs: spare, broken" in plan_of(app)
        await press(pilot, "y")
        assert app.store.run("spare") is None and app.store.run("broken") is None


async def test_the_leaderboard_deletes_with_del_and_names_no_published_row(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    with Store(filled.store) as store:
        store.update_run("dae", status="stopped")
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2")
        cursor_on(app, "expert")
        await press(pilot, "delete")
        assert "runs: expert" in plan_of(app) and "results on shop" in plan_of(app)


async def test_what_another_process_renames_or_tags_is_followed(
    filled: Paths, spare: Path, app_on: AppOn, press: Press, shown: Shown
) -> None:
    from kdharness.harness.maintenance.records import rename_record

    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        with Store(filled.store) as store:
            rename_record(filled, store, "spare", "other")
            change_tags(store, "other", ["late"])
            change_note(store, "other", "by a command")
        app.follow()
        await press(pilot)
        cursor_on(app, "other")
        await press(pilot)
        assert "#late: by a command" in shown(app) and "spare" not in shown(app)
        for words in ("tags:late", "note:command", "late by"):
            listing = app.screen.query_one("#list", Listing)
            listing.set_filter(words)
            assert [row["id"] for row in listing.rows] == ["other"]


def test_the_state_of_runs_changes_with_names_and_annotations(filled: Paths) -> None:
    with Store(filled.store) as store:
        states = [store.runs_state()]

        def changed(action: Any) -> bool:
            action()
            states.append(store.runs_state())
            return states[-1] not in states[:-1]

        # The newest row is removed and its place taken by another run.
        assert changed(lambda: store.forget_runs(["broken"]))
        assert changed(lambda: add_past_run(store, "next", "kd", 1))
        assert changed(lambda: store.annotate(("run", "next"), Annotation(("a",))))
        store.update_run("next", step=3)
        assert store.runs_state() == states[-1]
