"""An evaluator config as alpaca_eval keeps it, checked field by field.

Its `model_name` and `fn_completions` are not used: the judge is the one that the evaluation
names. What else a config says is used, or refused by the field's name.
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
# What would change a judge's reply or its reading, and is not done here.
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
# What is read, and what decides nothing here: who is asked, how fast, and where it is kept.
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
    """The settings that decide what a judge is asked and how its reply is read."""

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
    """One mapping of the file, whose fields are told by their whole name."""

    def __init__(self, fields: dict[str, Any], where: str, prefix: str = "") -> None:
        self.fields, self.where, self.prefix = fields, where, prefix

    def wrong(self, field: str, wanted: str, hint: str = "") -> ConfigError:
        """The error for a field that is not what it must be."""
        if field not in self.fields:
            return ConfigError(
                f"{self.prefix}{field} is missing: it must be {wanted}", where=self.where, hint=hint
            )
        value = repr(self.fields[field])
        value = value if len(value) <= 60 else f"{value[:60]}…"
        return ConfigError(
            f"{self.prefix}{field} must be {wanted}, not {value}", where=self.where, hint=hint
        )

    def get(self, field: str, default: Any) -> Any:
        """A field's value; null counts as left out."""
        value = self.fields.get(field)
        return default if value is None else value

    def refuse(self, unsupported: Mapping[str, Any], known: Sequence[str]) -> None:
        """Refuse unknown fields, and known ones with another value than the one without effect."""
        for name in self.fields:
            if name not in unsupported and name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                raise ConfigError(
                    f"{self.prefix}{name} is not a known setting",
                    where=self.where,
                    hint=f"did you mean {near[0]}?"
                    if near
                    else "remove it; the judge would be asked, or read, without it",
                )
        for field, harmless in unsupported.items():
            if self.get(field, harmless) != harmless:
                raise ConfigError(
                    f"{self.prefix}{field} is not supported",
                    where=self.where,
                    hint="remove it; the judge would be asked, or read, without it",
                )

    def inner(self, field: str) -> _Entry:
        """A mapping inside this one; empty where it is left out."""
        value = self.get(field, {})
        if not isinstance(value, dict):
            raise self.wrong(field, "a mapping of settings")
        return _Entry(value, self.where, f"{self.prefix}{field}.")

    def text(self, field: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = self.get(field, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(field, "text")
        return value

    def number(self, field: str, default: float, low: float, high: float) -> float:
        """A number within bounds."""
        value = self.get(field, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(field, "a number")
        if not low <= value <= high:
            raise self.wrong(field, f"a number from {low:,} to {high:,}")
        return float(value)

    def whole(self, field: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self.number(field, default, low, high)
        if value != int(value):
            raise self.wrong(field, "a whole number")
        return int(value)

    def switch(self, field: str, default: bool) -> bool:
        """True or false."""
        value = self.get(field, default)
        if not isinstance(value, bool):
            raise self.wrong(field, "true or false")
        return value


def read_evaluator(path: Path, name: str) -> EvaluatorConfig:
    """Read the entry `name` of a config file, or its first where it has no such entry.

    Raises:
        ConfigError: a field that is missing or is not what it must be, by its name.
    """
    where = str(path)
    entries = parse_yaml(read_text(path, "the evaluator config", limit=CONFIG_BYTES), where)
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(
            "not an evaluator config: it must be a mapping from a name to its settings",
            where=where,
            hint="such as my_judge: {prompt_template: …, fn_completion_parser: …}",
        )
    key = name if name in entries else next(iter(entries))
    if not isinstance(entries[key], dict):
        raise ConfigError(
            f"not an evaluator config: {key} must be a mapping of settings",
            where=where,
            hint="the settings are indented under a name of their own",
        )
    entry = _Entry(entries[key], where, f"{key}.")
    # As upstream has it where a config does not say.
    parser, batch = entry.text("fn_completion_parser", "regex_parser"), entry.get("batch_size", 1)
    if parser not in PARSERS or batch != 1:
        raise ConfigError(
            f"the evaluator config {key!r} uses {parser} with batch size {batch}",
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
            "the numerator_token is one of them",
        )
    return others[0]


def _patterns(reading: _Entry, parser: str) -> tuple[tuple[float, str], ...]:
    """`outputs_to_match`: which preference a reply stands for when a pattern is in it."""
    wanted = "a mapping from a preference (1, 2, or 0 for a draw) to a pattern"
    given = reading.get("outputs_to_match", {})
    if not isinstance(given, dict) or (parser == "regex_parser" and not given):
        raise reading.wrong("outputs_to_match", wanted, _EXAMPLE)
    found = []
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
        found.append((value, pattern))
    return tuple(found)


def _template(config: Path, entry: _Entry) -> str:
    """The prompt template's text: beside its config, or in the folder of all configs."""
    name = entry.text("prompt_template")
    for folder in (config.parent, config.parent.parent):
        path = folder / name
        if path.is_file():
            text = read_text(path, "the prompt template", limit=CONFIG_BYTES)
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            missing = [key for key in ("output_1", "output_2") if f"{{{key}}}" not in text]
            if missing:
                raise ConfigError(
                    f"the prompt template lacks {' and '.join(f'{{{key}}}' for key in missing)}: "
                    "the judge would not see both answers",
                    where=str(path),
                )
            return text
    raise ConfigError(
        f"prompt template {name} not found",
        where=str(config),
        hint="its path is relative to the config's folder",
    )
