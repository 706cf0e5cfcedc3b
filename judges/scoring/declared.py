r"""Finding which of several choices an answer declares as its answer. Pure.

Reasoning mentions the choices it weighs ("I considered (A) …"), and notes mention rejected ones
("B. Note that A is a distractor"). One of several counts only if the answer declares it:
"Answer: B", "the answer is B", `\boxed{B}`, a last line of its own. The last declaration counts, so
a correction is honoured and listing every choice earns no more than a guess; a declaration of
several ("A or B") counts as none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

REACH = 80
"""Characters before a choice that may declare it."""
MOST = 500
"""Maximum number of mentions that are examined, from the end."""


@dataclass(frozen=True)
class Mention:
    """A choice in a text: its span, and whether it is only negated ("not B")."""

    start: int
    end: int
    option: str
    denied: bool


def _words(*names: str) -> str:
    return "(?:" + "|".join(name.replace(" ", r"\s{1,3}") for name in names) + ")"


_OPEN = r"[\s*_`\"'“‘«(\[{<$]"
_SHUT = r"[\s*_`\"'”’»)\]}>$]"
_NOUN = _words(
    "answer",
    "antwort",
    "lösung",
    "réponse",
    "respuesta",
    "risposta",
    "resposta",
    "antwoord",
    "svar",
    "ответ",
    "odpowiedź",
    "cevap",
    "jawaban",
    "đáp án",
    "答案",
    "解答",
    "正解",
    "答え",
    "정답",
    "답",
    "正确选项",
    "最佳选项",
)
_ONE = _words("option", "choice", "letter", "alternative", "one", "statement", "sentence")
_LABEL = _words(
    "sentiment",
    "label",
    "category",
    "class",
    "classification",
    "verdict",
    "result",
    "conclusion",
    "output",
    "prediction",
    "solution",
    "decision",
    "intent",
    "topic",
)
_RIGHT = _words("correct", "right", "best", "final", "closest", "chosen", "selected", "appropriate")
_LINK = (
    "(?:[:：=→]|[-=]>|"
    + _words(
        "is",
        "are",
        "would be",
        "should be",
        "must be",
        "has to be",
        "will be",
        "remains",
        "ist",
        "lautet",
        "est",
        "es",
        "è",
        "é",
        "är",
        "jest",
    )
    + r"\b|应该是|应为|應為|是|为|為|は|은|는)"
)
_SOFT = _words(
    "the",
    "therefore",
    "thus",
    "clearly",
    "definitely",
    "indeed",
    "actually",
    "simply",
    "hence",
    "then",
    "probably",
    "likely",
    "most",
    "i",
    "think",
    "believe",
    "that",
    "it",
    "it's",
    "is",
    "option",
    "choice",
    "letter",
    "answer",
    "number",
    "选项",
    "選項",
)
# What may come between the declaring words and the choice.
_TO = rf"(?:{_OPEN}|[:：=}}]|\\[a-z]{{1,12}}|\b{_SOFT}\b|选项|選項){{0,24}}\Z"
_DECLARES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "the answer is B", "**Final answer:** B", `"answer": "B"`.
        rf"(?P<kind>[\w'’]{{1,20}}\s{{1,3}})?(?:{_NOUN}|\b{_RIGHT}\s{{1,3}}{_ONE})s?"
        rf"(?:\s{{1,3}}(?:correcta|correta|corretta|final|finale|choice|option)\b)?"
        rf"{_SHUT}{{0,6}}{_LINK}{_TO}",
        # A heading on its own line.
        rf"(?:^|\n)[\s#*_>]{{0,9}}(?:(?:the|my|final|correct)\s){{0,3}}{_NOUN}[ \t*_#:：]{{0,6}}"
        rf"\n{_TO}",
        # "I would pick B", "so choose B"; what others choose is not an answer.
        r"(?:\b(?:i|we)(?:['’](?:d|ll|m))?\s{1,3}(?:(?!not\b|never\b|cannot\b|\w{1,9}n['’]t)\w{1,12}"
        r"\s{1,3}){0,3}|(?:^|[.:\n]|\b(?:so|therefore|thus|hence),?)\s{0,3})"
        + _words(
            "choose",
            "chose",
            "pick",
            "picked",
            "select",
            "selected",
            "go with",
            "opt for",
            "settle on",
        )
        + rf"\b{_TO}",
        rf"(?<![不没沒别別勿可候备備])(?:选择|選擇|选|選){_TO}",
        # "Sentiment: positive" at the beginning of a line, "the label is 1".
        rf"(?:^|\n)[\s#*_>-]{{0,9}}(?:(?:predicted|final|overall|my|the)\s){{0,2}}{_LABEL}"
        rf"[ \t*_]{{0,6}}[:：=]{_OPEN}{{0,6}}\Z",
        rf"\b(?:the|my)\s(?:(?:predicted|final|overall|correct)\s)?{_LABEL}\s{{1,3}}(?:is|would be"
        rf"|must be|should be)\b{_TO}",
        rf"<(?:final[_ ]?)?(?:answer|choice|option|solution|response|output)>"
        rf"(?:{_OPEN}|\\[a-z]{{1,12}}){{0,12}}\Z",
        r"(?:^|\n)####[ \t*(\[$]{0,6}\Z",
    )
)
# "Wait, no, it's C", "Correction: C".
_CORRECTED = re.compile(
    r"(?:\A|[.!?\n,;—–-])\s{0,3}(?:\b(?:wait|actually|sorry|oops|hmm|no|correction|scratch that|"
    r"on second thought)\b[\s,.:;!—–-]{1,4}){1,4}(?:(?:it|that|this)(?:['’]s|\s{1,2}(?:is|was|"
    r"should be|must be|would be))\b|i\s{1,2}meant?\b|make\s{1,2}(?:that|it)\b)?" + _TO,
    re.IGNORECASE,
)
# Somebody else's answer, or one under a condition that does not hold.
_SUPPOSES = re.compile(
    r"\b(?:you|one|people|some|many|they|someone|students?|readers?)\b[^.!?\n]{0,20}\b(?:think|say|"
    r"believe|assume|argue|guess|expect|claim)\w{0,2}(?:\s{1,2}that)?(?:\s{1,2}(?:the|my))?\W{0,3}\Z",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"\b(?:if(?!\s+(?:i|we|one|you)\b)|(?<!\bi )(?<!\bwe )had|were|suppose)\b", re.IGNORECASE
)
_ARTICLE = re.compile(r"(?:the|my)\s+", re.IGNORECASE)
_WOULD = re.compile(r"\bwould be\b", re.IGNORECASE)
_SENTENCE = re.compile(r"[.!?\n]\s")
_NOT_IT = re.compile(
    r"(?:student(?:['’]?s)?|user(?:['’]?s)?|candidate(?:['’]?s)?|their|his|her|submitted|incorrect|wrong|false|bad|worst|common|tempting|other|another|possible|plausible|next|"
    r"not|never|[\w]{0,9}n['’]t|if|cannot|you|they|people|many|some|might|could)\s*\Z",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,3}\{(?:\\[a-z]{1,12}|[\s$(\"'*{\\]){0,12}\Z")
_BOXED = re.compile(r"[\s)\"'*$.\\}]{0,12}\}|\s{0,3}\}")
_ASKS = re.compile(rf"{_SHUT}{{0,6}}\?")
_JOINS = re.compile(
    r"[^\S\n]{0,3}(?:[,/&+、，]|\b(?:and|or|und|oder|et|ou|y|o|e|и|или)\b|[和或与與]|또는|및|と)"
    r"(?:[^\S\n]|[,/]|\b(?:and|or|maybe|possibly|perhaps|also|even|both|option|choice|answer)\b"
    r"|\\[a-z]{1,12}){0,6}",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"\s{1,3}(?:is|was|are|being|has|does|can|would|isn)\b", re.IGNORECASE)
_IS_RIGHT = re.compile(
    rf"{_SHUT}{{0,6}}(?:\b(?:is|was|would be|must be|has to be)\s{{1,3}}"
    r"(?:(?:therefore|thus|clearly|indeed|definitely|the|only|most)\s{1,3}){0,3}"
    r"(?:(?:correct|right|best|appropriate)\b|answer\b)|(?:是|为|為)?\s?(?:正确|正確))",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|why|suppose|assume|assuming)\s[\w\s]{0,20}\W{0,3}\Z", re.IGNORECASE
)
_BEGINS = re.compile(
    rf"(?:{_OPEN}|[#>-]|\b(?:option|choice|letter|answer)\b){{0,9}}\Z", re.IGNORECASE
)
_BEGINS_WITH = re.compile(
    rf"[*_`\"'”’»)\]}}$]{{0,6}}(?:[.:：。、,]?{_SHUT}{{0,6}}(?:\n|\Z)|[.:：。)）](?:\s|\Z)|"
    r"\s[-–—]\s|,?\s{1,3}(?:because|since|as|due to)\b)",
    re.IGNORECASE,
)
_LINE_ENDS = re.compile(rf"{_SHUT}{{0,6}}(?:\n|\Z)")
_MARKED = re.compile(r"[*_`\"']{0,3}[.):：）、][*_]{0,3}(?:\s|\Z)")
_STARTS = re.compile(rf"(?:^|\n|[.!?。！？])(?:{_OPEN}|[#>-]){{0,9}}\Z")
_NO_WORDS = re.compile(rf"(?:{_SHUT}|{_OPEN}|[.。!#>:])*")


def declared(text: str, mentions: Sequence[Mention], choices: int) -> str | None:
    """Return the choice that a text with several declares; None if it declares none.

    Args:
        mentions: every choice in the text.
        choices: the total number of choices.
    """
    mentions = sorted(mentions, key=lambda mention: mention.start)
    groups = _groups(text, mentions)
    last = _last_line(text, groups)
    if last is not None:
        return last
    group = next((g for g in reversed(groups[-MOST:]) if _is_declared(text, g)), None)
    if group is not None:
        return _only(group)
    right = {_only(group) for group in groups[-MOST:] if _is_right(text, group)}
    if right:
        return right.pop() if len(right) == 1 else None
    return _first(text, groups, mentions, choices)


def _groups(text: str, mentions: Sequence[Mention]) -> list[list[Mention]]:
    """Group choices that are mentioned together: "A or B", "(A), (B)"."""
    groups: list[list[Mention]] = []
    for mention in mentions:
        if groups and _is_joined(text, groups[-1][-1], mention):
            groups[-1].append(mention)
        else:
            groups.append([mention])
    return groups


def _is_joined(text: str, one: Mention, two: Mention) -> bool:
    between = text[one.end : two.start]
    if len(between) > 40:
        return False
    inner = re.sub(rf"\A{_SHUT}*", "", between)
    plain = re.sub(rf"{_OPEN}*\Z", "", inner)
    if not plain:
        bare = not between.strip(" \t") or (")" in between and "(" in between)
        return bare and "\n" not in between
    comma = plain.strip() in (",", "，", "、")
    return _JOINS.fullmatch(plain) is not None and not (comma and _GOES_ON.match(text, two.end))


def _only(group: Sequence[Mention]) -> str | None:
    """Return the only option of a group; None if it has others or a negated one."""
    named = {mention.option for mention in group}
    return named.pop() if len(named) == 1 and not any(m.denied for m in group) else None


def _is_declared(text: str, group: Sequence[Mention]) -> bool:
    """Return whether the words before a choice, or a box around it, declare it the answer."""
    start, end = group[0].start, group[-1].end
    if _ASKS.match(text, end):
        return False
    before = text[max(0, start - REACH) : start]
    if _BOX.search(before) and _BOXED.match(text, end):
        return True
    if _CORRECTED.search(before) and not _GOES_ON.match(text, end):
        return True
    for pattern in _DECLARES:
        match = pattern.search(before)
        if match is None or _is_supposed(before[: match.start()], match[0]):
            continue
        kind = match["kind"] if "kind" in pattern.groupindex else None
        if not _NOT_IT.search((kind or "").strip() or before[: match.start()]):
            return True
    return False


def _is_supposed(before: str, words: str) -> bool:
    """Return whether words that declare an answer only suppose it, judged by what precedes them."""
    sentence = _SENTENCE.split(before)[-1]
    article = _ARTICLE.match(words)
    if _SUPPOSES.search(sentence + (article[0] if article else "")):
        return True
    return _WOULD.search(words) is not None and _CONDITION.search(sentence) is not None


def _is_right(text: str, group: Sequence[Mention]) -> bool:
    """Return whether the words after a choice declare it the answer: "B is correct"."""
    before = text[max(0, group[0].start - REACH) : group[0].start]
    return _IS_RIGHT.match(text, group[-1].end) is not None and not _SUPPOSED.search(before)


def _last_line(text: str, groups: Sequence[Sequence[Mention]]) -> str | None:
    """Return the choice that is the whole last line, unless other lines are choices as well."""
    alone = {}
    for group in groups:
        begin = text.rfind("\n", 0, group[0].start) + 1
        end = text.find("\n", group[-1].end)
        end = len(text) if end < 0 else end
        outside = text[begin : group[0].start], text[group[-1].end : end]
        if all(_NO_WORDS.fullmatch(part) for part in outside):
            alone[end] = _only(group)
    if not alone or len(set(alone.values())) > 1 or text[max(alone) :].strip():
        return None
    return alone[max(alone)]


def _first(
    text: str, groups: Sequence[Sequence[Mention]], mentions: Sequence[Mention], choices: int
) -> str | None:
    """Return the choice that a text starts with, as an answer that is explained afterwards.

    A text that discusses the choices one by one does not declare its first one.
    """
    group = groups[0]
    option = _only(group)
    if option is None or not _BEGINS.fullmatch(text[: group[0].start]):
        return None
    if not _BEGINS_WITH.match(text, group[-1].end):
        return None
    others = [mention for mention in mentions if mention.option != option]
    letters = (mention for mention in others if mention.end - mention.start == 1)
    marked = {mention.option for mention in letters if _MARKED.match(text, mention.end)}
    if len(marked) >= choices - 1:
        return None
    return None if any(_is_item(text, mention) for mention in others) else option


def _is_item(text: str, mention: Mention) -> bool:
    """Return whether a choice is a list item: it is a whole line, or written like "A."."""
    starts = _STARTS.search(text[max(0, mention.start - 12) : mention.start])
    if starts is None:
        return False
    return _MARKED.match(text, mention.end) is not None or (
        _LINE_ENDS.match(text, mention.end) is not None
    )
