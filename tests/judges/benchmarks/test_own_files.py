"""A user's own benchmark file: what its scores mean, and what its judge is shown."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.paths import Paths
from kdharness.harness.stats.rows import OK, Row, ScoreContext
from kdharness.harness.types import Answer, Finish
from kdharness.judges.benchmarks.domain import UserBench
from kdharness.judges.scoring.scorers import score_user_bench
from support.files import WriteRows


def row(metric: str, item: int, value: float, order: int = 0, baseline: str = "") -> Row:
    category = "tone" if item % 2 else "facts"
    rest = (None, None, None, None, 1.0)
    return Row(f"i{item}", 1, category, metric, OK, value, 1.0, order, baseline, *rest)


def matches(count: int, value: float) -> list[Row]:
    return [row("pair", n, value, order=o, baseline="b") for n in range(count) for o in (0, 1)]


def test_ratings_and_comparisons_are_never_averaged() -> None:
    """A mean of ratings from 1 to 10 and comparisons from 0 to 1 was shown as the score."""
    rows = [*(row("rating", n, 6.0 + n % 3) for n in range(12)), *matches(12, 0.5)]
    found = {value.metric: value for value in score_user_bench(rows, ScoreContext())}
    assert list(found) == ["rating", "pair"]
    rating, pair = found["rating"], found["pair"]
    assert (rating.value, pair.value) == (7.0, 0.5)
    assert rating.ci_low is not None and rating.ci_high is not None
    assert 6 <= rating.ci_low <= 7 <= rating.ci_high <= 8
    alone = score_user_bench([r for r in rows if r.metric == "rating"], ScoreContext())
    assert alone[0].metric == "score" and alone[0][1:] == rating[1:]


def test_exact_metrics_and_comparisons_keep_their_mean() -> None:
    rows = [*(row("accuracy", n, 1.0) for n in range(4)), *matches(4, 0.0)]
    found = {value.metric: value.value for value in score_user_bench(rows, ScoreContext())}
    assert (found["accuracy"], found["pair"]) == (1.0, 0.0)
    assert found["score"] == pytest.approx(4 / 12)


def test_expected_ratings_stay_apart_from_comparisons() -> None:
    rows = [*(row("expected_rating", n, 7.5) for n in range(4)), *matches(4, 1.0)]
    found = {value.metric: value.value for value in score_user_bench(rows, ScoreContext())}
    assert (found["score"], found["expected_rating"]) == (1.0, 7.5)


# ---------------------------------------------------------------- revisions


@pytest.mark.parametrize(
    ("changed", "is_another"),
    [
        (["Paris", "Lyon"], False),
        (["Paris", "Lille"], True),
        (["Lyon", "Paris"], True),
        (["Paris", "Lyon", "Nice"], True),
        (["paris", "Lyon"], True),
    ],
)
def test_choices_are_part_of_a_benchmark(
    paths: Paths, write_jsonl: WriteRows, changed: list[str], is_another: bool
) -> None:
    """Scores over other wrong choices were compared as if the questions were the same."""

    def revision(choices: list[str]) -> str:
        asked = {"prompt": "The capital of France?", "reference": choices[0], "choices": choices}
        if "Paris" in choices:
            asked["reference"] = "Paris"
        path = write_jsonl("quiz.jsonl", [{**asked, "metric": "accuracy"}])
        return UserBench.load(paths, EvalConfig(), str(path)).revision

    assert (revision(changed) != revision(["Paris", "Lyon"])) is is_another


# ---------------------------------------------------------------- conversations


def said(turn: int, text: str) -> Answer:
    return Answer(
        id=f"{text}/{turn}",
        checkpoint="c",
        bench="b",
        revision="r",
        item="1",
        turn=turn,
        text=text,
        finish=Finish.STOP,
        prompt_hash="",
        settings="",
        created=0.0,
    )


MINE = [said(1, "MINE: a picnic"), said(2, "MINE: sandwiches")]
THEIRS = [said(1, "THEIRS: a yacht"), said(2, "THEIRS: a rowing boat")]


def prompts(paths: Paths, write_jsonl: WriteRows, mine: Any, theirs: Any) -> dict[Any, str]:
    rows = [{"id": "1", "turns": ["Plan a party.", "Now cheaper."], "metric": "pair"}]
    path = write_jsonl("chat.jsonl", rows)
    bench = UserBench.load(paths, EvalConfig(baseline="other"), str(path))
    calls = bench.judge_calls(mine, theirs)
    return {(call.turn, call.order): call.messages[1]["content"] for call in calls}


def test_both_conversations_are_compared(paths: Paths, write_jsonl: WriteRows) -> None:
    """The other model's second answer was shown as one of the judged model's conversation."""
    shown = prompts(paths, write_jsonl, MINE, THEIRS)
    assert list(shown) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert "earlier_answer" not in shown[1, 0]
    for order, (first, second) in ((0, ("MINE", "THEIRS")), (1, ("THEIRS", "MINE"))):
        text = shown[2, order]
        places = [
            text.index(f"<earlier_answer_A>\n{first}: "),
            text.index(f"<earlier_answer_B>\n{second}: "),
            text.index("Now cheaper."),
            text.index(f"<answer_A>\n{first}: "),
            text.index(f"<answer_B>\n{second}: "),
        ]
        assert places == sorted(places)


def test_what_a_judge_is_shown_does_not_depend_on_whose_turn_it_is(
    paths: Paths, write_jsonl: WriteRows
) -> None:
    """A against B has the prompts of B against A, in the other order."""
    there, back = (
        prompts(paths, write_jsonl, *sides) for sides in ((MINE, THEIRS), (THEIRS, MINE))
    )
    assert {place: there[place] for place in there} == {
        (turn, order): back[turn, 1 - order] for turn, order in there
    }


def test_a_turn_without_the_earlier_ones_is_not_compared(
    paths: Paths, write_jsonl: WriteRows
) -> None:
    assert list(prompts(paths, write_jsonl, MINE, THEIRS[1:])) == []
    assert list(prompts(paths, write_jsonl, MINE, THEIRS[:1])) == [(1, 0), (1, 1)]
