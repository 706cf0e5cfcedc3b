"""The language of a text, by the n-gram method of Nakatani Shuyo's language-detection.

Naive Bayes over the frequencies of one to three characters in 55 languages: n-grams of the text
are drawn at random until one language is all but certain, several times over. The draws start from
the same seed for every text, so that a text always has the same language.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

LONGEST = 10_000
"""Characters that are read; the rest of a text is ignored."""
_TRIALS = 7
_SEED = 0
_SMOOTHING, _SPREAD, _UNIT = 0.5, 0.05, 10_000
_CERTAIN = 0.99999
_MOST_DRAWS = 1000
_LEAST = 0.1
_URL = re.compile(r"https?://[-_.?&~;+=/#0-9A-Za-z]{1,2076}")
_MAIL = re.compile(r"[-_.0-9A-Za-z]{1,64}@[-_0-9A-Za-z]{1,255}[-_.0-9A-Za-z]{1,255}")
_SPACES = re.compile(" {2,}")
_LATIN = re.compile("[A-z]")
_BEYOND_LATIN = re.compile("[\u0300-\U0010ffff]")
# Vietnamese vowels, with the tone as a character of its own.
_TONED = re.compile("[AEIOUYÂÊÔĂƠƯaeiouyâêôăơư][\u0300\u0301\u0303\u0309\u0323]")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})")
_ALIKE = {"ș": "ş", "ț": "ţ", "\u06cc": "\u064a", **dict.fromkeys("\xa0«°»", " ")}
_BLOCKS = (
    ("\u1ea0", "\u1eff", "\u1ec3"),  # Vietnamese letters
    ("\u2000", "\u206f", " "),  # punctuation
    ("\u3040", "\u309f", "\u3042"),  # hiragana
    ("\u30a0", "\u30ff", "\u30a2"),  # katakana
    ("\u3100", "\u312f", "\u3105"),  # bopomofo
    ("\u31a0", "\u31bf", "\u3105"),
    ("\uac00", "\ud7af", "\uac00"),  # hangul
)

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LanguageModel:
    """The languages' codes, and each n-gram's probability in every language.

    `classes` maps ideographs to the one that stands for them in the n-grams.
    """

    codes: tuple[str, ...]
    grams: Mapping[str, Vector]
    classes: Mapping[str, str]

    @classmethod
    def parse(cls, profiles: Iterable[str], properties: str) -> LanguageModel:
        """Parse langdetect's profiles (JSON, one per language) and its table of ideographs.

        Raises:
            ValueError, KeyError, TypeError: files in another format.
        """
        read = [json.loads(text) for text in profiles]
        grams: dict[str, Vector] = {}
        for index, profile in enumerate(read):
            for gram, count in profile["freq"].items():
                if gram not in grams:
                    grams[gram] = np.zeros(len(read))
                grams[gram][index] = count / profile["n_words"][len(gram) - 1]
        classes: dict[str, str] = {}
        for line in properties.splitlines():
            name, _, escaped = line.partition("=")
            if name.startswith("NGram.KANJI_"):
                chars = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), escaped)
                classes |= dict.fromkeys(chars, chars[0])
        return cls(tuple(profile["name"] for profile in read), grams, classes)


def language_of(text: str, model: LanguageModel) -> str | None:
    """Return the code of the most likely language; None if no n-gram of the text is known.

    The code is "unknown" if every language is unlikely.
    """
    grams = _known_grams(_prepared(text), model)
    if not grams:
        return None
    draw = random.Random(_SEED)
    share = np.zeros(len(model.codes))
    for _ in range(_TRIALS):
        share += _trial(grams, draw, len(model.codes)) / _TRIALS
    best = int(np.argmax(share))
    return model.codes[best] if share[best] > _LEAST else "unknown"


def _trial(grams: list[Vector], draw: random.Random, languages: int) -> Vector:
    """Return each language's probability, after drawing n-grams until one is certain."""
    share = np.full(languages, 1 / languages)
    weight = (_SMOOTHING + draw.gauss(0, 1) * _SPREAD) / _UNIT
    for count in range(_MOST_DRAWS + 1):
        share = share * (weight + draw.choice(grams))
        if count % 5 == 0:
            share /= share.sum()
            if share.max() > _CERTAIN:
                break
    return share


def _prepared(text: str) -> str:
    """Remove addresses and repeated spaces, and Latin letters from a text in another script."""
    text = _MAIL.sub(" ", _URL.sub(" ", text))
    text = _TONED.sub(lambda match: unicodedata.normalize("NFC", match[0]), text)
    text = _SPACES.sub(" ", text[:LONGEST])
    if 2 * len(_LATIN.findall(text)) < len(_BEYOND_LATIN.findall(text)):
        return _LATIN.sub("", text)
    return text


def _known_grams(text: str, model: LanguageModel) -> list[Vector]:
    """Return the probabilities of each known n-gram; none begins before a space.

    Those within words in capitals say little and are left out.
    """
    text = "".join([model.classes.get(char) or _normal(char) for char in text])
    text = f"  {text.lstrip(' ')}"
    text = text[:1] + _SPACES.sub(" ", text[1:])
    found: list[Vector | None] = []
    known = model.grams.get
    for before, last, char in zip(text, text[1:], text[2:], strict=False):
        if char.isupper() and last.isupper():
            continue
        pair = last + char
        if char != " ":
            found.append(known(char))
        found.append(known(pair))
        if last != " ":
            found.append(known(before + pair))
    return [gram for gram in found if gram is not None]


@cache
def _normal(char: str) -> str:
    """Return the letter that represents this one in n-grams; a space for other characters."""
    if char < "\x80":
        return char if char.isalpha() else " "
    if char in _ALIKE:
        return _ALIKE[char]
    return next((to for first, last, to in _BLOCKS if first <= char <= last), char)
