"""Valid things made hostile: a strategy starts from what is right and spoils some of it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from kdharness.harness.errors import KDHarnessError


def _nested(depth: int) -> Any:
    value: Any = "core"
    for step in range(depth):
        value = [value] if step % 2 else {"a": value}
    return value


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.just(10**4000),
    st.just(-1),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308]),
    st.text(max_size=30),
    st.sampled_from(
        [
            "",
            " ",
            "\x00",
            "a\x00b",
            "\ud800",
            "x\udfffy",
            "\ufeff",
            "\u202e\u0007\x1b[2J",
            "\u2028",
            "../../../etc/passwd",
            "/etc/passwd",
            "~nobody/x",
            "C:\\x",
            "a" * 5000,
            "/" + "b/" * 3000,
            "9" * 5000,
            "<|im_end|>",
            "{{ 7*7 }}",
            "%s%n",
            "'; DROP TABLE runs; --",
            "2001-02-30",
        ]
    ),
    st.sampled_from([[], {}, [[]], [None], {"": None}, {"a": {"b": {"c": []}}}]),
    st.integers(1, 60).map(_nested),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=5)), max_size=4),
    st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.text(max_size=5)), max_size=4),
)
"""What may stand where something else should."""


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else (enumerate(value) if isinstance(value, list) else ())
    )
    for key, below in items:
        yield from _places(below, (*path, key))


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value[path[0]] = _put(value[path[0]], path[1:], new)
    return value


@st.composite
def spoilt(draw: Callable[..., Any], *valid: Any) -> Any:
    """One of the valid values with up to three parts replaced, dropped or added to."""
    value = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(_places(value))))
        below = value
        for key in path:
            below = below[key]
        kind = draw(st.sampled_from(["replace", "replace", "drop", "add"]))
        if kind == "add" and isinstance(below, dict):
            below[draw(st.text(max_size=12))] = copy.deepcopy(draw(VALUES))
        elif kind == "add" and isinstance(below, list):
            below.append(copy.deepcopy(draw(VALUES)))
        elif kind == "drop" and path:
            above = value
            for key in path[:-1]:
                above = above[key]
            del above[path[-1]]
        else:
            value = _put(value, path, copy.deepcopy(draw(VALUES)))
    return value


def as_json(value: Any) -> str:
    """JSON as careless writers write it: NaN, Infinity, half characters."""
    return json.dumps(value, ensure_ascii=True)


@st.composite
def damaged(draw: Callable[..., Any], raw: bytes) -> bytes:
    """Bytes cut off, overwritten, doubled, or with others put in."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["cut", "set", "insert", "double", "zero"]))
        if kind == "cut":
            del data[at:]
        elif kind == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[at:at] = draw(
                st.sampled_from(
                    [
                        b"\x00",
                        b"\xff\xfe",
                        b"\xef\xbb\xbf",
                        b"[" * 50,
                        b"{" * 50,
                        b'"',
                        b"\n",
                        b"\\ud800",
                        b"9" * 30,
                        b"\xc0\xaf",
                        b"\xed\xa0\x80",
                        b"}",
                        b"]",
                    ]
                )
            )
        elif kind == "double":
            data += data[:at]
        else:
            data[at : at + 8] = b"\xff" * 8
    return bytes(data)


ALWAYS_HOSTILE: tuple[bytes, ...] = (
    b"",
    b"\n\n",
    b"\x00",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"1",
    b"[" * 100_000,
    b'{"a":' * 40_000,
    b"[" * 500 + b"]" * 500,
    b"9" * 6000,
    b"-" + b"9" * 6000,
    b'{"a": ' + b"9" * 6000 + b"}",
    b"NaN",
    b'{"a": 1e999999}',
    b'{"a": "\\ud800"}',
    b"\xed\xa0\x80",
    b"{" + b'"a":1,' * 5_000 + b'"a":1}',
    b"<html>",
    b"\x80\x04}q\x00.",
    b"a" * 300_000,
)
"""Files that are wrong wherever they turn up."""


def told(call: Callable[[], Any]) -> KDHarnessError | None:
    """Run it: a right result (None) or an error of ours, which says something. Nothing else."""
    try:
        call()
    except KDHarnessError as error:
        _says_something(error)
        return error
    return None


def _says_something(error: KDHarnessError) -> None:
    assert error.message.strip() and len(str(error)) < 20_000
    # A failed allocation is no refusal: only the limit of the test kept the memory.
    assert "allocate" not in str(error)
