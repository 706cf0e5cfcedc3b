"""IFEval: an answer's form: paragraphs, lists, marks, beginning and end."""

from __future__ import annotations

import json
import re

from kdharness.judges.scoring.ifeval_outcome import Arguments, Outcome, Tools, compare, quantity

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_EMPHASIS = re.compile(r"\*([^\n*]*)\*")
_STRONG = re.compile(r"\*\*([^\n*]*)\*\*")
_POSTSCRIPTS = {"P.S.": re.compile(r"p\.\s?s\."), "P.P.S": re.compile(r"p\.\s?p\.\s?s")}
_FENCES = ("```json", "```Json", "```JSON", "```")


# Answers may be long and hostile: what pairs an opening mark with a closing one is not left to a
# regular expression, which would try every opening mark against the rest of its line.


def has_placeholders(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for enough [placeholders], each within a line."""
    count = sum(map(_placeholders, text.split("\n")))
    return compare(count, "at least", args.num_placeholders, "placeholder")


def _placeholders(line: str) -> int:
    count, end = 0, -1
    while (start := line.find("[", end + 1)) >= 0 and (end := line.find("]", start)) >= 0:
        count += 1
    return count


def has_postscript(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for the mark of a postscript, in any case."""
    mark = args.postscript_marker
    pattern = _POSTSCRIPTS.get(mark) or re.compile(re.escape(mark.lower()))
    found = pattern.search(text.lower()) is not None
    return Outcome(found, f"{mark} found" if found else f"no {mark}")


def has_bullets(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check the exact number of lines that begin with `*` or `-`; `**` is bold text."""
    lines = [line.lstrip() for line in text.split("\n")]
    count = sum(line.startswith("-") for line in lines) + _asterisk_bullets(lines)
    return Outcome(count == args.num_bullets, quantity(count, "bullet point"))


def _asterisk_bullets(lines: list[str]) -> int:
    """Count the lines that begin with one asterisk; one alone takes the next line as its text."""
    count, place = 0, 0
    while place < len(lines):
        line = lines[place]
        alone = line == "*"
        if (alone and place + 1 < len(lines)) or (line[:1] == "*" and line[1:2] not in ("", "*")):
            count += 1
        place += 2 if alone else 1
    return count


def is_one_of_the_answers(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for one of three given sentences."""
    found = [answer for answer in ANSWERS if answer in text]
    return Outcome(bool(found), found[0] if found else "none of the three answers")


def has_highlights(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for enough highlighted parts: `*so*` or `**so**`."""
    marked = [*_EMPHASIS.findall(text), *_STRONG.findall(text)]
    count = sum(1 for part in marked if part.strip())
    return compare(count, "at least", args.num_highlights, "highlighted section")


def has_sections(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for enough numbered sections, such as `Section 2`."""
    count = len(re.findall(rf"{re.escape(args.section_spliter)}\s?\d+", text))
    return compare(count, "at least", args.num_sections, "section")


def is_json(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check that the whole answer is JSON, in a code fence or not."""
    text = text.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError) as error:
        return Outcome(False, f"not JSON: {error}")
    return Outcome(True, "JSON")


def has_title(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for a <<title>> that is not empty."""
    found = any(map(_title, text.split("\n")))
    return Outcome(found, "a title" if found else "no title")


def _title(line: str) -> str:
    """Return the text between the first `<<` of a line and its last `>>`."""
    start, end = line.find("<<"), line.rfind(">>")
    if start < 0 or end < start + 3:
        return ""
    return line[start:end].lstrip("<").rstrip(">").strip()


def has_paragraphs(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check the exact number of paragraphs between dividers `***`."""
    parts = [part.strip() for part in text.split("***")]
    if "" in parts[1:-1]:
        return Outcome(False, "an empty paragraph between two dividers")
    count = len(parts) - (not parts[0]) - (len(parts) > 1 and not parts[-1])
    return Outcome(count == args.num_paragraphs, quantity(count, "paragraph"))


def has_first_word(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check the number of paragraphs between empty lines, and the first word of one of them."""
    parts = [part.strip() for part in text.split("\n\n")]
    count = sum(map(bool, parts))
    found = quantity(count, "paragraph")
    # As published, empty paragraphs are not counted but do take a place.
    if args.nth_paragraph > count or not parts[args.nth_paragraph - 1]:
        return Outcome(False, f"{found}, no paragraph {args.nth_paragraph}")
    start = parts[args.nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    word = re.split(r"""[.,?!'"]""", start)[0].lower()
    followed = count == args.num_paragraphs and word == args.first_word.lower()
    return Outcome(followed, f"{found}, number {args.nth_paragraph} begins with {word!r}")


def has_two_responses(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for two different responses between which there is `******`."""
    parts = [part.strip() for part in text.split("******")]
    if "" in parts[1:-1]:
        return Outcome(False, "nothing between two dividers")
    given = [part for part in parts if part]
    if len(given) == 2 and given[0] == given[1]:
        return Outcome(False, "two identical responses")
    return Outcome(len(given) == 2, quantity(len(given), "response"))


def repeats_prompt(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check that the answer begins with the request, in any case."""
    followed = text.strip().lower().startswith(args.prompt_to_repeat.lower())
    return Outcome(followed, "the request" if followed else "another beginning")


def has_end(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check the end of the answer, in any case and ignoring quotation marks after it."""
    text = text.strip().strip('"')
    followed = text.lower().endswith(args.end_phrase.lower())
    return Outcome(followed, "the phrase" if followed else f"ends with {text[-40:]!r}")


def is_quoted(text: str, args: Arguments, tools: Tools) -> Outcome:
    """Check for double quotation marks around the whole answer."""
    text = text.strip()
    followed = len(text) > 1 and text[0] == text[-1] == '"'
    return Outcome(followed, "in quotation marks" if followed else "not in quotation marks")
