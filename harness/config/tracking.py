"""Where else curves and scores are sent."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from kdharness.harness.errors import ConfigError

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
NEVER: dict[str, Any] = {"hashed": "never"}
"""`json_schema_extra` of a field that has no part in what a config does."""
_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
}


def _names(value: object) -> object:
    """Accept one tracker without a list."""
    return [value] if isinstance(value, str) else value


Trackers = Annotated[
    list[TrackerName],
    BeforeValidator(_names, json_schema_input_type=TrackerName | list[TrackerName]),
]


def trackers_field() -> Any:
    """Return the field `track`."""
    return Field(
        default_factory=list,
        title="Trackers",
        description=(
            "Send curves and scores to tensorboard, wandb, mlflow or trackio as well. A tracker "
            "that fails is noted and tried again; it cannot stop or slow the run."
        ),
        json_schema_extra=NEVER,
    )


def _is_installed(package: str) -> bool:
    """Return whether a package can be imported: the folder `wandb/` that wandb writes is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def check_trackers(names: Sequence[str], where: str, *, here: bool = True) -> None:
    """Refuse a tracker that is not installed, before anything is computed.

    Args:
        names: of the trackers.
        where: the config's field.
        here: whether the run will be on this machine.

    Raises:
        ConfigError: with the package to install.
    """
    for name in names:
        if here and not any(map(_is_installed, _PACKAGES[name])):
            package = _PACKAGES[name][0]
            raise ConfigError(
                f"{name} is not installed", where=where, hint=f"run: pip install {package}"
            )
