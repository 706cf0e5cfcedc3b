"""The dialog in which a file is picked, or its path typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input

from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens.dialogs import PickFile
from support.app import LARGE, AppOn, Press, Shown

pytestmark = pytest.mark.slow


async def test_any_text_may_be_typed_as_a_path(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press, tmp_path: Path
) -> None:
    """An unknown user's home folder crashed the app, as did a name that is too long."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text("{}", "utf-8")
    (tmp_path / "rows" / "b.txt").write_text("", "utf-8")
    app = app_on(filled)
    taken: list[str | None] = []

    def dialog(start: str) -> PickFile:
        found = PickFile("Rows", start, suffixes=(".jsonl",))
        app.push_screen(found, taken.append)
        return found

    async with app.run_test(size=LARGE) as pilot:
        for text in ("~no-such-user/x.jsonl", "a" * 5000, "nosuch/b\0c.jsonl"):
            dialog(text)
            await pilot.pause()
            await press(pilot, "slash")
            app.screen.query_one("#path", Input).value = text
            await press(pilot, "enter")
            assert isinstance(app, HarnessApp) and not isinstance(app.screen, PickFile)
            assert taken[-1] == text.replace("\0", "\ufffd")
        # A folder that is typed is opened; what it has of the wanted kind is listed.
        dialog(str(tmp_path / "gone" / "file.jsonl"))
        await pilot.pause()
        await press(pilot, "slash")
        app.screen.query_one("#path", Input).value = str(tmp_path / "rows")
        await press(pilot, "enter")
        assert "a.jsonl" in shown(app) and "b.txt" not in shown(app)
        await press(pilot, "enter")
    assert taken[-1] == str(tmp_path / "rows" / "a.jsonl")
