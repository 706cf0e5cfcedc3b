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

from kdharness.judges.scoring.choice_groups import OPEN as _OPEN
from kdharness.judges.scoring.choice_groups import SHUT as _SHUT
from kdharness.judges.scoring.choice_groups import Mention, goes_on, groups_of, only
from kdharness.judges.scoring.choice_lead import REASON, first, lists_afterwards

REACH = 80
"""Characters before a choice that may declare it."""
MOST = 500
"""Maximum number of mentions that are examined, from the end."""


def _words(*names: str) -> str:
    return "(?:" + "|".join(name.replace(" ", r"\s{1,3}") for name in names) + ")"


_NOUN = _words(
    "answer",
    r"\bans\b",
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
    "a",
    "o",
    "la",
    "le",
    "el",
    "il",
    "die",
    "der",
    "das",
    "opción",
    "opção",
    "opzione",
    "lettre",
    "lettera",
    "letra",
    "alternativa",
)
# What may come between the declaring words and the choice.
_TO = rf"(?:{_OPEN}|[:：=}}]|\\[a-z]{{1,12}}|\b{_SOFT}\b|选项|選項){{0,24}}\Z"
_DECLARES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # "the answer is B", "**Final answer:** B", `"answer": "B"`.
        rf"(?P<kind>[\w'’]{{1,20}}[^\S\n]{{1,3}})?(?:{_NOUN}|\b{_RIGHT}\s{{1,3}}{_ONE})s?"
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
# "Final: B", "Correct choice: B".
_HEADED = re.compile(
    r"(?:^|\n|[.!?;]\s{1,3})[\s#*_>-]{0,9}(?:(?:my|the|final|overall|best|correct)\s){0,2}"
    rf"(?:final|correct|right|choice|pick|selection|guess)[ \t*_]{{0,6}}[:：=]{_TO}",
    re.IGNORECASE,
)
# "So it's B.", "Thus B.", but not "So A is wrong".
_CONCLUDES = re.compile(
    r"(?:(?:^|[\n.!?;,]\s{0,3})(?:so|thus|hence|therefore|consequently|donc|quindi|dunque|"
    r"portanto|logo|por (?:lo )?tanto|entonces)\b[,，]?|所以|因此)\s{0,3}"
    r"(?:(?:it|that|this)(?:['’]s|\s{1,2}(?:is|must be|has to be|should be))\s{1,3})?" + _TO,
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    rf"{_SHUT}{{0,6}}(?:[.!;。]|\n|\Z)|\s{{0,2}}\(|[,，]?\s{{0,3}}{REASON}", re.IGNORECASE
)
# "Wait, no, it's C", "Correction: C".
_CORRECTED = re.compile(
    r"(?:\A|[.!?\n,;—–-])\s{0,3}(?:\b(?:wait|actually|sorry|oops|hmm|no(?!\s*\n)|correction|"
    r"scratch that|on second thought)\b[\s,.:;!—–-]{1,4}){1,4}(?:(?:it|that|this)(?:['’]s|"
    r"\s{1,2}(?:is|was|should be|must be|would be))\b|i\s{1,2}meant?\b|"
    r"make\s{1,2}(?:that|it)\b)?" + _TO,
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
    r"not|never|[\w]{0,9}n['’]t|if|cannot|you|they|people|many|some|might|could)[^\S\n]*\Z",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,3}\{(?:\\[a-z]{1,12}|[\s$(\"'*{\\]){0,12}\Z")
_BOXED = re.compile(r"[\s)\"'*$.\\}]{0,12}\}|\s{0,3}\}")
_ASKS = re.compile(rf"{_SHUT}{{0,6}}\?")
_IS_RIGHT = re.compile(
    rf"{_SHUT}{{0,6}}(?:\b(?:is|was|would be|must be|has to be)\s{{1,3}}"
    r"(?:(?:therefore|thus|clearly|indeed|definitely|the|only|most)\s{1,3}){0,3}"
    r"(?:(?:correct|right|best|appropriate)\b|answer\b)|(?:是|为|為)?\s?(?:正确|正確))",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"\b(?:if|whether|why|suppose|assume|assuming)\s[\w\s]{0,20}\W{0,3}\Z", re.IGNORECASE
)
_NO_WORDS = re.compile(rf"(?:{_SHUT}|{_OPEN}|[.。!#>:])*")


def declared(text: str, mentions: Sequence[Mention], options: Sequence[str]) -> str | None:
    """Return the choice that a text with several declares; None if it declares none.

    Args:
        mentions: every choice in the text.
        options: every choice, in the order of the question.
    """
    mentions = sorted(mentions, key=lambda mention: mention.start)
    groups = groups_of(text, mentions)
    last = _last_line(text, groups)
    if last is not None and not lists_afterwards(text):
        return last
    group = next((g for g in reversed(groups[-MOST:]) if _is_declared(text, g)), None)
    if group is not None:
        return only(group)
    right = {only(group) for group in groups[-MOST:] if _is_right(text, group)}
    if right:
        return right.pop() if len(right) == 1 else None
    group = next((g for g in reversed(groups[-MOST:]) if _is_concluded(text, g)), None)
    if group is not None:
        return only(group)
    return first(text, groups, mentions, options) or last


def _is_declared(text: str, group: Sequence[Mention]) -> bool:
    """Return whether the words before a choice, or a box around it, declare it the answer."""
    start, end = group[0].start, group[-1].end
    if _ASKS.match(text, end):
        return False
    before = text[max(0, start - REACH) : start]
    if _BOX.search(before) and _BOXED.match(text, end):
        return True
    if _CORRECTED.search(before) and not goes_on(text, end):
        return True
    patterns = _DECLARES if goes_on(text, end) else (*_DECLARES, _HEADED)
    for pattern in patterns:
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


def _is_concluded(text: str, group: Sequence[Mention]) -> bool:
    """Return whether a sentence that ends with a choice concludes it: "So it's B."."""
    before = text[max(0, group[0].start - REACH) : group[0].start]
    return _CONCLUDED.match(text, group[-1].end) is not None and bool(_CONCLUDES.search(before))


def _last_line(text: str, groups: Sequence[Sequence[Mention]]) -> str | None:
    """Return the choice that is the whole last line, unless other lines are choices as well."""
    alone = {}
    for group in groups:
        begin = text.rfind("\n", 0, group[0].start) + 1
        end = text.find("\n", group[-1].end)
        end = len(text) if end < 0 else end
        outside = text[begin : group[0].start], text[group[-1].end : end]
        if all(_NO_WORDS.fullmatch(part) for part in outside):
            alone[end] = only(group)
    if not alone or len(set(alone.values())) > 1 or text[max(alone) :].strip():
        return None
    return alone[max(alone)]
