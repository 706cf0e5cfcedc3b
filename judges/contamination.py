"""Benchmark prompts inside training data, by overlapping word 13-grams.

Thirteen words in a row are what GPT-3's authors (Brown et al. 2020, appendix C) looked for: long
enough that two texts rarely share them by chance. Shorter prompts are looked for whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LENGTH = 13
SHORTEST = 5
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Casefolded words, without punctuation."""
    return _WORD.findall(text.casefold())


def grams(text: str, length: int = LENGTH) -> set[tuple[str, ...]]:
    """Every run of `length` words."""
    listed = words(text)
    return {tuple(listed[i : i + length]) for i in range(len(listed) - length + 1)}


def overlaps(prompts: Mapping[str, str], texts: Iterable[str]) -> dict[str, float]:
    """Item id -> share of its 13-grams found in the texts, for those above 0.

    A prompt of 5 to 12 words counts as found when it stands in a text whole; shorter ones say
    nothing. Texts are read once, so that a large data set can be streamed.
    """
    wanted: dict[tuple[str, ...], set[str]] = {}
    sizes: dict[str, int] = {}
    lengths: set[int] = set()
    for item, prompt in prompts.items():
        count = len(words(prompt))
        if count < SHORTEST:
            continue
        length = min(LENGTH, count)
        lengths.add(length)
        own = grams(prompt, length)
        sizes[item] = len(own)
        for gram in own:
            wanted.setdefault(gram, set()).add(item)
    found: dict[str, set[tuple[str, ...]]] = {}
    for text in texts:
        listed = words(text)
        for length in lengths:
            for start in range(len(listed) - length + 1):
                gram = tuple(listed[start : start + length])
                for item in wanted.get(gram, ()):
                    found.setdefault(item, set()).add(gram)
    return {item: len(hits) / sizes[item] for item, hits in found.items()}
