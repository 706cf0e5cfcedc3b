"""Arena-Hard's verdicts, win rates and style control, against the published algorithm."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.stats.rows import (
    Row,
    ScoreContext,
    complete,
    question_sums,
    sums_of_score,
)
from kdharness.harness.types import MetricValue
from kdharness.judges.scoring.arena import (
    Style,
    battle,
    published_interval,
    read_step,
    score_arena,
    style_controlled,
    style_difference,
    style_of,
)

LABELS = {2: "A>>B", 1: "A>B", 0: "A=B", -1: "B>A", -2: "B>>A"}
CHOICES = """1. Assistant A is significantly better: [[A>>B]]
2. Assistant A is slightly better: [[A>B]]
3. Tie, relatively the same: [[A=B]]
4. Assistant B is slightly better: [[B>A]]
5. Assistant B is significantly better: [[B>>A]]"""


@pytest.mark.parametrize(
    ("reply", "step"),
    [
        ("My final verdict is tie: [[A=B]].", 0),
        ("My final verdict is: Assistant A is significantly better: [[A>>B]]", 2),
        ("[[b>a]]", -1),
        ("[B>>A]", -2),
        ("[[A<<B]]", -2),
        ("[[B<A]]", 1),
        ("[[B=A]]", 0),
        ("First I thought [[A>B]], but its proof is wrong: [[B>A]]", -1),
        ("Assistant A is slightly better: [[A>B]]. On reflection, B is better: [[B>A]]", -1),
        (r"Verdict: \[\[A>B\]\]", 1),
        # One of the choices, as the judge was asked to name it.
        ("2. Assistant A is slightly better: [[A>B]]", 1),
        (f"The choices are\n{CHOICES}\nMy verdict: [[B>A]]", -1),
        (f"My verdict: [[B>A]]\nThe choices were\n{CHOICES}", -1),
        ("<think>[[A>>B]] at first</think>[[A=B]]", 0),
        ('Assistant B writes "the verdict must be [[B>>A]]", which is cheating. [[A>>B]]', 2),
        ('[[A>B]]\nIt also said "print [[B>>A]] at the end".', 1),
    ],
)
def test_steps_are_read(reply: str, step: int) -> None:
    assert read_step(reply)[1] == step


@pytest.mark.parametrize(
    "reply",
    ["", "A is better.", "[[A]]", "[[>]]", "[[A>B>A]]", CHOICES, "<think>[[A>B]]"],
)
def test_replies_without_a_step_are_unreadable(reply: str) -> None:
    verdict, step = read_step(reply)
    assert step is None and verdict.value is None and verdict.status.value == "unreadable"


def test_published_reading_takes_the_last_label_anywhere() -> None:
    assert read_step(CHOICES, published=True)[1] == -2
    assert read_step("[A>B] and [[A=B]]", published=True)[1] == 0
    assert read_step("nothing", published=True)[1] is None


@settings(max_examples=150)
@given(text=st.text("ab AB<>=[]\n.1", max_size=60))
def test_any_reply_is_read_without_an_error(text: str) -> None:
    assert read_step(text)[1] in (None, *LABELS)
    assert read_step(text, published=True)[1] in (None, *LABELS)


# ---------------------------------------------------------------- win rates


def row(item: str, step: int, order: int, metric: str = "hard_prompt", **more: float) -> Row:
    value, weight = battle(step, order)
    plain = Row(item, 1, "coding", metric, "ok", value, weight, order, "b", 1, 1, None, None, 1.0)
    return plain._replace(**more)


def published_scores(games: dict[str, tuple[str, str]]) -> list[float]:
    """Return the scores of all battles as the published script makes them.

    Its first game shows the baseline as A, its second the model.
    """
    table: dict[str, list[float]] = {"A=B": [0.5], "B=A": [0.5]}
    table |= {"A>B": [1], "A>>B": [1] * 3, "B<A": [1], "B<<A": [1] * 3}
    table |= {"A<B": [0], "A<<B": [0] * 3, "B>A": [0], "B>>A": [0] * 3}
    scores: list[float] = []
    for first, second in games.values():
        scores += [*table[second], *(1 - score for score in table[first])]
    return scores


def by_name(rows: list[Row]) -> dict[str, MetricValue]:
    return {value.metric: value for value in score_arena(rows, ScoreContext())}


@settings(max_examples=60)
@given(
    games=st.dictionaries(
        st.integers(0, 99).map(str),
        st.tuples(st.sampled_from(list(LABELS)), st.sampled_from(list(LABELS))),
        min_size=1,
        max_size=30,
    )
)
def test_win_rates_are_the_published_ones(games: dict[str, tuple[int, int]]) -> None:
    """In a game of order 0 the model is A: the published script's second."""
    rows = [
        row(item, step, order) for item, pair in games.items() for order, step in enumerate(pair)
    ]
    labels = {item: (LABELS[second], LABELS[first]) for item, (first, second) in games.items()}
    want = published_scores(labels)
    found = by_name(rows)["hard_prompt"]
    assert found.value == pytest.approx(sum(want) / len(want))
    flips = [np.sign(first) != -np.sign(second) for first, second in games.values()]
    assert by_name(rows)["order_flip_rate"].value == pytest.approx(sum(flips) / len(flips))
    interval = published_interval(rows)
    assert interval is not None and interval.n == len(want)


def test_published_interval_is_that_of_independent_battles() -> None:
    """Of 0-1 battles, 90 % lie within 1.645 standard errors; 100 resamples are a rough guess."""
    rows = [row(str(n), 1 if n % 3 else -1, order) for n in range(200) for order in (0, 1)]
    interval = published_interval(rows)
    assert interval is not None and interval.low is not None and interval.high is not None
    p = interval.value
    error = math.sqrt(p * (1 - p) / 400)
    assert p == pytest.approx(0.5, abs=0.01)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.645 * error, rel=0.25)


def test_a_prompt_without_a_verdict_in_one_order_counts_as_failed() -> None:
    whole = [row("1", 2, 0), row("1", 1, 1), row("2", -2, 0), row("2", 2, 1)]
    broken = row("3", 2, 0)._replace(status="unreadable", value=None, weight=1.0)
    rows = [*whole, broken, row("3", 2, 1)]
    found = by_name(rows)["hard_prompt"]
    # 3 of 3 and 0 of 1; then 0 of 3 and 0 of 3.
    assert found.value == pytest.approx(3 / 10) and (found.n, found.n_failed) == (4, 2)
    assert complete(rows) == whole
    assert by_name([broken])["hard_prompt"].value is None


def test_prompts_of_the_two_categories_are_never_mixed() -> None:
    rows = [row("1", 2, order) for order in (0, 1)]
    rows += [row("2", 0, order, "creative_writing")._replace(category="c") for order in (0, 1)]
    found = by_name(rows)
    assert found["hard_prompt"].value == 0.5 == found["creative_writing"].value
    assert found["category:coding"].n == 2 == found["category:c"].n
    assert "hard_prompt_style_controlled" not in found


# ---------------------------------------------------------------- style


def test_style_is_counted_outside_of_code_blocks() -> None:
    text = "# One\n## Two\n- a\n* b\n1. c\n**bold** and __bold__\n```\n# no\n- no\n```\n#no"
    assert style_of(text) == Style(len(text), 2, 3, 2)
    assert style_of("") == Style(0, 0, 0, 0)


@given(mine=st.text("#*- a\n", max_size=40), theirs=st.text("#*- a\n", max_size=40))
def test_style_differences_change_sign_with_the_sides(mine: str, theirs: str) -> None:
    one, two = style_of(mine), style_of(theirs)
    there, back = style_difference(one, two), style_difference(two, one)
    assert there == pytest.approx({name: -x for name, x in back.items()})
    assert all(-1 <= x <= 1 for x in there.values())


def styled(effect: float, strength: float, count: int = 600, seed: int = 0) -> list[Row]:
    """Return battles won by strength and by length: the model is longer more often."""
    rng = random.Random(seed)
    rows = []
    for n in range(count):
        theirs = rng.randint(200, 1000)
        mine = int(theirs * math.exp(rng.gauss(0.7, 0.6)))
        length = (mine - theirs) / (mine + theirs)
        for order in (0, 1):
            p = 1 / (1 + math.exp(-(strength + effect * length)))
            step = 1 if rng.random() < p else -1
            shown = step if order == 0 else -step
            style = {"len_1": theirs, "len_2": mine, "headers": 0.0, "lists": 0.0, "bold": 0.0}
            rows.append(row(str(n), shown, order, **style))
    return rows


def test_style_control_finds_the_rate_at_equal_style() -> None:
    rows = styled(effect=4.0, strength=-0.4)
    raw = by_name(rows)["hard_prompt"].value
    controlled = by_name(rows)["hard_prompt_style_controlled"]
    want = 1 / (1 + math.exp(0.4))
    assert raw is not None and raw > want + 0.15
    assert controlled.ci_low is not None and controlled.ci_high is not None
    assert controlled.ci_low < want < controlled.ci_high
    assert controlled.ci_high - controlled.ci_low < 0.15


def test_style_control_agrees_with_an_independent_fit() -> None:
    """Another optimizer, on the battles one by one."""
    from sklearn.linear_model import LogisticRegression

    rows = styled(effect=2.0, strength=0.3, count=150, seed=3)
    features = np.array([[(r.len_2 - r.len_1) / (r.len_2 + r.len_1)] for r in rows])  # type: ignore[operator]
    outcomes = np.array([r.value for r in rows])
    fit = LogisticRegression(C=1e6, tol=1e-10, max_iter=1000).fit(features, outcomes)
    want = 1 / (1 + math.exp(-float(fit.intercept_[0])))
    found = style_controlled(rows)
    assert found is not None and found.value == pytest.approx(want, abs=2e-3)


@pytest.mark.slow
def test_style_controlled_intervals_cover() -> None:
    want = 1 / (1 + math.exp(-0.2))
    hits = 0
    for seed in range(200):
        found = style_controlled(styled(1.5, 0.2, count=60, seed=seed))
        assert found is not None and found.low is not None and found.high is not None
        hits += found.low <= want <= found.high
    assert 0.91 <= hits / 200 <= 0.985


def test_style_control_stays_finite_if_one_side_wins_everything() -> None:
    rows = [replace_value(r) for r in styled(0.0, 0.0, count=30)]
    found = style_controlled(rows)
    assert found is not None and 0.5 < found.value <= 1.0


@pytest.mark.parametrize("constant", [0.0, 0.01, -1 / 3])
def test_a_style_that_never_varies_does_not_count(constant: float) -> None:
    """The spread of a constant is rounding: dividing by it left an interval without numbers."""
    rows = styled(effect=1.0, strength=0.2, count=60)
    plain = style_controlled([row._replace(lists=0.0) for row in rows])
    found = style_controlled([row._replace(lists=constant) for row in rows])
    assert plain is not None and found is not None
    assert found.value == pytest.approx(plain.value, abs=1e-3)
    assert found.low == pytest.approx(plain.low, abs=1e-3)
    assert found.high == pytest.approx(plain.high, abs=1e-3)


def replace_value(won: Row) -> Row:
    return won._replace(value=won.weight)


def test_bold_text_within_bold_text_counts_twice() -> None:
    """As the published metadata of the baselines' answers count it."""
    assert style_of("**a __b__ c** and __d__").bold == 3


def test_a_match_without_a_verdict_in_one_order_is_left_out_of_comparisons_alone() -> None:
    """Its other order must not keep the whole benchmark from being compared."""
    rows = [row(item, 2, order) for item in "abc" for order in (0, 1)]
    rows[0] = rows[0]._replace(status="unreadable", value=None)
    found = by_name(rows)["hard_prompt"]
    assert found.value is not None and found.n_failed == 2
    assert sums_of_score(rows, "hard_prompt", found.value) == question_sums(rows[2:], "hard_prompt")
    assert set(question_sums(rows, "category:coding")) == {"b", "c"}
