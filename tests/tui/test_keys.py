"""Texts name the keys that work: the default ones, or those of settings.yaml."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from textual.binding import Binding
from textual.keys import format_key

from kdharness import tui
from kdharness.harness.paths import Paths
from kdharness.tui.key_check import key_problems, wrong_key
from kdharness.tui.keys import NAMED, with_keys
from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.screens.doctor import DoctorScreen
from support.app import AppOn, Press, Shown

SETTINGS = """\
keys:
  runs.stop: f7
  runs.pause: z,p
  runs.group: f11
  dialog.no: j
  app.doctor: f12
"""
WORDS = {"Esc", "Space", "Enter", "Del", "←", "→"}
"""Keys by the words that sentences use."""


def default_keys() -> dict[str, set[str]]:
    """Return every key that each action has without settings, by its name."""
    keys: dict[str, set[str]] = {}
    for module in pkgutil.walk_packages(tui.__path__, "kdharness.tui."):
        for item in vars(importlib.import_module(module.name)).values():
            for binding in vars(item).get("BINDINGS", ()) if inspect.isclass(item) else ():
                if isinstance(binding, Binding) and binding.id:
                    keys.setdefault(binding.id, set()).update(binding.key.split(","))
    return keys


def texts_of(file: Path) -> list[str]:
    """Return the strings of a module; what an f-string replaces is none."""
    tree = ast.parse(file.read_text("utf-8"))
    strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [node.value for node in strings if isinstance(node.value, str)]


def spellings(key: str) -> set[str]:
    """Return how texts write a key."""
    names = {"escape": "Esc", "delete": "Del", "left": "←", "right": "→"}
    return {format_key(key), names.get(key, key.capitalize()), names.get(key, key)}


def test_named_keys_are_the_default_ones() -> None:
    keys = default_keys()
    named = [
        found
        for file in Path(tui.__file__).parent.rglob("*.py")
        for text in texts_of(file)
        for found in NAMED.findall(text)
    ]
    assert len(named) > 100
    for action, key in named:
        assert action in keys, f"no action is called {action}"
        assert key in set().union(*map(spellings, keys[action])), f"{action} is not {key}"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "X stops it, ? helps (Esc: no)"),
        ({"runs.stop": "ctrl+s,f9"}, "^s stops it, ? helps (Esc: no)"),
        ({"runs.stop": " f9 , X", "app.quit": "x"}, "f9 stops it, ? helps (Esc: no)"),
        ({"app.help": "slash", "dialog.no": ""}, "X stops it, / helps (Esc: no)"),
    ],
)
def test_keys_of_a_text(changed: dict[str, str], expected: str) -> None:
    text = "{runs.stop:X} stops it, {app.help:?} helps ({dialog.no:Esc}: no)"
    assert with_keys(text, changed) == expected
    assert with_keys("{a: 1}, {x.y} and {}", changed) == "{a: 1}, {x.y} and {}"


def test_help_texts_name_no_key_that_cannot_be_changed() -> None:
    """Every single letter in a screen's help is a key with its action, or no key at all."""
    screens = [
        item
        for module in pkgutil.walk_packages(tui.__path__, "kdharness.tui.")
        for item in vars(importlib.import_module(module.name)).values()
        if inspect.isclass(item) and issubclass(item, PlaceScreen) and item.about
    ]
    for screen in screens:
        words = {word.strip(".,:;()") for word in NAMED.sub("", screen.about).split()}
        # An article, the checkpoint that is the base, a p-value.
        alone = {word for word in words if len(word) == 1 and word.isalpha()} - {"a", "A", "p"}
        assert not alone, screen


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        *((key, "") for key in ("x", "X", "?", "+", "ctrl++", "ctrl+x", "f5", "shift+tab", "ß")),
        *((key, "") for key in ("question_mark", "less_than_sign", "slash", "ctrl+shift+left")),
        *((key, "write a character") for key in ("ctrl-x", "f30", "Esc", "grün", "ctrl+", "")),
        ("shift+x", "write X"),
        ("ctrl+X", "write ctrl+x"),
        ("ctrl+i", "terminals send it as tab"),
        ("shift+1", "write the character that it gives"),
        ("strg+x", "write a character"),
    ],
)
def test_keys_that_no_terminal_sends(key: str, advice: str) -> None:
    assert wrong_key(key).startswith(advice) and bool(wrong_key(key)) == bool(advice)


def test_every_default_key_is_one() -> None:
    keys = {key for action in default_keys().values() for key in action}
    assert not [key for key in keys if wrong_key(key)]
    assert key_problems({}) == []


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"runs.stpo": "c"}, "no action is called 'runs.stpo'; did you mean runs.stop"),
        ({"zzz": "f9"}, "no action is called 'zzz', see F1"),
        ({"app.quit": "z,ctrl-q"}, "app.quit: 'ctrl-q' is no key: write a character"),
        ({"runs.stop": "p"}, "runs.stop takes p from Pause/resume (runs.pause), which has no key"),
        ({"runs.stop": "k"}, "list.up takes k from Stop (runs.stop), which has no key on Runs"),
        ({"list.sort": "X"}, "list.sort takes X from Stop (runs.stop), which has no key on Runs"),
        ({"runs.new": "q"}, "runs.new takes q from Quit (app.quit), which has no key on Runs"),
        ({"app.quit": "p"}, "runs.pause takes p from Quit (app.quit), which has no key on Runs"),
        ({"runs.stop": "p", "runs.pause": "X"}, ""),
        ({"app.theme": "f8"}, ""),
        ({"app.commands": "ctrl+o"}, ""),
    ],
)
def test_keys_that_do_not_work_as_written_are_told(keys: dict[str, str], problem: str) -> None:
    told = [text for text in key_problems(keys) if problem in text]
    assert told if problem else not key_problems(keys)


@pytest.mark.slow
async def test_wrong_keys_of_the_settings_are_told(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown
) -> None:
    text = "keys: {runs.stpo: c, app.quit: ctrl-q}\njugde: openai:x\n"
    filled.settings.write_text(text, "utf-8")
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        await press(pilot, "down")
        assert "did you mean runs.stop" in notified(app) and "'ctrl-q' is no key" in notified(app)
        assert "jugde: unknown field" in notified(app)


@pytest.mark.slow
async def test_changed_keys_are_named_everywhere(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    filled.settings.write_text(SETTINGS, "utf-8")
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        assert "8 Assets" in shown(app) and "f12 Doctor" in shown(app)
        await press(pilot, "f12")
        assert isinstance(app.screen, DoctorScreen)
        await press(pilot, "1", "f1")
        assert "f7 stops a run" in shown(app) and "f11 groups the runs" in shown(app)
        assert "d deletes it" in shown(app) and "{" not in shown(app)
        await press(pilot, "escape")
        app.stop_run("kd")
        await press(pilot)
        assert "resumed later (z on Runs)" in shown(app) and " j  no" in shown(app)
        await press(pilot, "j")
        assert "resumed later" not in shown(app)
