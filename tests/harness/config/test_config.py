"""Configs: YAML round trips, presets, and errors that name the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from kdharness.harness.config.files import (
    dump_config,
    load_config,
    parse_config,
    parse_stored,
    preset_names,
    preset_text,
)
from kdharness.harness.config.trainer import Divergence
from kdharness.harness.config.training import CONFIGS, KDConfig, config_hash
from kdharness.harness.errors import ConfigError

KD: dict[str, Any] = {
    "method": "kd",
    "student": {"from": "teacher", "keep_layers": 2},
    "teacher": "org/model",
    "data": {"train": "general:train"},
}


def test_every_preset_is_a_valid_config(tmp_path: Path) -> None:
    assert len(preset_names()) >= 8
    for name in preset_names():
        path = tmp_path / f"{name}.yaml"
        path.write_text(preset_text(name), "utf-8")
        load_config(path)


def test_yaml_round_trip_keeps_the_hash(tmp_path: Path) -> None:
    config = parse_config(KD)
    for full in (False, True):
        path = tmp_path / "c.yaml"
        path.write_text(dump_config(config, full=full), "utf-8")
        assert config_hash(load_config(path)) == config_hash(config)


def test_config_hash_ignores_only_the_name() -> None:
    base = config_hash(parse_config(KD))
    assert config_hash(parse_config({**KD, "name": "x"})) == base
    assert config_hash(parse_config({**KD, "seed": 1})) != base


def test_short_forms_are_expanded() -> None:
    config = parse_config(KD)
    assert isinstance(config, KDConfig)
    assert config.teacher.model == "org/model"
    assert config.data.train[0].path == "general:train"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"temprature": 2}}, "trainer.temprature: unknown field; did you mean temper"),
        ({"trainer": {"learning_rate": "fast"}}, "trainer.learning_rate"),
        ({"trainer": {"learning_rate": -1}}, "trainer.learning_rate"),
        ({"teacher": None}, "teacher"),
        ({"data": {}}, "data.train"),
        ({"student": {"keep_layers": 2}}, "exactly one of model, from, experts_from"),
        ({"student": {"from": "teacher"}}, "keep_layers"),
        ({"teacher": {"model": "x", "cache": {}}}, "attention_weight to 0"),
        (
            {"teacher": {"model": "x", "cache": {"kind": "hidden"}}},
            "stores hidden states, not attention",
        ),
        (
            {"teacher": {"model": "x", "cache": {"kind": "hidden", "k": 64}}},
            "teacher.cache: k cannot be set with kind: hidden",
        ),
        (
            {"teacher": {"model": "x", "cache": {"kind": "hidden", "tail": "bucket", "k": 3}}},
            "k and tail cannot be set with kind: hidden, only with kind: top-k: remove them",
        ),
        (
            {"teacher": {"model": "x", "cache": {"dtype": "float32"}}},
            "dtype cannot be set with kind: top-k, only with kind: hidden: remove it",
        ),
        ({"teacher": {"model": "x", "cache": {"kind": "states"}}}, "'top-k' or 'hidden'"),
        ({"method": "kdd"}, "one of: sft, kd, dae, merge, eval"),
        ({"name": "a b"}, "name"),
    ],
)
def test_validation_errors_name_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**KD, **changes}, where="c.yaml")
    assert message in str(caught.value)
    assert "c.yaml" in str(caught.value)


@pytest.mark.parametrize(
    "cache",
    [{}, {"k": 8, "tail": "bucket"}, {"kind": "hidden"}, {"kind": "hidden", "dtype": "float32"}],
)
def test_stored_configs_of_caches_are_read_back(cache: dict[str, Any]) -> None:
    """A run stores every field; those of the other kind would be refused when it is resumed."""
    teacher = {"model": "x", "cache": cache}
    config = parse_config({**KD, "teacher": teacher, "trainer": {"attention_weight": 0}})
    again = parse_config(config.model_dump(mode="json", by_alias=True))
    assert again == config and config_hash(again) == config_hash(config)
    for full in (True, False):
        assert parse_config(yaml.safe_load(dump_config(config, full=full))) == config


def test_hidden_states_serve_every_divergence_and_temperature() -> None:
    teacher = {"model": "x", "cache": {"kind": "hidden"}}
    for divergence in get_args(Divergence):
        trainer = {"attention_weight": 0, "divergence": divergence, "temperature": 4}
        parse_config({**KD, "teacher": teacher, "trainer": trainer})


def test_dae_requires_a_teacher_for_every_kind() -> None:
    config = {
        "method": "dae",
        "student": "a/b",
        "expert": "a/c",
        "data": {"train": [{"path": "x.jsonl", "kind": "law"}]},
    }
    with pytest.raises(ConfigError, match="'law' have no teacher"):
        parse_config(config)
    with pytest.raises(ConfigError, match="needs domain rows"):
        parse_config({**config, "data": {"train": "x.jsonl"}})


def test_invalid_yaml_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("method: kd\nteacher: [unclosed\nseed: 1\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "bad.yaml:3" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path / "absent.yaml")
    path.write_text("- a\n- list\n", "utf-8")
    with pytest.raises(ConfigError, match="mapping"):
        load_config(path)


def test_overrides_set_nested_fields(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(KD), "utf-8")
    config = load_config(
        path, ["trainer.temperature=2", "teacher.cache={k: 8}", "trainer.attention_weight=0"]
    )
    assert isinstance(config, KDConfig)
    assert config.trainer.temperature == 2
    assert config.teacher.model == "org/model"
    assert config.teacher.cache is not None and config.teacher.cache.k == 8
    for bad in ("nonsense", "=1", "seed.x=1"):
        with pytest.raises(ConfigError):
            load_config(path, [bad])


def test_paths_are_relative_to_the_config_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n", "utf-8")
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**KD, "data": {"train": "rows.jsonl"}}), "utf-8")
    monkeypatch.chdir("/")
    config = load_config(path)
    assert isinstance(config, KDConfig)
    assert config.data.train[0].path == str(tmp_path / "rows.jsonl")


def test_every_field_has_a_title() -> None:
    """The app's forms are built from these models."""

    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            if name not in ("method",):
                assert field.title, f"{model.__name__}.{name}"
            for annotation in [field.annotation, *getattr(field.annotation, "__args__", ())]:
                if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                    check(annotation)

    for model in CONFIGS.values():
        check(model)


def test_a_weight_of_an_attention_loss_that_is_left_out_excludes_no_cache() -> None:
    cached = {**KD, "teacher": {"model": "x", "cache": {}}}
    assert parse_config({**cached, "trainer": {"distill_weight": 0}}).teacher.cache
    with pytest.raises(ConfigError, match="attention_weight to 0"):
        parse_config({**cached, "trainer": {"distill_weight": 0.1}})


# ---------------------------------------------------------------- settings without effect

LARGEST = 2**32 - 1


@pytest.mark.parametrize(
    "values",
    [
        KD,
        {"method": "merge", "reference": "a", "expert": "b"},
        {"method": "eval", "checkpoints": ["a"]},
    ],
)
def test_seeds_that_numpy_does_not_take_are_refused(values: dict[str, Any]) -> None:
    """The run failed after everything was loaded."""
    assert parse_config({**values, "seed": LARGEST}).seed == LARGEST
    for seed in (LARGEST + 1, 5_000_000_000, -1):
        with pytest.raises(ConfigError, match="seed"):
            parse_config({**values, "seed": seed})


def test_a_warm_up_that_the_schedule_does_not_have_is_refused() -> None:
    def parsed(**trainer: Any) -> Any:
        return parse_config({**KD, "trainer": trainer}).trainer

    with pytest.raises(ConfigError, match="set schedule: constant_with_warmup"):
        parsed(schedule="constant", warmup_ratio=0.5)
    assert parsed(schedule="constant_with_warmup", warmup_ratio=0.5).warmup_ratio == 0.5
    assert parsed(schedule="constant").schedule == "constant"
    assert parsed(schedule="constant", warmup_ratio=0).warmup_ratio == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": [{"path": "a.jsonl", "split": "test"}]}, "split: test has no effect on a.jsonl"),
        (
            {"train": "a", "heldout": [{"path": "b", "weight": 2}]},
            "weight: 2 has no effect on b",
        ),
    ],
)
def test_fields_of_a_source_without_effect_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({**KD, "data": data})


def test_a_hub_dataset_has_splits() -> None:
    data = {"train": [{"path": "hub:org/name", "split": "test"}]}
    assert parse_config({**KD, "data": data}).data.train[0].split == "test"


@pytest.mark.parametrize(
    "values",
    [
        {"trainer": {"schedule": "constant", "warmup_ratio": 0.03}},
        {"data": {"train": [{"path": "a.jsonl", "split": "test"}]}},
        {"data": {"train": "a", "heldout": [{"path": "b", "weight": 2}]}},
        {"seed": LARGEST + 1},
    ],
)
def test_a_stored_config_of_an_older_version_is_read(values: dict[str, Any]) -> None:
    """Else a run that was started with it could not be resumed."""
    stored = parse_stored({**KD, **values})
    again = stored.model_dump(mode="json", by_alias=True)
    assert config_hash(parse_stored(again)) == config_hash(stored)
    with pytest.raises(ConfigError):
        parse_config(again)
    for broken in ({"seed": -1}, {"seed": True}, {"trainer": {"epochs": -1}}):
        with pytest.raises(ConfigError):
            parse_stored({**KD, **broken})


@pytest.mark.parametrize("field", ["epochs", "weight_decay", "max_grad_norm"])
@pytest.mark.parametrize("value", [float("inf"), "inf", 1e999])
def test_a_number_without_end_is_refused(field: str, value: object) -> None:
    """An infinite number of epochs was a traceback."""
    values = {
        "method": "sft",
        "student": "m",
        "data": {"train": "general:train"},
        "trainer": {field: value},
    }
    with pytest.raises(ConfigError, match=f"{field}.*(finite number, not inf|less than)"):
        parse_config(values)
    if field == "max_grad_norm":  # a stored run keeps it
        parse_stored(values)
    with pytest.raises(ConfigError, match="epochs"):
        parse_config({**values, "trainer": {"epochs": 1e307}})
    # The one limit that has no other word for none; infinity is not a NaN.
    values["trainer"] = {"max_loss": value}
    assert parse_config(values)
