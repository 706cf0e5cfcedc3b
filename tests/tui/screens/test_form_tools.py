"""The YAML of a form in an editor, the rows of its data, and a plan with an error."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp
from kdharness.tui.editor import Edited
from kdharness.tui.screens.evaluate import EvaluateScreen
from kdharness.tui.screens.new_run import NewRunScreen
from kdharness.tui.viewmodels.form_pages import rows_lines
from kdharness.tui.widgets.form_sheet import FormSheet
from support.app import LARGE, SMALL, AppOn, Press, Shown, answered

pytestmark = pytest.mark.slow

Rewrite = Callable[[str], Edited]


@pytest.fixture
def rewrite(monkeypatch: pytest.MonkeyPatch) -> Callable[[Rewrite], list[str]]:
    """Replace the editor; return what it was given."""
    given: list[str] = []

    def use(change: Rewrite) -> list[str]:
        def edit(text: str, name: str, _: object) -> Edited:
            given.append(text)
            return change(text)

        monkeypatch.setattr("kdharness.tui.screens.form_tools.edit", edit)
        monkeypatch.setattr(HarnessApp, "suspend", lambda _: nullcontext())
        return given

    return use


def errors_of(app: HarnessApp) -> dict[str, str]:
    """Return field -> error of the form."""
    rows = app.screen.query_one(FormSheet).rows
    return {row["id"]: row["error"] for row in rows if row["error"]}


async def test_edited_yaml_comes_back_with_errors_by_field(
    filled: Paths, app_on: AppOn, press: Press, rewrite: Any, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        rewrite(lambda text: Edited(text.replace("max_steps", "max_stps") + "seed: -1  # mine\n"))
        await press(pilot, "e")
        assert isinstance(app.screen, NewRunScreen)
        assert app.screen.values["seed"] == -1
        errors = errors_of(app)
        assert "seed" in errors and any("max_stps" in text for text in errors.values()) == (
            "max_stps" in str(app.screen.values)
        )
        rewrite(lambda text: Edited("# why\n" + text.replace("seed: -1", "seed: 7")))
        await press(pilot, "e")
        assert app.screen.values["seed"] == 7 and "comments are not kept" in notified(app)


async def test_an_unknown_field_is_told_beside_its_group(
    filled: Paths, app_on: AppOn, press: Press, rewrite: Any
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        rewrite(lambda text: Edited(text.replace("trainer:\n", "trainer:\n  learnin_rate: 1\n")))
        await press(pilot, "e")
        assert "learnin_rate" in errors_of(app)["trainer"]


async def test_text_that_is_no_config_is_kept_until_it_is_mended(
    filled: Paths, app_on: AppOn, press: Press, rewrite: Any, notified: Shown, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        before = dict(app.screen.values)  # type: ignore[attr-defined]
        rewrite(lambda text: Edited("seed: [1\n"))
        await press(pilot, "e")
        assert app.screen.values == before  # type: ignore[attr-defined]
        assert "invalid YAML" in notified(app) and "e opens your text again" in notified(app)
        assert "edited text that is no config yet" in shown(app)
    again = app_on(filled)
    async with again.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        given = rewrite(lambda text: Edited("", "vi ended with code 1"))
        await press(pilot, "e")
        assert given[-1] == "seed: [1\n"
        rewrite(lambda text: Edited("method: kd\nseed: 3\n"))
        await press(pilot, "e")
        assert again.screen.values == {  # type: ignore[attr-defined]
            "method": "kd",
            "seed": 3,
        }
        assert "no config yet" not in shown(again)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the YAML is empty"),
        ("- a\n", "not a mapping"),
        ("seed: 1\n", "method: None is none of"),
        ("method: distill\n", "is none of sft, kd"),
        ("method: [sft]\nseed: 1\n", "method: ['sft'] is none of sft, kd"),
        ("method: {kd: 1}\n", "method: {'kd': "),
        ("? [method]\n: kd\n", "a field name must be plain text"),
        ("method: kd\nseed: 1\nseed: 2\n", "seed"),
    ],
)
async def test_other_texts_are_refused_by_name(
    filled: Paths,
    app_on: AppOn,
    press: Press,
    rewrite: Any,
    notified: Shown,
    text: str,
    problem: str,
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "n")
        rewrite(lambda _: Edited(text))
        await press(pilot, "e")
        assert problem in notified(app)
        given = rewrite(Edited)
        await press(pilot, "e")
        assert given[-1] == text or not text


async def test_a_text_that_breaks_the_form_is_in_its_draft(
    filled: Paths, app_on: AppOn, press: Press, rewrite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours ends the app; it must not cost what was typed."""
    text = "method: kd\nseed: 5\n"
    rewrite(lambda _: Edited(text))

    async def break_it() -> None:
        async with app_on(filled).run_test(size=SMALL) as pilot:
            await press(pilot, "n", "e")

    with monkeypatch.context() as patch:
        patch.setattr(NewRunScreen, "model_for", lambda *_: {}["fault"])
        with pytest.raises(KeyError):
            await break_it()
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "n")
        given = rewrite(Edited)
        await press(pilot, "e")
        assert given[-1] == text


async def test_an_evaluation_stays_one_and_a_terminal_that_cannot_be_given_away_says_so(
    filled: Paths, app_on: AppOn, press: Press, rewrite: Any, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "6", "e")
        assert "w writes a file" in notified(app)
        rewrite(lambda _: Edited("method: kd\n"))
        await press(pilot, "e")
        assert "this form is for eval, not kd" in notified(app)
        rewrite(lambda _: Edited("method: eval\ncheckpoints: [kd]\nbenches: [shop]\n"))
        await press(pilot, "e")
        assert isinstance(app.screen, EvaluateScreen)
        assert app.screen.values["checkpoints"] == ["kd"] and not errors_of(app)


ROWS = """\
tokenizer: tiny
own.jsonl (domain): 3 rows, 30 tokens (50% labelled, longest 12); 0 cut, 2 dropped without …
warning: answers end with '</s>'
labelled parts are between ⟦ and ⟧:

own.jsonl:1 (domain, 12 tokens)
user: hello
assistant: ⟦first
second (x, 3 tokens)⟧ end
"""


def test_rows_mark_labels_lengths_and_losses() -> None:
    lines = rows_lines(ROWS)
    texts = ["".join(text for text, _ in line) for line in lines]
    assert texts[1] == ROWS.splitlines()[1]
    assert ("2 dropped", "warn") in lines[1] and ("0 cut", "warn") not in lines[1]
    assert lines[2] == [("! ", "warn"), ("answers end with '</s>'", "warn")]
    assert lines[5] == [("own.jsonl:1 (domain, 12 tokens)", "strong")]
    assert lines[7] == [("assistant: ", ""), ("⟦", "dim"), ("first", "good")]
    assert lines[8] == [("second (x, 3 tokens)", "good"), ("⟧", "dim"), (" end", "")]


async def test_r_shows_rows_from_inside_the_form_and_notes_changes(
    filled: Paths,
    app_on: AppOn,
    press: Press,
    shown: Shown,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, ...]] = []

    def run(home: object, *words: str) -> subprocess.CompletedProcess[str]:
        calls.append(words)
        return subprocess.CompletedProcess(words, 0, ROWS, "")

    monkeypatch.setattr("kdharness.tui.viewmodels.form_pages.run_command", run)
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n", "r")
        text = shown(app)
        assert "own.jsonl:1 (domain, 12 tokens)" in text and "2 dropped" in text
        assert calls[0][:2] == ("data", "show")
        screen = app.screen
        assert isinstance(screen, NewRunScreen)
        screen.put(("seed",), 5)
        await press(pilot, "up")
        assert "r reads again" in shown(app)
        await press(pilot, "r")
        assert len(calls) == 2 and "r reads again" not in shown(app)
        await press(pilot, "r")
        assert "seed: 5" in shown(app) and len(calls) == 2
        fail = answered(2, "", "loading\nerror: rows.jsonl:2: this line is not JSON")
        monkeypatch.setattr("kdharness.tui.viewmodels.form_pages.run_command", fail)
        screen.put(("seed",), 6)
        await press(pilot, "r")
        assert "rows.jsonl:2: this line is not JSON" in shown(app)


async def test_a_form_whose_plan_has_an_error_is_not_ready(
    filled: Paths,
    app_on: AppOn,
    press: Press,
    shown: Shown,
    started: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = {"check": "rows", "of": "data", "status": "stop", "detail": "line 2 is not JSON"}
    plans: list[list[dict[str, str]]] = [[stop], []]

    def plan(command: list[str], text: str = "") -> Any:
        return plans.pop(0) if "check" in command else []

    monkeypatch.setattr("kdharness.tui.viewmodels.estimates.run_json", plan)
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        assert "s shows the plan" in shown(app)
        await press(pilot, "s", "y", "n")
        assert not started
        assert "✗ rows of data: line 2 is not JSON" in shown(app)
        await press(pilot, "s", "n")
        assert "s shows the plan" in shown(app)
