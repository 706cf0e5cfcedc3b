"""Detection of benchmark prompts in training data, by overlapping 13-grams of words.

GPT-3's authors (Brown et al. 2020, appendix C) used 13-grams: long enough that two texts rarely
share one by chance. Scripts without spaces have no words to count, so their characters count as
fractions of one (`words.quarters`): 26 characters of Chinese or Japanese, 52 letters of Thai.
Shorter prompts are matched as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kdharness.judges.scoring.words import quarters, words

LENGTH = 13
SHORTEST = 5
Gram = tuple[str, ...]


def size(listed: Sequence[str]) -> float:
    """Return how many English words a list of `words` is equivalent to."""
    return sum(map(quarters, listed)) / 4


def grams(listed: Sequence[str]) -> Iterator[Gram]:
    """Yield every n-gram of `LENGTH` words; the whole text if it is shorter.

    Where an n-gram ends depends on its own words only, so a text that contains a prompt has all of
    the prompt's n-grams.
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
    """Return item id -> share of its n-grams found in the texts, where it is above 0.

    A prompt of 5 to 12 words counts as found if a text contains it as a whole; shorter ones are
    skipped. Texts are read once, so that a large dataset can be streamed.
    """
    wanted: dict[Gram, set[str]] = {}
    sizes: dict[str, int] = {}
    for item, prompt in prompts.items():
        tokens = words(prompt)
        if size(tokens) < SHORTEST:
            continue
        ngrams = set(grams(tokens))
        sizes[item] = len(ngrams)
        for gram in ngrams:
            wanted.setdefault(gram, set()).add(item)
    # An n-gram has at least SHORTEST words: look up its first words before comparing all of it.
    lengths: dict[Gram, set[int]] = {}
    for gram in wanted:
        lengths.setdefault(gram[:SHORTEST], set()).add(len(gram))
    found: dict[str, set[Gram]] = {}
    for text in texts:
        tokens = words(text)
        for start in range(len(tokens) - SHORTEST + 1):
            for length in lengths.get(tuple(tokens[start : start + SHORTEST]), ()):
                gram = tuple(tokens[start : start + length])
                for item in wanted.get(gram, ()):
                    found.setdefault(item, set()).add(gram)
    return {item: len(hits) / sizes[item] for item, hits in found.items()}


def known_chats(
    chats: Mapping[str, Sequence[str]], trained: Iterable[Sequence[str]]
) -> dict[str, float]:
    """Return the chats (texts of turns) that are in the training data: id -> 1.0.

    A chat is known if its turns occur in a training row in sequence, or if all of its n-grams
    (`overlaps`) are in a training row. A prompt with another answer is neither.
    """
    wanted: dict[tuple[Gram, ...], set[str]] = {}
    for item, turns in chats.items():
        wanted.setdefault(tuple(tuple(words(turn)) for turn in turns), set()).add(item)
    lengths = {len(turns) for turns in wanted}
    found: dict[str, float] = {}

    def scanned_texts() -> Iterator[str]:
        for turns in trained:
            tokens = [tuple(words(turn)) for turn in turns]
            for length in lengths:
                for start in range(len(tokens) - length + 1):
                    for item in wanted.get(tuple(tokens[start : start + length]), ()):
                        found[item] = 1.0
            yield "\n".join(turns)

    whole = {item: "\n".join(turns) for item, turns in chats.items()}
    shares = overlaps(
        {item: text for item, text in whole.items() if size(words(text)) >= LENGTH}, scanned_texts()
    )
    return found | {item: share for item, share in shares.items() if share == 1.0}
