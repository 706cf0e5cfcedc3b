"""Configs as text and back: YAML files, `--set`, presets, and errors that name the field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kdharness.harness.config.field_kinds import FIELD_KINDS, names_model
from kdharness.harness.config.training import CONFIGS, AnyConfig, config_class
from kdharness.harness.errors import ConfigError
from kdharness.harness.registry import TRAINERS
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.redact import redact
from kdharness.harness.util.untrusted import (
    CONFIG_BYTES,
    dump_yaml,
    parse_yaml,
    read_text,
    written_yaml,
)


def parse_config(values: Any, where: str = "config", written: Any = None) -> AnyConfig:
    """Validate plain data into a config.

    Args:
        where: the file or place it comes from, for errors.
        written: the same data with every scalar as the text that stands in the file.

    Raises:
        ConfigError: with one line a mistake, each naming its field.
    """
    if not isinstance(values, dict):
        raise ConfigError("a config is a mapping of fields", where=where)
    method = values.get("method")
    model = config_class(method) if isinstance(method, str) else None
    if model is None:
        raise ConfigError(
            f"method is {_shown(method)}",
            where=where,
            hint=f"one of: {', '.join(dict.fromkeys([*CONFIGS, *TRAINERS]))}",
        )
    if wrong := list(_booleans_as_numbers(values, model)):
        raise ConfigError(_listed(wrong), where=where)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, model, written), where=where) from error


def _booleans_as_numbers(values: Any, model: Any, place: str = "") -> Iterator[str]:
    """A line for each boolean where a number belongs, which pydantic would take for 0 or 1."""
    if isinstance(values, list):
        for index, value in enumerate(values):
            yield from _booleans_as_numbers(value, model, f"{place}.{index}")
        return
    if not isinstance(values, dict):
        return
    for name, field in getattr(model, "model_fields", {}).items():
        value, here = values.get(field.alias or name), f"{place}.{field.alias or name}".strip(".")
        kinds = _leaves(field.annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            yield f"{here}: must be a number, and {str(value).lower()} is a boolean"
        yield from _booleans_as_numbers(value, _model_of(field.annotation), here)


def _leaves(annotation: Any) -> set[Any]:
    """The types an annotation is made of."""
    below = getattr(annotation, "__args__", ())
    return {leaf for part in below for leaf in _leaves(part)} if below else {annotation}


def _listed(lines: Sequence[str]) -> str:
    return lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)


def describe_errors(error: ValidationError, model: type[BaseModel], written: Any = None) -> str:
    """Pydantic's errors as lines that name the field and, for a typo, the nearest one.

    A number or boolean where text belongs is shown as it was written, which is not how YAML read
    it: `1.10` is the number 1.1.
    """
    lines = []
    for detail in error.errors():
        parts = [str(part) for part in detail["loc"]]
        place = ".".join(part for part in parts if not part.startswith("function"))
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            names = _field_names(model, detail["loc"][:-1])
            near = difflib.get_close_matches(str(detail["loc"][-1]), names, n=1)
            message = "unknown field" + (f"; did you mean {near[0]}?" if near else "")
            if not near and names:
                message += f"; fields here: {', '.join(names)}"
        elif detail["type"] == "string_type" and not isinstance(detail.get("input"), (dict, list)):
            message = _not_text(detail.get("input"), _written_at(written, detail["loc"]))
        elif detail["type"] in _WANTED:
            message = _not_a(_WANTED[detail["type"]], detail.get("input"))
        elif detail["type"] == "string_pattern_mismatch" and detail["loc"][-1:] == ("name",):
            message = (
                f"{_shown(detail.get('input'))} is not a valid run name: use up to 64 "
                "letters, digits, . - and _, and begin with a letter or digit"
            )
        elif detail["type"] != "missing" and not isinstance(detail.get("input"), (dict, list)):
            message += f" (got {_shown(detail.get('input'))})"
        lines.append(redact(f"{place}: {message}" if place else message, shapes=True))
    return _listed(lines)


_WANTED = {
    "model_type": "a mapping of fields",
    "dict_type": "a mapping",
    "list_type": "a list",
}
"""What pydantic's kinds of errors ask for."""


def _not_a(wanted: str, value: Any) -> str:
    """What to say of something else where a mapping or a list belongs."""
    if value is None:
        return f"must be {wanted}, and is empty: leave the field out, or fill it in"
    hint = "; quote it if a name is meant" if isinstance(value, (bool, int, float)) else ""
    return f"must be {wanted}, not {_shown(value)}{hint}"


def _not_text(value: Any, written: str | None) -> str:
    """What to say of a number, a boolean or nothing where text belongs."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", type(None): "empty"}
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    if value is None and not written:
        return "must be text, and is empty"
    text = written if written else _shown(value)
    return f'must be text, and {text} is {kind}: quote it ("{text}")'


def _written_at(written: Any, place: Sequence[int | str]) -> str | None:
    """The text of one scalar; a source that stands without its list is found all the same."""
    for part in place:
        if isinstance(written, dict):
            written = written.get(part, written)
        elif isinstance(written, list) and isinstance(part, int):
            written = written[part] if part < len(written) else None
    return written if isinstance(written, str) else None


def _shown(value: Any) -> str:
    """A wrong value as an error quotes it: short, and no number too long to be written."""
    try:
        text = repr(value)
    except ValueError:
        return f"a {type(value).__name__} of thousands of digits"
    return redact(text if len(text) <= 200 else text[:200] + "…", shapes=True)


def _field_names(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The fields of the (nested) model at `place`."""
    current: Any = model
    for part in place:
        if not isinstance(part, str):
            continue
        fields = getattr(current, "model_fields", {})
        field = fields.get(part)
        if field is None:
            continue
        current = _model_of(field.annotation) or current
    fields = getattr(current, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _model_of(annotation: Any) -> Any:
    """The pydantic model inside an annotation such as `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _model_of(part)
        if found is not None:
            return found
    return None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a YAML config, apply `a.b=value` overrides, and make its local paths absolute.

    Raises:
        ConfigError: no such file, broken YAML (with the line), or a field that is wrong.
    """
    file = Path(path)
    text = read_text(file, "the config", limit=CONFIG_BYTES)
    values = parse_yaml(text, str(path))
    written = written_yaml(text)
    for override in overrides:
        set_field(values, override)
        if isinstance(written, dict):
            set_field(written, override, as_written=True)
    return parse_config(absolute_paths(values, file.resolve().parent), str(path), written)


def set_field(values: Any, override: str, *, as_written: bool = False) -> None:
    """Apply one `a.b=value` (the value read as YAML) to nested plain data, in place.

    A number in the name is a place in a list, from 0: `data.train.1.path=x`, or
    `data.train[1].path=x`. The place just behind the last one adds an entry.

    Args:
        as_written: keep the value as the text it is.

    Raises:
        ConfigError: a name that leads nowhere.
    """
    name, sign, text = override.partition("=")
    parts = re.sub(r"\[(\d+)\]", r".\1", name.strip()).split(".")
    if not sign or not all(parts) or not isinstance(values, dict):
        raise ConfigError(f"cannot use --set {override!r}", hint="write --set trainer.epochs=1")
    value = text if as_written else parse_yaml(text, f"--set {name.strip()}")
    holder: Any = values
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        place = ".".join(parts[:index])
        key: Any = part
        if isinstance(holder, list):
            key = _list_index(holder, part, override, place)
        if last:
            if isinstance(holder, list) and key == len(holder):
                holder.append(value)
            else:
                holder[key] = value
            return
        fresh = isinstance(holder, list) and key == len(holder)
        below = None if fresh else holder[key] if key in _keys(holder) else None
        below = _opened(below, part, parts[index + 1], place or "the config")
        if not isinstance(below, (dict, list)):
            raise ConfigError(
                f"--set {override}: {'.'.join(parts[: index + 1])} has no fields of its own"
            )
        if fresh:
            holder.append(below)
        else:
            holder[key] = below
        holder = below


def _keys(holder: Any) -> Any:
    return range(len(holder)) if isinstance(holder, list) else holder


def _opened(below: Any, part: str, following: str, place: str) -> Any:
    """What a name goes on into: short forms are spelt out, and what is not there is made.

    A plain string stands for `{path: …}` of a data source or `{model: …}` of a model; a source
    that stands alone is a list of one.
    """
    is_source = part in ("train", "heldout") and place in ("data", "the config")
    if following.isdecimal():
        if below is None:
            return []
        return [below] if isinstance(below, (str, dict)) and is_source else below
    if below is None:
        return {}
    if isinstance(below, str):
        return {"path" if is_source or part.isdecimal() else "model": below}
    return below


def _list_index(holder: list[Any], part: str, override: str, place: str) -> int:
    if not part.isdecimal():
        raise ConfigError(
            f"--set {override}: {place} is a list",
            hint=f"name an entry by its place, from 0: {place}.0.{part}=…",
        )
    if int(part) > len(holder):
        raise ConfigError(
            f"--set {override}: {place} has {len(holder)} entries",
            hint=f"places go from 0 to {len(holder) - 1}; {place}.{len(holder)} adds one",
        )
    return int(part)


FILE_ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".jinja", ".j2", ".yaml", ".yml", ".txt")
_NAMES = frozenset({"name", "method", "kind"})


def absolute_paths(values: Any, base: Path, field: str = "") -> Any:
    """Strings that name something existing become absolute paths: a run is resumed anywhere.

    What is looked for lies beside the config, else in the folder one works in; `~` is one's home.
    Anything with a slash or a data file's ending counts; in a field for a file any file, in a
    field for a model a folder that holds one; behind `local:` the judge's folder.
    """
    if isinstance(values, dict):
        return {
            key: value
            if key in _NAMES
            # Names of experts and sets are the user's own: the field above them says what they are.
            else absolute_paths(
                value, base, field if field in ("experts", "extra") else key.rpartition(".")[2]
            )
            for key, value in values.items()
        }
    if isinstance(values, list):
        return [absolute_paths(value, base, field) for value in values]
    if not isinstance(values, str) or not values:
        return values
    if FIELD_KINDS.get(field) in ("judges", "engine") and values.startswith("local:"):
        return f"local:{absolute_paths(values.removeprefix('local:'), base, 'model')}"
    if Path(values).is_absolute():
        return values
    named = local_path(values)
    places = [named] if named.is_absolute() else [base / named, Path.cwd() / named]
    found = next((place for place in places if _is_meant(values, place, field)), None)
    return values if found is None else str(found.resolve())


def _is_meant(text: str, path: Path, field: str) -> bool:
    """Whether a field's text names what lies there."""
    if ("/" in text or text.endswith(FILE_ENDINGS)) and exists(path):
        return True
    if FIELD_KINDS.get(field) == "file" and exists(path, folder=False):
        return True
    return names_model(field) and any(
        exists(path / note, folder=False) for note in ("config.json", "adapter_config.json")
    )


def dump_config(config: AnyConfig, *, full: bool = False) -> str:
    """The config as YAML that `load_config` takes back; `full` writes defaults too."""
    values = config.model_dump(mode="json", by_alias=True, exclude_unset=not full)
    values = {"method": config.method, **{k: v for k, v in values.items() if k != "method"}}
    return dump_yaml(values)


def preset_names() -> list[str]:
    """The presets that ship, such as `kd-laptop`."""
    folder = resources.files("kdharness.data").joinpath("presets")
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """A preset's YAML, with its comments. Raises ConfigError with the names there are."""
    if name not in preset_names():
        raise ConfigError(f"no preset {name!r}", hint=f"known: {', '.join(preset_names())}")
    folder = resources.files("kdharness.data").joinpath("presets")
    return folder.joinpath(f"{name}.yaml").read_text("utf-8")
