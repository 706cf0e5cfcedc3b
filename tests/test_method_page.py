"""docs/method.md matches the code and has the headings that docstrings cite."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "method.md").read_text("utf-8")
PACKAGES = ("harness", "trainers", "judges", "tui", "data")
SECTIONS = {
    "labels",
    "losses",
    "token-weights",
    "starting-weights",
    "divergences",
    "attention",
    "routing",
    "on-policy-rows",
    "dae-without-general-rows",
    "normalisation",
    "computation",
    "mismatched-models",
    "teacher-cache",
    "merging",
    "trade-off",
    "intervals",
    "claims",
    "flops",
    "differences-from-the-published-code",
}
"""Docstrings link to these headings, so renaming one breaks the links."""


def anchors(page: str) -> set[str]:
    return {line.lower().replace(" ", "-") for line in re.findall(r"^## (.+)$", page, re.MULTILINE)}


def test_section_headings_are_unchanged() -> None:
    assert anchors(PAGE) == SECTIONS


def test_docstrings_cite_existing_sections() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for anchor in re.findall(r"docs/method\.md#([\w-]+)", path.read_text("utf-8")):
                assert anchor in SECTIONS, path


def test_documented_constants_match_the_code() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| `([\w.]+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for value, name in rows:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) == float(value), name


def test_every_divergence_and_merge_is_documented() -> None:
    from kdharness.harness.config.merging import MergeConfig
    from kdharness.harness.config.trainer import DistillSpec

    for model, field in ((DistillSpec, "divergence"), (MergeConfig, "kind")):
        for name in model.model_json_schema()["properties"][field]["enum"]:
            assert f"\n| `{name}` | " in PAGE, name


@pytest.mark.parametrize(("students", "teachers"), [(3, 4), (4, 4), (24, 30), (5, 32)])
def test_uniform_layer_map_matches_the_formula(students: int, teachers: int) -> None:
    from kdharness.trainers.layers import map_layers

    assert "round((i + 1) · R / S) − 1" in PAGE
    expected = {i: round((i + 1) * teachers / students) - 1 for i in range(students)}
    assert map_layers("uniform", students, teachers) == expected
    assert expected[students - 1] == teachers - 1


def test_documented_bytes_per_cached_position_match_the_code() -> None:
    from kdharness.harness.config.models import BYTES_PER_POSITION, BYTES_PER_TOKEN

    assert f"({BYTES_PER_TOKEN}k + {BYTES_PER_POSITION} bytes)" in PAGE


def test_intervals_match_the_formulas() -> None:
    from scipy.stats import norm, t

    from kdharness.harness.stats.inference import questions_needed, unseen_share
    from kdharness.harness.stats.two_way import two_way_interval

    assert "1 − 0.025^(1/n)" in PAGE
    assert unseen_share(20) == pytest.approx(1 - 0.025 ** (1 / 20))

    assert "((z_0.975 + z_0.8) · s / d)²" in PAGE
    needed = ((norm.ppf(0.975) + norm.ppf(0.8)) * 0.7 / 0.2) ** 2
    assert questions_needed(0.2, 0.7) == math.ceil(needed)

    effects, variance, questions = [0.1, 0.4, 0.3], 0.02, 30
    spread = sum((x - sum(effects) / 3) ** 2 for x in effects) / 2 / 3
    half_width = math.sqrt(t.ppf(0.975, 29) ** 2 * variance + t.ppf(0.975, 2) ** 2 * spread)
    low, high = two_way_interval(effects, variance, questions)
    assert low is not None and high is not None
    assert (high - low) / 2 == pytest.approx(half_width)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_match_the_documented_formulas(lora: bool, checkpointing: bool) -> None:
    from kdharness.trainers.flops import Shape, attention_loss_flops, floor_flops

    student = Shape(body=1000, layers=3, heads=4, head_size=8, hidden=32, vocab=50, adapter=70)
    teacher = Shape(body=5000, layers=6, heads=8, head_size=8, hidden=64, vocab=50)
    rows, width, labelled, recomputation = 5, 11, 17, int(checkpointing)
    expected = 2 * ((2 if lora else 3) + recomputation) * 1000 * rows * width
    expected += 2 * (3 + recomputation) * 70 * rows * width
    expected += 4 * rows * width**2 * 3 * 4 * 8 * (3.5 + recomputation)
    expected += 2 * (2 if lora else 3) * 50 * 32 * labelled
    expected += 2 * 5000 * rows * width + 4 * rows * width**2 * 6 * 8 * 8 + 2 * 50 * 64 * labelled
    assert floor_flops(
        student,
        teacher,
        rows=rows,
        width=width,
        labelled=labelled,
        lora=lora,
        checkpointing=checkpointing,
    ) == pytest.approx(expected)
    assert attention_loss_flops(student, 2, 90) == 2 * 4 * 8 * 6 * 90 * 2
