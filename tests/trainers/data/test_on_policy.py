"""Which rows are on-policy, and from where: pure functions of seed, step and row."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.data.on_policy import (
    answer_start,
    is_on_policy,
    longest_answers,
    prompt_of,
    sampled_row,
    sampling_seed,
    with_sampled,
)

ROW = TrainRow([5, 6, 7, 8, 9, 1], [-100, -100, 7, -100, 9, 1], "domain", 0, "rows.jsonl:1")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_of_rows_is_kept(share: float) -> None:
    chosen = sum(is_on_policy(3, step, row, share) for step in range(1, 101) for row in range(100))
    assert abs(chosen / 10_000 - share) < 4 * math.sqrt(share * (1 - share) / 10_000)


def test_all_rows_are_on_policy_with_a_share_of_one() -> None:
    assert all(is_on_policy(0, step, row, 1.0) for step in range(50) for row in range(50))


def test_choices_and_draws_change_with_seed_step_and_row() -> None:
    places = [(seed, step, row) for seed in range(8) for step in range(8) for row in range(8)]
    assert len({sampling_seed(*place) for place in places}) == len(places)
    chosen = [is_on_policy(*place, 0.5) for place in places]
    assert chosen == [is_on_policy(*place, 0.5) for place in places]
    # 1 and 11 are not 11 and 1: the parts of a place are told apart.
    assert sampling_seed(1, 11, 1) != sampling_seed(11, 1, 1) != sampling_seed(1, 1, 11)


@given(st.lists(st.booleans(), min_size=2, max_size=20).filter(lambda marks: any(marks[1:])))
def test_the_prompt_ends_where_the_last_answer_begins(marks: list[bool]) -> None:
    labels = [place if mark else -100 for place, mark in enumerate(marks)]
    start = answer_start(labels)
    last = max(place for place, mark in enumerate(marks) if mark)
    assert 1 <= start <= max(last, 1)
    assert all(marks[start : last + 1])
    assert start == 1 or not marks[start - 1]


def test_prompt_and_answer_stay_within_the_row_length() -> None:
    spec = OnPolicySpec(share=1, max_new_tokens=8)
    free = prompt_of(ROW, 0, 1, 0, spec, 64)
    assert free is not None and list(free.ids) == [5, 6, 7, 8] and free.limit == 8
    tight = prompt_of(ROW, 0, 1, 0, spec, 7)
    assert tight is not None and tight.limit == 3
    assert prompt_of(ROW, 0, 1, 0, spec, 4) is None


def test_nothing_but_the_sampled_answer_is_labelled() -> None:
    """Other trainers counted the prompt, padding, or earlier answers as if they were sampled."""
    row = sampled_row(ROW, [5, 6, 7, 8], [11, 12])
    assert row.input_ids == [5, 6, 7, 8, 11, 12]
    assert row.labels == [-100] * 4 + [11, 12] and row.labelled == 2
    assert (row.kind, row.where) == (ROW.kind, ROW.where)


def test_a_plan_counts_answers_at_their_longest_and_in_their_own_steps() -> None:
    spec = OnPolicySpec(share=0.5, max_new_tokens=3)
    steps = [(step, row) for step in range(1, 5) for row in range(6)]
    sizes = longest_answers([ROW] * 6, steps, 9, spec, 64)
    assert sizes == {place: 3 for place in steps if is_on_policy(9, *place, 0.5)}
    step, row = next(iter(sizes))
    other = next(number for number in range(1, 5) if (number, row) not in sizes)
    assert len(with_sampled([ROW] * 6, [row], step, sizes)[0]) == 4 + 3
    assert with_sampled([ROW] * 6, [row], other, sizes) == [ROW]
