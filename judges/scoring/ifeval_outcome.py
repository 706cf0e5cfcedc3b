"""IFEval: what a check takes besides the answer, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from kdharness.judges.scoring.languages import LanguageModel
from kdharness.judges.scoring.sentences import SentenceModel

RELATIONS = ("at least", "less than")


@dataclass(frozen=True)
class Arguments:
    """The arguments of all kinds of instructions, under the names that IFEval's file gives them."""

    capital_frequency: int = 0
    capital_relation: str = ""
    end_phrase: str = ""
    first_word: str = ""
    forbidden_words: tuple[str, ...] = ()
    frequency: int = 0
    keyword: str = ""
    keywords: tuple[str, ...] = ()
    language: str = ""
    let_frequency: int = 0
    let_relation: str = ""
    letter: str = ""
    nth_paragraph: int = 0
    num_bullets: int = 0
    num_highlights: int = 0
    num_paragraphs: int = 0
    num_placeholders: int = 0
    num_sections: int = 0
    num_sentences: int = 0
    num_words: int = 0
    postscript_marker: str = ""
    prompt_to_repeat: str = ""
    relation: str = ""
    section_spliter: str = ""


@dataclass(frozen=True)
class Tools:
    """The models that some checks need."""

    languages: LanguageModel
    sentences: SentenceModel


@dataclass(frozen=True)
class Outcome:
    """Whether an answer follows an instruction, and what was found in it."""

    followed: bool
    found: str


Check = Callable[[str, Arguments, Tools], Outcome]


@dataclass(frozen=True)
class Kind:
    """A kind of instruction: its check, the arguments it needs, and what it asks for.

    `asks` is a template over the arguments, in our own words.
    """

    check: Check
    needs: tuple[str, ...]
    asks: str


def read_arguments(kind: Kind, given: Mapping[str, object]) -> Arguments:
    """Return the arguments of an instruction; those that are null count as not given.

    Raises:
        ValueError: one is missing, unknown to the kind, or malformed.
    """
    values = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(values) - set(kind.needs)):
        raise ValueError(f"unknown argument {unknown[0]!r}")
    if missing := [name for name in kind.needs if name not in values]:
        raise ValueError(f"missing argument {missing[0]!r}")
    readers = {"int": _count, "str": _text, "tuple[str, ...]": _texts}
    types = {field.name: str(field.type) for field in fields(Arguments)}
    read = {name: readers[types[name]](name, value) for name, value in values.items()}
    arguments = Arguments(**read)  # type: ignore[arg-type]
    if arguments.nth_paragraph > arguments.num_paragraphs:
        raise ValueError("nth_paragraph is larger than num_paragraphs")
    return arguments


def _count(name: str, value: object) -> int:
    # Tables that hold nulls turn whole numbers into floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, not {value!r}")
    if name == "nth_paragraph" and value == 0:
        raise ValueError("nth_paragraph must be at least 1")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a non-empty text, not {value!r}")
    if name.endswith("relation") and value not in RELATIONS:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, RELATIONS))}, not {value!r}")
    if name == "letter" and len(value.strip()) != 1:
        raise ValueError(f"letter must be a single character, not {value!r}")
    # As published, surrounding white space is not part of an argument: not of the prompt either.
    return value.strip()


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{name} must be a non-empty list of texts, not {value!r}")
    return tuple(_word(name, part) for part in value)


def _word(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"each entry of {name} must be a non-empty text, not {value!r}")
    return value


def compare(count: int, relation: str, wanted: int, what: str) -> Outcome:
    """Return whether a count is at least, or less than, what was wanted."""
    followed = count < wanted if relation == "less than" else count >= wanted
    return Outcome(followed, quantity(count, what))


def quantity(count: int, what: str) -> str:
    """Return `1 comma` or `3 commas`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")
