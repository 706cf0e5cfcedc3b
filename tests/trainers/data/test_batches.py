"""The batch plan of a training: epochs, shares, lengths, budgets, determinism; collated rows."""

from __future__ import annotations

import random
from collections import Counter
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
    assert sum(seen.values()) == max(1, round(rows / per_step)) * per_step
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


def test_source_weights_set_the_sampling_ratio() -> None:
    rows = [TrainRow([1, 2, 3], [-100, 2, 3], "general", i % 2, str(i)) for i in range(40)]
    spec = DataSpec(train=[{"path": "a", "weight": 3}, {"path": "b", "weight": 1}])
    plan = plan_batches(rows, spec, TrainerSpec(max_steps=100, batch_size=4), 1)
    drawn = Counter(rows[i].source for batch in plan.batches for i in batch)
    assert drawn[0] / (drawn[0] + drawn[1]) == pytest.approx(0.75, abs=0.03)


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
