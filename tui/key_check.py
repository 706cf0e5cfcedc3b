"""What is wrong with the keys of settings.yaml. Imports every screen: not for the first paint."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import REPLACED_KEYS, Keys

from kdharness import tui
from kdharness.harness.errors import did_you_mean
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens.base import ListPlace, PlaceScreen
from kdharness.tui.screens.form import FormScreen
from kdharness.tui.widgets.form_sheet import FormSheet
from kdharness.tui.widgets.table import Listing

MODIFIERS = {"alt", "ctrl", "hyper", "meta", "shift", "super"}
CHARACTERS = (unicodedata.name(chr(code), "") for code in range(ord("!"), 0x250))
NAMED_KEYS = {
    *(key.value for key in Keys),
    *REPLACED_KEYS,
    *(name.lower().replace("-", "_").replace(" ", "_") for name in CHARACTERS if name),
}
"""Names that stand alone or after modifiers: special keys, and characters as Unicode has them."""
SAME = {"i": "tab", "m": "enter", "[": "escape", "h": "backspace"}
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
    found: dict[str, tuple[str, list[str]]] = {}
    for screen, chain in _chains():
        for taker, key, other in _taken(chain, keys):
            name = f"{other.description} ({other.id})"
            sentence = f"{taker} takes {key} from {name}, which has no key"
            found.setdefault(name, (sentence, []))[1].append(screen)
    for sentence, (first, *more) in found.values():
        others = f" and {len(more)} other screens" if more else ""
        yield f"{sentence} on {first}{others}" if first else sentence


def wrong_key(key: str) -> str:
    """Return how to write a key instead, or nothing if terminals can send it."""
    if key.removeprefix("ctrl+") in SAME and key.startswith("ctrl+"):
        return f"terminals send it as {SAME[key.removeprefix('ctrl+')]}"
    if not key or key in NAMED_KEYS:
        return "" if key else HOW
    *modifiers, base = key.split("+")
    if not base and modifiers[-1:] == [""]:  # the key of + itself
        modifiers, base = modifiers[:-1], "+"
    if not set(modifiers) <= MODIFIERS or not (len(base) == 1 or base in NAMED_KEYS):
        return HOW
    if base.isupper() and "ctrl" in modifiers:
        return f"write {key[:-1]}{base.lower()}"
    if modifiers == ["shift"] and len(base) == 1:
        return f"write {base.upper()}" if base.isalpha() else "write the character that it gives"
    return ""


def _taken(
    chain: Iterable[list[Binding]], keys: Mapping[str, str]
) -> Iterator[tuple[str, str, Binding]]:
    """Yield (action, key, other action) where others have all keys of the second.

    Args:
        chain: bindings by who is asked first: the focused widget, its screen, the app.
        keys: the settings' keys. Two default keys are no news.
    """
    taken: dict[str, str] = {}
    for bindings in chain:
        # Of the same part, Textual prefers those of the settings.
        for binding in sorted(bindings, key=lambda one: one.id not in keys):
            name = binding.id or ""
            own = _split(keys.get(name, binding.key))
            takers = [taken.get(key, name) for key in own]
            if name not in takers and (name in keys or any(one in keys for one in takers)):
                yield takers[0], own[0], binding
            for key in own:
                taken.setdefault(key, name)


def _chains() -> Iterator[tuple[str, list[list[Binding]]]]:
    """Yield (screen or nothing, bindings by who is asked first): every part, then every screen."""
    nodes = list(dict.fromkeys(_nodes()))
    for node in nodes:
        yield "", [_named(node)]
    for node in nodes:
        if not issubclass(node, PlaceScreen) or not node.title_text:
            continue
        focused: list[type[Listing]] = [FormSheet] if issubclass(node, FormScreen) else []
        focused += [Listing] if issubclass(node, ListPlace) else []
        parts = [*map(_named, focused), _named(node), _named(HarnessApp)]
        yield node.title_text, parts


def _named(node: type[DOMNode]) -> list[Binding]:
    return list({binding.id: binding for binding in _own(node) if binding.id}.values())


def _split(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()] or [text]


def _nodes() -> Iterator[type[DOMNode]]:
    for module in pkgutil.walk_packages(tui.__path__, "kdharness.tui."):
        for item in list(vars(importlib.import_module(module.name)).values()):
            if inspect.isclass(item) and issubclass(item, DOMNode) and "kdharness" in str(item):
                yield item


def _own(node: type[DOMNode]) -> Iterator[Binding]:
    """Yield a class's bindings and those that it inherits."""
    for parent in node.__mro__:
        for binding in vars(parent).get("BINDINGS", ()):
            if isinstance(binding, Binding):
                yield binding
