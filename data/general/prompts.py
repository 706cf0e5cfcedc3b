"""The prompts of `prompts.jsonl`, and how they are split.

Splitting is separate from generating because it needs no model: a test can quickly repeat it and
compare the result with the shipped files.
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
"""Rows per category in each split: all splits have the same mix, so losses are comparable."""

NEAR_DUPLICATE = 0.6
"""Two prompts with at least this Jaccard similarity of words count as the same prompt."""


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
    """Return the Jaccard similarity of two prompts' words, from 0 to 1, ignoring order."""
    words = [set(re.findall(r"[a-z0-9]+", text.lower())) for text in (left, right)]
    union = words[0] | words[1]
    return len(words[0] & words[1]) / len(union) if union else 1.0


def without_near_duplicates(prompts: list[Prompt]) -> list[Prompt]:
    """Keep the first of each group of near-duplicate prompts.

    A near duplicate across splits would test a model on what it was trained on.
    """
    kept: list[Prompt] = []
    for prompt in prompts:
        if all(similarity(prompt.text, other.text) < NEAR_DUPLICATE for other in kept):
            kept.append(prompt)
    return kept


def split_prompts(prompts: list[Prompt], seed: int) -> dict[str, list[Prompt]]:
    """Split prompts into train, validation and test, with the same share of each category.

    Within a split the categories alternate, so any part of a file is a balanced sample.
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
