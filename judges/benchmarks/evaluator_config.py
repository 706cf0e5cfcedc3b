"""An evaluator config in alpaca_eval's format, validated field by field.

Its `model_name` and `fn_completions` are not used: the judge is the one of the evaluation. Every
other field is used, or refused by name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdharness.harness.errors import ConfigError
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text

PARSERS = ("logprob_parser", "ranking_parser", "regex_parser")
PREFERENCES = (0.0, 1.0, 1.5, 2.0)
# Settings that would change a judge's reply or its parsing, and are not supported.
_UNSUPPORTED: dict[str, dict[str, Any]] = {
    "": {"processors_to_kwargs": None, "is_randomize_output_order": True},
    "completions_kwargs": {
        **dict.fromkeys(
            (
                "tools",
                "tool_choice",
                "functions",
                "function_call",
                "tokens_to_avoid",
                "tokens_to_favor",
                "stop",
                "seed",
                "logit_bias",
            )
        ),
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
    },
    "completion_parser_kwargs": {
        "log_prob_index": 0,
        "parsers_to_kwargs": None,
        "model_1_name": "model_1",
        "model_2_name": "model_2",
    },
}
# Supported settings, and those without effect here: the model, request rates, caching.
_KNOWN: dict[str, tuple[str, ...]] = {
    "": (
        "prompt_template",
        "fn_completions",
        "completions_kwargs",
        "fn_completion_parser",
        "completion_parser_kwargs",
        "completion_key",
        "batch_size",
        "caching_path",
        "annotation_column",
        "completion_column",
        "is_store_raw_completions",
        "is_store_missing_annotations",
        "is_add_default_processors",
    ),
    "completions_kwargs": (
        "model_name",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "max_new_tokens",
        "max_tokens_to_sample",
        "logprobs",
        "top_logprobs",
        "requires_chatml",
        "is_chatml_prompt",
        "price_per_token",
        "client_kwargs",
        "client_function_name",
        "client_config_path",
        "model_kwargs",
        "batch_size",
        "num_procs",
        "cache_dir",
        "is_fast_tokenizer",
    ),
    "completion_parser_kwargs": (
        "outputs_to_match",
        "numerator_token",
        "denominator_tokens",
        "is_binarize",
    ),
}
_TOKEN_LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "max_tokens_to_sample")
_EXAMPLE = r"such as {1: 'Output \(a\)', 2: 'Output \(b\)'}"


@dataclass(frozen=True)
class EvaluatorConfig:
    """The settings that determine a judge's prompt and how its reply is parsed."""

    name: str
    template: str
    parser: str
    first: str
    second: str
    binarize: bool
    patterns: tuple[tuple[float, str], ...]
    max_tokens: int
    temperature: float
    top_logprobs: int


class _Entry:
    """One mapping of the file, whose fields are reported by their full name."""

    def __init__(self, fields: dict[str, Any], where: str, prefix: str = "") -> None:
        self.fields, self.where, self.prefix = fields, where, prefix

    def wrong(self, field: str, wanted: str, hint: str = "") -> ConfigError:
        """Return the error for an invalid field."""
        if field not in self.fields:
            return ConfigError(
                f"{self.prefix}{field} is missing: it must be {wanted}", where=self.where, hint=hint
            )
        value = repr(self.fields[field])
        value = value if len(value) <= 60 else f"{value[:60]}…"
        return ConfigError(
            f"{self.prefix}{field} must be {wanted}, not {value}", where=self.where, hint=hint
        )

    def get(self, field: str, default: object) -> Any:
        """Return a field's value; null counts as missing."""
        value = self.fields.get(field)
        return default if value is None else value

    def refuse(self, unsupported: Mapping[str, object], known: Sequence[str]) -> None:
        """Refuse unknown fields, and unsupported ones unless their value has no effect."""
        for name in self.fields:
            if name not in unsupported and name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                raise ConfigError(
                    f"unknown setting {self.prefix}{name}",
                    where=self.where,
                    hint=f"did you mean {near[0]}?"
                    if near
                    else "remove it; it would have no effect",
                )
        for field, harmless in unsupported.items():
            if self.get(field, harmless) != harmless:
                raise ConfigError(
                    f"{self.prefix}{field} is not supported",
                    where=self.where,
                    hint="remove it; it would have no effect",
                )

    def inner(self, field: str) -> _Entry:
        """Return a mapping inside this one; empty if it is missing."""
        value = self.get(field, {})
        if not isinstance(value, dict):
            raise self.wrong(field, "a mapping of settings")
        return _Entry(value, self.where, f"{self.prefix}{field}.")

    def text(self, field: str, default: str | None = None) -> str:
        """Return a non-empty string."""
        value = self.get(field, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(field, "a non-empty string")
        return value

    def number(self, field: str, default: float, low: float, high: float) -> float:
        """Return a number within bounds."""
        value = self.get(field, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(field, "a number")
        if not low <= value <= high:
            raise self.wrong(field, f"a number from {low:,} to {high:,}")
        return float(value)

    def whole(self, field: str, default: int, low: int, high: int) -> int:
        """Return an integer within bounds."""
        value = self.number(field, default, low, high)
        if value != int(value):
            raise self.wrong(field, "an integer")
        return int(value)

    def switch(self, field: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get(field, default)
        if not isinstance(value, bool):
            raise self.wrong(field, "true or false")
        return value


def read_evaluator(path: Path, name: str) -> EvaluatorConfig:
    """Read the entry `name` of a config file, or its first one if there is no such entry.

    Raises:
        ConfigError: a missing or invalid field, by its name.
    """
    where = str(path)
    entries = parse_yaml(read_text(path, "the evaluator config", limit=CONFIG_BYTES), where)
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(
            "not an evaluator config: it must be a mapping from a name to its settings",
            where=where,
            hint="for example my_judge: {prompt_template: …, fn_completion_parser: …}",
        )
    key = name if name in entries else next(iter(entries))
    if not isinstance(entries[key], dict):
        raise ConfigError(
            f"not an evaluator config: {key} must be a mapping of settings",
            where=where,
            hint="indent the settings under the judge's name",
        )
    entry = _Entry(entries[key], where, f"{key}.")
    # Upstream's defaults.
    parser, batch = entry.text("fn_completion_parser", "regex_parser"), entry.get("batch_size", 1)
    if parser not in PARSERS or batch != 1:
        raise ConfigError(
            f"unsupported evaluator config {key!r}: {parser} with batch size {batch}",
            where=where,
            hint=f"supported: batch size 1 with {', '.join(PARSERS)}",
        )
    settings = entry.inner("completions_kwargs")
    reading = entry.inner("completion_parser_kwargs")
    for part, section in (
        (entry, ""),
        (settings, "completions_kwargs"),
        (reading, "completion_parser_kwargs"),
    ):
        part.refuse(_UNSUPPORTED[section], _KNOWN[section])
    limit = next((field for field in _TOKEN_LIMITS if settings.get(field, None)), "max_tokens")
    first = reading.text("numerator_token", "m")
    return EvaluatorConfig(
        name=key,
        template=_template(path, entry),
        parser=parser,
        first=first,
        second=_second_token(reading, first),
        binarize=reading.switch("is_binarize", True) and parser == "logprob_parser",
        patterns=_patterns(reading, parser),
        max_tokens=settings.whole(limit, 100, 1, 1 << 20),
        temperature=settings.number("temperature", 0.0, 0, 2),
        top_logprobs=settings.whole("top_logprobs", 5, 0, 1000)
        if parser == "logprob_parser"
        else 0,
    )


def _second_token(reading: _Entry, first: str) -> str:
    tokens = reading.get("denominator_tokens", ["m", "M"])
    if not isinstance(tokens, list) or not all(isinstance(t, str) and t for t in tokens):
        raise reading.wrong("denominator_tokens", "a list of tokens, such as ['m', 'M']")
    others: Sequence[str] = [token for token in tokens if token != first]
    if len(tokens) != 2 or len(others) != 1:
        raise reading.wrong(
            "denominator_tokens",
            f"two tokens, one of them {first!r}",
            "one of them is the numerator_token",
        )
    return others[0]


def _patterns(reading: _Entry, parser: str) -> tuple[tuple[float, str], ...]:
    """Read `outputs_to_match`: the preference of a reply that matches a pattern."""
    wanted = "a mapping from a preference (1, 2, or 0 for a draw) to a pattern"
    given = reading.get("outputs_to_match", {})
    if not isinstance(given, dict) or (parser == "regex_parser" and not given):
        raise reading.wrong("outputs_to_match", wanted, _EXAMPLE)
    patterns = []
    for key, pattern in given.items():
        inside = _Entry({key: pattern}, reading.where, f"{reading.prefix}outputs_to_match.")
        try:
            value = float(key)
        except ValueError:
            value = -1.0
        if value not in PREFERENCES:
            raise reading.wrong("outputs_to_match", wanted, _EXAMPLE)
        if not isinstance(pattern, str):
            raise inside.wrong(key, "a pattern in quotes")
        try:
            re.compile(pattern)
        except (re.error, RecursionError) as error:
            raise inside.wrong(key, "a regular expression", f"{error}") from error
        patterns.append((value, pattern))
    return tuple(patterns)


def _template(config: Path, entry: _Entry) -> str:
    """Read the prompt template: next to its config, or in the folder of all configs."""
    name = entry.text("prompt_template")
    for folder in (config.parent, config.parent.parent):
        path = folder / name
        if path.is_file():
            text = read_text(path, "the prompt template", limit=CONFIG_BYTES)
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            missing = [key for key in ("output_1", "output_2") if f"{{{key}}}" not in text]
            if missing:
                raise ConfigError(
                    f"the prompt template is missing "
                    f"{' and '.join(f'{{{key}}}' for key in missing)}: "
                    "the judge would not see both answers",
                    where=str(path),
                )
            return text
    raise ConfigError(
        f"prompt template {name} not found",
        where=str(config),
        hint="its path is relative to the config's folder",
    )
