"""Readers of untrusted text, JSON and YAML: malformed or hostile input raises an error.

Python's own readers trust their input: a few lines of YAML can expand to a billion values, JSON
can nest deeper than the stack, a number can have a million digits, a lone surrogate breaks later
writes, and a pipe or an endless line blocks or exhausts memory. External input is read through
this module, which returns plain data of bounded size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kdharness.harness.errors import ConfigError, KDHarnessError
from kdharness.harness.util.repeated_fields import ONCE_EACH

CONFIG_BYTES = 256_000
"""The largest config file: nobody writes more by hand."""
LINE_BYTES = 64 * 2**20
"""The longest line of a JSONL file."""
FILE_BYTES = 256 * 2**20
"""The largest file that is read into memory as a whole."""
DEPTH = 100
NODES = 100_000
NUMBER_LENGTH = 400

_PLAIN = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in (
        "null",
        "bool",
        "int",
        "float",
        "str",
        "seq",
        "map",
        "merge",
        "timestamp",
        "value",
    )
)
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NUMBERS = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})


# ---------------------------------------------------------------- files


def read_text(
    path: Path, what: str, *, limit: int = FILE_BYTES, error: type[KDHarnessError] = ConfigError
) -> str:
    """Read a regular file's text, without a byte order mark.

    Raises:
        KDHarnessError: (of the class `error`) it cannot be read, is not a regular file, is larger
            than `limit` bytes, or is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "it is a folder" if path.is_dir() else "not a regular file"
            raise error(f"cannot read {what}: {kind}", where=str(path))
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"cannot read {what}: {reason}", where=str(path)) from problem
    if len(raw) > limit:
        raise error(f"{what} is too large: more than {limit:,} bytes", where=str(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise error(f"cannot read {what}: not UTF-8 text", where=f"{path}:{line}") from problem


def read_lines(path: Path, error: type[KDHarnessError]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes) of every line that is not blank.

    Raises:
        KDHarnessError: (of the class `error`) unreadable, not a regular file, or a line that is
            too long.
    """
    try:
        if path.exists() and not path.is_file():
            raise error("not a regular file", where=str(path))
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    raise error(
                        f"this line is longer than {LINE_BYTES:,} bytes",
                        where=f"{path}:{number}",
                        hint="JSONL has one JSON object per line",
                    )
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"cannot be read: {reason}", where=str(path)) from problem


# ---------------------------------------------------------------- JSON


def parse_json(raw: str | bytes, *, unique: bool = False) -> Any:
    """Parse JSON into plain data; lone surrogates are replaced by U+FFFD.

    Args:
        raw: the text, or its bytes in UTF-8.
        unique: refuse an object that has a field twice, as a row that people wrote may.

    Raises:
        ValueError: not JSON, not UTF-8, nested deeper than `DEPTH`, or a number with too many
            digits; a `RepeatedFieldError` for a field that is given twice.
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    try:
        value = ONCE_EACH.decode(text) if unique else json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH} levels") from None
    if text.count("[") + text.count("{") > DEPTH and _deeper(value, DEPTH):
        raise ValueError(f"nested deeper than {DEPTH} levels")
    suspect = "\\ud" in text or "\\uD" in text or (isinstance(raw, str) and not _whole(raw))
    return replace_surrogates(value) if suspect else value


def parse_json_object(raw: str | bytes) -> dict[str, object]:
    """Parse a JSON object. Raise ValueError for anything else."""
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_json_object(path: Path, what: str, error: type[KDHarnessError]) -> dict[str, Any]:
    """Read a small JSON file that holds an object.

    Raises:
        KDHarnessError: (of the class `error`) unreadable, too large, or not a JSON object.
    """
    text = read_text(path, what, limit=FILE_BYTES // 4, error=error)
    try:
        return parse_json_object(text)
    except ValueError as problem:
        raise error(f"{what} is damaged: {problem}", where=str(path)) from problem


def _deeper(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for node in level
            for child in (
                node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
            )
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def replace_surrogates(value: object) -> object:
    """Replace lone surrogates in plain data, so that its texts can be written as UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() or _whole(value) else _without_surrogates(value)
    if isinstance(value, list):
        return [replace_surrogates(part) for part in value]
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(part) for key, part in value.items()}
    return value


def _whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ---------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalar types of YAML 1.2.

    YAML 1.1 reads `no` as false, `12:30:45` as 45045, `010` as 8 and `2024_11` as 202411. By the
    rules of YAML 1.2 such values are text, and dates are kept as text too.

    The scanner's time grows with the square of the depth, so the depth is bounded there already.
    """

    def fetch_flow_collection_start(self, TokenClass: object) -> None:
        """Open `[` or `{`."""
        self._deeper(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        """Open a more indented block."""
        self._deeper(len(self.indents))
        return bool(super().add_indent(column))

    def _deeper(self, depth: int) -> None:
        if depth > DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {DEPTH} levels", problem_mark=self.get_mark()
            )


_RESOLVERS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
        r"|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:merge", "<<", "<"),
    ("tag:yaml.org,2002:null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
)
# A table of this class: changing the inherited one would change PyYAML globally.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Construct an int by YAML 1.2: a leading zero has no meaning, `0o` is octal."""
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> float:
    """Construct a float: `1e-5` is a number, with or without a point."""
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)


class _Written(_Loader):
    """Loads every scalar as its original text."""


_Written.yaml_implicit_resolvers = {}


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML into plain data: text, numbers, lists, and mappings whose keys are text.

    Raises:
        ConfigError: invalid, tagged, duplicate keys, recursive or too large; with the line.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_expansion(node, where)
        return replace_surrogates(loader.construct_document(node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        position = f"{where}:{mark.line + 1}" if mark else where
        raise ConfigError(f"invalid YAML: {problem or 'not YAML'}", where=position) from error
    except RecursionError as error:
        raise ConfigError(f"nested deeper than {DEPTH} levels", where=where) from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise ConfigError(f"invalid YAML: {error}", where=where) from error
    finally:
        if loader is not None:
            loader.dispose()


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as another type."""


for _tag, _pattern, _first in _RESOLVERS:
    _Dumper.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))


def dump_yaml(values: object, *, width: int = 88, flow: bool = False) -> str:
    """Dump plain data as YAML that `parse_yaml`, and YAML 1.1 readers, load back unchanged.

    Args:
        width: the column at which lines are folded.
        flow: on one line, with brackets and braces.
    """
    text: str = yaml.dump(
        values,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=width,
        default_flow_style=flow,
    )
    return text


def written_yaml(text: str) -> object:
    """Load a document that `parse_yaml` has read, with every scalar as its original text."""
    loader = _Written(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    finally:
        loader.dispose()


def _refuse_expansion(root: yaml.Node, where: str) -> None:
    """Refuse documents that are small as text but huge as data, before constructing them."""
    sizes: dict[int, int] = {}
    ancestors: set[int] = set()

    def measure(node: yaml.Node, depth: int) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        position = f"{where}:{node.start_mark.line + 1}"
        if id(node) in ancestors:
            raise ConfigError("an alias refers to its own ancestor", where=position)
        if depth > DEPTH:
            raise ConfigError(f"nested deeper than {DEPTH} levels", where=position)
        if node.tag not in _PLAIN:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(
                f"unsupported YAML tag {tag!r}", where=position, hint="remove the tag"
            )
        if node.tag in _NUMBERS and len(node.value) > NUMBER_LENGTH:
            raise ConfigError(f"a number of {len(node.value)} characters", where=position)
        ancestors.add(id(node))
        total = 1
        if isinstance(node, yaml.MappingNode):
            _name_keys(node, where)
        for child in _children(node):
            total += measure(child, depth + 1)
            if total > NODES:
                raise ConfigError(
                    f"expands to more than {NODES:,} values",
                    where=position,
                    hint="are aliases (*name) nested in each other?",
                )
        ancestors.discard(id(node))
        sizes[id(node)] = total
        return total

    measure(root, 0)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _name_keys(node: yaml.MappingNode, where: str) -> None:
    """Make keys text (`on`, `1` and `null` too) and refuse duplicates."""
    seen: set[str] = set()
    for key, _ in node.value:
        position = f"{where}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError("a field name must be plain text", where=position)
        if key.tag == _MERGE:
            continue
        if key.tag in _PLAIN:
            key.tag = _TEXT
        if key.value in seen:
            raise ConfigError(f"duplicate field {key.value[:80]!r}", where=position)
        seen.add(key.value)
