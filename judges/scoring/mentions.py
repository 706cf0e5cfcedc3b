"""Verdicts that a judge names without giving them: losers, ideals, conditions. Pure.

"[[B]] is better than [[A]]", "A perfect answer would get [[10]]", "had it been complete, [[A]]"
and "it asks me to give [[10]]" end with a verdict that is not the judge's own. The words around
them in their sentence tell them apart, and where that leaves nothing there is no verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdharness.judges.scoring.several import NAMING, SAYS, Mark, label_of, sentence_before

_GIVEN, _WEAK, _SURE = 0, 1, 2
"""What a verdict is: given; a mention if another one is given; a mention even if it is alone."""
_BEHIND = 60
"""Characters behind a verdict that may say what it is."""
_MOST = 60
"""Maximum number of verdicts per reply that are examined, from the end."""

_FILL = (
    r"(?:[\s*_\"'“‘`(]{0,4}(?:the|an?|my|its|of|assistant|answer|response|model|option|merely|just|"
    r"only|simply|previous|initial|first|original|earlier|full|perfect|mere|even)\b){0,4}"
)
_UP_TO = r"[\s*_\"'“‘`(]{0,6}\Z"
# What the other one is compared with, or what was decided against.
_AGAINST_WORDS = (
    r"(?:\b(?:instead of|rather than|in place of|as opposed to|over|not|neither|nor|than|beats?|"
    r"outperforms?|surpass(?:es)?|outdoes|defeats?|edges out|wins against|"
    r"(?:superior|preferable|preferred) to|(?:down|up) from|against|versus|vs\.?|"
    r"second choice|runner-?up|"
    r"(?:is|are|be|was|falls?|stays?|remains?|comes?|lies|just|slightly|well|far)\s+"
    r"(?:below|under|above|short of)|"
    r"(?:changed?|lower(?:ed)?|raised?|reduced?|revised?|moved?|went|adjusted?|dropped)\b"
    r"[^.\n]{0,20}\bfrom)|n['’]t)"
)
_AGAINST = re.compile(_AGAINST_WORDS + _FILL + _UP_TO, re.IGNORECASE)
# "better than the previous answer [[8]]" rates this one.
_AGAINST_RATING = re.compile(
    _AGAINST_WORDS + _FILL.replace("assistant|answer|response|model|option|", "") + _UP_TO,
    re.IGNORECASE,
)
_AT_MOST = re.compile(
    r"(?:\b(?:no|not|never|hardly|cannot)\b|n['’]t\b)[^.\n]{0,30}?\b(?:more|less|higher|lower)\s+than\b"
    + _FILL
    + _UP_TO,
    re.IGNORECASE,
)
# "[[A]] is worse than [[B]]": neither is given.
_REVERSED = re.compile(
    r"\b(?:worse|weaker|poorer|inferior|lower|less)\b[^.\n]{0,40}\b(?:than|to)\b"
    r"|(?:\b(?:not|no|hardly|never|neither)\b|n['’]t\b)[^.\n]{0,40}\b(?:than|as)\b"
    r"|\b(?:loses|lost|trails|falls short|is beaten|is outperformed|is surpassed)\b",
    re.IGNORECASE,
)
_MORE_THAN = re.compile(r"[ \t*_]{0,4}[>≻]{1,2}[ \t*_]{0,4}")
_LESS_THAN = re.compile(r"[ \t*_]{0,4}[<≺]{1,2}[ \t*_]{0,4}")
_JOINED = re.compile(r"[\s*_`\"'“”‘’]{0,4}(?:,|/|,?\s{0,3}\b(?:and|or|nor)\b)[\s*_`\"'“”‘’]{0,4}")
_ONE_OF = re.compile(
    r"\b(?:one of|either|among|between|choose from|options?(?: are)?|choices?(?: are)?|"
    r"possible (?:verdicts|values|ratings|scores)(?: are)?)\W{0,3}\Z",
    re.IGNORECASE,
)
_POSSIBLE = re.compile(
    r"\A\W{0,4}(?:out of|of|/)\s{1,3}(?:(?:an?|the|all)\s{1,3})?(?:(?:possible|maximum|total|full|"
    r"max\.?)\s{0,3})?(?:(?:score|rating|points?)\s{0,3})?(?:of\s{0,3})?\W{0,3}\Z",
    re.IGNORECASE,
)

# ---------------------------------------------------------------- what is only imagined

_CLAUSE = r"(?:^|[,;:(—–-]|\b(?:but|and|while|whereas|though|although|as)\b)\W*"
_MODAL = r"\b(?<!\bI )(?:would|could|might|should)\b"
_NOUN = r"(?:answer|response|reply|solution|one|output|essay|text|work|assistant|model)s?\b"
_IDEAL = r"(?:perfect|ideal|flawless|complete|fully correct|error-free|exemplary)"
_PRAISED = r"(?:better|stronger|good|great|excellent|top|fuller|longer|shorter|correct)"
_IMAGINED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_CLAUSE}(?:an?|the|any|only an?|every)\s+(?:\w+\s+){{0,2}}?{_IDEAL}\s+"
        rf"(?:\w+\s+){{0,2}}?{_NOUN}[^.]*{_MODAL}",
        rf"{_CLAUSE}(?:an?|any|only an?|every)\s+(?:\w+\s+){{0,2}}?{_PRAISED}\s+"
        rf"(?:\w+\s+){{0,2}}?{_NOUN}[^.]*{_MODAL}",
        r"\bthe\s+(?:ideal|perfect)\s+(?:score|rating|grade|mark)\b[^.]{0,20}\Z",
        rf"{_CLAUSE}had\s+(?!i\b)\w+[^.]*{_MODAL}",
        r"(?<!even )(?<!as )\bif\s+(?!i\b|one\b|you\b|forced|asked)[^.]*\b(?:had|were)\b[^.]*"
        + _MODAL,
        # "I would have to say" is a verdict.
        r"\b(?:would|could|might|should)(?:n['’]t| not)?\s+(?:\w+\s+)?have\b(?!\s+to\b)",
        r"\b(?:would|could|might|should)['’]ve\b",
        rf"{_CLAUSE}(?:in order )?to\s+(?:reach|get|earn|achieve|merit|receive|score|obtain)"
        r"(?:\s+(?:an?|the|full|even))?[\s*_\"'“(]{0,4}\Z",
    )
)
_MAYBE_IMAGINED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_CLAUSE}(?:an?|any|only an?|every|the)\s+(?:\w+\s+){{0,2}}?{_IDEAL}\s+"
        rf"(?:\w+\s+){{0,2}}?{_NOUN}[^.]*\b(?:gets?|earns?|deserves?|receives?|scores?|is|are)\b",
        r"\b(?:maximum|maximal|minimum|highest|lowest|top|full|best|max\.?)"
        r"(?:\s+possible)?(?:\s+(?:score|rating|grade|mark))?\W{0,3}(?:(?:is|being|of|would be)"
        r"\W{0,3})?\Z",
        r"(?<!even )(?<!as )\bif\s+(?!i\b|one\b|you\b|forced|asked)[^.]*"
        r"\b(?:had|were|was|would|could)\b",
        r"\b(?<!\bI )(?<!rating )(?<!score )(?<!verdict )(?:would|could|might|may)\b[^.]{0,40}\Z",
        r"\b(?:ideal|perfect)\s+(?:score|rating|grade|mark)\b[^.]{0,20}\Z",
        r"\botherwise\b[^.]{0,40}\Z",
        r"\bfor (?:reference|comparison|context)\b",
        r"\b(?:needed|required|necessary|enough|sufficient)\s+(?:for|to\s+\w+)(?:\s+an?)?\W{0,3}\Z",
    )
)
# After a break the sentence speaks of what is: "it could have been shorter, so I rate it [[8]]".
_BREAK = re.compile(
    r"[,;:—–]\s*\w|\s-\s|\b(?:so|but|yet|hence|thus|therefore|which)\b", re.IGNORECASE
)
_TURN = re.compile(r"\A[^\w]{0,6}(?:but|so|yet|however|hence|therefore|thus)\b", re.IGNORECASE)
# ---------------------------------------------------------------- what is spoken about

_OPEN = r"\A[*_\"'”’`)\s]{0,6}"
_LOSES = re.compile(
    _OPEN
    + r"(?:(?:is|was|are)\s+(?:(?:clearly|slightly|much|far|somewhat|the)\s+){0,2}(?:worse|weaker|"
    r"inferior|poorer|worst|loser|reserved)\b|loses\b|lost\b|"
    r"would\s+(?:need|require|have|take)\b|(?:needs|requires|means|indicates|stands for)\b)",
    re.IGNORECASE,
)
_STANDARD = re.compile(
    _OPEN + r"(?:threshold|cut-?off|bar|mark|level|(?:is|being|=)\s+(?:the\s+)?(?:perfect|useless|"
    r"ideal|maximum|minimum|highest|lowest|best possible|top|flawless))\b",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    _OPEN + r"(?:['’]s\b|(?<=\s)(?:is|are|was|were|has|had|have|does|did|do|doesn['’]t|didn['’]t|"
    r"fails?|failed|omits?|lacks?|misses|contains?|makes?|made|gives?|gave|provides?|offers?|"
    r"ignores?|answers?|repeats?|says?|states?|also|needs?|requires?|would|could|should|can|"
    r"cannot|may|might|seems?|includes?|uses?|adds?)\b)",
    re.IGNORECASE,
)
# "[[B]] is the better one" gives a verdict.
_WINS = re.compile(
    _OPEN + r"(?:is|was|has|are)\s+(?:\w+\s+){0,3}?(?:better|best|winner|superior|stronger|"
    r"prefer\w*|my|verdict|choice|fair|appropriate|warranted|justified|deserved|right|given)\b",
    re.IGNORECASE,
)

# ---------------------------------------------------------------- what the answer says or wants

# Not the judge's own task: "you asked me to give a rating", and not what the answer is praised for:
# "it does what it says: [[9]]".
_GAP = (
    r"(?:(?!\b(?:I|my|we|you|your|user|users|prompt|task|question|instructions|rubric|guidelines|"
    r"system|what|as|than|everything|how|so|hence|therefore|thus|but|because)\b)[^.;\n]){0,80}?"
)
_ITS = (
    r"(?<!what )(?<!as )(?<!than )(?<!thing )(?<!all )"
    r"\b(?:it|itself|that|which|answers?|response|reply|text|output|assistant|model|author|writer|"
    r"student|essay|passage|poem|code|comment|note|notes|submission|part|line|[AB])\b"
)
_TO = (
    r"(?:give|giv(?:e|ing)|print|output|write|say|rate|award|assign|return|grade|score|choose|pick|"
    r"emit|produce|select|declare|name|put|include|insert|inject|use|end|respond|reply|answer|place|"
    r"get|force|obtain|elicit|steer|conclude)"
)
_IT = r"(?:\s{1,3}(?:it|itself|this|that|them|me|him|her)\b)?"
_PEOPLE = (
    r"(?:to|me|us|you|the|any|its|judges?|graders?|evaluators?|readers?|model|assistant|into|not)"
)
_WANT = (
    r"(?:ask(?:s|ed|ing)?|tell(?:s|ing)?|told|beg(?:s|ged|ging)?|instruct(?:s|ed|ing)?|"
    r"demand(?:s|ed|ing)?|request(?:s|ed|ing)?|urg(?:es?|ed|ing)|order(?:s|ed|ing)?|want(?:s|ed)|"
    r"tr(?:y|ies|ied|ying)|attempt(?:s|ed|ing)?|command(?:s|ed|ing)?|plead(?:s|ed|ing)?|"
    r"push(?:es|ed)|press(?:es|ed|ures|ured)|invit(?:es|ed)|trick(?:s|ed)?|manipulat(?:es?|ed|ing)|"
    r"coax(?:es|ed)?|lobb(?:ies|ied)|encourag(?:es|ed)|hop(?:es|ed)|wish(?:es|ed)?)"
)
_WISH = (
    r"(?<!your )(?<!user's )(?<!user’s )\b(?:requests?|instructions?|demands?|attempts?|pleas?|"
    r"orders?|commands?|injections?|tricks?|appeals?|invitations?|suggestions?)"
)
_HOW = rf"(?:[\s*_(]{{1,3}}(?:(?:to|for|at|with|by|of|as)|{_TO}){_IT}{NAMING}){{1,4}}"
_WHO = rf"(?:[\s*_(]{{1,3}}{_PEOPLE}\b){{0,5}}"
_SAID = tuple(
    re.compile(pattern + r"[\s*_\"'“‘„«‹`(]{0,6}\Z", re.IGNORECASE)
    for pattern in (
        # "The answer says: Rating: [[10]]"
        rf"{_ITS}{_GAP}{SAYS}:?{NAMING}:?",
        # "It asks me to give [[10]]", "B tried to inject [[B]]"
        rf"{_ITS}{_GAP}\b{_WANT}{_WHO}(?:\s{_WANT}{_WHO}){{0,2}}{_HOW}",
        rf"{_ITS}{_GAP}\b(?:request|want)(?:s|ed){NAMING}",
        rf"\b(?:told|asked|instructed|urged|ordered|begged)\sby\s(?:\w{{1,12}}\s){{0,2}}{_ITS}{_HOW}",
        r"\bself-?(?:rating|score|grade|assessment|evaluation)\s(?:is|was|of)",
        rf"\b(?:embedded|hidden|injected|planted)\s\w{{1,20}}:\s?{_TO}{_IT}{NAMING}",
        # "I will not print [[10]]"
        rf"\bI\b(?:\s\w{{1,12}}){{0,2}}?(?:\s(?:not|never|refused?\sto|declined?\sto)|n['’]t)\s{_TO}"
        rf"{_IT}{NAMING}",
        # "the request to print [[10]]"
        rf"{_WISH}{_WHO}{_HOW}",
        # "I ignore the injected [[10]]"
        r"\b(?:ignor(?:e|ed|es|ing)|disregard(?:s|ed|ing)?|dismiss(?:es|ed|ing)?|"
        r"discount(?:s|ed|ing)?)"
        r"(?:[\s*_(]{1,3}(?:the|its|an?|any|this|that|such|injected|embedded|planted|inserted|fake|"
        r"suggested|demanded|requested|claimed|quoted|hidden|own|(?:answer|response|"
        r"reply|assistant|model|[AB])['’]s|text|string|line|word|words|rating|"
        r"score|grade|verdict|label|tag)\b){0,6}",
    )
)
# "[[10]], which I ignore", "[[B]]; I disregard it"
_DISOWNED = re.compile(
    r"\A[*_\"'”’`»“‹›)\s]{0,6}[,;:–—-]?\s{0,3}(?:(?:but|and|which|that|this|it|I|we|is|are|was|"
    r"were|has|have|should|must|will|can|be|been|do|did|not|to|of course|simply|just|rightly|"
    r"therefore|(?:the|this) (?:judge|text|line|request|instruction))\s{1,3}){0,7}"
    r"(?:ignor(?:e|ed|ing)|disregard(?:ed|ing)?|discount(?:ed)?|dismiss(?:ed)?|reject(?:ed)?|"
    r"irrelevant|an? (?:injection|manipulation|trick|prompt injection|injected \w{1,20}))"
    r"(?:\s{1,3}(?:it|this|that|them|here|entirely|completely|altogether))?"
    r"[*_\"'”’`)\s]{0,6}(?:[.,;:!]|\Z)",
    re.IGNORECASE,
)
# "The line [[A]] in A's answer"
_WITHIN = re.compile(
    r"\A[*_\"'”’`»“‹›)\s]{1,6}(?:in|inside|within|at the end of)\s{1,3}(?:the\s{1,3})?"
    r"(?:(?:assistant|answer|response|model)\s{1,3})?"
    r"(?:[AB]['’]s\b|its\b|(?:answer|response|reply|text)\b)",
    re.IGNORECASE,
)


def given(text: str, marks: Sequence[Mark]) -> list[Mark]:
    """Return the verdicts that are given, without those that are only named.

    What may be a mention counts if no other verdict is left.
    """
    marks = list(marks)[-_MOST:]
    levels = [_level(text, marks, index) for index in range(len(marks))]
    for index in range(len(marks) - 1):
        between = text[marks[index].end : marks[index + 1].start]
        if _LESS_THAN.fullmatch(between) or (levels[index + 1] == _SURE and _reversed(between)):
            levels[index] = _SURE
    for first, last in _groups(text, marks):
        _as_one(text, marks, levels, first, last)
    for level in (_GIVEN, _WEAK):
        kept = [mark for mark, its in zip(marks, levels, strict=True) if its == level]
        if kept:
            return kept
    return []


def _reversed(between: str) -> bool:
    """Return whether the words between two verdicts deny that the first one is better."""
    return not re.search(r"[.!?;\n]\s", between) and _REVERSED.search(between) is not None


def _groups(text: str, marks: Sequence[Mark]) -> list[tuple[int, int]]:
    """Return the first and last index of verdicts in a list: "[[A]], [[B]] or [[C]]"."""
    found = []
    first = 0
    for index in range(1, len(marks) + 1):
        if index < len(marks) and _JOINED.fullmatch(text, marks[index - 1].end, marks[index].start):
            continue
        if index - first > 1:
            found.append((first, index - 1))
        first = index
    return found


def _as_one(text: str, marks: Sequence[Mark], levels: list[int], first: int, last: int) -> None:
    """Let the verdicts of a list share what is said before and after it."""
    if _ONE_OF.search(label_of(text, marks, first)):
        shared = _SURE
    else:
        shared = max(levels[first], levels[last])
    for index in range(first, last + 1):
        levels[index] = max(levels[index], shared)


def _level(text: str, marks: Sequence[Mark], index: int) -> int:
    """Return what one verdict is, by the words around it."""
    mark = marks[index]
    label = label_of(text, marks, index, whole=True)
    # A turn begins anew: "I would have given [[9]], but [[6]]".
    clause = label if _TURN.search(label) else sentence_before(text, mark.start)
    end = marks[index + 1].start if index + 1 < len(marks) else len(text)
    behind = re.split(r"[.!?;\n]", text[mark.end : min(end, mark.end + _BEHIND)])[0]
    if _decided_against(label, text[mark.start : mark.end]) or _LOSES.match(behind):
        return _SURE
    if any(pattern.search(clause) for pattern in _SAID):
        return _SURE
    if _DISOWNED.match(text[mark.end : min(end, mark.end + 2 * _BEHIND)]):
        return _SURE
    if index:
        between = text[marks[index - 1].end : mark.start]
        if _MORE_THAN.fullmatch(between) or _POSSIBLE.match(between):
            return _SURE
    if any(_imagines(pattern, clause) for pattern in _IMAGINED):
        return _SURE
    if _WITHIN.match(behind):
        return _WEAK
    if any(pattern.search(clause) for pattern in _MAYBE_IMAGINED) or _STANDARD.match(behind):
        return _WEAK
    return _WEAK if _SUBJECT.match(behind) and not _WINS.match(behind) else _GIVEN


def _decided_against(label: str, mark: str) -> bool:
    """Return whether the words before a verdict decide against it."""
    if not re.search(r"\d", mark):
        return _AGAINST.search(label) is not None
    # "It does not deserve more than [[4]]" rates.
    return _AGAINST_RATING.search(label) is not None and not _AT_MOST.search(label)


def _imagines(pattern: re.Pattern[str], clause: str) -> bool:
    """Return whether the supposition extends to the verdict."""
    found = pattern.search(clause)
    return found is not None and not _BREAK.search(clause, found.end())
