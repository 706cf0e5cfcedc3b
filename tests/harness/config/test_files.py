"""Config files: YAML values, `--set` on nested fields and lists, and relative paths."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.files import absolute_paths, dump_config, load_config, set_field
from kdharness.harness.errors import ConfigError
from kdharness.harness.util.untrusted import dump_yaml, parse_yaml
from support.commands import CommandLine


@pytest.fixture
def write_text(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(text, "utf-8")
        return path

    return write


SFT = "method: sft\nstudent: org/model\ndata: {train: rows.jsonl}\n"


# ---------------------------------------------------------------- YAML values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-5", 1e-5),
        ("5E-5", 5e-5),
        (".00001", 1e-5),
        ("1.", 1.0),
        ("-0.5e3", -500.0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+7", 7),
        (".inf", float("inf")),
        ("2024_11", "2024_11"),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("12:30:45", "12:30:45"),
        ("1:30", "1:30"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("2024-11-25", "2024-11-25"),
        ("=", "="),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_yaml_scalars_follow_yaml_1_2(text: str, expected: Any) -> None:
    """YAML 1.1 would read some of these as 8, 202411, false and 45045."""
    assert parse_yaml(f"a: {text}", "x") == {"a": expected}


def test_global_pyyaml_loader_is_unchanged() -> None:
    assert yaml.safe_load("a: no") == {"a": False}


@given(
    st.recursive(
        st.one_of(
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12),
            st.sampled_from(["no", "1e5", "010", "0o7", "12:30", "2024_11", "null", "~", "<<"]),
            st.integers(-(10**9), 10**9),
            st.booleans(),
            st.none(),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(["a", "b", "on"]), inner, max_size=3),
        ),
        max_leaves=6,
    )
)
def test_dump_yaml_round_trip(value: Any) -> None:
    assert parse_yaml(dump_yaml({"k": value}), "x") == {"k": value}
    assert yaml.safe_load(dump_yaml({"k": value})) == {"k": value} or "\x85" in str(value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("name: 202411", 'name: must be text, but 202411 is a number: quote it ("202411")'),
        ("name: 1.10", 'name: must be text, but 1.10 is a number: quote it ("1.10")'),
        ("name: 1e3", 'but 1e3 is a number: quote it ("1e3")'),
        ("name: 0x1F", 'but 0x1F is a number: quote it ("0x1F")'),
        ("name: true", 'but true is a boolean: quote it ("true")'),
        (
            "data: {train: [{path: rows.jsonl, kind: false}]}",
            'data.train.0.kind: must be text, but false is a boolean: quote it ("false")',
        ),
        (
            "data: {train: {path: rows.jsonl, kind: 07}}",
            'data.train.0.kind: must be text, but 07 is a number: quote it ("07")',
        ),
        ("data: {train: [{path: rows.jsonl, kind: }]}", "kind: must be text, but is empty"),
    ],
)
def test_number_in_a_text_field_is_quoted_as_written(
    line: str, message: str, write_text: Callable[[str], Path]
) -> None:
    base: dict[str, str] = dict(part.split(": ", 1) for part in SFT.strip().split("\n"))  # type: ignore[misc]
    key, _, value = line.partition(": ")
    text = "".join(f"{k}: {v}\n" for k, v in {**base, key: value}.items())
    with pytest.raises(ConfigError) as caught:
        load_config(write_text(text))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["2024_11", "no", "on", "1.0.2", "1_0"])
def test_names_that_yaml_1_1_misreads_stay_text(
    name: str, write_text: Callable[[str], Path]
) -> None:
    assert load_config(write_text(f"{SFT}name: {name}\n")).name == name  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trainer: {max_steps: true}", "trainer.max_steps: must be a number, but true is a bool"),
        ("trainer: {save_every: false}", "trainer.save_every: must be a number, but false is"),
        ("data: {train: [{path: a.jsonl, limit: true}]}", "data.train.0.limit: must be a number"),
        ("trainer: ~", "trainer: must be a mapping of fields, but is empty"),
        ("student: 2024", "student: must be a mapping of fields, not 2024; quote it if it is a na"),
        ("data: {train: [a.jsonl, 7]}", "data.train.1: must be a mapping of fields, not 7; quote"),
        ("data: {train: 7}", "data.train: must be a list, not 7"),
    ],
)
def test_wrong_type_is_reported_in_yaml_terms(
    line: str, message: str, write_text: Callable[[str], Path]
) -> None:
    """Booleans were accepted as the number 1, and errors named our Python classes."""
    key = line.partition(":")[0]
    other_lines = "".join(
        f"{existing}\n" for existing in SFT.splitlines() if not existing.startswith(f"{key}:")
    )
    with pytest.raises(ConfigError) as caught:
        load_config(write_text(f"{other_lines}{line}\n"))
    assert message in str(caught.value)


def test_boolean_fields_accept_any_yaml_spelling(write_text: Callable[[str], Path]) -> None:
    for word, expected in (("yes", True), ("off", False), ("True", True), ("n", False)):
        text = f"{SFT}trainer: {{gradient_checkpointing: {word}}}\n"
        assert load_config(write_text(text)).trainer.gradient_checkpointing is expected  # type: ignore[union-attr]


def test_dumped_config_round_trip(write_text: Callable[[str], Path], tmp_path: Path) -> None:
    config = load_config(write_text(f"{SFT}name: '1e5'\n"))
    dumped = tmp_path / "again.yaml"
    dumped.write_text(dump_config(config, full=True), "utf-8")
    assert load_config(dumped) == config


# ---------------------------------------------------------------- --set


@pytest.mark.parametrize("benches", ["shop", ["shop"], {"bench": "shop"}, [{"bench": "shop"}]])
def test_set_field_opens_the_short_forms_of_benchmarks(benches: Any) -> None:
    values: dict[str, Any] = {"trainer": {"eval_benches": benches}}
    set_field(values, "trainer.eval_benches.0.limit=5")
    assert values == {"trainer": {"eval_benches": [{"bench": "shop", "limit": 5}]}}


def test_set_field_indexes_lists() -> None:
    values: dict[str, Any] = {"data": {"train": [{"path": "a"}, "b"]}, "student": "m"}
    set_field(values, "data.train.1.path=x")
    set_field(values, "data.train.0.kind=domain")
    set_field(values, "data.train.2=c")
    set_field(values, "data.train[3].path=d")
    set_field(values, "student.lora.r=4")
    set_field(values, "trainer.layer_map.0=3")
    assert values == {
        "data": {"train": [{"path": "a", "kind": "domain"}, {"path": "x"}, "c", {"path": "d"}]},
        "student": {"model": "m", "lora": {"r": 4}},
        "trainer": {"layer_map": [3]},
    }


@pytest.mark.parametrize("train", ["a.jsonl", {"path": "a.jsonl"}, ["a.jsonl"]])
def test_set_field_indexes_a_single_source_as_a_list(train: Any) -> None:
    """`compare` prints data.train.0.path whichever way the config was written."""
    values = {"data": {"train": train}}
    set_field(values, "data.train.0.path=x.jsonl")
    assert values == {"data": {"train": [{"path": "x.jsonl"}]}}


@pytest.mark.parametrize("train", ["a.jsonl", {"path": "a.jsonl"}])
def test_set_field_on_a_single_source_without_an_index(train: Any) -> None:
    values = {"data": {"train": train}}
    set_field(values, "data.train.limit=3")
    assert values == {"data": {"train": {"path": "a.jsonl", "limit": 3}}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train.path=x", "data.train is a list"),
        ("data.train.5.path=x", "data.train has 2 entries"),
        ("seed.more=1", "seed has no fields"),
        ("data..train=1", "invalid --set"),
        ("nothing", "invalid --set"),
    ],
)
def test_set_field_rejects_invalid_field_paths(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        set_field({"data": {"train": ["a", "b"]}, "seed": 1}, override)


def test_set_option_of_config_show(write_text: Callable[[str], Path], kd: CommandLine) -> None:
    file = write_text("method: sft\nstudent: org/model\ndata: {train: [a.jsonl, b.jsonl]}\n")
    code, out, err = kd(
        "config", "show", str(file), "--set", "data.train.1.path=x.jsonl", "--format", "json"
    )
    assert code == 0, err
    assert [source["path"] for source in json.loads(out)["data"]["train"]] == ["a.jsonl", "x.jsonl"]
    code, _, err = kd("config", "show", str(file), "--set", "name=1.10")
    assert code == 2 and "1.10 is a number" in err


# ---------------------------------------------------------------- relative paths


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("train", "pretty.json"),
        ("train", "rows.ndjson"),
        ("train", "plain"),
        ("path", "rows.parquet"),
        ("chat_template", "t.jinja"),
        ("chat_template", "template"),
        ("judge_config", "own.yaml"),
        ("general", "held"),
        ("benches", "mine.jsonl"),
    ],
)
def test_files_are_resolved_relative_to_the_config(field: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("", "utf-8")
    assert absolute_paths({field: name}, tmp_path) == {field: str(tmp_path / name)}
    assert absolute_paths({field: [name]}, tmp_path) == {field: [str(tmp_path / name)]}


@pytest.mark.parametrize(
    "field", ["student", "model", "from", "teacher", "expert", "checkpoints", "baseline"]
)
def test_model_folders_are_resolved_relative_to_the_config(field: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert absolute_paths({field: "mine"}, tmp_path) == {field: "mine"}
    (tmp_path / "mine" / "config.json").write_text("{}", "utf-8")
    assert absolute_paths({field: "mine"}, tmp_path) == {field: str(tmp_path / "mine")}
    assert absolute_paths({"experts": {"law": "mine"}}, tmp_path) == {
        "experts": {"law": str(tmp_path / "mine")}
    }
    assert absolute_paths({"vary": {f"kd.{field}": ["mine"]}}, tmp_path) == {
        "vary": {f"kd.{field}": [str(tmp_path / "mine")]}
    }
    for kind in ("vllm", "llama"):
        named = "mine/config.json" if kind == "llama" else "mine"
        assert absolute_paths({"answer_engine": f"{kind}:{named}"}, tmp_path) == {
            "answer_engine": f"{kind}:{tmp_path / named}"
        }
    assert absolute_paths({"judge": ["vllm:org/model"]}, tmp_path) == {"judge": ["vllm:org/model"]}
    assert absolute_paths({"judge": ["local:mine"]}, tmp_path) == {
        "judge": [f"local:{tmp_path / 'mine'}"]
    }


def test_paths_in_the_home_and_working_directory_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that resolves when a run starts also resolves when it is resumed from elsewhere."""
    cwd, home = tmp_path / "here", tmp_path / "home"
    for folder in (cwd, home):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "config.json").write_text("{}", "utf-8")
        (folder / "rows.jsonl").write_text("", "utf-8")
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("HOME", str(home))
    values = {"model": "~/model", "train": ["~/rows.jsonl", "rows.jsonl"], "judge": ["local:model"]}
    assert absolute_paths(values, tmp_path) == {
        "model": str(home / "model"),
        "train": [str(home / "rows.jsonl"), str(cwd / "rows.jsonl")],
        "judge": [f"local:{cwd / 'model'}"],
    }
    assert absolute_paths({"train": "rows.jsonl"}, home) == {"train": str(home / "rows.jsonl")}
    assert absolute_paths({"train": "~/gone.jsonl"}, home) == {"train": "~/gone.jsonl"}


def test_values_of_non_path_fields_are_not_resolved(tmp_path: Path) -> None:
    """A folder called `domain` beside the config does not turn a kind into a path."""
    values = {
        "name": "kd",
        "method": "kd",
        "kind": "domain",
        "format": "auto",
        "split": "train",
        "benches": ["shop"],
        "chat_template": "chatml",
        "train": "shop:train",
        "schedule": "cosine",
    }
    for name in (*map(str, values.values()), "shop"):
        (tmp_path / name).mkdir(exist_ok=True)
    assert absolute_paths(values, tmp_path) == values


def test_config_works_from_any_working_directory(
    tmp_path: Path, tiny_teacher: Path, kd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(tiny_teacher, project / "model")
    (project / "rows.ndjson").write_text('{"prompt": "Say.", "completion": "Yes."}\n', "utf-8")
    shutil.copy(tiny_teacher / "chat_template.jinja", project / "t.jinja")
    (project / "c.yaml").write_text(
        "method: sft\nstudent: model\ndata: {train: rows.ndjson, chat_template: t.jinja}\n", "utf-8"
    )
    monkeypatch.chdir(os.sep)
    code, out, err = kd("data", "show", str(project / "c.yaml"))
    assert code == 0 and "⟦Yes.<|im_end|>⟧" in out, err
