"""Trade-off, Compare, Transcripts, Judges, Assets, Doctor, the demo and exports by keyboard."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from kdharness.harness.errors import AssetError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens.compare import CompareScreen
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.screens.tradeoff import TradeOffScreen, merge_curves
from kdharness.tui.screens.transcripts import TranscriptsScreen
from kdharness.tui.widgets.chart import PlaneChart
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView

AppOn = Callable[[Paths], HarnessApp]
Shown = Callable[[HarnessApp], str]
Press = Callable[..., Awaitable[None]]
LARGE = (120, 40)


# ---------------------------------------------------------------- trade-off


async def test_tradeoff_axes_front_and_opening_a_point(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "3")
        screen = app.screen
        assert isinstance(screen, TradeOffScreen) and screen.view is not None
        assert screen.view[0].label == "heldout:general_loss"
        assert "(lower is better)" in shown(app) and "●" in shown(app)
        await press(pilot, "g", "slash", *"mt", "minus", *"bench", "enter", "enter")
        assert screen.view[0].label.startswith("mt-bench:")
        await press(pilot, "i")
        assert not screen.query_one("#chart", PlaneChart).plane.whiskers
        await press(pilot, "r", "slash", "k", "d", "enter", "enter")
        assert screen.view[3][0] == "kd"
        listing = screen.listing()
        listing.move_to([row["id"] for row in listing.rows].index("expert"))
        await press(pilot, "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "expert"


async def test_exports_of_a_table_and_of_the_plane(
    filled: Paths, app_on: AppOn, press: Press, tmp_path: Path
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "3")
        for key, name in (("e", "t.csv"), ("e", "t.json"), ("e", "t.md"), ("p", "t.svg")):
            await press(pilot, key)
            app.screen.query_one("#line", Input).value = str(tmp_path / name)
            await press(pilot, "enter")
    with (tmp_path / "t.csv").open() as stream:
        assert {row["checkpoint"] for row in csv.DictReader(stream)} >= {"kd", "sft", "expert"}
    points = json.loads((tmp_path / "t.json").read_text())
    assert set(points[0]) >= {"checkpoint", "general", "domain", "gain", "retention", "on_front"}
    assert (tmp_path / "t.md").read_text().startswith("| checkpoint |")
    assert "<svg" in (tmp_path / "t.svg").read_text()


async def test_an_export_to_nowhere_is_refused_while_typing(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "2", "e")
        app.screen.query_one("#line", Input).value = "/no/such/folder/x.csv"
        await press(pilot, "enter")
        assert "no folder /no/such/folder" in shown(app)
        app.screen.query_one("#line", Input).value = "x.pdf"
        await pilot.pause()
        assert "end it with .csv, .json, .md" in shown(app)


def test_merges_are_joined_with_their_ends() -> None:
    def merged(name: str, share: float) -> Checkpoint:
        return Checkpoint(
            id=name,
            name=name,
            method="merge",
            path="",
            created=0,
            parents={"reference": "r", "expert": "e"},
            info={"alpha": share},
        )

    ends = [Checkpoint(id=i, name=f"{i}-name", method="sft", path="", created=0) for i in "re"]
    lines = merge_curves([merged("m2", 0.7), *ends, merged("m1", 0.2)])
    assert lines == [["r-name", "m1", "m2", "e-name"]]


# ---------------------------------------------------------------- compare


async def test_compare_marked_checkpoints_down_to_an_answer(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2", "space", "space", "space", "4")
        screen = app.screen
        assert isinstance(screen, CompareScreen) and len(screen.names) == 3
        text = shown(app)
        assert "B − A, 95 %" in text and any(mark in text for mark in "▼▲△▽≈")
        first = screen.chosen
        await press(pilot, "right_square_bracket")
        assert screen.chosen != first
        await press(pilot, "g")
        assert "method" in shown(app)
        await press(pilot, "o")
        assert "FLOPs with ancestors" in shown(app) and "judge calls" in shown(app)
        await press(pilot, "enter")
        assert app.screen is screen  # a cost has no answer to read
        await press(pilot, "l")
        listing = screen.listing()
        assert listing.rows and listing.rows[0]["flip"]
        item, bench = listing.rows[0]["item"], listing.rows[0]["bench"]
        await press(pilot, "enter")
        assert isinstance(app.screen, TranscriptsScreen)
        exchange = app.screen.exchange
        assert exchange is not None and exchange.item == item and app.screen.bench == bench


async def test_compare_says_nothing_from_two_items(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    with Store(filled.store) as store:
        store.db.execute(
            "DELETE FROM judgments WHERE bench != 'mt-bench' OR item NOT IN "
            "(SELECT DISTINCT item FROM judgments WHERE bench = 'mt-bench' LIMIT 2)"
        )
        store.db.conn.commit()
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2", "space", "space", "space", "4")
        screen = app.screen
        assert isinstance(screen, CompareScreen) and screen.found.lines
        gaps = [pair.gap for line in screen.found.lines for pair in line.others.values()]
        assert gaps and all(gap.low is None and gap.n == 2 for gap in gaps)
        text = shown(app)
        assert "≈" in text and not any(mark in text for mark in "▲▼△▽")
        assert "not told apart" in text and "too few items for an interval" in text


async def test_compare_asks_for_two(
    filled: Paths, app_on: AppOn, told: Shown, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "4", "c", "space", "space", "enter")
        # The two newest were marked already: unmarking both leaves the row under the cursor.
        assert "mark at least two" in told(app) or len(app.screen.names) >= 2  # type: ignore[attr-defined]
        await press(pilot, "u")
        assert isinstance(app.screen, (RunScreen, CompareScreen))


# ---------------------------------------------------------------- transcripts


async def test_transcripts_jump_scroll_together_and_are_written(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press, tmp_path: Path
) -> None:
    with Store(filled.store) as store:
        answers = store.answers("id-kd", "mt-bench")
        from dataclasses import replace

        store.add_answers(
            [
                replace(a, text="\n".join(f"line {i}" for i in range(200)))
                for a in answers
                if a.item == "q3"
            ]
        )
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "5")
        screen = app.screen
        assert isinstance(screen, TranscriptsScreen)
        screen.open("sft", "kd", "mt-bench", "q1")
        await press(pilot)
        await press(pilot, "right")
        text = shown(app)
        assert "[bold" in text and "\\x1b[31m" in text and "\x1b" not in text
        assert "\u202e" not in text and "Rating: [[" in text
        await press(pilot, "right", "pagedown")
        first, second = screen.query_one("#first", TextView), screen.query_one("#second", TextView)
        assert second.scroll_offset.y == first.scroll_offset.y
        screen.query_one("#second", TextView).focus()
        await press(pilot, "pagedown", "pagedown")
        assert second.scroll_offset.y > 10
        await press(pilot, "f")
        assert screen.exchange is not None and screen.exchange.item == "q6"
        assert "✗ failure" in shown(app) and "unreadable" in shown(app)
        await press(pilot, "d", "l", "home", "enter")
        assert screen.exchange.item == "q1"
        await press(pilot, "w")
        target = tmp_path / "x.md"
        app.screen.query_one("#line", Input).value = str(target)
        await press(pilot, "enter")
        await press(pilot, "b")
        assert screen.bench == "shop"
    assert "## kd" in target.read_text() and "Rating: [[" in target.read_text()


async def test_prompts_are_shown_where_the_benchmark_is_at_hand(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "5")
        assert "the prompt is not at hand" in shown(app)


# ---------------------------------------------------------------- judges, assets, doctor


def answered(code: int, out: str = "", err: str = "") -> Callable[..., Any]:
    """A stand-in for our own command in another process."""
    return lambda home, *words: subprocess.CompletedProcess(words, code, out, err)


async def test_a_judge_is_checked_in_another_process(
    filled: Paths,
    app_on: AppOn,
    shown: Shown,
    told: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, ...]] = []

    def run(home: Path, *words: str) -> Any:
        calls.append(words)
        with Store(filled.store) as store:
            store.add_card(
                "openai:judge-x",
                {
                    "labels": [],
                    "checks": {"tells_all": {"share": 0.9, "low": 0.8, "high": 0.97, "n": 24}},
                    "created": 1.0,
                },
            )
        return subprocess.CompletedProcess(words, 0, "[]", "")

    monkeypatch.setattr("kdharness.tui.commands.run_command", run)
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "7")
        assert "near-chance" in shown(app)
        await press(pilot, "c", "y")
        await pilot.pause()
        assert calls == [("judge", "check", "openai:judge-x", "--format", "json")]
        assert "90%" in shown(app) and "├" in shown(app)
        monkeypatch.setattr(
            "kdharness.tui.commands.run_command", answered(1, err="error: no network\n")
        )
        await press(pilot, "a")
        app.screen.query_one("#line", Input).value = "nonsense"
        await press(pilot, "enter")
        assert "names no judge" in shown(app)
        app.screen.query_one("#line", Input).value = "openai:other"
        await press(pilot, "enter", "y")
        assert "no network" in told(app)


async def test_assets_are_pulled_in_a_thread(
    filled: Paths,
    app_on: AppOn,
    shown: Shown,
    told: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pull(paths: Paths, name: str, *, say: Callable[[str], None]) -> Path:
        say(f"{name}: from PyPI, licence X")
        if name == "alpaca-eval":
            raise AssetError("no network", hint="get it yourself")
        return paths.assets

    monkeypatch.setattr("kdharness.harness.assets.pull", pull)
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "8", "p")
        assert "from PyPI, licence X" in shown(app) and "✓ pulled" in shown(app)
        await press(pilot, "down", "enter")
        assert "no network" in told(app) and "get it yourself" in told(app)
        await press(pilot, "v")
        assert "missing" in shown(app)


async def test_doctor_asks_the_command(
    filled: Paths,
    app_on: AppOn,
    shown: Shown,
    told: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        {"check": "python", "status": "ok", "detail": "3.11", "advice": ""},
        {
            "check": "memory",
            "status": "note",
            "detail": "1 of 8 GiB free",
            "advice": "close other programs",
        },
    ]
    monkeypatch.setattr("kdharness.tui.commands.run_command", answered(0, json.dumps(rows)))
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "9")
        assert "1 of 8 GiB free" in shown(app)
        assert "→ close other programs" in shown(app), "what is not ok comes first"
        monkeypatch.setattr("kdharness.tui.commands.run_command", answered(1, "", "boom"))
        await press(pilot, "r")
        assert "boom" in told(app)


# ---------------------------------------------------------------- demo, palette, published


async def test_the_demo_is_a_key_away(
    home: Paths, app_on: AppOn, shown: Shown, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **options: Any) -> None:
            commands.append(command)
            assert options["start_new_session"]
            options["stdout"].write(b"asset smollm2 \x1b]0;title\x07\n")
            options["stdout"].flush()

        def poll(self) -> None:
            return None

    monkeypatch.setattr("kdharness.tui.actions.subprocess.Popen", Process)
    app = app_on(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "d")
        assert commands == [
            [sys.executable, "-m", "kdharness.harness.cli", "--home", str(home.home), "demo"]
        ]
        text = shown(app)
        assert "asset smollm2 \\x1b]0;title\\x07" in text
        await press(pilot, "d")
        assert len(commands) == 1


async def test_the_palette_has_every_action(filled: Paths, app_on: AppOn, press: Press) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2")
        names = {command.title for command in app.get_system_commands(app.screen)}
        bindings = {
            b.binding.description
            for b in app.screen.active_bindings.values()
            if b.enabled and b.binding.description and b.binding.id
        }
        assert bindings <= names and "Theme: light" in names
        await press(pilot, "ctrl+p", *"theme", "space", *"light", "enter")
        await pilot.pause()
        assert app.theme == "light"


async def test_published_figures_stand_beside(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2", "o", "b", "b")
        await press(pilot, "end")
        names = {row["id"] for row in app.screen.query_one("#list", Listing).rows}
        assert "GPT-4" in names or "Flip-7B-Instruct-β" in names
        assert "¶" in shown(app)


async def test_the_mouse_works(filled: Paths, app_on: AppOn, shown: Shown, press: Press) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        listing = app.screen.query_one("#list", Listing)
        await pilot.click("#list", offset=(10, 3))
        assert listing.cursor == 2
        await pilot.click("#list", offset=(4, 0))
        assert listing.sort_key == "id"
        await pilot.click("KeyBar", offset=(3, 0))
        await pilot.pause()
        assert "Every training and evaluation" in shown(app)
        await press(pilot, "escape")
        await pilot.click("NavBar", offset=(26, 0))
        await pilot.pause()
        assert app.screen.place == "leaderboard"  # type: ignore[attr-defined]


WALK = """
import asyncio, sys
from pathlib import Path
from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp

async def walk():
    app = HarnessApp(Paths(Path(sys.argv[1])))
    async with app.run_test(size=(120, 40)) as pilot:
        for key in ["2", "3", "4", "5", "6", "7", "8", "1", "n", "escape", "enter"]:
            await pilot.press(key)
            while app.busy:
                await pilot.pause(0.01)
            await pilot.pause()

asyncio.run(walk())
print(sorted({"torch", "openai", "transformers", "matplotlib", "peft"} & set(sys.modules)))
"""


def test_no_screen_loads_torch(filled: Paths) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WALK, str(filled.home)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


async def test_every_place_opens_on_an_empty_store(
    home: Paths, app_on: AppOn, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdharness.tui.commands.run_command", answered(0, "[]"))
    app = app_on(home)
    async with app.run_test(size=(80, 24)) as pilot:
        for key in "234567891":
            await press(pilot, key, "down", "enter", "escape")
            while len(app.screen_stack) > 2:
                await press(pilot, "escape")
    assert app.return_code in (None, 0)


async def test_a_tiny_terminal_does_no_harm(filled: Paths, app_on: AppOn, press: Press) -> None:
    app = app_on(filled)
    async with app.run_test(size=(20, 6)) as pilot:
        for key in ("2", "3", "4", "5", "1", "enter"):
            await press(pilot, key)
        await pilot.resize_terminal(100, 30)
        await pilot.pause()


async def test_a_change_of_the_store_does_not_lose_the_item_being_opened(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "5")
        screen = app.screen
        assert isinstance(screen, TranscriptsScreen) and len(screen.transcript.exchanges) > 2
        item = screen.transcript.exchanges[2].item
        screen.open(*screen.names, screen.bench, item)
        screen.store_changed()
        await press(pilot)
        assert screen.exchange is not None and screen.exchange.item == item
