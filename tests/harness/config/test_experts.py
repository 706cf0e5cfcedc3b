"""Experts by name beside the expert and the reference of DAE."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import ConfigError


@pytest.mark.parametrize(("kind", "role"), [("domain", "expert"), ("general", "reference")])
def test_two_teachers_of_one_kind_are_refused(kind: str, role: str) -> None:
    """The one by name replaced the other without a word."""
    rows: list[dict[str, str]] = [{"path": "x"}, {"path": "y", "kind": "domain"}]
    values: dict[str, Any] = {"method": "dae", "student": "s", "data": {"train": rows}}
    values |= {"expert": "a", "reference": "r", "experts": {kind: "b"}}
    with pytest.raises(ConfigError, match=f"experts.{kind} and {role} would both teach {kind}"):
        parse_config(values)
    values.pop(role)
    parse_config(values)
