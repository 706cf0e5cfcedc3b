"""Benchmark prompts inside training data, by overlapping runs of thirteen words.

Thirteen words in a row are what GPT-3's authors (Brown et al. 2020, appendix C) looked for: long
enough that two texts rarely share them by chance. Scripts without blanks have no words to count,
so their characters count as parts of one (`words.quarters`): 26 characters of Chinese or
Japanese, 52 letters of Thai. Shorter prompts are looked for whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kdharness.judges.scoring.words import quarters, words

LENGTH = 13
SHORTEST = 5
Gram = tuple[str, ...]


def size(listed: Sequence[str]) -> float:
    """How many words of English a list of `words` stands for."""
    return sum(map(quarters, listed)) / 4


def grams(listed: Sequence[str]) -> Iterator[Gram]:
    """Every run that is worth `LENGTH` words and no longer; the whole where it is worth fewer.

    Where a run ends depends on its own words alone, so a text that holds a prompt has its runs.
    """
    worth = [quarters(word) for word in listed]
    if sum(worth) < 4 * LENGTH:
        yield tuple(listed)
        return
    end = total = 0
    for start in range(len(listed)):
        while total < 4 * LENGTH and end < len(listed):
            total += worth[end]
            end += 1
        if total < 4 * LENGTH:
            return
        yield tuple(listed[start:end])
        total -= worth[start]


def overlaps(prompts: Mapping[str, str], texts: Iterable[str]) -> dict[str, float]:
    """Item id -> share of its runs found in the texts, for those above 0.

    A prompt of 5 to 12 words counts as found when it stands in a text whole; shorter ones say
    nothing. Texts are read once, so that a large data set can be streamed.
    """
    wanted: dict[Gram, set[str]] = {}
    sizes: dict[str, int] = {}
    for item, prompt in prompts.items():
        listed = words(prompt)
        if size(listed) < SHORTEST:
            continue
        own = set(grams(listed))
        sizes[item] = len(own)
        for gram in own:
            wanted.setdefault(gram, set()).add(item)
    # A run is at least SHORTEST words long: what begins like none of them is passed by.
    lengths: dict[Gram, set[int]] = {}
    for gram in wanted:
        lengths.setdefault(gram[:SHORTEST], set()).add(len(gram))
    found: dict[str, set[Gram]] = {}
    for text in texts:
        listed = words(text)
        for start in range(len(listed) - SHORTEST + 1):
            for length in lengths.get(tuple(listed[start : start + SHORTEST]), ()):
                gram = tuple(listed[start : start + length])
                for item in wanted.get(gram, ()):
                    found.setdefault(item, set()).add(gram)
    return {item: len(hits) / sizes[item] for item, hits in found.items()}


def known_chats(
    chats: Mapping[str, Sequence[str]], trained: Iterable[Sequence[str]]
) -> dict[str, float]:
    """Which chats stand in training data, as the texts of their turns: id -> 1.0.

    A chat is known when its turns are those of a training row, one after the other, or when
    every run of it (`overlaps`) is in a training row. A prompt with another answer is neither.
    """
    wanted: dict[tuple[Gram, ...], set[str]] = {}
    for item, turns in chats.items():
        wanted.setdefault(tuple(tuple(words(turn)) for turn in turns), set()).add(item)
    lengths = {len(turns) for turns in wanted}
    found: dict[str, float] = {}

    def looked_at() -> Iterator[str]:
        for turns in trained:
            listed = [tuple(words(turn)) for turn in turns]
            for length in lengths:
                for start in range(len(listed) - length + 1):
                    for item in wanted.get(tuple(listed[start : start + length]), ()):
                        found[item] = 1.0
            yield "\n".join(turns)

    whole = {item: "\n".join(turns) for item, turns in chats.items()}
    shares = overlaps(
        {item: text for item, text in whole.items() if size(words(text)) >= LENGTH}, looked_at()
    )
    return found | {item: share for item, share in shares.items() if share == 1.0}
