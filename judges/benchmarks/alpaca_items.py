"""AlpacaEval's instructions by their index in the dataset, without their texts."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources


@cache
def _places() -> dict[str, str]:
    """Return short hash of an instruction -> its index; the texts themselves are an asset."""
    file = resources.files("kdharness.judges.benchmarks").joinpath("alpaca_eval_order.json")
    return {key: str(index) for index, key in enumerate(json.loads(file.read_text("utf-8")))}


def item_of(instruction: str) -> str:
    """Return the item id of an instruction: its index, or a hash if it is not AlpacaEval's."""
    key = hashlib.sha256(instruction.encode("utf-8", "surrogatepass")).hexdigest()
    return _places().get(key[:10], f"x{key[:12]}")
