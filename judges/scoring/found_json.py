"""Finding the JSON object or list that an answer gives. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_START = re.compile(r"[{\[]")
_FENCE = re.compile(r"```[ \t]*(?P<kind>[\w+#.-]*)(?P<inside>.*?)```", re.DOTALL)
_DATA = frozenset({"json", "json5", "jsonc", "jsonl", "ndjson"})
_UNMARKED = frozenset({"", "text", "txt", "plaintext", "output"})


@dataclass(frozen=True)
class _Found:
    """A JSON value in a text, and its span."""

    start: int
    end: int
    value: object


def find_json(text: str, kind: type[Any] = dict) -> object:
    """Return the JSON object or list that a text ends with, fenced or bare; None without one.

    An object takes precedence over a list (or the other way round, by `kind`), a list over a
    citation such as `[1]`, and the last over earlier ones: an answer that corrects itself ends with
    its final value, and offering many earns nothing. A fence that holds nothing but JSON takes
    precedence over one marked `json` with other text, this over bare values, and these over those
    in program code.
    """
    found = _values(text)
    if len(found) == 1 and text.strip()[:1] in ("{", "[") and text.strip()[-1:] in ("}", "]"):
        return found[0].value
    ranks = _by_rank(text, found)
    for wanted in (kind, dict, list):
        for values in ranks:
            matches = [v for v in values if isinstance(v, wanted) and not is_citation(v)]
            if matches:
                return matches[-1]
    return found[-1].value if found else None


def is_citation(value: object) -> bool:
    """Return whether a value may be the number of a source: `[1]`."""
    return isinstance(value, list) and len(value) == 1 and type(value[0]) is int


def _by_rank(text: str, found: Sequence[_Found]) -> tuple[list[object], ...]:
    """Return the values of a text by where they are: first the most likely to be the answer."""
    pure: list[object] = []
    marked: list[object] = []
    bare: list[object] = []
    code: list[object] = []
    rest = list(reversed(found))
    for fence in _FENCE.finditer(text):
        while rest and rest[-1].end <= fence.start():
            bare.append(rest.pop().value)
        inside = []
        while rest and fence.start() <= rest[-1].start and rest[-1].end <= fence.end():
            inside.append(rest.pop())
        kind = fence["kind"].lower()
        if kind in _DATA | _UNMARKED and _is_all(text, fence, inside):
            pure += [one.value for one in inside]
        else:
            (marked if kind in _DATA else code).extend(one.value for one in inside)
    bare += [one.value for one in reversed(rest)]
    return pure, marked, bare, code


def _is_all(text: str, fence: re.Match[str], inside: Sequence[_Found]) -> bool:
    """Return whether a fence has nothing but these values."""
    position = fence.start("inside")
    for one in inside:
        if text[position : one.start].strip():
            return False
        position = one.end
    return not text[position : fence.end("inside")].strip()


def _values(text: str) -> list[_Found]:
    """Return every top-level JSON object and list of a text."""
    decoder = json.JSONDecoder()
    found: list[_Found] = []
    position = 0
    while opening := _START.search(text, position):
        try:
            value, position = decoder.raw_decode(text, opening.start())
        except RecursionError:
            # No answer is nested that deeply, and trying each level in turn would take too long.
            break
        except ValueError:
            position = opening.end()
        else:
            found.append(_Found(opening.start(), position, value))
    return found
