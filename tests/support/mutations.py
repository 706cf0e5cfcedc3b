"""Hypothesis strategies that mutate valid values and corrupt valid files."""

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
"""Replacement values for parts of a mutated value."""


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else (enumerate(value) if isinstance(value, list) else ())
    )
    for key, below in items:
        yield from _paths(below, (*path, key))


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value[path[0]] = _put(value[path[0]], path[1:], new)
    return value


@st.composite
def mutated(draw: Callable[..., Any], *valid: Any) -> Any:
    """Draw one of the valid values, with up to three parts replaced, dropped or extended."""
    value = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(_paths(value))))
        child = value
        for key in path:
            child = child[key]
        kind = draw(st.sampled_from(["replace", "replace", "drop", "add"]))
        if kind == "add" and isinstance(child, dict):
            child[draw(st.text(max_size=12))] = copy.deepcopy(draw(VALUES))
        elif kind == "add" and isinstance(child, list):
            child.append(copy.deepcopy(draw(VALUES)))
        elif kind == "drop" and path:
            parent = value
            for key in path[:-1]:
                parent = parent[key]
            del parent[path[-1]]
        else:
            value = _put(value, path, copy.deepcopy(draw(VALUES)))
    return value


def as_json(value: Any) -> str:
    """Write lenient JSON: NaN, Infinity and lone surrogates are allowed."""
    return json.dumps(value, ensure_ascii=True)


@st.composite
def corrupted(draw: Callable[..., Any], raw: bytes) -> bytes:
    """Draw the bytes truncated, overwritten, duplicated, or with others inserted."""
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


MALFORMED_FILES: tuple[bytes, ...] = (
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
"""File contents that are malformed in every format."""


def error_of(call: Callable[[], Any]) -> KDHarnessError | None:
    """Call it; return the KDHarnessError it raised, if any, whose message must be informative."""
    try:
        call()
    except KDHarnessError as error:
        _assert_informative(error)
        return error
    return None


def _assert_informative(error: KDHarnessError) -> None:
    assert error.message.strip() and len(str(error)) < 20_000
    # A failed allocation is not a rejection: only the memory limit of the test stopped it.
    assert "allocate" not in str(error)
