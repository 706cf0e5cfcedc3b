"""IFEval: what an answer says: words, letters, language, length, upper and lower case."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdharness.judges.scoring.ifeval_outcome import Arguments, Outcome, Tools, compare, quantity
from kdharness.judges.scoring.ifeval_words import count_capital_words, count_words
from kdharness.judges.scoring.languages import language_of
from kdharness.judges.scoring.sentences import count_sentences


def _occurrences(word: str, text: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _listed(words: Sequence[str]) -> str:
    return ", ".join(repr(word) for word in words)


def has_keywords(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check that every keyword occurs, in any case, also within a word."""
    missing = [word for word in args.keywords if not _occurrences(word, text)]
    return Outcome(not missing, f"without {_listed(missing)}" if missing else "all keywords")


def has_keyword_often(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check how often a keyword occurs, in any case, also within a word."""
    count = _occurrences(args.keyword, text)
    return compare(count, args.relation, args.frequency, "occurrence")


def has_no_forbidden_word(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check that no forbidden word occurs as a whole word, in any case."""
    found = [
        word
        for word in args.forbidden_words
        if re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
    ]
    return Outcome(not found, _listed(found) if found else "no forbidden word")


def has_letter_often(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check how often a character occurs, in either case."""
    count = text.lower().count(args.letter.lower())
    return compare(count, args.let_relation, args.let_frequency, "occurrence")


def is_in_language(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check the language; a text without words of any language is not counted against it."""
    found = language_of(text, tools.languages)
    return Outcome(found in (None, args.language), found or "no language recognised")


def has_sentences(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check the number of sentences."""
    count = count_sentences(text, tools.sentences)
    return compare(count, args.relation, args.num_sentences, "sentence")


def has_words(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check the number of words."""
    return compare(count_words(text), args.relation, args.num_words, "word")


def has_capital_words(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check the number of words in capitals."""
    count = count_capital_words(text)
    return compare(count, args.capital_relation, args.capital_frequency, "word")


def is_english_in_capitals(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for English without a lower-case letter."""
    if not text.isupper():
        return Outcome(False, "lower-case letters" if text.upper() != text else "no letters")
    return is_in_language(text, Arguments(language="en"), tools)


def is_english_in_lower_case(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for English without a capital letter."""
    if not text.islower():
        return Outcome(False, "capital letters" if text.lower() != text else "no letters")
    return is_in_language(text, Arguments(language="en"), tools)


def has_no_comma(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check that there is no comma."""
    count = text.count(",")
    return Outcome(not count, quantity(count, "comma"))
