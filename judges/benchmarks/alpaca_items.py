"""AlpacaEval's instructions by their place in the data set, without their texts."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources


@cache
def _places() -> dict[str, str]:
    """Short hash of an instruction -> its place. The hashes ship; the texts are an asset."""
    file = resources.files("kdharness.judges.benchmarks").joinpath("alpaca_eval_order.json")
    return {mark: str(place) for place, mark in enumerate(json.loads(file.read_text("utf-8")))}


def item_of(instruction: str) -> str:
    """The item id of an instruction: its place, or a hash for one that is not AlpacaEval's."""
    mark = hashlib.sha256(instruction.encode("utf-8", "surrogatepass")).hexdigest()
    return _places().get(mark[:10], f"x{mark[:12]}")
