"""The prompts of `prompts.jsonl`, and how they are split.

Splitting is apart from generating because it needs no model: a test can repeat it in a
moment and hold the shipped files against it.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from importlib.resources import files

CATEGORIES = (
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
)
PER_CATEGORY = {"train": 30, "validation": 4, "test": 6}
"""Rows per category in each split: every split has the same mix, so their losses compare."""

NEAR_DUPLICATE = 0.6
"""Two prompts sharing this much of their words (Jaccard) count as the same prompt."""


@dataclass(frozen=True)
class Prompt:
    """One user turn and the kind of task it is."""

    category: str
    text: str


def load_prompts() -> list[Prompt]:
    """Read every prompt that ships, in the order of the file."""
    source = files("kdharness.data").joinpath("general", "prompts.jsonl")
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    return [Prompt(row["category"], row["prompt"]) for row in rows]


def similarity(left: str, right: str) -> float:
    """Share of words two prompts have in common, from 0 to 1, whatever their order."""
    words = [set(re.findall(r"[a-z0-9]+", text.lower())) for text in (left, right)]
    union = words[0] | words[1]
    return len(words[0] & words[1]) / len(union) if union else 1.0


def without_near_duplicates(prompts: list[Prompt]) -> list[Prompt]:
    """Keep the first of each group of prompts that say almost the same.

    A near copy across the splits would let a model be tested on what it was trained on.
    """
    kept: list[Prompt] = []
    for prompt in prompts:
        if all(similarity(prompt.text, other.text) < NEAR_DUPLICATE for other in kept):
            kept.append(prompt)
    return kept


def split_prompts(prompts: list[Prompt], seed: int) -> dict[str, list[Prompt]]:
    """Deal prompts into train, validation and test, each category in the same share.

    Within a split the categories take turns, so any stretch of a file is a fair sample.
    """
    rng = random.Random(seed)
    unique = without_near_duplicates(prompts)
    needed = sum(PER_CATEGORY.values())
    shares: dict[str, list[list[Prompt]]] = {split: [] for split in PER_CATEGORY}
    for category in CATEGORIES:
        pool = [prompt for prompt in unique if prompt.category == category]
        if len(pool) < needed:
            raise ValueError(f"{category}: {len(pool)} distinct prompts, {needed} needed")
        rng.shuffle(pool)
        start = 0
        for split, count in PER_CATEGORY.items():
            shares[split].append(pool[start : start + count])
            start += count
    return {
        split: [prompt for turn in zip(*columns, strict=True) for prompt in turn]
        for split, columns in shares.items()
    }
