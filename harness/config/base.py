"""Base classes of all configs: unknown fields are errors, run names follow one pattern."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.fields import FieldInfo

NAME = r"^\w[\w.-]{0,63}$"
"""Pattern of run names, which are folder names and arguments of commands."""


_stored: ContextVar[bool] = ContextVar("stored", default=False)


@contextmanager
def reading_stored() -> Iterator[None]:
    """Let pass what an older version accepted and has no effect, in configs that are read inside.

    A run that was started with it must remain readable, and is resumed as it began.
    """
    before = _stored.set(True)
    try:
        yield
    finally:
        _stored.reset(before)


def is_stored() -> bool:
    """Return whether the config being read is one that a run or an experiment stored."""
    return _stored.get()


LARGEST_SEED = 2**32 - 1
"""NumPy, which a training seeds as well, takes no larger one."""


def _known_seed(value: object, check: ValidatorFunctionWrapHandler) -> object:
    if is_stored() and type(value) is int and value > LARGEST_SEED:
        return value
    return check(value)


Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED), WrapValidator(_known_seed)]


class Settings(BaseModel):
    """Base of every config: unknown fields are errors, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    unlimited: ClassVar[frozenset[str]] = frozenset()
    """Fields of which `.inf` means that there is no limit."""

    @model_validator(mode="after")
    def _numbers_are_finite(self) -> Self:
        """Refuse `.inf`, which passes every lower bound; a stored config may have it."""
        for name in type(self).model_fields.keys() - self.unlimited if not is_stored() else ():
            value = getattr(self, name)
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    raise ValueError(f"{name} must be a finite number, not {number}")
        return self


class RunConfig(Settings):
    """Fields that every run config has."""

    name: str | None = Field(
        None,
        pattern=NAME,
        title="Name",
        description=("Name of the run; derived from the method by default."),
    )
    seed: Seed = Field(42, title="Seed")


ADDED: dict[str, Any] = {"hashed": "unless default"}
"""`json_schema_extra` of a field added later: at its default it does not change a config's hash."""


def formerly(default: float) -> dict[str, JsonValue]:
    """Return the `json_schema_extra` of a field whose default had been `default` at first.

    At its default it is hashed as what that was, so that configs keep their hashes.
    """
    return {"hashed": "former default", "former default": default}


def listed(value: object, *, key: str) -> object:
    """Accept a single entry without a list, and a plain string as an entry's field `key`."""
    if isinstance(value, (str, dict)):
        value = [value]
    if isinstance(value, list):
        return [{key: entry} if isinstance(entry, str) else entry for entry in value]
    return value


def former(instead: str) -> dict[str, JsonValue]:
    """Return the `json_schema_extra` of a field that still works but is no longer offered.

    Args:
        instead: what to write now.
    """
    return {"deprecated": True, "instead": instead}


def former_fields(config: BaseModel, parent: str = "") -> Iterator[tuple[str, str]]:
    """Yield (field, what to write instead) of each former field that a config sets."""
    for name in sorted(config.model_fields_set):
        field, value = type(config).model_fields[name], getattr(config, name)
        place = f"{parent}.{field.alias or name}".strip(".")
        extra = field.json_schema_extra
        if is_former(field) and isinstance(extra, Mapping):
            yield place, str(extra.get("instead", ""))
        if isinstance(value, BaseModel):
            yield from former_fields(value, place)


def is_former(field: FieldInfo) -> bool:
    """Return whether a field is a former name that forms and references leave out."""
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and extra.get("deprecated") is True


def hashed_values(config: BaseModel, exclude: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return a config as the JSON values that its identity depends on.

    Fields that do not matter for what is done are left out. Fields added later are left out at
    their defaults, and a default that is another one by now is the former one, so that a config
    keeps its identity.
    """
    values = config.model_dump(mode="json", by_alias=True, exclude=set(exclude))
    _drop_added(config, values)
    return values


def _drop_added(config: object, values: Any) -> None:
    """Undo what later versions added at its default in the dump of a config, at every depth."""
    if isinstance(config, Mapping):
        for name, part in config.items():
            _drop_added(part, values[name])
    elif isinstance(config, list | tuple):
        for part, value in zip(config, values, strict=True):
            _drop_added(part, value)
    elif isinstance(config, BaseModel):
        for name, field in type(config).model_fields.items():
            key = field.serialization_alias or field.alias or name
            if key not in values:
                continue
            part, extra = getattr(config, name), field.json_schema_extra
            rule = extra.get("hashed") if isinstance(extra, Mapping) else None
            if rule == "never":
                del values[key]
            elif rule is None or part != field.get_default(call_default_factory=True):
                _drop_added(part, values[key])
            elif rule == "unless default":
                del values[key]
            elif isinstance(extra, Mapping):
                values[key] = extra["former default"]
