"""Hostile configs, experiments and settings: a KDHarnessError or a correct result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdharness.harness.config.evaluation import EvalConfig, parse_spec
from kdharness.harness.config.files import (
    dump_config,
    load_config,
    parse_config,
    preset_names,
    preset_text,
    set_field,
)
from kdharness.harness.config.settings import default_judges, load_settings
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.expand import experiment_names, find_experiment, load_sweep
from kdharness.harness.experiments.library import experiments
from kdharness.harness.paths import Paths
from kdharness.tui.settings import read_settings
from support.mutations import MALFORMED_FILES, corrupted, error_of, mutated

FAST = settings(settings.get_profile("hostile"), max_examples=100)
PRESETS = [yaml.safe_load(preset_text(name)) for name in preset_names()]
SWEEPS = [yaml.safe_load(find_experiment(name).read_text("utf-8")) for name in experiment_names()]
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGES = "b0: &b0 {x: 1}\n" + "".join(
    f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
)
BOMBS: dict[str, tuple[str, str]] = {
    "billion laughs": (LAUGHS, "more than"),
    "billion merges": (MERGES, "more than"),
    "holds itself": ("method: kd\nstudent: &s [*s]\n", "refers to its own ancestor"),
    "python object": ("!!python/object/apply:os.system ['touch pwned']", "tag"),
    "python name": ("method: !!python/name:os.system", "tag"),
    "binary": ("method: !!binary aGVsbG8=", "tag"),
    "set": ("method: !!set {a, b}", "tag"),
    "own tag": ("method: !mine kd", "tag"),
    "deep flow": ("[" * 1500 + "]" * 1500, "nested"),
    "deep mapping": ("a: " + "{b: " * 800 + "1" + "}" * 800, "nested"),
    "deep but not for the stack": ("a: " + "[" * 120 + "]" * 120, "nested"),
    "long number": ("method: kd\nseed: " + "9" * 5000, "number"),
    "sexagesimal": ("method: kd\nseed: " + "1:" * 5000 + "1", "seed"),
    "given twice": ("method: kd\nseed: 1\nseed: 2\n", "duplicate field"),
    "list as a key": ("? [a, b]\n: 1\n", "plain text"),
    "two documents": ("method: kd\n---\nmethod: sft\n", "invalid YAML"),
    "not UTF-8": ("\udcff", "UTF-8"),
    "undefined alias": ("method: *nobody", "invalid YAML"),
    "only a comment": ("# nothing\n", "mapping"),
    "control characters": ("method: \x07", "invalid YAML"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_bombs_are_rejected_quickly(name: str, tmp_path: Path) -> None:
    text, reason = BOMBS[name]
    path = tmp_path / "bomb.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for load in (load_config, load_sweep):
        with pytest.raises(ConfigError, match=reason) as caught:
            load(path)
        assert "bomb.yaml" in str(caught.value)
    assert not Path("pwned").exists()


@pytest.mark.slow
@pytest.mark.parametrize("raw", MALFORMED_FILES, ids=lambda raw: repr(raw[:12]))
def test_malformed_config_files_are_rejected(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(raw)
    assert error_of(lambda: load_config(path)) is not None
    assert error_of(lambda: load_sweep(path)) is not None
    paths = Paths(tmp_path)
    paths.settings.write_bytes(raw)
    error = error_of(lambda: load_settings(paths))
    assert error is None or "settings.yaml" in str(error)
    error_of(lambda: default_judges(paths))
    assert read_settings(paths).theme == "dark"


def test_paths_that_are_not_regular_files_are_rejected(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (tmp_path, tmp_path / "none.yaml", pipe, Path("/dev/zero"), Path("a\0b")):
        assert error_of(lambda path=path: load_config(path)) is not None, path
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: 1\n" * 100_000)
    assert "too large" in str(error_of(lambda: load_config(large)))


@pytest.mark.slow
@FAST
@given(values=mutated(*PRESETS))
def test_mutated_configs(values: Any, tmp_path: Path) -> None:
    def round_trip() -> None:
        config = parse_config(values)
        again = parse_config(yaml.safe_load(dump_config(config, full=True)))
        assert again.method == config.method

    error_of(round_trip)
    path = tmp_path / "config.yaml"
    try:
        path.write_text(yaml.safe_dump(values), "utf-8", "surrogateescape")
    except (ValueError, RecursionError, yaml.YAMLError):
        return
    error_of(lambda: load_config(path))


@FAST
@given(data=st.data())
def test_corrupted_config_files(data: st.DataObject, tmp_path: Path) -> None:
    raw = data.draw(corrupted(preset_text(data.draw(st.sampled_from(preset_names()))).encode()))
    path = tmp_path / "config.yaml"
    path.write_bytes(raw)
    error_of(lambda: load_config(path))


@pytest.mark.slow
@settings(FAST, max_examples=60)
@given(values=mutated(*SWEEPS))
def test_mutated_experiments(values: Any, tmp_path: Path) -> None:
    path = tmp_path / "home" / "sweeps" / "one.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_text(yaml.safe_dump(values), "utf-8", "surrogateescape")
    except (ValueError, RecursionError, yaml.YAMLError):
        return
    error_of(lambda: load_sweep(path))
    error_of(lambda: experiments(Paths(tmp_path / "home")))


@FAST
@given(
    text=st.one_of(
        st.text(max_size=60),
        st.builds(
            "{}={}".format,
            st.sampled_from(["trainer.epochs", "teacher.x.k", "a..b", "data"]),
            st.one_of(st.text(max_size=30), st.sampled_from([b[0] for b in BOMBS.values()])),
        ),
    )
)
@example("seed=" + "9" * 6000)
@example("trainer.epochs=!!python/object/apply:os.getcwd []")
@example("data=" + "[" * 1000)
def test_set_field_accepts_any_text(text: str) -> None:
    values = {"method": "kd", "teacher": "x", "trainer": {"epochs": 1}}
    error_of(lambda: set_field(values, text))


@FAST
@given(
    values=mutated(
        {
            "method": "eval",
            "checkpoints": ["a"],
            "benches": ["shop"],
            "judge": ["openai:m@http://h/v1"],
            "limit": 3,
            "heldout": {"extra": {"x": "y.jsonl"}},
            "shard": "1/2",
            "answer_engine": "openai:m",
        },
    )
)
def test_mutated_eval_configs(values: Any) -> None:
    error_of(lambda: parse_config(values))


@FAST
@given(
    text=st.one_of(
        st.text(max_size=80),
        st.builds("openai:{}@http://{}".format, st.text(max_size=10), st.text(max_size=30)),
    )
)
@example("openai:m@http://[::1")
@example("openai:m@http://")
@example("openai:m@http://h:99999999999/v1")
def test_parse_spec_accepts_any_text(text: str) -> None:
    error_of(lambda: parse_spec(text))


@pytest.mark.slow
@FAST
@given(
    values=mutated(
        {
            "theme": "light",
            "keys": {"runs.new": "c", "app.quit": "x,f10"},
            "judge": ["openai:m"],
            "prices": {"m": {"input": 1, "output": 2}},
        },
    )
)
def test_mutated_settings(values: Any, tmp_path: Path) -> None:
    from kdharness.judges.engines.rate_limits import find_price

    paths = Paths(tmp_path)
    try:
        paths.settings.write_text(yaml.safe_dump(values), "utf-8", "surrogateescape")
    except (ValueError, RecursionError, yaml.YAMLError):
        return
    read_settings(paths)
    error_of(lambda: default_judges(paths))
    error_of(lambda: find_price(load_settings(paths), "m"))


def test_date_like_names_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(preset_text("kd-laptop") + "\nname: 2024-01-01\n", "utf-8")
    assert load_config(path).name == "2024-01-01"


def test_infinite_max_loss_survives_json(paths: Paths) -> None:
    config = parse_config(
        {**PRESETS[preset_names().index("kd-laptop")], "trainer": {"max_loss": float("inf")}}
    )
    assert config.model_dump(mode="json", by_alias=True)["trainer"]["max_loss"] == float("inf")


def test_eval_config_fields_are_bounded() -> None:
    for field, value in (
        ("limit", 0),
        ("concurrency", 10**9),
        ("batch_size", 10**9),
        ("retries", 10**9),
        ("judge_max_tokens", 10**12),
    ):
        with pytest.raises(ValueError, match=field):
            EvalConfig(**{field: value})
