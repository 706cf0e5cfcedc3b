"""The user's settings: `HOME/settings.yaml`.

judge: openai:MODEL                            # or a list; KDHARNESS_JUDGE comes first
prices: {MODEL: {input: 2.5, output: 10}}      # US dollars per million tokens
vllm: {gpu_memory_utilization: 0.8}            # how `vllm serve` is started for vllm:MODEL
theme: light                                   # of the app
primary: {domain: shop:score}                  # of the app: the metrics that lead; general too
keep: 0.98                                     # of the app: the retention asked for
group: experiment                              # of the app: what runs are grouped by
columns: {first: ["shop:score"], hidden: []}   # of the app: the leaderboard's
keys: {runs.new: c}                            # of the app: an action's name, its key(s)
notify: notify-send kdharness "{message}"      # run when a run has ended
alerts: [domain_loss rose 3 times]             # rules on curves, told by notify and the app
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator

from kdharness.harness.config.alerts import parse_rule
from kdharness.harness.config.base import Settings
from kdharness.harness.config.files import booleans_as_numbers, describe_errors, listed
from kdharness.harness.config.notifying import NotifySettings, as_notify
from kdharness.harness.config.vllm_options import refusal
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.util.redact import redact
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text


class PriceSpec(Settings):
    """What a model's tokens cost, in US dollars per million."""

    input: float = Field(..., ge=0, allow_inf_nan=False, title="Input")
    output: float = Field(..., ge=0, allow_inf_nan=False, title="Output")


def _price(value: object) -> object:
    """Accept two numbers for `{input: …, output: …}`."""
    if isinstance(value, list) and len(value) == 2:
        return {"input": value[0], "output": value[1]}
    return value


def _judges(value: object) -> Any:
    """Accept one spec, or several separated by commas, for a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [] if value is None else value


def _mapping(value: object) -> object:
    """Accept a key without a value for an empty mapping."""
    return {} if value is None else value


def _listed(value: object) -> object:
    """Accept one rule for a list of rules."""
    return [value] if isinstance(value, str) else [] if value is None else value


def _rule(value: str) -> str:
    """Refuse what is no rule on a curve."""
    return parse_rule(value).text


class VLLMSettings(Settings):
    """How `vllm serve` is started."""

    command: str | None = Field(
        None,
        title="Command",
        description="The vllm program. Default: the one beside this Python, else on PATH.",
    )
    max_model_len: int | None = Field(
        None, ge=1, title="Context", description="Longest prompt and reply together, in tokens."
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, title="GPU memory", description="The share that vLLM takes."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        None, title="Precision", description="Used where the evaluation has none of its own."
    )
    tensor_parallel_size: int | None = Field(
        None, ge=1, title="GPUs", description="Over how many GPUs the weights are split."
    )
    startup_timeout: float = Field(
        1800.0, gt=0, title="Startup timeout", description="Seconds until a start has failed."
    )
    options: list[str] = Field(
        default_factory=list,
        title="Options",
        description="Further options of `vllm serve`, such as --enforce-eager.",
    )

    @field_validator("options")
    @classmethod
    def _not_ours(cls, values: list[str]) -> list[str]:
        """Refuse options that are set elsewhere, or that change the answers."""
        for value in values:
            if reason := refusal(value):
                raise ValueError(f"{redact(value, shapes=True)} {reason}")
        return values


class ColumnsSettings(Settings):
    """The columns of the app's leaderboard."""

    first: list[str] | None = Field(None, title="First", description="Those that come first.")
    hidden: list[str] | None = Field(None, title="Hidden", description="Those that are not shown.")


class UserSettings(Settings):
    """What a settings file may say: to the commands and to the app, which writes some of it."""

    judge: Annotated[list[str], BeforeValidator(_judges)] = Field(
        default_factory=list, title="Judge", description="The default judge, or several of them."
    )
    prices: Annotated[
        dict[str, Annotated[PriceSpec, BeforeValidator(_price)]], BeforeValidator(_mapping)
    ] = Field(
        default_factory=dict,
        title="Prices",
        description="Model -> what its tokens cost, in US dollars per million tokens.",
    )
    vllm: Annotated[VLLMSettings, BeforeValidator(_mapping)] = Field(
        default_factory=VLLMSettings,
        title="vLLM",
        description="How `vllm serve` is started for vllm:MODEL.",
    )
    theme: str | None = Field(None, title="Theme", description="The app's theme.")
    primary: Annotated[dict[Literal["general", "domain"], str], BeforeValidator(_mapping)] = Field(
        default_factory=dict,
        title="Primary metrics",
        description="The bench:metric that leads the app's tables and charts: general, domain.",
    )
    keep: float | None = Field(
        None,
        ge=0,
        le=10,
        title="Retention",
        description="The share of the general score that the app's answer asks for.",
    )
    group: str | None = Field(
        None,
        title="Group",
        description="What the app groups runs by: experiment, status, kind or a config field.",
    )
    columns: Annotated[ColumnsSettings, BeforeValidator(_mapping)] = Field(
        default_factory=ColumnsSettings,
        title="Columns",
        description="The columns of the app's leaderboard: first, hidden.",
    )
    notify: Annotated[NotifySettings, BeforeValidator(as_notify)] = Field(
        default_factory=NotifySettings,
        title="Notify",
        description="A command that is run when a run has ended or a rule on a curve holds.",
    )
    alerts: Annotated[list[Annotated[str, AfterValidator(_rule)]], BeforeValidator(_listed)] = (
        Field(
            default_factory=list,
            title="Alerts",
            description="Rules on curves, such as `domain_loss rose 3 times` or `loss above 5`.",
        )
    )
    keys: Annotated[dict[str, Any], BeforeValidator(_mapping)] = Field(
        default_factory=dict, title="Keys", description="Action -> the key or keys of the app."
    )


def load_settings(paths: Paths) -> UserSettings:
    """Read a home's settings file; the defaults where there is none.

    Raises:
        ConfigError: not a YAML mapping, an unknown setting, or a value of the wrong kind.
    """
    if not paths.settings.exists():
        return UserSettings()
    text = read_text(paths.settings, "the settings", limit=CONFIG_BYTES)
    values = parse_yaml(text, str(paths.settings))
    if values is None:
        return UserSettings()
    if not isinstance(values, dict):
        raise ConfigError("settings must be a mapping", where=str(paths.settings))
    if errors := list(booleans_as_numbers(values, UserSettings)):
        raise ConfigError(listed(errors), where=str(paths.settings))
    try:
        return UserSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            describe_errors(error, UserSettings), where=str(paths.settings)
        ) from error


def default_judges(paths: Paths) -> list[str]:
    """Return the judges of KDHARNESS_JUDGE (comma-separated), else those of the settings."""
    named = _judges(os.environ.get("KDHARNESS_JUDGE", ""))
    return named or list(load_settings(paths).judge)
