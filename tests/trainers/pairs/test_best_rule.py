"""A `trainer.best` about what is not measured is refused before a run is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.points import check_losses, parse_best
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.configs import config_file, kd_config

HELDOUT = [
    {"path": "general:validation", "limit": 2},
    {"path": "shop:validation", "kind": "domain", "limit": 2},
]


@pytest.mark.parametrize(
    ("best", "heldout", "message"),
    [
        ("nonsense", HELDOUT, "no held-out curve named 'nonsense'"),
        ("domain_los", HELDOUT, "did you mean domain_loss?"),
        ("general_loss + 0.5 * domain_loss", HELDOUT[:1], "available: general_loss"),
        ("general_loss", [], "none; set data.heldout"),
        ("domain_loss subject to general_los <= 2", HELDOUT, "did you mean general_loss?"),
        ("domain_loss +", HELDOUT, "invalid rule 'domain_loss +'"),
        ("shop", HELDOUT, "no held-out curve named 'shop'"),
    ],
)
def test_no_command_lets_it_pass(
    best: str,
    heldout: list[dict[str, Any]],
    message: str,
    kd: CommandLine,
    tiny_teacher: Path,
    tmp_path: Path,
    paths: Paths,
) -> None:
    """`config check`, `check` and `plan` passed; the run failed with its models loaded."""
    data = {"train": {"path": "general:train", "limit": 4}, "heldout": heldout}
    values = kd_config(tiny_teacher, student=str(tiny_teacher), data=data)
    values["trainer"] = {**values.get("trainer", {}), "best": best}
    config = config_file(tmp_path, **values)
    for words in (("config", "check"), ("plan",), ("train",), ("check", "--no-weights")):
        code, out, err = kd(*words, config)
        assert code and message in " ".join((out + err).split()), words
    with Store(paths.store) as store:
        assert store.runs() == []


@pytest.mark.parametrize(
    "best",
    [
        "general_loss",
        "-domain_loss / 2 + general_loss",
        "shop subject to general_loss <= 1.6 * reference",
        "shop/accuracy subject to domain_loss <= reference and shop >= 0.1",
    ],
)
def test_what_is_measured_passes(best: str) -> None:
    check_losses(parse_best(best, ["shop"]), ["general", "domain"])
    with pytest.raises(ConfigError):
        check_losses(parse_best(best, []), [])


@pytest.mark.parametrize("kind", ["law-eu", "a.b", "2nd", "two words"])
def test_a_kind_that_a_rule_cannot_name_is_to_be_renamed(kind: str) -> None:
    """`law-eu_loss` was read as a difference, and the same name suggested in its place."""
    with pytest.raises(ConfigError, match="cannot be named in a rule") as caught:
        check_losses(parse_best(f"{kind}_loss", []), ["general", kind])
    assert repr(kind) in caught.value.hint
