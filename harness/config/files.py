"""Reading and writing configs: YAML files, `--set`, presets, and errors that name the field."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kdharness.harness.config.base import former_fields, reading_stored
from kdharness.harness.config.evaluation import WITHOUT_URL, EvalConfig
from kdharness.harness.config.field_kinds import FIELD_KINDS, names_model
from kdharness.harness.config.training import CONFIGS, AnyConfig, config_class
from kdharness.harness.errors import ConfigError
from kdharness.harness.registry import TRAINERS
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.notices import notify_once
from kdharness.harness.util.redact import redact
from kdharness.harness.util.untrusted import (
    CONFIG_BYTES,
    dump_yaml,
    parse_yaml,
    read_text,
    written_yaml,
)


def parse_config(values: object, where: str = "config", written: object = None) -> AnyConfig:
    """Validate plain data into a config.

    Args:
        where: the file or option it comes from, for errors.
        written: the same data with every scalar as its original text in the file.

    Raises:
        ConfigError: with one line per error, each with its field.
    """
    if not isinstance(values, dict):
        raise ConfigError("a config must be a mapping of fields", where=where)
    method = values.get("method")
    model = config_class(method) if isinstance(method, str) else None
    if model is None:
        raise ConfigError(
            f"unknown method {_shown(method)}" if "method" in values else "missing field: method",
            where=where,
            hint=f"one of: {', '.join(dict.fromkeys([*CONFIGS, *TRAINERS]))}",
        )
    if errors := list(booleans_as_numbers(values, model)):
        raise ConfigError(listed(errors), where=where)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, model, written), where=where) from error


def parse_stored(values: object, where: str = "config") -> AnyConfig:
    """Validate the config that a run stored, as `parse_config`.

    Settings without effect that an older version accepted are no errors in it.
    """
    with reading_stored():
        return parse_config(values, where)


def booleans_as_numbers(values: object, model: Any, parent: str = "") -> Iterator[str]:
    """Yield a line per boolean in place of a number, which pydantic would read as 0 or 1."""
    if isinstance(values, list):
        for index, value in enumerate(values):
            yield from booleans_as_numbers(value, model, f"{parent}.{index}")
        return
    if not isinstance(values, dict):
        return
    for name, field in getattr(model, "model_fields", {}).items():
        value, here = values.get(field.alias or name), f"{parent}.{field.alias or name}".strip(".")
        kinds = _leaves(field.annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            yield f"{here}: must be a number, but {str(value).lower()} is a boolean"
        yield from booleans_as_numbers(value, _model_of(field.annotation), here)


def _leaves(annotation: object) -> set[Any]:
    """Return the types an annotation is made of."""
    below = getattr(annotation, "__args__", ())
    return {leaf for part in below for leaf in _leaves(part)} if below else {annotation}


def listed(lines: Sequence[str]) -> str:
    """Return errors as one text: several are a list below the place."""
    return lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)


def describe_errors(error: ValidationError, model: type[BaseModel], written: object = None) -> str:
    """Format pydantic's errors as lines with the field and, for a typo, the nearest name.

    A number or boolean in place of text is shown as it was written, which is not how YAML parsed
    it: `1.10` is the number 1.1.
    """
    lines = []
    for detail in error.errors():
        parts = [str(part) for part in detail["loc"]]
        field_path = ".".join(part for part in parts if not part.startswith("function"))
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            names = _field_names(model, detail["loc"][:-1])
            near = difflib.get_close_matches(str(detail["loc"][-1]), names, n=1)
            message = "unknown field" + (f"; did you mean {near[0]}?" if near else "")
            if not near and names:
                message += f"; known fields: {', '.join(names)}"
        elif detail["type"] == "string_type" and not isinstance(detail.get("input"), (dict, list)):
            message = _not_text(detail.get("input"), _written_at(written, detail["loc"]))
        elif detail["type"] in _WANTED:
            message = _not_a(_WANTED[detail["type"]], detail.get("input"))
        elif detail["type"] == "string_pattern_mismatch" and detail["loc"][-1:] == ("name",):
            message = (
                f"invalid run name {_shown(detail.get('input'))}: use up to 64 "
                "letters, digits, . - and _, beginning with a letter or digit"
            )
        elif detail["type"] != "missing" and not isinstance(detail.get("input"), (dict, list)):
            message += f" (got {_shown(detail.get('input'))})"
        lines.append(redact(f"{field_path}: {message}" if field_path else message, shapes=True))
    return listed(lines)


_WANTED = {
    "model_type": "a mapping of fields",
    "dict_type": "a mapping",
    "list_type": "a list",
}
"""Expected types by pydantic error type."""


def _not_a(wanted: str, value: object) -> str:
    """Return the message for another value in place of a mapping or a list."""
    if value is None:
        return f"must be {wanted}, but is empty: remove the field, or fill it in"
    hint = "; quote it if it is a name" if isinstance(value, (bool, int, float)) else ""
    return f"must be {wanted}, not {_shown(value)}{hint}"


def _not_text(value: object, written: str | None) -> str:
    """Return the message for a number, a boolean or nothing in place of text."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", type(None): "empty"}
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    if value is None and not written:
        return "must be text, but is empty"
    text = written if written else _shown(value)
    return f'must be text, but {text} is {kind}: quote it ("{text}")'


def _written_at(written: object, field_path: Sequence[int | str]) -> str | None:
    """Return the text of one scalar; a single source is found with or without its list."""
    for part in field_path:
        if isinstance(written, dict):
            written = written.get(part, written)
        elif isinstance(written, list) and isinstance(part, int):
            written = written[part] if part < len(written) else None
    return written if isinstance(written, str) else None


def _shown(value: object) -> str:
    """Format a wrong value for an error: shortened, and safe for huge integers."""
    try:
        text = repr(value)
    except ValueError:
        return f"a {type(value).__name__} with thousands of digits"
    return redact(text if len(text) <= 200 else text[:200] + "…", shapes=True)


def _field_names(model: type[BaseModel], field_path: Sequence[int | str]) -> list[str]:
    """Return the fields of the (nested) model at `field_path`."""
    current: Any = model
    for part in field_path:
        if not isinstance(part, str):
            continue
        fields = getattr(current, "model_fields", {})
        field = fields.get(part)
        if field is None:
            continue
        current = _model_of(field.annotation) or current
    fields = getattr(current, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _model_of(annotation: object) -> object:
    """Return the pydantic model inside an annotation such as `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        model = _model_of(part)
        if model is not None:
            return model
    return None


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a YAML config, apply `a.b=value` overrides, and make its local paths absolute.

    Raises:
        ConfigError: no such file, invalid YAML (with the line), or an invalid field.
    """
    file = local_path(os.fspath(path))
    text = read_text(file, "the config", limit=CONFIG_BYTES)
    values = parse_yaml(text, str(path))
    written = written_yaml(text)
    for override in [overrides] if isinstance(overrides, str) else overrides:
        set_field(values, override)
        if isinstance(written, dict):
            set_field(written, override, as_written=True)
    parsed = parse_config(absolute_paths(values, file.resolve().parent), str(path), written)
    for field, instead in former_fields(parsed):
        notify_once(f"{path}: {field} is a former name and will be removed: use {instead}")
    return parsed


def set_field(values: object, override: str, *, as_written: bool = False) -> None:
    """Apply one `a.b=value` (the value parsed as YAML) to nested plain data, in place.

    A number in the name is a list index from 0: `data.train.1.path=x`, or `data.train[1].path=x`.
    The index after the last one appends an entry.

    Args:
        as_written: keep the value as text.

    Raises:
        ConfigError: a name that does not lead to a field.
    """
    name, sign, text = override.partition("=")
    parts = re.sub(r"\[(\d+)\]", r".\1", name.strip()).split(".")
    if not sign or not all(parts) or not isinstance(values, dict):
        raise ConfigError(f"invalid --set {override!r}", hint="use --set trainer.epochs=1")
    value = text if as_written else parse_yaml(text, f"--set {name.strip()}")
    holder: Any = values
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        parent = ".".join(parts[:index])
        key: Any = part
        if isinstance(holder, list):
            key = _list_index(holder, part, override, parent)
        if last:
            if isinstance(holder, list) and key == len(holder):
                holder.append(value)
            else:
                holder[key] = value
            return
        appends = isinstance(holder, list) and key == len(holder)
        child = None if appends else holder[key] if key in _keys(holder) else None
        child = _opened(child, part, parts[index + 1], parent or "the config")
        if not isinstance(child, (dict, list)):
            raise ConfigError(f"--set {override}: {'.'.join(parts[: index + 1])} has no fields")
        if appends:
            holder.append(child)
        else:
            holder[key] = child
        holder = child


def _keys(holder: object) -> Any:
    return range(len(holder)) if isinstance(holder, list) else holder


def _opened(child: object, part: str, following: str, parent: str) -> object:
    """Return the container a name continues into: expand short forms, create what is missing.

    A plain string is short for `{path: …}` of a data source, `{bench: …}` of a benchmark or
    `{model: …}` of a model; a single source or benchmark is short for a list of one.
    """
    is_source = part in ("train", "heldout") and parent in ("data", "the config")
    is_bench = "eval_benches" in (part, parent.rpartition(".")[2])
    if following.isdecimal():
        if child is None:
            return []
        return [child] if isinstance(child, (str, dict)) and (is_source or is_bench) else child
    if child is None:
        return {}
    if isinstance(child, str):
        short = "path" if is_source or part.isdecimal() else "model"
        return {"bench" if is_bench else short: child}
    return child


def _list_index(holder: list[object], part: str, override: str, parent: str) -> int:
    if not part.isdecimal():
        raise ConfigError(
            f"--set {override}: {parent} is a list",
            hint=f"use an index from 0: {parent}.0.{part}=…",
        )
    if int(part) > len(holder):
        raise ConfigError(
            f"--set {override}: {parent} has {len(holder)} entries",
            hint=f"valid indices are 0 to {len(holder) - 1}; {parent}.{len(holder)} appends one",
        )
    return int(part)


FILE_ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".jinja", ".j2", ".yaml", ".yml", ".txt")
_NAMES = frozenset({"name", "method", "kind"})


def absolute_paths(values: object, base: Path, field: str = "") -> Any:
    """Make strings that name an existing path absolute: a run may be resumed anywhere.

    Paths are relative to the config's folder, else to the working directory; `~` is expanded. Any
    text with a slash or a data file's suffix is tried; in a field for a file any file, in a field
    for a model a folder that contains one; after `local:` and `vllm:` the judge's folder, after
    `llama:` its file.
    """
    if isinstance(values, dict):
        return {
            key: value
            if key in _NAMES
            # Names of experts and sets are chosen by the user: the field above tells their type.
            else absolute_paths(
                value, base, field if field in ("experts", "extra") else key.rpartition(".")[2]
            )
            for key, value in values.items()
        }
    if isinstance(values, list):
        return [absolute_paths(value, base, field) for value in values]
    if not isinstance(values, str) or not values:
        return values
    kind, sign, rest = values.partition(":")
    if FIELD_KINDS.get(field) in ("judges", "engine") and sign and kind in WITHOUT_URL:
        # A field whose texts name what follows: a file, or a model's folder.
        return f"{kind}:{absolute_paths(rest, base, 'path' if kind == 'llama' else 'model')}"
    if Path(values).is_absolute():
        return values
    named = local_path(values)
    candidates = [named] if named.is_absolute() else [base / named, Path.cwd() / named]
    path = next((path for path in candidates if _is_meant(values, path, field)), None)
    return values if path is None else str(path.resolve())


def _is_meant(text: str, path: Path, field: str) -> bool:
    """Return whether a field's text refers to this path."""
    if ("/" in text or text.endswith(FILE_ENDINGS)) and exists(path):
        return True
    if FIELD_KINDS.get(field) == "file" and exists(path, folder=False):
        return True
    return names_model(field) and any(
        exists(path / note, folder=False) for note in ("config.json", "adapter_config.json")
    )


def make_eval_config(**fields: object) -> EvalConfig:
    """Make an EvalConfig from options; None and empty ones keep their defaults.

    Paths become absolute, since a run may be resumed from another folder.

    Raises:
        ConfigError: with the name of the invalid field.
    """
    given = {name: value for name, value in fields.items() if value not in (None, [], {})}
    try:
        return EvalConfig(**absolute_paths(given, Path.cwd()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(message, where=where) from error


def dump_config(config: AnyConfig, *, full: bool = False) -> str:
    """Return the config as YAML that `load_config` reads back; `full` writes defaults too."""
    values = config.model_dump(mode="json", by_alias=True, exclude_unset=not full)
    values = {"method": config.method, **{k: v for k, v in values.items() if k != "method"}}
    return dump_yaml(values)


def preset_names() -> list[str]:
    """Return the names of the shipped presets, such as `kd-laptop`."""
    folder = resources.files("kdharness.data").joinpath("presets")
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """Return a preset's YAML with its comments; raise ConfigError that lists the known names."""
    if name not in preset_names():
        raise ConfigError(f"no preset {name!r}", hint=f"known: {', '.join(preset_names())}")
    folder = resources.files("kdharness.data").joinpath("presets")
    return folder.joinpath(f"{name}.yaml").read_text("utf-8")
