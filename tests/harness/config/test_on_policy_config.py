"""`trainer.on_policy`: defaults, what it leaves to other fields, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError

KD: dict[str, Any] = {"method": "kd", "student": "s", "teacher": "t", "data": {"train": "a.jsonl"}}
DAE: dict[str, Any] = {
    "method": "dae",
    "student": "s",
    "expert": "e",
    "data": {"train": [{"path": "a.jsonl", "kind": "domain"}, {"path": "b.jsonl"}]},
}


def with_trainer(base: dict[str, Any], **trainer: Any) -> Any:
    return parse_config({**base, "trainer": trainer})


@pytest.mark.parametrize("base", [KD, DAE], ids=["kd", "dae"])
def test_without_it_a_config_keeps_its_hash(base: dict[str, Any]) -> None:
    plain = parse_config(base)
    assert config_hash(plain) == config_hash(with_trainer(base, on_policy=None))
    assert config_hash(plain) != config_hash(with_trainer(base, on_policy={}))
    chosen = with_trainer(base, on_policy={"share": 0.25})
    assert parse_config(chosen.model_dump(mode="json", by_alias=True)) == chosen


@pytest.mark.parametrize(
    ("others", "own", "want"),
    [
        (("forward_kl", 0.5), {}, ("reverse_kl", 0.5)),
        (("js", 0.3), {}, ("js", 0.3)),
        (("skew_kl", 0.3), {"beta": 0.9}, ("skew_kl", 0.9)),
        (("js", 0.3), {"divergence": "forward_kl"}, ("forward_kl", 0.3)),
    ],
)
def test_divergence_of_sampled_answers(
    others: tuple[Any, float], own: dict[str, Any], want: tuple[str, float]
) -> None:
    settled = OnPolicySpec(**own).settle(*others)
    assert (settled.divergence, settled.beta) == want


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a cache of a teacher": (
        {**KD, "teacher": {"model": "t", "cache": {"kind": "hidden"}}},
        {"attention_weight": 0},
        r"teacher\.cache holds the data's answers",
    ),
    "a cache of a reference": (
        {**DAE, "reference": {"model": "r", "cache": {}}},
        {},
        r"reference\.cache holds the data's answers",
    ),
    "a cache of a named expert": (
        {**DAE, "experts": {"law": {"model": "r", "cache": {}}}},
        {},
        r"experts\.law\.cache holds the data's answers",
    ),
    "a served teacher": (
        {
            **KD,
            "teacher": {
                "model": "t",
                "served": "http://h:1/v1",
                "cache": {"k": 20, "tail": "bucket"},
            },
        },
        {"attention_weight": 0},
        r"remove the cache \(and served\)",
    ),
    "no distillation": (KD, {"distill_weight": 0}, "leaves sampled answers without a loss"),
    "a number of tokens": (KD, {"max_tokens": 100}, "max_tokens counts tokens before"),
    "filled micro-batches": (KD, {"tokens_per_batch": 100}, "tokens_per_batch counts tokens"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(name: str) -> None:
    base, trainer, words = REFUSED[name]
    with_trainer(base, **trainer)
    with pytest.raises(ConfigError, match=words):
        with_trainer(base, **trainer, on_policy={})


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"share": 0}, "greater than 0"),
        ({"share": 1.5}, "less than or equal to 1"),
        ({"temperature": -1}, "greater than or equal to 0"),
        ({"engine": "local:s"}, "is not the student in training"),
        ({"engine": "openai:s"}, "has no URL"),
        ({"engine": "gpt"}, "not a valid engine"),
        ({"engine": "http://user:pass@h/v1"}, "must not contain a key"),
        ({"top_k": 50}, "top_k"),
        ({"beta": 1}, "less than 1"),
    ],
)
def test_values_out_of_range_are_refused(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_trainer(KD, on_policy=own)


def test_sft_has_no_teacher_to_score_sampled_answers() -> None:
    with pytest.raises(ConfigError, match="on_policy"):
        parse_config(
            {"method": "sft", "student": "s", "data": KD["data"], "trainer": {"on_policy": {}}}
        )
