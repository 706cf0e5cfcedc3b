"""The batch plan of a training: epochs, shares, lengths, budgets, determinism; collated rows."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from statistics import mean, pstdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError
from kdharness.trainers.data.batches import Collator, plan_batches
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.data.streams import DRAWING


def make_rows(general: int, domain: int = 0) -> list[TrainRow]:
    rows = []
    for i in range(general + domain):
        length = 4 + (i * 7) % 23
        kind, source = ("general", 0) if i < general else ("domain", 1)
        labels = [-100] * 2 + list(range(length - 2))
        rows.append(TrainRow(list(range(length)), labels, kind, source, f"r{i}"))
    return rows


def data_spec(domain: bool = False, **changes: Any) -> DataSpec:
    train: list[dict[str, Any]] = [{"path": "g"}]
    if domain:
        train.append({"path": "d", "kind": "domain"})
    return DataSpec(train=train, **changes)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 90),
    size=st.integers(1, 9),
    accumulation=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_each_epoch_sees_every_row_once(rows: int, size: int, accumulation: int, seed: int) -> None:
    data = make_rows(rows)
    trainer = TrainerSpec(epochs=1, batch_size=size, accumulation=accumulation)
    plan = plan_batches(data, data_spec(), trainer, seed)
    seen = Counter(index for batch in plan.batches for index in batch)
    per_step = size * accumulation
    assert sum(seen.values()) == math.ceil(rows / per_step) * per_step
    assert min(seen[i] for i in range(rows)) >= 1
    assert max(seen.values()) - min(seen[i] for i in range(rows)) <= 1 + per_step // rows


@pytest.mark.parametrize("share", [0.1, 0.37, 0.8])
@pytest.mark.parametrize(("general", "domain"), [(200, 10), (10, 200)])
def test_domain_share_is_independent_of_dataset_sizes(
    share: float, general: int, domain: int
) -> None:
    trainer = TrainerSpec(max_steps=100, batch_size=3, accumulation=2)
    plan = plan_batches(make_rows(general, domain), data_spec(True, domain_share=share), trainer, 1)
    assert plan.share["domain"] == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("groups", ["step", "none"])
def test_rows_of_a_step_do_not_depend_on_how_it_is_split(groups: str) -> None:
    rows, spec = make_rows(60, 60), data_spec(True, domain_share=0.3)

    def steps(size: int, accumulation: int, world: int) -> list[list[int]]:
        trainer = TrainerSpec(
            max_steps=12, batch_size=size, accumulation=accumulation, length_groups=groups
        )
        plan = plan_batches(rows, spec, trainer, 5, world)
        per = plan.per_step
        cut = [plan.batches[i : i + per] for i in range(0, per * 12, per)]
        return [sorted(index for batch in step for index in batch) for step in cut]

    whole = steps(8, 1, 1)
    assert steps(4, 2, 1) == steps(1, 8, 1) == steps(2, 2, 2) == steps(4, 1, 2) == whole


def test_two_ranks_split_one_batch_plan() -> None:
    trainer = TrainerSpec(max_steps=4, batch_size=2, accumulation=2)
    plan = plan_batches(make_rows(50), data_spec(), trainer, 3, world=2)
    first, second = plan.for_rank(0, 2), plan.for_rank(1, 2)
    assert [b for pair in zip(first, second, strict=True) for b in pair] == plan.batches
    assert len(first) == 8


def test_token_budgets_limit_padded_batches_and_total_tokens() -> None:
    trainer = TrainerSpec(max_tokens=900, tokens_per_batch=64)
    rows = make_rows(80)
    plan = plan_batches(rows, data_spec(), trainer, 2)
    for batch in plan.batches:
        assert max(len(rows[i]) for i in batch) * len(batch) <= 64
    assert 900 <= plan.tokens < 900 + 64
    assert plan.padding_share < 0.15


def test_length_bucketing_keeps_padding_low() -> None:
    rows = make_rows(240)
    plan = plan_batches(rows, data_spec(), TrainerSpec(epochs=1, batch_size=8), 1)
    assert plan.padding_share < 0.1


def test_steps_of_several_micro_batches_have_rows_of_many_lengths() -> None:
    """Steps of like rows make some with short ones only, in which each token weighs more."""
    rng = random.Random(0)
    rows = [
        TrainRow([1] * n, [-100, *[1] * (n - 1)], "general", 0, str(i))
        for i, n in enumerate(int(min(2048, 16 + rng.lognormvariate(6, 0.9))) for _ in range(3000))
    ]

    def figures(groups: str) -> tuple[float, float]:
        trainer = TrainerSpec(epochs=1, batch_size=4, accumulation=8, length_groups=groups)
        plan = plan_batches(rows, data_spec(), trainer, 1)
        per = plan.per_step
        steps = [plan.batches[i : i + per] for i in range(0, len(plan.batches), per)]
        means = [mean(len(rows[i]) for batch in step for i in batch) for step in steps]
        return pstdev(means), plan.padding_share

    (by_batch, little), (by_step, least), (chance, much) = map(figures, ("auto", "step", "none"))
    assert by_batch < 0.5 * by_step
    assert chance < by_batch
    assert little < 2 * least < 0.06 < much


def test_micro_batches_are_grouped_alone_and_processes_get_neighbours() -> None:
    rows, spec = make_rows(300, 300), data_spec(True, domain_share=0.3)
    trainer = TrainerSpec(max_steps=20, batch_size=4, accumulation=4)
    plan = plan_batches(rows, spec, trainer, 5, world=2)
    assert plan.share["domain"] == pytest.approx(0.3, abs=0.01)
    for start in range(0, len(plan.batches), plan.per_step):
        step = plan.batches[start : start + plan.per_step]
        assert [len(batch) for batch in step] == [4] * plan.per_step
        keys = [(rows[b[0]].kind, max(len(rows[i]) for i in b)) for b in step]
        assert keys == sorted(keys)


def test_step_groups_and_a_token_budget_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="remove one of them"):
        TrainerSpec(tokens_per_batch=64, length_groups="step")


def test_batch_plan_is_deterministic_per_seed() -> None:
    rows, trainer = make_rows(70), TrainerSpec(epochs=2, batch_size=4)
    assert plan_batches(rows, data_spec(), trainer, 1) == plan_batches(
        rows, data_spec(), trainer, 1
    )
    assert plan_batches(rows, data_spec(), trainer, 1) != plan_batches(
        rows, data_spec(), trainer, 2
    )


@pytest.mark.parametrize(("rows", "steps"), [(95, 2), (64, 1), (65, 2), (1, 1), (30, 1), (96, 2)])
def test_the_last_step_of_an_epoch_is_whole(rows: int, steps: int) -> None:
    trainer = TrainerSpec(epochs=1, batch_size=8, accumulation=8)
    plan = plan_batches(make_rows(rows), data_spec(), trainer, 1)
    assert plan.steps == steps
    assert {index for batch in plan.batches for index in batch} == set(range(rows))


@pytest.mark.parametrize(("epochs", "steps"), [(0.1, 3), (0.11, 4), (1.0, 30), (1.1, 33)])
def test_parts_of_an_epoch_are_counted_without_rounding_errors(epochs: float, steps: int) -> None:
    """A tenth of 30 is a little more than 3 in floating point."""
    plan = plan_batches(make_rows(30), data_spec(), TrainerSpec(epochs=epochs, batch_size=1), 1)
    assert plan.steps == steps


@settings(max_examples=25)
@given(
    general=st.integers(1, 60),
    domain=st.integers(1, 60),
    share=st.floats(0.1, 0.9),
    per_step=st.integers(1, 20),
)
def test_with_a_share_an_epoch_has_all_general_rows(
    general: int, domain: int, share: float, per_step: int
) -> None:
    trainer = TrainerSpec(epochs=1, batch_size=per_step)
    plan = plan_batches(make_rows(general, domain), data_spec(True, domain_share=share), trainer, 1)
    assert {i for batch in plan.batches for i in batch} >= set(range(general))


def test_a_token_budget_ends_after_every_row() -> None:
    trainer = TrainerSpec(epochs=1, tokens_per_batch=60)
    plan = plan_batches(make_rows(77), data_spec(), trainer, 3)
    assert {index for batch in plan.batches for index in batch} == set(range(77))


@settings(max_examples=60)
@given(
    general=st.integers(1, 60),
    domain=st.integers(1, 40),
    share=st.sampled_from([None, 0.3, 0.75]),
    budget=st.sampled_from([None, 40, 200]),
    epochs=st.sampled_from([1.0, 2.0]),
)
def test_an_epoch_leaves_no_row_out(
    general: int, domain: int, share: float | None, budget: int | None, epochs: float
) -> None:
    """More rows of one kind were taken for all of the other: up to six were never seen."""
    rows = make_rows(general, domain)
    trainer = TrainerSpec(epochs=epochs, tokens_per_batch=budget, batch_size=3)
    plan = plan_batches(rows, data_spec(True, domain_share=share), trainer, 5)
    seen = Counter(index for batch in plan.batches for index in batch)
    needed = range(general if share is not None else general + domain)
    assert min(seen[index] for index in needed) >= epochs
    # What began with the former rule goes on with it.
    former = plan_batches(rows, data_spec(True, domain_share=share), trainer, 5, drawing=3)
    assert plan.batches[: len(former.batches)] == former.batches


def drawn_by_source(
    sizes: Sequence[int], weights: Sequence[float], drawing: int = DRAWING
) -> Counter[int]:
    """Return how often the rows of each source are drawn in 4,000 draws."""
    rows = [
        TrainRow([1, 2, 3], [-100, 2, 3], "general", source, f"{source}/{i}")
        for source, size in enumerate(sizes)
        for i in range(size)
    ]
    spec = DataSpec(train=[{"path": str(i), "weight": w} for i, w in enumerate(weights)])
    plan = plan_batches(rows, spec, TrainerSpec(max_steps=1000, batch_size=4), 1, drawing=drawing)
    return Counter(rows[i].source for batch in plan.batches for i in batch)


@pytest.mark.parametrize("grouped", ["micro-batch", "step", "none"])
@pytest.mark.parametrize(
    ("sizes", "weights", "epochs"),
    [
        ((30, 30), (1, 3), 2),
        ((30, 30), (1, 1.01), 1),
        ((200, 20), (1, 10), 2),
        ((12, 40), (4, 1), 4),
    ],
)
def test_rows_with_weights_are_spread_over_the_epoch(
    sizes: Sequence[int], weights: Sequence[float], epochs: int, grouped: str
) -> None:
    """A micro-batch was copies of one row, and half of the rows were never seen."""
    lengths = random.Random(2)
    rows = [
        TrainRow(
            list(range(n := lengths.randint(3, 40))), [-100] * (n - 1) + [1], "general", source, ""
        )
        for source, size in enumerate(sizes)
        for _ in range(size)
    ]
    spec = DataSpec(train=[{"path": str(i), "weight": w} for i, w in enumerate(weights)])
    trainer = TrainerSpec(epochs=epochs, batch_size=4, accumulation=1, length_groups=grouped)
    plan = plan_batches(rows, spec, trainer, 1)
    drawn = Counter(index for batch in plan.batches for index in batch)
    assert all(len(set(batch)) == len(batch) for batch in plan.batches)
    whole = sum(size * weight for size, weight in zip(sizes, weights, strict=True))
    for index, row in enumerate(rows):
        expected = drawn.total() * weights[row.source] / whole
        # A row may still be in the pool at the end.
        assert abs(drawn[index] - expected) <= 2, (index, expected)


@pytest.mark.parametrize(
    ("sizes", "weights", "share"),
    [
        ((20, 20), (3, 1), 3 / 4),
        ((200, 20), (1, 1), 10 / 11),
        # A weight that is hardly another one hardly changes anything.
        ((200, 20), (1, 1.01), 200 / 220.2),
        ((200, 20), (1, 10), 1 / 2),
        ((200, 20), (0.1, 1), 1 / 2),
        ((20, 200), (2, 2), 1 / 11),
    ],
)
def test_rows_are_drawn_by_their_number_and_their_sources_weight(
    sizes: Sequence[int], weights: Sequence[float], share: float
) -> None:
    drawn = drawn_by_source(sizes, weights)
    assert drawn[0] / drawn.total() == pytest.approx(share, abs=0.03)


def test_a_run_of_an_older_version_draws_sources_by_their_weight_alone() -> None:
    drawn = drawn_by_source((200, 20), (1, 1.01), drawing=1)
    assert drawn[0] / drawn.total() == pytest.approx(0.5, abs=0.02)
    trainer = TrainerSpec(epochs=1, batch_size=64)
    assert plan_batches(make_rows(95), data_spec(), trainer, 1, drawing=1).steps == 1


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_weight_without_another_source_of_its_kind_is_refused(share: float | None) -> None:
    train = [{"path": "g"}, {"path": "d", "kind": "domain", "weight": 5}]
    spec = DataSpec(train=train, domain_share=share)
    with pytest.raises(ConfigError, match="weight: 5 has no effect: d is the only source") as found:
        plan_batches(make_rows(5, 5), spec, TrainerSpec(), 1)
    assert found.value.where == "data.train.1.weight" and "domain_share" in str(found.value.hint)


def test_a_weight_counts_where_any_kind_of_its_rows_has_another_source() -> None:
    kinds = ["law", "law", "med"]
    rows = [
        TrainRow([1, 2], [-100, 2], kind, source, "")
        for source, kind in zip([0, 1, 1], kinds, strict=True)
    ]
    spec = DataSpec(train=[{"path": "a"}, {"path": "b", "weight": 2}])
    assert plan_batches(rows, spec, TrainerSpec(max_steps=3), 1).steps == 3


def test_domain_share_without_domain_rows_is_rejected() -> None:
    with pytest.raises(ConfigError, match="only general rows"):
        plan_batches(make_rows(5), data_spec(domain_share=0.5), TrainerSpec(), 1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_collator_pads_labels_with_the_ignore_index(side: str) -> None:
    rows = [
        {"index": 4, "input_ids": [5, 6], "labels": [-100, 6], "kind": "domain"},
        {"index": 1, "input_ids": [7, 8, 9], "labels": [-100, 8, 9], "kind": "general"},
    ]
    batch = Collator(0, ["domain", "general"], side)(rows)
    pad = [[5, 6, 0]] if side == "right" else [[0, 5, 6]]
    assert batch["input_ids"].tolist() == [*pad, [7, 8, 9]]
    assert batch["labels"].ne(-100).sum() == 3
    assert batch["attention_mask"].sum() == 5
    assert batch["kind"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_steps": 10**9}, "max_steps"),
        ({"epochs": 10**6, "batch_size": 1}, "epochs"),
        ({"epochs": 10**6, "max_steps": 10**9}, "max_steps"),
        ({"epochs": 1e9, "tokens_per_batch": 64}, "epochs"),
        ({"epochs": 1e9, "batch_size": 4096}, "epochs"),
        ({"max_tokens": 10**12}, "max_tokens"),
        ({"max_tokens": 10**12, "max_steps": 10**8, "tokens_per_batch": 64}, "max_steps"),
    ],
)
def test_more_steps_than_can_be_planned_are_refused(settings: dict[str, Any], field: str) -> None:
    """A run until early_stop ends it never began: every step was planned first."""
    with pytest.raises(ConfigError, match="or more steps: a run has at most 1,000,000") as caught:
        plan_batches(make_rows(8), data_spec(), TrainerSpec(**settings), 1)
    assert caught.value.where == f"trainer.{field}"


def test_few_steps_of_many_epochs_are_planned() -> None:
    plan = plan_batches(make_rows(8), data_spec(), TrainerSpec(epochs=10**6, max_steps=3), 1)
    assert plan.steps == 3


def test_planning_ends_where_the_bound_is_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """One short row makes the number of steps that a budget takes at least a low one."""
    monkeypatch.setattr("kdharness.trainers.data.batches.MOST_STEPS", 50)
    trainer = TrainerSpec(epochs=20, tokens_per_batch=64)
    with pytest.raises(ConfigError, match="51 or more steps: a run has at most 50") as caught:
        plan_batches(make_rows(40), data_spec(), trainer, 1)
    assert caught.value.where == "trainer.epochs"
