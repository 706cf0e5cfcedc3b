"""Batches of prompts that are read together, against every possible cut."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.judges.engines.batching import (
    Limits,
    batches_of,
    cheapest_cuts,
    common_prefix,
    generation_batches,
)


def test_what_prompts_share() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4, 5]]) == 2
    # One token at least is left of each, to be asked for what follows it.
    assert common_prefix([[1, 2], [1, 2, 3]]) == 1 == common_prefix([[1, 2]] * 2)
    assert common_prefix([[1], [2]]) == 0


@settings(max_examples=80)
@given(
    prices=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    start=st.integers(0, 20),
    most=st.integers(1, 4),
)
def test_the_cheapest_cuts_are_those_of_all_cuts(prices: list[int], start: int, most: int) -> None:
    """A part costs its dearest element once for each, as rows of one batch do."""

    def cost(begin: int, end: int) -> int:
        return start + (end - begin) * max(prices[begin:end])

    count = len(prices)
    found = cheapest_cuts(
        count, lambda end: (cost(b, end) for b in range(end - 1, max(-1, end - 1 - most), -1))
    )
    every = [
        sum(cost(a, b) for a, b in pairwise((0, *inner, count)))
        for number in range(count)
        for inner in combinations(range(1, count), number)
        if all(b - a <= most for a, b in pairwise((0, *inner, count)))
    ]
    assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])] and found[-1][1] == count
    assert sum(cost(a, b) for a, b in found) == min(every)


@settings(max_examples=60)
@given(
    prompts=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12), max_size=14),
    rows=st.integers(1, 5),
    tokens=st.integers(1, 40),
)
def test_every_prompt_is_read_once_and_within_the_limits(
    prompts: list[list[int]], rows: int, tokens: int
) -> None:
    batches = batches_of(prompts, Limits(rows, tokens, 2))
    assert sorted(at for batch in batches for at in batch) == list(range(len(prompts)))
    for batch in batches:
        longest = max(len(prompts[at]) for at in batch)
        assert len(batch) == 1 or (len(batch) <= rows and len(batch) * longest <= tokens)


def test_one_long_prompt_does_not_lengthen_the_others() -> None:
    template = list(range(100, 200))
    prompts = [[*template, *range(1000 * n, 1000 * n + 40 + n)] for n in range(2, 10)]
    prompts += [[*template, *range(50_000, 52_000)]]
    batches = batches_of(prompts, Limits(32, 1 << 20, 32))
    assert sorted(map(len, batches)) == [1, 8] and batches[0] == [8]


def test_answers_to_one_question_are_read_with_it() -> None:
    """Five answers to each of four questions of unlike length, under one template."""
    template = list(range(80))
    prompts = [
        [*template, *([1000 + q] * (100 + 60 * q)), *([5000 + a] * (20 + a))]
        for a in range(5)
        for q in range(4)
    ]
    batches = batches_of(prompts, Limits(16, 1 << 20, 32))
    assert sorted(sorted(batch) for batch in batches) == [
        [q + 4 * a for a in range(5)] for q in range(4)
    ]


def test_short_answers_are_worth_more_batches_than_long_ones() -> None:
    prompts = [40] * 12 + [400] * 4
    few = generation_batches([(n, 16) for n in prompts], Limits(16, 1 << 20, 32))
    many = generation_batches([(n, 1024) for n in prompts], Limits(16, 1 << 20, 32))
    assert sorted(map(len, few)) == [4, 12] and len(many) == 1
    assert {prompts[at] for at in few[0]} == {400}


@settings(max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=20),
    rows=st.integers(1, 5),
    tokens=st.integers(1, 120),
)
def test_every_row_is_generated_once_and_within_the_limits(
    sizes: list[tuple[int, int]], rows: int, tokens: int
) -> None:
    batches = generation_batches(sizes, Limits(rows, tokens, 8))
    assert sorted(at for batch in batches for at in batch) == list(range(len(sizes)))
    for batch in batches:
        longest = max(sizes[at][0] for at in batch)
        assert len(batch) == 1 or (len(batch) <= rows and len(batch) * longest <= tokens)
