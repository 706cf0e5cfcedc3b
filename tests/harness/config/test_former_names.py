"""Former names of fields work, and say once what is written now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from kdharness.harness.config.base import former_fields, is_former
from kdharness.harness.config.files import CONFIGS, load_config
from kdharness.harness.util import notices
from support.commands import CommandLine


@pytest.fixture(autouse=True)
def _nothing_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_sent", set())


def write(path: Path, **trainer: Any) -> Path:
    values = {"method": "sft", "student": "smollm2-135m-instruct", "trainer": trainer}
    path.write_text(json.dumps({**values, "data": {"train": "general:train"}}), "utf-8")
    return path


def test_a_former_name_is_told_once_with_the_new_one(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", dtype="bfloat16", epochs=1)
    heard: list[str] = []
    with notices.notices_to(heard.append):
        first = load_config(file)
        assert load_config(file) == first
    assert heard == [
        f"{file}: trainer.dtype is a former name and will be removed: use precision (float32 is "
        "fp32, bfloat16 is bf16)"
    ]


def test_the_new_name_is_silent(tmp_path: Path) -> None:
    heard: list[str] = []
    with notices.notices_to(heard.append):
        load_config(write(tmp_path / "a.yaml", precision="bf16"))
    assert heard == []


def test_a_command_says_it_on_stderr(kd: CommandLine, tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", dtype="float32")
    code, out, err = kd("config", "show", str(file), "--format", "json")
    assert code == 0 and json.loads(out)["trainer"]["dtype"] == "float32"
    assert err.count("use precision") == 1


def models(kind: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    if kind not in seen:
        seen.add(kind)
        yield kind
        for field in kind.model_fields.values():
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    yield from models(part, seen)


def test_every_former_field_says_what_is_written_now() -> None:
    seen: set[type[BaseModel]] = set()
    former = [
        (kind.__name__, name, field.json_schema_extra)
        for config in CONFIGS.values()
        for kind in models(config, seen)
        for name, field in kind.model_fields.items()
        if is_former(field)
    ]
    assert former and all(extra["instead"] for _, _, extra in former)  # type: ignore[index, call-overload]


def test_the_schema_marks_it(kd: CommandLine) -> None:
    schema = json.loads(kd.ok("config", "schema", "sft"))
    assert '"instead"' not in json.dumps(schema)
    marked = [part for part in schema["$defs"].values() if "dtype" in part.get("properties", {})]
    assert any(part["properties"]["dtype"].get("deprecated") is True for part in marked)


def test_nothing_is_yielded_for_defaults(tmp_path: Path) -> None:
    assert list(former_fields(load_config(write(tmp_path / "a.yaml", epochs=1)))) == []
