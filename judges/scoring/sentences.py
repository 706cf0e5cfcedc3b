"""Sentence boundaries by the Punkt method (Kiss and Strunk 2006, Computational Linguistics 32:4).

A period ends a sentence unless its token is a known abbreviation or an initial; how the next word
is usually written then confirms or overrules that. The abbreviations, collocations, frequent
sentence starters and spellings are statistics of a corpus, which are read from an asset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntFlag
from itertools import pairwise
from string import whitespace

_CLOSERS = r"[)\";}\]*:@'({\[\u2018\u2019\u201c\u201d\xab\xbb!?]"
_DASHES_OR_DOTS = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_WORD_END = rf"\s|$|{_CLOSERS}|{_DASHES_OR_DOTS}"
_TOKEN = re.compile(
    rf"{_DASHES_OR_DOTS}"
    rf"|(?=[^(\"`{{\[:;&#*@)}}\]\-,])\S+?(?={_WORD_END}|,(?={_WORD_END}))"
    r"|\S"
)
_CANDIDATE = re.compile(rf"[.?!](?=(?P<after>{_CLOSERS}|\s+(?P<next>\S+)))")
_CLOSING = re.compile(r"[\"')\]}\u2018\u2019\u201c\u201d\xab\xbb]+?(?:\s+|(?=--)|$)", re.MULTILINE)
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*\.?")
_ELLIPSIS = re.compile(r"\.\.+\Z")
_NUMBER_TYPE = "##number##"
_ENDS = frozenset(".?!")
_PUNCTUATION = frozenset(";:,.!?")


class Spelling(IntFlag):
    """Where a word was seen in the corpus, and how it was written there."""

    BEGIN_UPPER = 1 << 1
    MIDDLE_UPPER = 1 << 2
    UNKNOWN_UPPER = 1 << 3
    BEGIN_LOWER = 1 << 4
    MIDDLE_LOWER = 1 << 5
    UNKNOWN_LOWER = 1 << 6


_UPPER = Spelling.BEGIN_UPPER | Spelling.MIDDLE_UPPER | Spelling.UNKNOWN_UPPER
_LOWER = Spelling.BEGIN_LOWER | Spelling.MIDDLE_LOWER | Spelling.UNKNOWN_LOWER


@dataclass(frozen=True)
class SentenceModel:
    """The statistics of a corpus, all in lower case.

    Attributes:
        abbreviations: without their final period.
        collocations: pairs of words that no sentence boundary divides.
        starters: words that often begin a sentence.
        spellings: the combined `Spelling` flags of each word.
    """

    abbreviations: frozenset[str]
    collocations: frozenset[tuple[str, str]]
    starters: frozenset[str]
    spellings: dict[str, int]

    @classmethod
    def parse(
        cls, abbreviations: str, collocations: str, starters: str, spellings: str
    ) -> SentenceModel:
        """Parse the four text files of NLTK's `punkt_tab`.

        Raises:
            ValueError: a line without its second column, or with a spelling that is not an integer.
        """
        pairs = [line.split("\t") for line in collocations.splitlines() if line]
        spelled = [line.split("\t") for line in spellings.splitlines() if line]
        return cls(
            frozenset(abbreviations.splitlines()),
            frozenset((first, second) for first, second in pairs),
            frozenset(starters.splitlines()),
            {word: int(flags) for word, flags in spelled},
        )


@dataclass(frozen=True)
class _Token:
    text: str
    ends: bool = False
    abbreviation: bool = False
    ellipsis: bool = False

    @property
    def final_period(self) -> bool:
        return self.text.endswith(".")

    @property
    def kind(self) -> str:
        """The word in lower case; one placeholder for all numbers."""
        lower = self.text.lower()
        return _NUMBER_TYPE if _NUMBER.fullmatch(lower) else lower

    @property
    def word(self) -> str:
        """The kind without a final period."""
        kind = self.kind
        return kind[:-1] if len(kind) > 1 and kind.endswith(".") else kind

    @property
    def spelled(self) -> str:
        """The key of its spelling: the period belongs to an abbreviation, not to an end."""
        return self.word if self.ends else self.kind

    @property
    def capitalised(self) -> bool:
        return self.text[0].isupper()


def count_sentences(text: str, model: SentenceModel) -> int:
    """Return the number of sentences; punctuation after an end belongs to the sentence before."""
    count = skipped = 0
    parts = list(_parts(text, model))
    for index, part in enumerate(parts):
        rest = part[skipped:]
        skipped = 0
        following = parts[index + 1] if index + 1 < len(parts) else None
        closing = _CLOSING.match(following) if following is not None else None
        if closing:
            count += 1
            skipped = closing.end()
        elif rest:
            count += 1
    return count


def _parts(text: str, model: SentenceModel) -> Iterator[str]:
    """Yield the text between two boundaries, without the white space after a boundary."""
    start = 0
    for match, context in _candidates(text):
        if _has_boundary(context, model):
            yield text[start : match.end()]
            start = match.end() if match["next"] is None else match.start("next")
    yield text[start:].rstrip()


def _candidates(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yield what may end a sentence, with the word before it and the token after it.

    Of several marks in one word, as in `what?!`, only the last one counts.
    """
    found: list[tuple[int, re.Match[str]]] = []
    begin = stop = 0
    for match in _CANDIDATE.finditer(text):
        space = max(text.rfind(char, stop, match.start()) for char in whitespace)
        begin = space + 1 if space > stop else begin
        if found and begin < stop:
            found.pop()
        found.append((begin, match))
        stop = match.start()
    for first, match in found:
        yield match, text[first : match.end()] + match["after"]


def _has_boundary(context: str, model: SentenceModel) -> bool:
    """Return whether a sentence ends at some token of the context before its last one."""
    tokens = [_first_guess(text, model) for text in _TOKEN.findall(context)]
    return any(_second_guess(token, after, model).ends for token, after in pairwise(tokens))


def _first_guess(text: str, model: SentenceModel) -> _Token:
    """Classify a token by itself."""
    if text in _ENDS:
        return _Token(text, ends=True)
    if _ELLIPSIS.match(text):
        return _Token(text, ellipsis=True)
    if not text.endswith(".") or text.endswith(".."):
        return _Token(text)
    word = text[:-1].lower()
    if word in model.abbreviations or word.split("-")[-1] in model.abbreviations:
        return _Token(text, abbreviation=True)
    return _Token(text, ends=True)


def _second_guess(token: _Token, after: _Token, model: SentenceModel) -> _Token:
    """Correct the classification by the next word."""
    if not token.final_period:
        return token
    word, following = token.word, after.spelled
    initial = len(token.text) == 2 and (token.text[0].isalpha() or token.text[0] == "_")
    if (word, following) in model.collocations:
        return replace(token, ends=False, abbreviation=True)
    begins = _begins_sentence(after, model)
    if (token.abbreviation or token.ellipsis) and not initial:
        if begins or (after.capitalised and following in model.starters):
            return replace(token, ends=True)
        return token
    if initial or word == _NUMBER_TYPE:
        never_lower = not model.spellings.get(following, 0) & _LOWER
        if begins is False or (begins is None and initial and after.capitalised and never_lower):
            return replace(token, ends=False, abbreviation=True)
    return token


def _begins_sentence(token: _Token, model: SentenceModel) -> bool | None:
    """Return whether the spelling of a word shows that it begins a sentence; None if unclear."""
    if token.text in _PUNCTUATION:
        return False
    seen = model.spellings.get(token.spelled, 0)
    if token.capitalised and seen & _LOWER and not seen & Spelling.MIDDLE_UPPER:
        return True
    if token.text[0].islower() and (seen & _UPPER or not seen & Spelling.BEGIN_LOWER):
        return False
    return None
