"""The JSON Schema of configs accepts what is a config, and marks what is none."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
import yaml
from jsonschema import Draft202012Validator

from kdharness.harness.config.files import dump_config, parse_config, preset_names, preset_text
from kdharness.harness.config.schema import json_schema
from kdharness.harness.config.training import CONFIGS
from kdharness.harness.experiments.expand import SweepConfig
from support.commands import CommandLine

SHIPPED = resources.files("kdharness.data").joinpath("experiments")
EXPERIMENTS = ["baselines", "demo", "replication"]
EVERY = Draft202012Validator(json_schema({**CONFIGS, "sweep": SweepConfig}, "sweep"))
KD: dict[str, Any] = {"method": "kd", "student": "a", "teacher": "b", "data": {"train": "x"}}
DAE: dict[str, Any] = {
    "method": "dae",
    "student": {"from": "teacher", "keep_layers": [0, 2]},
    "expert": "b",
    "experts": {"law": "c", "code": {"model": "d", "quantization": {"method": "bnb-8bit"}}},
    "data": {
        "train": ["x", {"path": "y", "kind": "law"}, {"path": "y", "kind": "domain"}],
        "heldout": "z",
    },
    "trainer": {"eval_benches": "shop", "max_steps": 3},
}


def validator(method: str) -> Draft202012Validator:
    return Draft202012Validator(json_schema({method: CONFIGS[method]}))


@pytest.mark.parametrize("method", CONFIGS)
def test_schemas_are_valid_and_say_what_fields_are_for(method: str) -> None:
    schema = json_schema({method: CONFIGS[method]})
    Draft202012Validator.check_schema(schema)
    assert "hashed" not in json.dumps(schema)
    seed = schema["properties"]["seed"]
    assert seed["type"] == "integer" and seed["default"] == (0 if method == "eval" else 42)


@pytest.mark.parametrize("name", preset_names())
def test_presets_conform(name: str) -> None:
    values = yaml.safe_load(preset_text(name))
    for form in (values, yaml.safe_load(dump_config(parse_config(values), full=True))):
        validator(values["method"]).validate(form)
        EVERY.validate(form)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_conform(name: str) -> None:
    EVERY.validate(yaml.safe_load(SHIPPED.joinpath(f"{name}.yaml").read_text("utf-8")))


@pytest.mark.parametrize("values", [KD, DAE], ids=["kd", "dae"])
def test_short_forms_conform(values: dict[str, Any]) -> None:
    parse_config(values)
    validator(values["method"]).validate(values)
    EVERY.validate(values)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"trainer": {"learning_rat": 1e-4}}, ["trainer"]),
        ({"trainer": {"batch_size": 0}}, ["trainer", "batch_size"]),
        ({"trainer": {"schedule": "cosin"}}, ["trainer", "schedule"]),
        ({"teacher": 3}, ["teacher"]),
        ({"data": {}}, ["data"]),
        ({"expert": "c"}, []),
    ],
)
def test_mistakes_are_marked_where_they_stand(changes: dict[str, Any], where: list[str]) -> None:
    for schema in (validator("kd"), EVERY):
        errors = list(schema.iter_errors({**KD, **changes}))
        assert [list(error.absolute_path) for error in errors] == [where]


def test_a_file_without_its_method_is_marked() -> None:
    unnamed = {name: value for name, value in KD.items() if name != "method"}
    assert not EVERY.is_valid(unnamed) and not validator("kd").is_valid(unnamed)
    assert not EVERY.is_valid({**KD, "method": "kdd"})


def test_the_command_prints_it(kd: CommandLine) -> None:
    assert json.loads(kd.ok("config", "schema", "dae")) == json_schema({"dae": CONFIGS["dae"]})
    assert json.loads(kd.ok("config", "schema")) == EVERY.schema
    code, _, err = kd("config", "schema", "kdd")
    assert code == 2 and "unknown method 'kdd'" in err


def test_a_new_config_names_its_schema(kd: CommandLine, tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    kd.ok("config", "init", "kd-laptop", "--output", str(target))
    first, rest = target.read_text("utf-8").split("\n", 1)
    assert rest == preset_text("kd-laptop")
    kd.ok("config", "check", str(target))
    before, url = first.split("$schema=")
    assert before == "# yaml-language-server: "
    schema = json.loads(Path(url2pathname(urlparse(url).path)).read_text("utf-8"))
    assert schema == json_schema({"kd": CONFIGS["kd"]})
