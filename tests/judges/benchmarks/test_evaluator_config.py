"""Custom evaluator configs: errors name the field, not a Python exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.judges.benchmarks.alpaca_eval import JudgeTemplate, load_template

PROMPT = "<|im_start|>user\nWhich is better for {instruction}?\n{output_1}\n{output_2}\n<|im_end|>"
REGEX: dict[str, Any] = {
    "prompt_template": "prompt.txt",
    "fn_completion_parser": "regex_parser",
    "completion_parser_kwargs": {"outputs_to_match": {1: "first", 2: "second"}},
}
WriteEvaluator = Callable[[Any], Path]


@pytest.fixture
def write_evaluator(tmp_path: Path) -> WriteEvaluator:
    (tmp_path / "prompt.txt").write_text(PROMPT)

    def write(entries: Any) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries))
        return path

    return write


def with_patterns(value: Any) -> dict[str, Any]:
    return {**REGEX, "completion_parser_kwargs": {"outputs_to_match": value}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        # From a public report: a list where a mapping is meant.
        (
            with_patterns([r"Output \(a\)", r"Output \(b\)"]),
            "mine.completion_parser_kwargs.outputs_to_match must be a mapping from a preference",
        ),
        (with_patterns("first"), "outputs_to_match must be a mapping"),
        (with_patterns({"first": "a"}), "outputs_to_match must be a mapping from a preference"),
        (with_patterns({3: "a"}), "outputs_to_match must be a mapping from a preference"),
        (with_patterns({1: ["a"]}), "outputs_to_match.1 must be a pattern in quotes"),
        (with_patterns({1: "(a"}), "outputs_to_match.1 must be a regular expression"),
        (with_patterns({}), "outputs_to_match must be"),
        (with_patterns(None), "outputs_to_match must be"),
        ({**REGEX, "completion_parser_kwargs": None}, "outputs_to_match is missing"),
        (
            {**REGEX, "completion_parser_kwargs": ["a"]},
            "completion_parser_kwargs must be a mapping",
        ),
        ({**REGEX, "completions_kwargs": "x"}, "mine.completions_kwargs must be a mapping"),
        (
            {**REGEX, "completions_kwargs": {"max_tokens": "many"}},
            "mine.completions_kwargs.max_tokens must be a number, not 'many'",
        ),
        ({**REGEX, "completions_kwargs": {"max_tokens": 1.5}}, "max_tokens must be an integer"),
        ({**REGEX, "completions_kwargs": {"max_tokens": 0}}, "max_tokens must be a number from 1"),
        ({**REGEX, "completions_kwargs": {"temperature": "hot"}}, "temperature must be a number"),
        (
            {**REGEX, "completions_kwargs": {"temperature": -1}},
            "temperature must be a number from 0",
        ),
        (
            {**REGEX, "completions_kwargs": {"tools": [{}]}},
            "completions_kwargs.tools is not supported",
        ),
        ({**REGEX, "completions_kwargs": {"top_p": 0.5}}, "top_p is not supported"),
        (
            {**REGEX, "is_randomize_output_order": False},
            "is_randomize_output_order is not supported",
        ),
        (
            {**REGEX, "prompt_template": None},
            "mine.prompt_template must be a non-empty string, not None",
        ),
        ({k: v for k, v in REGEX.items() if k != "prompt_template"}, "prompt_template is missing"),
        ({**REGEX, "prompt_template": ["a"]}, "prompt_template must be a non-empty string"),
        ({**REGEX, "prompt_template": "nowhere.txt"}, "nowhere.txt not found"),
        ({**REGEX, "fn_completion_parser": 3}, "fn_completion_parser must be a non-empty string"),
        ({**REGEX, "batch_size": 5}, "batch size 5"),
        ({**REGEX, "batch_size": "1"}, "batch size 1"),
        (
            {
                "prompt_template": "prompt.txt",
                "fn_completion_parser": "logprob_parser",
                "completion_parser_kwargs": {"log_prob_index": -1},
            },
            "log_prob_index is not supported",
        ),
        (
            {
                "prompt_template": "prompt.txt",
                "fn_completion_parser": "logprob_parser",
                "completion_parser_kwargs": {"denominator_tokens": "mM"},
            },
            "denominator_tokens must be",
        ),
        (
            {
                "prompt_template": "prompt.txt",
                "fn_completion_parser": "logprob_parser",
                "completion_parser_kwargs": {"is_binarize": "no"},
            },
            "is_binarize must be true or false",
        ),
        (
            {
                "prompt_template": "prompt.txt",
                "fn_completion_parser": "logprob_parser",
                "completion_parser_kwargs": {"numerator_token": 1},
            },
            "numerator_token must be a non-empty string",
        ),
        # Settings that would be ignored silently.
        (
            {**REGEX, "fn_completion_parsr": "regex_parser"},
            "unknown setting mine.fn_completion_parsr",
        ),
        ({**REGEX, "fn_completion_parsr": "regex_parser"}, "did you mean fn_completion_parser?"),
        ({**REGEX, "completions_kwargs": {"n": 5}}, "unknown setting mine.completions_kwargs.n"),
        (
            {**REGEX, "completions_kwargs": {"reasoning_effort": "high"}},
            "unknown setting mine.completions_kwargs.reasoning_effort",
        ),
        (
            {
                **REGEX,
                "fn_completion_parser": "ranking_parser",
                "completion_parser_kwargs": {"model_1_name": "m"},
            },
            "model_1_name is not supported",
        ),
        (
            {
                "prompt_template": "prompt.txt",
                "fn_completion_parser": "logprob_parser",
                "completion_parser_kwargs": {"denominator_tokens": ["m", "M", "x"]},
            },
            "must be two tokens",
        ),
        (
            {
                "prompt_template": "prompt.txt",
                "fn_completion_parser": "logprob_parser",
                "completion_parser_kwargs": {"numerator_token": "A"},
            },
            "denominator_tokens is missing",
        ),
    ],
)
def test_invalid_fields_are_reported_by_name(
    paths: Paths, write_evaluator: WriteEvaluator, entry: dict[str, Any], message: str
) -> None:
    path = write_evaluator({"mine": entry})
    with pytest.raises(ConfigError) as caught:
        load_template(paths, str(path))
    error = str(caught.value)
    assert message in error and "tmp" in error
    assert "object has no attribute" not in error and "Error" not in error


@pytest.mark.parametrize("text", ["", "[]", "3", "mine", "mine: [1]", "prompt_template: a.txt"])
def test_files_without_an_evaluator_config_are_rejected(
    paths: Paths, write_evaluator: WriteEvaluator, text: str
) -> None:
    with pytest.raises(ConfigError, match="not an evaluator config"):
        load_template(paths, str(write_evaluator(text)))


def test_optional_fields_have_defaults(paths: Paths, write_evaluator: WriteEvaluator) -> None:
    bare = {key: value for key, value in REGEX.items() if key != "fn_completion_parser"}
    template = load_template(
        paths, str(write_evaluator({"mine": {**bare, "completions_kwargs": None}}))
    )
    assert template == JudgeTemplate(
        "mine",
        (("user", PROMPT.split("\n", 1)[1].removesuffix("<|im_end|>")),),
        "regex_parser",
        patterns=((1.0, "first"), (2.0, "second")),
        max_tokens=100,
    )
    limited = {**REGEX, "completions_kwargs": {"max_tokens_to_sample": 7}}
    assert load_template(paths, str(write_evaluator({"mine": limited}))).max_tokens == 7


def test_template_must_contain_both_outputs(
    paths: Paths, write_evaluator: WriteEvaluator, tmp_path: Path
) -> None:
    path = write_evaluator({"mine": REGEX})
    (tmp_path / "prompt.txt").write_text("Is {output_1} good for {instruction}?")
    with pytest.raises(ConfigError, match=r"missing \{output_2\}"):
        load_template(paths, str(path))
    (tmp_path / "prompt.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_template(paths, str(path))
