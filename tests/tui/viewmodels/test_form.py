"""Forms built from config fields, and configs built from forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.evaluation import HeldoutOptions
from kdharness.harness.config.files import load_config, parse_config, preset_names, preset_text
from kdharness.harness.config.training import CONFIGS
from kdharness.tui.screens.new_run import short_config
from kdharness.tui.viewmodels.form import (
    MISSING,
    check,
    expand_short_forms,
    fields_of,
    get_value,
    set_value,
    text_of,
    value_of,
    yaml_text,
)


@pytest.mark.parametrize("name", preset_names())
def test_presets_round_trip_through_the_form(name: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(preset_text(name))
    model = CONFIGS[raw["method"]]
    values = expand_short_forms(model, raw)
    fields = fields_of(model, values)
    assert all(field.title for field in fields)
    file = tmp_path / "config.yaml"
    file.write_text(yaml_text(values), "utf-8")
    assert load_config(file) == parse_config(raw)


def test_short_forms_of_lists_stand_for_the_required_field() -> None:
    """An entry of `eval_benches` got a path, which no row of the form could remove."""
    raw = {"method": "sft", "data": {"train": "x"}, "trainer": {"eval_benches": ["shop"]}}
    values = expand_short_forms(CONFIGS["sft"], raw)
    assert values["trainer"]["eval_benches"] == [{"bench": "shop"}]
    assert values["data"]["train"] == [{"path": "x"}]
    firsts = {".".join(map(str, f.place)): f.first for f in fields_of(CONFIGS["sft"], values)}
    assert (firsts["trainer.eval_benches"], firsts["data.train"]) == ("bench", "path")


@pytest.mark.parametrize("method", list(CONFIGS))
def test_every_config_field_has_a_form_row(method: str) -> None:
    fields = fields_of(CONFIGS[method], {"method": method})
    names = {field.place[0] for field in fields}
    expected = {i.alias or n for n, i in CONFIGS[method].model_fields.items()} - {"method"}
    assert names == expected


@pytest.mark.parametrize("name", preset_names())
def test_field_values_round_trip_through_text(name: str) -> None:
    raw = yaml.safe_load(preset_text(name))
    model = CONFIGS[raw["method"]]
    values = expand_short_forms(model, raw)
    for field in fields_of(model, values):
        value = get_value(values, field.place)
        if field.kind in ("group", "groups", "mapping", "item") or value is MISSING:
            continue
        assert value_of(field, text_of(value)) == value, field.id


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_digit_of_a_number_is_lost_in_its_field(value: float) -> None:
    assert float(text_of(value)) == value


def test_limits_are_shown_with_every_digit() -> None:
    fields = {field.id: field for field in fields_of(CONFIGS["kd"], {"method": "kd"})}
    assert fields["seed"].limits == f"≥ 0, ≤ {2**32 - 1}"
    assert fields["trainer.learning_rate"].limits == "> 0, < 1"


def test_errors_are_mapped_to_their_fields() -> None:
    values = {
        "method": "kd",
        "student": {"model": ""},
        "teacher": {},
        "data": {"train": [{"path": "x", "weight": -1}]},
        "trainer": {"learning_rate": "fast", "layer_map": "odd"},
    }
    errors = check(values).errors
    assert "greater than 0" in errors["data", "train", 0, "weight"]
    assert "valid number" in errors["trainer", "learning_rate"]
    assert errors["teacher", "model"] == "is required"
    assert ("trainer", "layer_map") in errors


def test_set_value_sets_and_removes_paths() -> None:
    values = set_value({}, ("data", "train", 0), {"path": "a"})
    values = set_value(values, ("data", "train", 1, "path"), "b")
    assert values == {"data": {"train": [{"path": "a"}, {"path": "b"}]}}
    assert set_value(values, ("data", "train", 0), MISSING)["data"]["train"] == [{"path": "b"}]


def test_stored_config_is_shortened_to_non_defaults() -> None:
    full = parse_config(yaml.safe_load(preset_text("kd-laptop"))).model_dump(
        mode="json", by_alias=True
    )
    short = short_config(full)
    assert "schedule" not in short["trainer"] and parse_config(short) == parse_config(full)


def test_only_name_fields_have_a_picker() -> None:
    """A path chosen for a mapping of names to paths would replace the mapping by a string."""
    (extra,) = (row for row in fields_of(HeldoutOptions, {}) if row.id == "extra")
    assert (extra.kind, extra.pick) == ("pairs", "")
    for model in CONFIGS.values():
        for row in fields_of(model, {"heldout": {}, "data": {"train": [{"path": "x"}]}}):
            assert not row.pick or row.kind in ("text", "list", "mixed"), row.id
