"""What is wrong with the keys of settings.yaml. Imports every screen: not for the first paint."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import unicodedata
from collections.abc import Iterator, Mapping

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import REPLACED_KEYS, Keys

from kdharness import tui
from kdharness.harness.errors import did_you_mean

MODIFIERS = {"alt", "ctrl", "hyper", "meta", "shift", "super"}
CHARACTERS = (unicodedata.name(chr(code), "") for code in range(ord("!"), 0x250))
NAMED_KEYS = {
    *(key.value for key in Keys),
    *REPLACED_KEYS,
    *(name.lower().replace("-", "_").replace(" ", "_") for name in CHARACTERS if name),
}
"""Names that stand alone or after modifiers: special keys, and characters as Unicode has them."""
HOW = "write a character, or a name such as ctrl+x, f5, escape, question_mark"


def actions() -> dict[str, Binding]:
    """Return the app's actions by their names: a binding of each."""
    return {binding.id: binding for node in _nodes() for binding in _own(node) if binding.id}


def key_problems(keys: Mapping[str, str]) -> list[str]:
    """Return a sentence for each thing that does not work as written.

    Args:
        keys: the settings' `keys`: an action's name -> its key or keys, with commas.
    """
    return [f"settings.yaml: keys: {problem}" for problem in _problems(keys)]


def _problems(keys: Mapping[str, str]) -> Iterator[str]:
    known = actions()
    for name, text in keys.items():
        if name not in known:
            near = did_you_mean(name, known)
            yield f"no action is called {name!r}{near or ', see F1'}"
        for key in _split(text):
            if advice := wrong_key(key):
                yield f"{name}: {key!r} is no key: {advice}"
    told: set[tuple[str, str]] = set()
    for node in _nodes():
        for name, other, key in _taken(list(_own(node)), keys):
            if (name, other.id or "") not in told:
                told.add((name, other.id or ""))
                yield f"{name} takes {key} from {other.description} ({other.id}), which has no key"


def wrong_key(key: str) -> str:
    """Return how to write a key instead, or nothing if terminals can send it."""
    if not key or key in NAMED_KEYS:
        return "" if key else HOW
    *modifiers, base = key.split("+")
    if not base and modifiers[-1:] == [""]:  # the key of + itself
        modifiers, base = modifiers[:-1], "+"
    if not set(modifiers) <= MODIFIERS or not (len(base) == 1 or base in NAMED_KEYS):
        return HOW
    if modifiers == ["shift"] and len(base) == 1:
        return f"write {base.upper()}" if base.isalpha() else "write the character that it gives"
    return ""


def _taken(bindings: list[Binding], keys: Mapping[str, str]) -> Iterator[tuple[str, Binding, str]]:
    """Yield (action, other action, key) where the other one's only keys are given to the first."""
    names = {binding.id for binding in bindings if binding.id in keys}
    given = {key: name for name in names if name for key in _split(keys[name])}
    for other in bindings:
        own = [key.strip() for key in other.key.split(",")]
        if other.id and other.id not in keys and all(key in given for key in own):
            yield given[own[0]], other, own[0]


def _split(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()] or [text]


def _nodes() -> Iterator[type[DOMNode]]:
    for module in pkgutil.walk_packages(tui.__path__, "kdharness.tui."):
        for item in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(item) and issubclass(item, DOMNode) and "kdharness" in str(item):
                yield item


def _own(node: type[DOMNode]) -> Iterator[Binding]:
    """Yield a class's bindings and those that it inherits."""
    for parent in node.__mro__:
        for binding in vars(parent).get("BINDINGS", ()):
            if isinstance(binding, Binding):
                yield binding
