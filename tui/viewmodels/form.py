"""A pydantic config as rows of a form, and plain values edited by field path. No widgets.

All content of a form comes from the model: titles, help, defaults, limits, choices. A field that
is added to a config appears in the app automatically.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kdharness.harness.config.base import is_former
from kdharness.harness.config.field_kinds import FIELD_KINDS
from kdharness.harness.config.files import absolute_paths, describe_errors, parse_config
from kdharness.harness.config.training import known_config
from kdharness.harness.errors import ConfigError
from kdharness.harness.util.untrusted import dump_yaml, parse_yaml

FieldPath = tuple[str | int, ...]
MISSING: Any = object()

PICKERS = {
    "model": "model",
    "models": "checkpoints",
    "imported": "checkpoints",
    "file": "file",
    "benches": "benches",
    "judges": "judges",
}
"""What a field's text names -> the list it is picked from."""

PICKABLE = frozenset({"text", "list", "mixed"})
"""Kinds of fields that a picker can fill: a name, or a list of names."""


@dataclass(frozen=True)
class Field:
    """One row of a form. `kind` determines how it is edited."""

    place: FieldPath
    title: str
    help: str
    kind: str
    choices: tuple[str, ...] = ()
    limits: str = ""
    default: str = ""
    required: bool = False
    optional: bool = False
    depth: int = 0
    removable: bool = False
    pick: str = ""
    first: str = ""  # of a list of groups: the field that a new one begins with

    @property
    def id(self) -> str:
        """The dotted name, as for `--set`."""
        return ".".join(map(str, self.place))


@dataclass(frozen=True)
class Shape:
    """The meaning of an annotation for a form."""

    kind: str
    optional: bool = False
    choices: tuple[str, ...] = ()
    model: type[BaseModel] | None = None


def shape_of(annotation: object) -> Shape:
    """Classify an annotation: optional, a choice, a group, a list of groups, and so on."""
    parts = _union(annotation)
    optional = type(None) in parts
    parts = [part for part in parts if part is not type(None)]
    choices = tuple(
        str(choice)
        for part in parts
        if typing.get_origin(part) is typing.Literal
        for choice in typing.get_args(part)
    )
    rest = [part for part in parts if typing.get_origin(part) is not typing.Literal]
    if choices:
        return Shape("mixed" if rest else "choice", optional, choices)
    if len(rest) != 1:
        return Shape("mixed", optional)
    only = rest[0]
    origin, args = typing.get_origin(only), typing.get_args(only)
    if _is_model(only):
        return Shape("group", optional, model=only)
    if origin is list:
        inner = _union(args[0])[0]
        if _is_model(inner):
            return Shape("groups", optional, model=inner)
        return Shape("numbers" if inner in (int, float) else "list", optional)
    if origin is dict:
        inner = _union(args[1])[0]
        if _is_model(inner):
            return Shape("mapping", optional, model=inner)
        return Shape("pairs", optional)
    names = {bool: "flag", int: "integer", float: "number"}
    return Shape(names.get(only, "text"), optional)


def _union(annotation: object) -> list[Any]:
    """Return the alternatives of an annotation, without `Annotated` wrappers."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for arg in typing.get_args(annotation) for part in _union(arg)]
    return [annotation]


def _is_model(part: object) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def limits_of(info: FieldInfo) -> str:
    """Return the limits of a field such as `> 0, ≤ 1`; empty if it has none."""
    return ", ".join(
        f"{sign} {text_of(value)}"
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        for part in info.metadata
        if (value := getattr(part, name, None)) is not None
    )


# ---------------------------------------------------------------- rows


def fields_of(
    model: type[BaseModel], values: object, place: FieldPath = (), depth: int = 0
) -> list[Field]:
    """Return the rows of a model's form; groups that are off have one row."""
    rows: list[Field] = []
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key == "method" and not place:
            continue
        shape = shape_of(info.annotation)
        here = (*place, key)
        value = values.get(key, MISSING) if isinstance(values, Mapping) else MISSING
        if value is MISSING and is_former(info):
            continue
        row = Field(
            place=here,
            title=info.title or key,
            help=info.description or "",
            kind=shape.kind,
            choices=shape.choices,
            limits=limits_of(info),
            default=_default(info),
            required=info.is_required(),
            optional=shape.optional,
            depth=depth,
            pick=PICKERS.get(FIELD_KINDS.get(key, ""), "") if shape.kind in PICKABLE else "",
            first=_first(shape.model) if shape.kind == "groups" and shape.model else "",
        )
        rows.append(row)
        if shape.model is not None:
            rows += _below(shape, row, value)
    return rows


def _first(model: type[BaseModel]) -> str:
    """Return the field that a model's short form sets: the first required one."""
    return next(
        info.alias or name for name, info in model.model_fields.items() if info.is_required()
    )


def _below(shape: Shape, row: Field, value: object) -> list[Field]:
    """Return the rows under a group, a list of groups or named groups."""
    assert shape.model is not None
    depth = row.depth + 1
    if shape.kind == "group":
        off = value is None or (value is MISSING and shape.optional)
        return [] if off else fields_of(shape.model, value, row.place, depth)
    items: list[tuple[str | int, Any]] = []
    if shape.kind == "groups" and isinstance(value, list):
        items = list(enumerate(value))
    elif shape.kind == "mapping" and isinstance(value, Mapping):
        items = list(value.items())
    rows: list[Field] = []
    for key, item in items:
        here = (*row.place, key)
        label = f"{row.title} {key + 1}" if isinstance(key, int) else str(key)
        rows.append(Field(here, label, row.help, "item", depth=depth, removable=True))
        rows += fields_of(shape.model, item, here, depth + 1)
    return rows


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return ""
    value = info.get_default(call_default_factory=True)
    return "" if isinstance(value, BaseModel) else text_of(value)


# ---------------------------------------------------------------- values as text


def text_of(value: object) -> str:
    """Return a value as it would be typed."""
    if value is None or value is MISSING:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if abs(value) < 1e6 and float(short) == value else repr(value)
    if isinstance(value, list):
        return ", ".join(text_of(part) for part in value)
    if isinstance(value, Mapping):
        return dump_yaml(dict(value), flow=True, width=10_000).strip()
    return str(value)


def value_of(field: Field, text: str) -> object:
    """Parse typed text into a value; invalid text is kept for pydantic to reject."""
    text = text.strip()
    if text == "":
        return MISSING
    if field.kind in ("integer", "number"):
        return _number(text, whole=field.kind == "integer")
    if field.kind == "flag":
        return {"yes": True, "true": True, "no": False, "false": False}.get(text.lower(), text)
    if field.kind == "numbers":
        return [_number(part.strip(), whole=False) for part in text.split(",") if part.strip()]
    if field.kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if field.kind in ("mixed", "pairs"):
        if "," in text and text[0] not in "[{":
            return [_number(part.strip(), whole=True) for part in text.split(",") if part.strip()]
        try:
            return parse_yaml(text, "field")
        except ConfigError:
            return text
    return text


def _number(text: str, *, whole: bool) -> object:
    for kind in (int, float):
        try:
            return kind(text.replace("_", ""))
        except ValueError:
            continue
    return text


def get_value(values: Any, place: FieldPath) -> object:
    """Return the value at a path, or MISSING."""
    for part in place:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return values


def set_value(values: object, place: FieldPath, value: object) -> Any:
    """Return a copy of `values` with one path changed; MISSING removes it."""
    if not place:
        return value
    key, rest = place[0], place[1:]
    if isinstance(key, int):
        items = list(values) if isinstance(values, list) else []
        if value is MISSING and not rest:
            return items[:key] + items[key + 1 :]
        if key >= len(items):
            return [*items, set_value({}, rest, value)]
        items[key] = set_value(items[key], rest, value)
        return items
    table = dict(values) if isinstance(values, Mapping) else {}
    if value is MISSING and not rest:
        table.pop(key, None)
        return table
    table[key] = set_value(table.get(key), rest, value)
    return table


def expand_short_forms(model: type[BaseModel], values: object) -> Any:
    """Expand short forms of YAML (`student: kd`, one source without a list)."""
    if not isinstance(values, Mapping):
        return values
    out = dict(values)
    for name, info in model.model_fields.items():
        key = info.alias or name
        if out.get(key) is None:
            continue
        shape = shape_of(info.annotation)
        value = out[key]
        if shape.kind == "group" and shape.model is not None:
            value = {"model": value} if isinstance(value, str) else value
            out[key] = expand_short_forms(shape.model, value)
        elif shape.kind == "groups" and shape.model is not None:
            items = value if isinstance(value, list) else [value]
            items = [{_first(shape.model): i} if isinstance(i, str) else i for i in items]
            out[key] = [expand_short_forms(shape.model, item) for item in items]
        elif shape.kind == "mapping" and shape.model is not None and isinstance(value, Mapping):
            out[key] = {
                k: expand_short_forms(shape.model, {"model": v} if isinstance(v, str) else v)
                for k, v in value.items()
            }
    return out


def fitting(model: type[BaseModel], values: object) -> Any:
    """Drop the fields that the model does not have, when the method changes."""
    if not isinstance(values, Mapping):
        return values
    out: dict[str, object] = {}
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key not in values:
            continue
        shape = shape_of(info.annotation)
        deep = shape.kind == "group" and shape.model is not None
        out[key] = fitting(shape.model, values[key]) if deep and shape.model else values[key]
    return out


# ---------------------------------------------------------------- validation


@dataclass(frozen=True)
class FormState:
    """The result of validation: a config, or one message per field path."""

    config: Any
    errors: Mapping[FieldPath, str]


def check(values: Mapping[str, object]) -> FormState:
    """Validate the values; local paths become absolute, so that the run finds them."""
    try:
        return FormState(parse_config(absolute_paths(dict(values), Path.cwd())), {})
    except ConfigError as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError):
            return FormState(None, {(): str(error)})
        model = known_config(values.get("method"))
        return FormState(None, _by_place(cause, model))


def _by_place(error: ValidationError, model: type[BaseModel]) -> dict[FieldPath, str]:
    lines = describe_errors(error, model).strip().split("\n  ")
    details = error.errors()
    if len(lines) != len(details):
        lines = [str(detail["msg"]) for detail in details]
    errors: dict[FieldPath, str] = {}
    for detail, line in zip(details, lines, strict=True):
        path: list[str | int] = []
        for part in detail["loc"]:
            # Alternatives of a union have names like `list[int]` or `literal['a','b']`.
            if isinstance(part, str) and ("[" in part or part in ("int", "str", "float")):
                break
            path.append(part)
        dotted = ".".join(map(str, detail["loc"]))
        message = line.removeprefix(f"{dotted}: ")
        if detail["type"] == "missing" or detail.get("input") == "":
            message = "is required"
        errors.setdefault(tuple(path), message)
    return errors


def yaml_text(values: Mapping[str, object]) -> str:
    """Return the values as YAML, the method first."""
    model = known_config(values["method"])
    out = {"method": values["method"], **in_order(model, values)}
    return dump_yaml(out, width=72)


def in_order(model: type[BaseModel], values: object) -> Any:
    """Return the values in the order of the model's fields."""
    if not isinstance(values, Mapping):
        return values
    out: dict[str, object] = {}
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key in values:
            shape = shape_of(info.annotation)
            value = values[key]
            if shape.kind == "group" and shape.model is not None:
                value = in_order(shape.model, value)
            elif shape.kind == "groups" and shape.model is not None and isinstance(value, list):
                value = [in_order(shape.model, item) for item in value]
            out[key] = value
    return {**out, **{k: v for k, v in values.items() if k not in out}}
