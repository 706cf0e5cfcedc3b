"""Settings of a training that nothing uses are named, and those that count are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness.config.files import parse_config, preset_names, preset_text
from kdharness.harness.config.unused import unused_settings
from kdharness.harness.paths import Paths
from support.commands import CommandLine
from support.configs import TRAINER, config_file, kd_config
from support.training_runs import config_of, train

DATA: dict[str, Any] = {"train": ["general:train"]}
DOMAIN = {"path": "shop:train", "kind": "domain"}
TEACHERS: dict[str, dict[str, Any]] = {
    "sft": {},
    "kd": {"teacher": "big"},
    "dae": {"expert": "clerk", "data": {"train": ["general:train", DOMAIN]}},
}


def named(method: str, trainer: dict[str, Any], **more: Any) -> list[str]:
    """Return the fields that are named as unused."""
    config = {"method": method, "student": "small", "data": DATA, "trainer": trainer}
    sentences = unused_settings(parse_config({**config, **TEACHERS[method], **more}))
    assert all(" has no effect: " in sentence for sentence in sentences)
    return [sentence.partition(":")[0] for sentence in sentences]


@pytest.mark.parametrize(
    ("method", "trainer", "fields"),
    [
        ("kd", {"beta": 0.1}, ["trainer.beta"]),
        ("dae", {"divergence": "reverse_kl", "beta": 0.1}, ["trainer.beta"]),
        ("dae", {"divergence": "js", "beta": 0.1}, []),
        ("dae", {"divergence": "skew_reverse_kl", "beta": 0.1}, []),
        ("kd", {"attention_weight": 0, "layer_map": "last-k"}, ["trainer.layer_map"]),
        ("kd", {"attention_weight": 0, "attention_layers": 2}, ["trainer.attention_layers"]),
        ("kd", {"layer_map": "last-k", "attention_layers": 2}, []),
        (
            "kd",
            {"distill_weight": 0, "temperature": 2, "layer_map": [0, 1]},
            ["trainer.temperature", "trainer.layer_map"],
        ),
        ("kd", {"temperature": 2, "distill_weight": 0.5}, []),
        ("dae", {"temperature": 2, "distill_weight": 0}, ["trainer.temperature"]),
        ("dae", {"temperature": 2, "distill_weight": 0, "non_target_weight": 1}, []),
        ("sft", {"tokens_per_batch": 512, "batch_size": 4}, ["trainer.batch_size"]),
        ("sft", {"batch_size": 4}, []),
        ("sft", {"eval_every": 10}, ["trainer.eval_every"]),
        ("sft", {"eval_every": 10, "eval_benches": ["shop"]}, []),
        ("kd", {"beta": 0.1, "on_policy": {"divergence": "js"}}, []),
        ("kd", {"on_policy": {"beta": 0.1}}, ["trainer.on_policy.beta"]),
        ("kd", {"on_policy": {"beta": 0.1, "divergence": "skew_kl"}}, []),
    ],
)
def test_trainer_settings(method: str, trainer: dict[str, Any], fields: list[str]) -> None:
    assert named(method, trainer) == fields


def test_teachers_of_rows_that_no_source_has() -> None:
    alone = {"reference": "old", "data": {"train": [DOMAIN]}}
    assert named("dae", {}, **alone) == ["reference"]
    assert named("dae", {"non_target_weight": 0.5}, **alone) == []
    written = {"train": [DOMAIN], "self_written": 8}
    assert named("dae", {}, reference="old", data=written) == []
    assert named("dae", {}, experts={"law": "lawyer"}) == ["experts.law"]
    assert named("dae", {}, reference="old") == []


def test_the_value_is_written_as_in_the_config() -> None:
    config = {"method": "kd", "student": "small", "teacher": "big", "data": DATA}
    trainer = {"attention_weight": 0, "layer_map": [0, -1]}
    assert unused_settings(parse_config({**config, "trainer": trainer})) == [
        "trainer.layer_map: [0, -1] has no effect: attention_weight is 0"
    ]


@pytest.mark.parametrize("name", preset_names())
def test_presets_use_all_they_set(name: str) -> None:
    assert unused_settings(parse_config(yaml.safe_load(preset_text(name)))) == []


def test_commands_and_runs_name_them(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    sentence = (
        "trainer.beta: 0.1 has no effect: it is a share in a mixture, which divergence: forward_kl "
        "has none of"
    )
    file = config_file(tmp_path, **kd_config(tiny_teacher, trainer={**TRAINER, "beta": 0.1}))
    notes = [row["value"] for row in kd.json("plan", file) if row["figure"] == "note"]
    assert sentence in notes
    code, _, err = kd("config", "check", file)
    assert (code, err.splitlines()[0]) == (0, sentence)
    _, said = train(config_of(tiny_teacher, "kd", beta=0.1, max_steps=1), paths, "kd")
    assert [pair for pair in said.said if "no effect" in pair[1]] == [("warning", sentence)]
