"""Location of the published results, and the scores they must reproduce (see their README)."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(
    os.environ.get("KDHARNESS_PARITY_DATA")
    or Path(__file__).resolve().parents[2].parent / "shared" / "parity"
)
needs_data = pytest.mark.skipif(
    not (ROOT / "README.md").exists(),
    reason=f"no published results at {ROOT}; set KDHARNESS_PARITY_DATA to have them checked",
)
ALPACA_2 = ("alpaca-7b", "claude-2.1", "phi-2")
MT_BENCH = {
    "vicuna-7b-v1.3": (6.73125, 5.475, 6.103125),
    "vicuna-7b-v1.3-greedy": (None, None, 5.878125),
    "medusa-vicuna-7b-v1.3-1-temperature-0.0-posterior_threshold-0.09-posterior_alpha-0.3": (
        None,
        None,
        5.9875,
    ),
    "mistral-orpo-trl": (None, None, 7.165625),
    "mistral-orpo-capybara": (None, None, 6.81875),
    "mistral-orpo-mix": (None, None, 6.003125),
}


def published_annotations(name: str, version: int = 2) -> list[dict[str, Any]]:
    """Return the rows of an annotation file."""
    folder = ROOT / ("alpacaeval2/raw" if version == 2 else "alpacaeval1")
    return list(json.loads((folder / f"{name}.annotations.json").read_text("utf-8")))


def published_judgments(name: str) -> list[dict[str, Any]]:
    """Return the rows of a FastChat judgment file."""
    text = (ROOT / "mtbench" / "judgments" / name).read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def published_leaderboard() -> dict[str, dict[str, str]]:
    """Return the published AlpacaEval 2 table, by model."""
    with (ROOT / "alpacaeval2" / "published.csv").open(encoding="utf-8", newline="") as stream:
        return {row["model"]: row for row in csv.DictReader(stream)}
