"""Text that others wrote, read so that the worst of it is an error and nothing more.

Python's own readers trust their input: a few lines of YAML can stand for a billion values, JSON
can nest deeper than the stack, a number can have a million digits, half a character (a lone
surrogate) breaks whoever writes it down later, and a pipe or an endless line blocks or fills the
memory. Everything from outside comes in here; what goes out is plain data of bounded size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from kdharness.harness.errors import ConfigError, KDHarnessError

CONFIG_BYTES = 256_000
"""More than this is no config that a person wrote."""
LINE_BYTES = 64 * 2**20
"""The longest line of a JSONL file: some two hundred books."""
FILE_BYTES = 256 * 2**20
"""The largest file that is read whole."""
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
    """A regular file's text, without a byte order mark.

    Raises:
        KDHarnessError: (of the class `error`) it cannot be read, is no regular file, is larger
            than `limit` bytes, or is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise error(f"cannot read {what}: it is {kind}", where=str(path))
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"cannot read {what}: {reason}", where=str(path)) from problem
    if len(raw) > limit:
        raise error(f"too large to be {what}: more than {limit:,} bytes", where=str(path))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise error(
            f"cannot read {what}: it is not UTF-8 text", where=f"{path}:{line}"
        ) from problem


def read_lines(path: Path, error: type[KDHarnessError]) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of every line that is not blank.

    Raises:
        KDHarnessError: (of the class `error`) unreadable, no regular file, or an endless line.
    """
    try:
        if path.exists() and not path.is_file():
            raise error("is not a regular file", where=str(path))
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    raise error(
                        f"this line is longer than {LINE_BYTES:,} bytes",
                        where=f"{path}:{number}",
                        hint="one row of JSON stands on each line",
                    )
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"cannot be read: {reason}", where=str(path)) from problem


# ---------------------------------------------------------------- JSON


def parse_json(raw: str | bytes) -> Any:
    """JSON as plain data; half characters are replaced by U+FFFD.

    Raises:
        ValueError: not JSON, not UTF-8, nested deeper than `DEPTH`, or an absurd number.
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEPTH} levels") from None
    if text.count("[") + text.count("{") > DEPTH and _deeper(value, DEPTH):
        raise ValueError(f"nested deeper than {DEPTH} levels")
    suspect = "\\ud" in text or "\\uD" in text or (isinstance(raw, str) and not _whole(raw))
    return whole_characters(value) if suspect else value


def parse_json_object(raw: str | bytes) -> dict[str, Any]:
    """The same where only an object makes sense. Raises ValueError."""
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def read_json_object(path: Path, what: str, error: type[KDHarnessError]) -> dict[str, Any]:
    """A small JSON file that holds an object.

    Raises:
        KDHarnessError: (of the class `error`) unreadable, too large, or something else.
    """
    text = read_text(path, what, limit=FILE_BYTES // 4, error=error)
    try:
        return parse_json_object(text)
    except ValueError as problem:
        raise error(f"{what} is damaged: {problem}", where=str(path)) from problem


def _deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            below
            for one in level
            for below in (
                one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
            )
            if isinstance(below, (dict, list))
        ]
        if not level:
            return False
    return True


def whole_characters(value: Any) -> Any:
    """Plain data whose texts can all be written as UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() or _whole(value) else _mended(value)
    if isinstance(value, list):
        return [whole_characters(one) for one in value]
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(one) for key, one in value.items()}
    return value


def _whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _mended(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ---------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """Safe YAML that takes a value for a number or a boolean only where it plainly is one.

    YAML 1.1 reads `no` as false, `12:30:45` as 45045, `010` as 8 and `2024_11` as 202411. Here
    the rules are those of YAML 1.2: such values stay the text they are, and dates do too.

    The scanner's time grows with the square of the depth, so it is bounded there already.
    """

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        """`[` or `{`."""
        self._deeper(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        """A block that is further in."""
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
# The class's own table: changing the inherited one would change PyYAML for everybody.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """YAML 1.2: a leading zero means nothing, `0o` is octal."""
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> float:
    """`1e-5` is a number, with or without a point."""
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)


class _Written(_Loader):
    """The same document with every scalar as it was written."""


_Written.yaml_implicit_resolvers = {}


def parse_yaml(text: str, where: str) -> Any:
    """YAML as plain data: text, numbers, lists, and mappings whose keys are text.

    Raises:
        ConfigError: broken, tagged, given twice, endless or absurdly large; with the line.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node, where)
        return whole_characters(loader.construct_document(node))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None)
        place = f"{where}:{mark.line + 1}" if mark else where
        raise ConfigError(f"broken YAML: {problem or 'it is not YAML'}", where=place) from error
    except RecursionError as error:
        raise ConfigError(f"nested deeper than {DEPTH} levels", where=where) from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise ConfigError(f"broken YAML: {error}", where=where) from error
    finally:
        if loader is not None:
            loader.dispose()


class _Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or 1.2 would take for something else."""


for _tag, _pattern, _first in _RESOLVERS:
    _Dumper.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))


def dump_yaml(values: Any, *, width: int = 88, flow: bool = False) -> str:
    """Plain data as YAML that `parse_yaml`, and readers of YAML 1.1, take back as it was.

    Args:
        width: characters a line is folded at.
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


def written_yaml(text: str) -> Any:
    """A document that `parse_yaml` has read, with every scalar as the text it was written as."""
    loader = _Written(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    finally:
        loader.dispose()


def _weigh(root: yaml.Node, where: str) -> None:
    """Refuse what is small as text and boundless as data, before any of it is made."""
    weights: dict[int, int] = {}
    above: set[int] = set()

    def weigh(node: yaml.Node, depth: int) -> int:
        if id(node) in weights:
            return weights[id(node)]
        place = f"{where}:{node.start_mark.line + 1}"
        if id(node) in above or depth > DEPTH:
            reason = "holds itself" if id(node) in above else f"nested deeper than {DEPTH} levels"
            raise ConfigError(reason, where=place)
        if node.tag not in _PLAIN:
            raise ConfigError(
                f"the tag {node.tag!r} is not read here", where=place, hint="leave the tag out"
            )
        if node.tag in _NUMBERS and len(node.value) > NUMBER_LENGTH:
            raise ConfigError(f"a number of {len(node.value)} characters", where=place)
        above.add(id(node))
        total = 1
        if isinstance(node, yaml.MappingNode):
            _name_keys(node, where)
        for child in _below(node):
            total += weigh(child, depth + 1)
            if total > NODES:
                raise ConfigError(
                    f"stands for more than {NODES:,} values",
                    where=place,
                    hint="are aliases (*name) nested in each other?",
                )
        above.discard(id(node))
        weights[id(node)] = total
        return total

    weigh(root, 0)


def _below(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _name_keys(node: yaml.MappingNode, where: str) -> None:
    """Keys are names: `on`, `1` and `null` are texts there, and each stands once."""
    seen: set[str] = set()
    for key, _ in node.value:
        place = f"{where}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError("a field's name must be plain text", where=place)
        if key.tag == _MERGE:
            continue
        if key.tag in _PLAIN:
            key.tag = _TEXT
        if key.value in seen:
            raise ConfigError(f"the field {key.value[:80]!r} is given twice", where=place)
        seen.add(key.value)
