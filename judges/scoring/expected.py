"""The expected rating: the mean of the distribution over the numbers that a judge may give.

The judge's reply is begun for it up to the point where the number must stand, and nothing is
generated. The probability of a number is that of all texts that go on with exactly this number and
then with something other than a digit, whatever tokens spell it: "10" may be one token or two, and
"1" is not the beginning of "10" or "15". Pure: token texts and probabilities in, a verdict out.

The mean over a judge's distribution is also how TrustJudge (arXiv 2509.21117) rates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdharness.harness.stats.metric_specs import EXPECTED_RATING
from kdharness.harness.types import JudgeCall, JudgmentStatus, Reply, Verdict
from kdharness.judges.scoring.verdicts import LEAST_MASS

OPENING = "Rating: [["
"""The beginning of the judge's reply, in the format that the judges' prompts ask for."""
LOW, HIGH = 1, 10
NUMBERS = tuple(str(number) for number in range(LOW, HIGH + 1))
MOST_TOP = 20
"""Alternatives asked of an endpoint: the most that OpenAI's protocol allows."""
LIKELIEST = "likeliest"
"""The key of `Reply.info` for the likeliest first token: [text, probability]."""
_NUMERAL = re.compile(r"\s*([0-9]+)")

Token = tuple[int, str, float]
"""A token that may follow: its id, its text and its probability."""


@dataclass(frozen=True)
class Branch:
    """The beginning of a number: its tokens, its digits and its probability."""

    tokens: tuple[int, ...] = ()
    digits: str = ""
    share: float = 1.0


START = Branch()


def begins_number(text: str) -> bool:
    """Return whether a token's text begins with a digit, after blanks if any."""
    return _NUMERAL.match(text) is not None


@dataclass
class NumberReading:
    """The probability of each number, summed token by token."""

    shares: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NUMBERS, 0.0))

    def follow(self, branch: Branch, following: Iterable[Token]) -> list[Branch]:
        """Add what is settled after a branch; return the longer branches, to be followed too.

        Args:
            following: every token whose text begins with a digit, and its probability after the
                branch. Other tokens may be left out or included: they end the number.
        """
        longer, digits_go_on = [], 0.0
        for token, text, share in following:
            match = _NUMERAL.match(text)
            # A blank before a digit is the end of a number that has begun.
            if match is None or (branch.digits and text[:1].isspace()):
                continue
            digits_go_on += share
            digits, whole = branch.digits + match[1], branch.share * share
            if match.end() < len(text):
                self.add(digits, whole)
            elif digits in self.shares:
                longer.append(Branch((*branch.tokens, token), digits, whole))
        self.add(branch.digits, branch.share * max(0.0, 1.0 - digits_go_on))
        return longer

    def add(self, digits: str, share: float) -> None:
        """Add the probability of a finished number; one off the scale is no rating."""
        if digits in self.shares:
            self.shares[digits] += share

    @property
    def logprobs(self) -> tuple[tuple[str, float], ...]:
        """(number, log-probability) of all numbers that are possible, the likeliest first."""
        ranked = sorted(self.shares.items(), key=lambda pair: -pair[1])
        return tuple((number, math.log(share)) for number, share in ranked if share > 0)


def as_expected(call: JudgeCall) -> JudgeCall:
    """Return a call for a rating as one for the distribution over ratings."""
    return replace(
        call,
        metric=EXPECTED_RATING,
        opening=OPENING,
        max_tokens=1,
        top_logprobs=MOST_TOP,
        choices=NUMBERS,
        stops=(),
        verdict="",
    )


def read_expected(reply: Reply) -> Verdict:
    """Return the mean rating of a reply's log-probabilities of the numbers 1 to 10.

    The mean is over the distribution renormalised to the numbers. If these have less than
    `LEAST_MASS` probability together, the judge was about to say something else, and this is not a
    verdict. `info` has the probabilities (`distribution`) and their sum (`mass`).
    """
    shares = {
        number: math.exp(min(0.0, value))
        for number, value in reply.top_logprobs or ()
        if number in NUMBERS and math.isfinite(value)
    }
    mass = min(1.0, math.fsum(shares.values()))
    info: dict[str, object] = {
        "distribution": {number: round(share, 6) for number, share in shares.items()},
        "mass": round(mass, 6),
    }
    if mass < LEAST_MASS:
        info["why"] = _no_rating(mass, reply.info)
        return Verdict(JudgmentStatus.UNREADABLE, None, info)
    total = math.fsum(shares.values())
    mean = math.fsum(int(number) * share for number, share in shares.items()) / total
    return Verdict(JudgmentStatus.OK, min(float(HIGH), max(float(LOW), mean)), info)


def _no_rating(mass: float, info: Mapping[str, object]) -> str:
    """Return why a reply has no expected rating."""
    instead = ""
    found = info.get(LIKELIEST)
    if isinstance(found, Sequence) and len(found) == 2:
        instead = f"; the likeliest token there is {str(found[0])[:40]!r}"
    return (
        f"the ratings {LOW} to {HIGH} together have {100 * mass:.2g} % probability, and at least "
        f"{100 * LEAST_MASS:g} % are needed{instead}"
    )
