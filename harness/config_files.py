"""Configs as text and back: YAML files, `--set`, presets, and errors that name the field."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from kdharness.harness.config import CONFIGS, AnyConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import exists
from kdharness.harness.reading import CONFIG_BYTES, parse_yaml, read_text
from kdharness.harness.secrets import redact


def parse_config(values: Any, where: str = "config") -> AnyConfig:
    """Validate plain data into a config.

    Raises:
        ConfigError: with one line a mistake, each naming its field.
    """
    if not isinstance(values, dict):
        raise ConfigError("a config is a mapping of fields", where=where)
    method = values.get("method")
    if not isinstance(method, str) or method not in CONFIGS:
        raise ConfigError(
            f"method is {_shown(method)}", where=where, hint=f"one of: {', '.join(CONFIGS)}"
        )
    try:
        return CONFIGS[method].model_validate(values)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, CONFIGS[method]), where=where) from error


def describe_errors(error: ValidationError, model: type[BaseModel]) -> str:
    """pydantic's errors as lines that name the field and, for a typo, the nearest one."""
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
        elif detail["type"] != "missing" and not isinstance(detail.get("input"), (dict, list)):
            message += f" (got {_shown(detail.get('input'))})"
        lines.append(redact(f"{place}: {message}" if place else message, shapes=True))
    return lines[0] if len(lines) == 1 else "\n  " + "\n  ".join(lines)


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
    values = parse_yaml(read_text(file, "the config", limit=CONFIG_BYTES), str(path))
    for override in overrides:
        set_field(values, override)
    return parse_config(absolute_paths(values, file.resolve().parent), where=str(path))


def set_field(values: Any, override: str) -> None:
    """Apply one `a.b=value` (the value read as YAML) to nested plain data, in place."""
    name, sign, text = override.partition("=")
    parts = name.strip().split(".")
    if not sign or not all(parts) or not isinstance(values, dict):
        raise ConfigError(f"cannot use --set {override!r}", hint="write --set trainer.epochs=1")
    for index, part in enumerate(parts[:-1]):
        below = values.get(part)
        if below is None or isinstance(below, str):
            below = {} if below is None else {"model": below}
            values[part] = below
        if not isinstance(below, dict):
            raise ConfigError(
                f"--set {override}: {'.'.join(parts[: index + 1])} has no fields of its own"
            )
        values = below
    values[parts[-1]] = parse_yaml(text, f"--set {name.strip()}")


def absolute_paths(values: Any, base: Path) -> Any:
    """Strings that name something existing beside the config become absolute paths."""
    if isinstance(values, dict):
        return {
            key: value if key in ("name", "method") else absolute_paths(value, base)
            for key, value in values.items()
        }
    if isinstance(values, list):
        return [absolute_paths(value, base) for value in values]
    if isinstance(values, str) and values and not Path(values).is_absolute():
        looks_local = "/" in values or values.endswith((".jsonl", ".parquet"))
        if looks_local and exists(base / values):
            return str((base / values).resolve())
    return values


def dump_config(config: AnyConfig, *, full: bool = False) -> str:
    """The config as YAML that `load_config` takes back; `full` writes defaults too."""
    values = config.model_dump(mode="json", by_alias=True, exclude_unset=not full)
    values = {"method": config.method, **{k: v for k, v in values.items() if k != "method"}}
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=88)
    return text


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

