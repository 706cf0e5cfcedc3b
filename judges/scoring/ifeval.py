"""IFEval's kinds of instructions, and the check of an answer: strict and loose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdharness.judges.scoring import ifeval_contents as contents
from kdharness.judges.scoring import ifeval_formats as formats
from kdharness.judges.scoring.ifeval_outcome import Arguments, Kind, Outcome, Tools

KINDS: dict[str, Kind] = {
    "keywords:existence": Kind(contents.has_keywords, ("keywords",), "keywords {keywords}"),
    "keywords:frequency": Kind(
        contents.has_keyword_often,
        ("keyword", "frequency", "relation"),
        "{keyword!r} {relation} {frequency} times",
    ),
    "keywords:forbidden_words": Kind(
        contents.has_no_forbidden_word, ("forbidden_words",), "none of {forbidden_words}"
    ),
    "keywords:letter_frequency": Kind(
        contents.has_letter_often,
        ("letter", "let_frequency", "let_relation"),
        "{letter!r} {let_relation} {let_frequency} times",
    ),
    "language:response_language": Kind(
        contents.is_in_language, ("language",), "all in the language {language}"
    ),
    "length_constraints:number_sentences": Kind(
        contents.has_sentences,
        ("num_sentences", "relation"),
        "{relation} {num_sentences} sentences",
    ),
    "length_constraints:number_words": Kind(
        contents.has_words, ("num_words", "relation"), "{relation} {num_words} words"
    ),
    "length_constraints:number_paragraphs": Kind(
        formats.has_paragraphs, ("num_paragraphs",), "{num_paragraphs} paragraphs divided by ***"
    ),
    "length_constraints:nth_paragraph_first_word": Kind(
        formats.has_first_word,
        ("num_paragraphs", "nth_paragraph", "first_word"),
        "{num_paragraphs} paragraphs, number {nth_paragraph} begins with {first_word!r}",
    ),
    "detectable_content:number_placeholders": Kind(
        formats.has_placeholders,
        ("num_placeholders",),
        "at least {num_placeholders} [placeholders]",
    ),
    "detectable_content:postscript": Kind(
        formats.has_postscript, ("postscript_marker",), "a postscript {postscript_marker}"
    ),
    "detectable_format:number_bullet_lists": Kind(
        formats.has_bullets, ("num_bullets",), "exactly {num_bullets} bullet points"
    ),
    "detectable_format:constrained_response": Kind(
        formats.is_one_of_the_answers, (), "one of three given answers"
    ),
    "detectable_format:number_highlighted_sections": Kind(
        formats.has_highlights, ("num_highlights",), "at least {num_highlights} *highlighted* parts"
    ),
    "detectable_format:multiple_sections": Kind(
        formats.has_sections,
        ("section_spliter", "num_sections"),
        "at least {num_sections} parts headed {section_spliter} and a number",
    ),
    "detectable_format:json_format": Kind(formats.is_json, (), "all of it JSON"),
    "detectable_format:title": Kind(formats.has_title, (), "a <<title>>"),
    "combination:two_responses": Kind(
        formats.has_two_responses, (), "two different responses divided by ******"
    ),
    "combination:repeat_prompt": Kind(
        formats.repeats_prompt, ("prompt_to_repeat",), "begins with the request itself"
    ),
    "startend:end_checker": Kind(formats.has_end, ("end_phrase",), "ends with {end_phrase!r}"),
    "startend:quotation": Kind(formats.is_quoted, (), "all of it in double quotation marks"),
    "change_case:capital_word_frequency": Kind(
        contents.has_capital_words,
        ("capital_frequency", "capital_relation"),
        "{capital_relation} {capital_frequency} words in capitals",
    ),
    "change_case:english_capital": Kind(
        contents.is_english_in_capitals, (), "English, all in capitals"
    ),
    "change_case:english_lowercase": Kind(
        contents.is_english_in_lower_case, (), "English, all in lower case"
    ),
    "punctuation:no_comma": Kind(contents.has_no_comma, (), "no comma"),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction of a prompt: its kind, by name, and its arguments."""

    kind: str
    arguments: Arguments = field(default_factory=Arguments)

    @property
    def asks(self) -> str:
        """What it asks for, in a few words."""
        return KINDS[self.kind].asks.format(**vars(self.arguments))

    @property
    def identity(self) -> list[object]:
        """Its kind and the arguments that this kind needs: arguments of others may be added."""
        return [self.kind, {name: getattr(self.arguments, name) for name in KINDS[self.kind].needs}]


@dataclass(frozen=True)
class Checked:
    """The outcome of one instruction: on the answer, and on its variants.

    `variant` says which variant follows the instruction if the answer itself does not.
    """

    strict: Outcome
    loose: Outcome
    variant: str = ""


def loose_variants(text: str) -> dict[str, str]:
    """Return the answer's variants, each under what it leaves out: lines at its ends, asterisks.

    Models introduce and close an answer, and emphasise parts of it; the published loose accuracy
    forgives that. Variants that are equal are listed once, empty ones never.
    """
    lines = text.split("\n")
    cut = {
        "": text,
        "first line": "\n".join(lines[1:]).strip(),
        "last line": "\n".join(lines[:-1]).strip(),
        "first and last line": "\n".join(lines[1:-1]).strip(),
    }
    plain = {
        f"{left_out} and asterisks" if left_out else "asterisks": kept.replace("*", "")
        for left_out, kept in cut.items()
    }
    variants: dict[str, str] = {}
    for left_out, kept in {**cut, **plain}.items():
        if kept.strip() and kept not in variants.values():
            variants[left_out] = kept
    return variants


def check_answer(text: str, instructions: Sequence[Instruction], tools: Tools) -> list[Checked]:
    """Check every instruction of a prompt; an empty answer follows none."""
    if not text.strip():
        nothing = Outcome(False, "an empty answer")
        return [Checked(nothing, nothing) for _ in instructions]
    variants = loose_variants(text)
    return [_checked(variants, instruction, tools) for instruction in instructions]


def _checked(variants: dict[str, str], instruction: Instruction, tools: Tools) -> Checked:
    check = KINDS[instruction.kind].check
    strict: Outcome | None = None
    for left_out, text in variants.items():
        outcome = check(text, instruction.arguments, tools)
        strict = strict or outcome
        if outcome.followed:
            return Checked(strict, outcome, left_out)
    assert strict is not None
    return Checked(strict, strict)
