"""Finding which of a question's choices an answer names.

A choice counts if it is a separate word; a longer choice hides the shorter ones inside it. Letters
and function words need care: the article in "It is a mammal" is not choice A, the pronoun in
"I think" not choice I, the "no" of "no doubt" not the answer No. Such a word counts only if it is
marked as a choice, as in "(A)", "A.", "**A**", "Answer: A" or on a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from kdharness.judges.scoring.choice_denials import deny_together, is_denied
from kdharness.judges.scoring.choice_groups import Mention
from kdharness.judges.scoring.declared import declared
from kdharness.judges.scoring.folding import Reading, cased, fold_width, reading_of, verbatim
from kdharness.judges.scoring.own_turn import before_end_token, before_next_turns
from kdharness.judges.scoring.words import UNSPACED, marks

BEFORE, AFTER = 60, 40
"""Characters of context around a word: enough for "the correct answer is option "."""

_UNSPACED = re.compile(f"[{UNSPACED}]")
_HANGUL = re.compile("[가-힣]")
_NUMBER = re.compile(r"[-+−]?(?:\d[\d.,]*|\.\d+)")
# The end of a number, of which the digits behind it are a part: 3.5, -5, and .5 without a zero.
_IN_NUMBER = re.compile(r"\d[.,:/]\Z|[-+−–]\Z|(?<![\w.])\.\Z")
# What may follow a letter that is not an article or pronoun, as in "A is right" and "I or II".
_GOES_ON = {
    "a": re.compile(
        "is|was|and|or|because|since|as|but|if|not|for|due|seems|looks|appears|would|should|must|"
        "can|has|fits|makes|describes|matches|represents"
    ),
    "i": re.compile("is|and|or|because|since"),
}
_FUNCTION_WORD = re.compile(
    "a|an|the|i|in|on|at|to|of|is|are|was|it|and|or|as|by|be|for|from|with|that|this"
)
_AFTER_NO = re.compile(
    "it|this|that|there|he|she|they|we|you|i|and|or|but|because|since|as|if|is|was"
)
# Words for "no" that also mean "not" or "there is no".
_NO = frozenset({"no", "não", "nie", "нет", "לא", "لا"})
_YES_AND_NO = frozenset("是否对對错錯有无無不没沒能会會可好行")
_CUE = re.compile(
    r"(?:answer|choice|option|letter|choose|chose|pick|select(?:ed)?|go with|antwort|réponse|"
    r"respuesta|risposta|resposta|antwoord|ответ|答案|选项|选择|选|選|正解|答え|정답|답)"
    r"[\s:=*_\"'(\[]*(?:is|are|was|would be|should be|must be|ist|est|es|è|é|lautet|"
    r"是|为|為|は|은|는)?[\s:=*_\"'(\[]*(?:the\s+)?(?:option|choice|letter|answer)?[\s:=*_\"'(\[]*$",
    re.IGNORECASE,
)
_DIRECT_CUE = re.compile(r"(?:answer|choice|option|letter)\s+$", re.IGNORECASE)
_OPENED = re.compile(r"[(\[{\"'`*_“‘«「『【《（]$")
_CLOSED = re.compile(r"[)\]}\"'`*_”’»」』】》）]")
_LINE_START = re.compile(r"(?:^|\n)[\s>*_#-]*$")
_LINE_END = re.compile(r"[\s*_.!。]*(?:\n|$)")
_COMPOUND = re.compile(r"[-'’./&@:](?!s\b)\w|[+#]")
_IN_COMPOUND = re.compile(r"\w[-'’./&@]\Z")
# Not after a comma: "Yes, no doubt" and "Yes, no fee is charged" answer Yes.
_SENTENCE_START = re.compile(r"(?:^|[.!?:;\n—–-])[\s\"'(*]*$")
_LABELLED = re.compile(r"\s*[(\[]?(?P<label>[^\W\d_]|\d{1,2})[)\].:](?:\s+(?P<text>\S.*))?\s*")
_NEXT_WORD = re.compile(r"\s+([^\W\d_]+)")


def named_choices(answer: str, choices: Sequence[str]) -> set[str]:
    """Return the choices that an answer names, normalised by `reading_of` the set.

    A choice that is only negated ("not B") is included as "not …", so that it is never the answer.
    """
    read = reading_of(choices) or verbatim
    options = _options(choices, read)
    whole = _choice(answer, options, read)
    if whole is not None:
        return {whole}
    _, mentions = _mentions(answer, options, read)
    return {f"not {m.option}" if m.denied else m.option for m in mentions}


def answered_choice(answer: str, choices: Sequence[str]) -> str | None:
    """Return the answer's choice: the only one it names, or the one it declares among several.

    What comes after the answer's end, such as an invented next question, is not read.
    """
    read = reading_of(choices) or verbatim
    options = _options(choices, read)
    whole = _choice(answer, options, read)
    if whole is not None:
        return whole
    own = before_end_token(answer, choices)
    for before in before_next_turns(own, choices):
        found, is_declared = _answered(before.text, options, read)
        if found is not None and (is_declared or before.is_likely):
            return found
    return _answered(own, options, read)[0]


def _answered(text: str, options: dict[str, str], read: Reading) -> tuple[str | None, bool]:
    """Return (the choice of a text, whether the text declares it rather than only names it)."""
    whole = _choice(text, options, read)
    if whole is not None:
        return whole, True
    shown, mentions = _mentions(text, options, read)
    denied = {mention.option for mention in mentions if mention.denied}
    named = {mention.option for mention in mentions if not mention.denied}
    if not named:
        return None, False
    found = declared(shown, mentions, list(dict.fromkeys(options.values())))
    if len(named) == 1 and not named & denied:
        return named.pop(), found is not None
    return found, True


def _mentions(answer: str, options: dict[str, str], read: Reading) -> tuple[str, list[Mention]]:
    """Return (the normalised answer, every mention of a choice in it)."""
    lines = answer.split("\n")
    shown = "\n".join(verbatim(line) if read is verbatim else fold_width(line) for line in lines)
    mentions: list[Mention] = []
    left = shown
    for written, option in sorted(options.items(), key=lambda pair: -len(pair[0])):
        rest, position = [], 0
        for start, end in _occurrences(left, written, read):
            mentions.append(Mention(start, end, option, is_denied(left, start, end)))
            rest += [left[position:start], "\0" * (end - start)]
            position = end
        left = "".join([*rest, left[position:]])
    return shown, deny_together(shown, mentions)


def _parts(choices: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield label and text of choices such as "(A)" or "B. Rome", each an alias of the choice."""
    split = [_LABELLED.fullmatch(choice) for choice in choices]
    labels = {match["label"].casefold() for match in split if match}
    if len(labels) < len(choices):
        return
    texts = [match["text"] for match in split if match]
    for match, choice in zip(split, choices, strict=True):
        if match:
            yield match["label"], choice
            if match["text"] and texts.count(match["text"]) == 1:
                yield match["text"], choice


def names(answer: str, references: Sequence[str], choices: Sequence[str]) -> bool:
    """Return whether the answer's choice is a reference."""
    given = answered_choice(answer, choices)
    return given is not None and given in {chosen(reference, choices) for reference in references}


def chosen(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a whole text is, normalised by `reading_of`; None if it is not one."""
    read = reading_of(choices) or verbatim
    return _choice(text, _options(choices, read), read)


def _options(choices: Sequence[str], read: Reading) -> dict[str, str]:
    """Return spelling of a choice -> the choice."""
    clean = verbatim if read is verbatim else cased
    options = {clean(choice): read(choice) for choice in choices}
    for written, choice in _parts(choices):
        options.setdefault(clean(written), read(choice))
    return options


def _choice(text: str, options: dict[str, str], read: Reading) -> str | None:
    whole = read(text)
    return next(
        (option for written, option in options.items() if whole in (option, read(written))), None
    )


def _occurrences(shown: str, option: str, read: Reading) -> Iterator[tuple[int, int]]:
    """Yield the spans where an option occurs as a separate word; a blank one occurs nowhere."""
    if not option:
        return
    flags = re.IGNORECASE if read not in (cased, verbatim) else 0
    pattern = r"\s+".join(map(re.escape, option.split(" ")))
    if not re.search(r"\w", option):
        quoted = r"\s\"'`(\[“‘«:="
        pattern = rf"(?:(?<=[{quoted}*])|^){pattern}(?=[\s\"'`)\]*”’».,;:!?]|$)"
    for match in re.finditer(pattern, shown, flags):
        start, end = match.span()
        if not re.search(r"\w", option):
            if shown[start - 1 : start] != option[0] and shown[end : end + 1] != option[-1]:
                yield start, end
        elif _stands_alone(shown, start, end) and _is_meant(shown, start, end, option, bool(flags)):
            yield start, end


def _stands_alone(shown: str, start: int, end: int) -> bool:
    """Return whether no letter of the same kind touches the span: two scripts are two words."""
    left, right = shown[start - 1 : start] if start else "", shown[end : end + 1]
    if re.match(f"[{marks()}]", right):
        return False
    if shown[start:end] in _YES_AND_NO:
        rest = shown[end:].removeprefix("的")[:1]
        cue = _CUE.search(shown[max(0, start - BEFORE) : start])
        return not re.match(r"\w", rest) and (cue is not None or not re.match(r"\w", left))
    # Korean attaches particles and the copula to a noun.
    noun = _kind(right) == "hangul" and end - start > 1
    return not _one_word(left, shown[start]) and (noun or not _one_word(shown[end - 1], right))


def _one_word(left: str, right: str) -> bool:
    """Return whether two adjacent characters are parts of one word, or the same symbol."""
    return left == right if not _kind(left) else _kind(left) == _kind(right) != "unspaced"


def _kind(char: str) -> str:
    """Return the kind of a letter or digit, by word boundaries; empty for other characters."""
    if _UNSPACED.match(char):
        return "unspaced"
    if _HANGUL.match(char):
        return "hangul"
    return "spaced" if re.match(rf"[\w{marks()}]", char) else ""


def _is_meant(shown: str, start: int, end: int, option: str, loose: bool) -> bool:
    """Return whether a letter, number or common word is meant as the option."""
    before, after = shown[max(0, start - BEFORE) : start], shown[end : end + AFTER]
    if _NUMBER.fullmatch(option):
        if option[0] == "." and before[-1:].isdigit():
            return False
        part = _IN_NUMBER.search(before) or re.match(r"[.,:/\-–−]\d", after)
        return part is None
    folded = option.casefold()
    if len(option) == 1 and option.isascii():
        return _letter_is_meant(before, after, shown[start:end], option, loose)
    if folded in _NO:
        return _no_is_meant(before, after)
    if _FUNCTION_WORD.fullmatch(folded):
        return _marked(before, after) or _at_the_end(before, after)
    return True


def _letter_is_meant(before: str, after: str, written: str, option: str, loose: bool) -> bool:
    if _COMPOUND.match(after) or _IN_COMPOUND.search(before):
        return False
    if _marked(before, after):
        return True
    following = _NEXT_WORD.match(after)
    if following and written.casefold() in _GOES_ON:
        if written.isupper() and _DIRECT_CUE.search(before):
            return True
        if not _GOES_ON[written.casefold()].fullmatch(following.group(1).casefold()):
            return False
    if written == option or not loose or written.isupper():
        return True
    # A lower-case letter for an upper-case choice: "option b", "it is b."
    return _CUE.search(before) is not None or not following


def _marked(before: str, after: str) -> bool:
    """Return whether a word is written as a choice: enclosed, "B)", "B." or alone on its line."""
    if _OPENED.search(before) and _CLOSED.match(after):
        return True
    if re.match(r"\s?[)）]", after):
        return True
    return bool(_LINE_START.search(before)) and bool(
        re.match(r"[.:、．]\s", after) or _LINE_END.match(after)
    )


def _at_the_end(before: str, after: str) -> bool:
    """Return whether a word follows "the answer is …" and ends its line."""
    return _CUE.search(before) is not None and _LINE_END.match(after) is not None


def _no_is_meant(before: str, after: str) -> bool:
    """Distinguish "No." and "the answer is no" from "no doubt" and "No. 5"."""
    if re.match(r"\.?\s*\d", after):
        return False
    following = _NEXT_WORD.match(after)
    if following is None or _AFTER_NO.fullmatch(following.group(1).casefold()):
        return True
    return _SENTENCE_START.search(before) is not None and len(before) < BEFORE // 2
