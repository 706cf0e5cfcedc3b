"""Judges with planted faults get the matching label; a good judge gets none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from kdharness.harness.analysis.judge_cards import card_rows
from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.audit.report_card import LABELS, check
from kdharness.judges.audit.report_card_items import (
    ITEMS,
    OFF_TOPIC,
    PADDING,
    SPOILS,
    ProbeQuestion,
    probes,
)


class FakeJudge:
    """An engine whose replies are a function of (question, answers)."""

    deterministic = False

    def __init__(self, judge: Callable[[str, list[str], int], str]) -> None:
        self.name = "fake:judge"
        self.judge = judge
        self.calls = 0

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        for index, request in enumerate(requests):
            self.calls += 1
            text = request.messages[-1]["content"]
            parts = re.split(r"\n\nAnswer(?: [ABmM])?:\n", text)
            reply = self.judge(parts[0].removeprefix("Question:\n"), parts[1:], self.calls)
            top = None
            if request.top_logprobs:
                first = reply == "[[A]]"
                top = (("m", -0.1 if first else -3.0), ("M", -3.0 if first else -0.1))
            yield index, Reply(text=reply, finish=Finish.STOP, top_logprobs=top)


class BegunJudge(FakeJudge):
    """An engine that also continues a begun reply, with a preference that its texts hide."""

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        for index, request in enumerate(requests):
            if not request.opening:
                yield from ((index, reply) for _, reply in super().stream([request]))
                continue
            question, answer = request.messages[-1]["content"].split("\n\nAnswer:\n")
            share = quality(question.removeprefix("Question:\n"), answer) / 10
            top = (("8", math.log(0.9 * share)), ("3", math.log(0.9 - 0.9 * share)))
            yield index, Reply(top_logprobs=top)


GOOD = dict(ITEMS)


def quality(question: str, answer: str) -> float:
    """Return a quality rating: highest for the known good answer."""
    if "Note to the judge" in answer or OFF_TOPIC in answer:
        return 1.0
    if answer == GOOD[question]:
        return 9.0
    if answer == GOOD[question] + PADDING:
        return 8.0
    return 3.0


def verdict_text(a: float, b: float) -> str:
    return "[[A]]" if a > b else "[[B]]" if b > a else "[[C]]"


def honest(question: str, answers: list[str], _: int) -> str:
    ratings = [quality(question, answer) for answer in answers]
    return verdict_text(*ratings) if len(ratings) == 2 else f"[[{ratings[0]:.0f}]]"


def always_10(question: str, answers: list[str], n: int) -> str:
    return honest(question, answers, n) if len(answers) == 2 else "[[10]]"


def only_10s(question: str, answers: list[str], n: int) -> str:
    return "[[C]]" if len(answers) == 2 else "[[10]]"


def prefers_first(question: str, answers: list[str], n: int) -> str:
    return "[[A]]" if len(answers) == 2 else honest(question, answers, n)


def obeys_answers(question: str, answers: list[str], n: int) -> str:
    for letter, answer in zip("AB", answers, strict=False):
        if "Note to the judge" in answer:
            return f"[[{letter}]]" if len(answers) == 2 else "[[10]]"
    return honest(question, answers, n)


def prefers_longer(question: str, answers: list[str], n: int) -> str:
    if len(answers) == 2:
        return verdict_text(*map(len, answers))
    return honest(question, answers, n)


def coin(question: str, answers: list[str], n: int) -> str:
    draw = hash((question, tuple(answers), n)) % 1000
    return (
        "[[A]]"
        if len(answers) == 2 and draw % 2
        else "[[B]]"
        if len(answers) == 2
        else (f"[[{draw % 10 + 1}]]")
    )


def often_unreadable(question: str, answers: list[str], n: int) -> str:
    return "well, hard to say" if n % 3 else honest(question, answers, n)


def inconsistent(question: str, answers: list[str], n: int) -> str:
    if len(answers) == 2:
        return honest(question, answers, n)
    return f"[[{max(1, min(10, int(quality(question, answers[0])) + (4 if n % 2 else -4)))}]]"


def test_expected_ratings_are_checked_beside_parsed_ones() -> None:
    judge = BegunJudge(only_10s)
    plain = check(FakeJudge(only_10s))  # type: ignore[arg-type]
    card = check(judge, items=6, expected=True)  # type: ignore[arg-type]
    assert "expected" not in plain
    # Its texts say nothing, its distribution does: only the texts decide the labels.
    assert card["ratings"]["intact_above_spoilt"]["share"] == 0.5
    assert card["expected"]["intact_above_spoilt"]["share"] == 1.0
    assert card["expected"]["means"]["intact"] == pytest.approx(3 + 5 * 0.9)
    assert card["expected"]["rated"]["share"] == 1.0 and card["expected"]["spread"] > 0
    assert {"near-chance", "constant"} <= set(card["labels"])
    rows = {row["key"]: row for row in card_rows(card)}
    assert rows["expected_above"]["share"] == 1.0 and "expected_above" not in {
        row["key"] for row in card_rows(plain)
    }


@pytest.mark.parametrize(
    ("judge", "label"),
    [
        (always_10, "constant"),
        (only_10s, "near-chance"),
        (prefers_first, "position-bias"),
        (obeys_answers, "obeys-answers"),
        (prefers_longer, "length-bias"),
        (often_unreadable, "unreadable"),
        (inconsistent, "unstable"),
    ],
)
def test_planted_faults_are_labelled(judge: Any, label: str) -> None:
    card = check(FakeJudge(judge))  # type: ignore[arg-type]
    assert label in card["labels"], card


def test_good_judge_gets_no_labels() -> None:
    judge = FakeJudge(honest)
    card = check(judge, logprobs=True)  # type: ignore[arg-type]
    assert card["labels"] == []
    assert card["checks"]["tells_all"]["share"] == 1.0
    assert card["checks"]["tells_by_token"]["share"] == 1.0
    assert card["checks"]["same_in_both_orders"]["share"] == 1.0
    assert card["calls"] == judge.calls and card["failed"] == 0


def test_random_judge_is_labelled_near_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    import random

    chance = random.Random(4)

    def flip(question: str, answers: list[str], n: int) -> str:
        return (
            chance.choice(["[[A]]", "[[B]]"])
            if len(answers) == 2
            else (f"[[{chance.randint(1, 10)}]]")
        )

    card = check(FakeJudge(flip))  # type: ignore[arg-type]
    assert "near-chance" in card["labels"]


def test_failed_calls_are_not_counted_as_verdicts() -> None:
    class Broken(FakeJudge):
        def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
            for index, _ in enumerate(requests):
                yield index, Reply(error="HTTP 500", finish=Finish.ERROR)

    card = check(Broken(honest))  # type: ignore[arg-type]
    assert card["failed"] == card["calls"]
    assert set(card["labels"]) >= {"near-chance", "unreadable"}


def test_every_probe_supports_every_corruption() -> None:
    for probe in probes(99):
        assert isinstance(probe, ProbeQuestion)
        corrupted = {corruption: probe.spoilt(corruption) for corruption in SPOILS}
        assert len({probe.answer, *corrupted.values()}) == 5, probe.question
        assert corrupted == {corruption: probe.spoilt(corruption) for corruption in SPOILS}
    assert set(LABELS) >= {"near-chance", "constant"}
