"""The profile of forgetting: its parts, its corrections, and what KL predicts."""

from __future__ import annotations

import json
import random

import pytest

from kdharness.harness.analysis.compare import compare_sides, sides_of
from kdharness.harness.analysis.forgetting import (
    BEHAVIOUR,
    CLOSENESS,
    GENERAL,
    INSTRUCTIONS,
    KNOWLEDGE,
    OPEN,
    Change,
    Profile,
    predictions,
    profile_of,
)
from kdharness.harness.paths import Paths
from kdharness.harness.stats.inference import Difference
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Finish, Judgment, JudgmentStatus
from support.answers import make_answer
from support.commands import CommandLine

N = 40


def add_judgments(
    store: Store,
    name: str,
    bench: str,
    metric: str,
    values: list[float],
    *,
    judge: str = "exact",
    baseline: str = "",
) -> None:
    store.add_judgments(
        Judgment(
            id=f"{name}/{bench}/{metric}/{number}",
            checkpoint=f"id-{name}",
            bench=bench,
            revision="r",
            item=str(number),
            turn=1,
            category="",
            judge=judge,
            metric=metric,
            status=JudgmentStatus.OK,
            created=1.0,
            value=value,
            baseline=baseline,
        )
        for number, value in enumerate(values)
    )


def add_answers(store: Store, name: str, text: str, finish: Finish, **changes: str) -> None:
    store.add_answers(
        make_answer(
            text.format(n=number),
            id=f"{name}/{number}/{changes}",
            checkpoint=f"id-{name}",
            item=str(number),
            finish=finish,
            **{"bench": "ifeval", **changes},
        )
        for number in range(N)
    )


@pytest.fixture
def trained(store: Store) -> Store:
    """Return a store with a reference and a checkpoint that forgot some of everything."""
    rng = random.Random(0)
    for name in ("ref", "tuned"):
        store.add_checkpoint(Checkpoint(f"id-{name}", name, "sft", "", 1.0))
    store.set_bench_note("lm-eval-quiz", "r", {"scorer": "lm-eval", "flags": []})
    follows = [float(rng.random() < 0.7) for _ in range(N)]
    forgets = [value if number % 2 else 0.0 for number, value in enumerate(follows)]
    for name, values in (("ref", follows), ("tuned", forgets)):
        add_judgments(store, name, "ifeval", "prompt_strict", values)
        add_judgments(store, name, "lm-eval-quiz", "acc", values, judge="imported:lm-eval")
    for name, shift in (("ref", 0.0), ("tuned", 0.5)):
        losses = [2.0 + rng.gauss(shift, 0.1) for _ in range(N)]
        add_judgments(store, name, "heldout", "general_loss", losses)
        add_judgments(store, name, "heldout", "domain_loss", [5 - shift] * N)
        ratings = [float(rng.choice([5, 6, 7])) for _ in range(N)]
        add_judgments(store, name, "mt-bench", "rating", ratings, judge="openai:j")
    add_judgments(
        store, "tuned", "heldout", "domain_kl", [0.3 + n / 100 for n in range(N)], baseline="id-ref"
    )
    add_answers(store, "ref", "A whole answer to {n}.", Finish.STOP)
    add_answers(store, "tuned", "ja " * 40, Finish.LENGTH)
    return store


def profile(store: Store, paths: Paths, *names: str, **more: set[str]) -> Profile:
    sides = sides_of(store, ["ref", *names])
    return profile_of(store, sides, compare_sides(store, paths, sides), **more)


def by_metric(found: Profile) -> dict[tuple[str, str], Change]:
    return {(change.part, change.metric): change for change in found.changes}


def test_every_part_is_filled_and_judged(trained: Store, paths: Paths) -> None:
    found = by_metric(profile(trained, paths, "tuned"))
    assert found[INSTRUCTIONS, "prompt_strict"].change == "worse"
    assert found[KNOWLEDGE, "acc"].change == "worse"
    assert found[GENERAL, "general_loss"].change == "worse"
    assert found[OPEN, "score"].change == "not told apart"
    assert found[BEHAVIOUR, "ended"].change == "worse"
    assert found[BEHAVIOUR, "repeated"].change == "worse"
    assert found[BEHAVIOUR, "length"].change == "changed"
    assert found[BEHAVIOUR, "same_script"].change == "not told apart"
    # A domain's own loss is what was trained for.
    assert (GENERAL, "domain_loss") not in found
    kl = found[CLOSENESS, "domain_kl"]
    assert kl.value == pytest.approx(0.495) and kl.reference is None and kl.change == ""
    assert kl.gap.low is not None and kl.gap.low < kl.value < (kl.gap.high or 0)


def test_p_values_are_corrected_over_all_parts_of_a_checkpoint(
    trained: Store, paths: Paths
) -> None:
    changes = [c for c in profile(trained, paths, "tuned").changes if c.part != CLOSENESS]
    ranked = sorted(changes, key=lambda change: change.gap.p)
    smallest = ranked[0]
    assert smallest.p_holm == pytest.approx(min(1.0, smallest.gap.p * len(changes)))
    before = {(c.bench, c.metric): c.p_holm for c in changes}
    trained.add_checkpoint(Checkpoint("id-third", "third", "sft", "", 1.0))
    add_judgments(trained, "third", "ifeval", "prompt_strict", [1.0] * N)
    both = profile(trained, paths, "tuned", "third").changes
    after = {
        (c.bench, c.metric): c.p_holm
        for c in both
        if c.checkpoint == "tuned" and c.part != CLOSENESS
    }
    assert after == before


def test_answers_under_other_settings_are_not_compared(trained: Store, paths: Paths) -> None:
    trained.add_checkpoint(Checkpoint("id-other", "other", "sft", "", 1.0))
    add_answers(trained, "other", "short", Finish.STOP, settings="max_new_tokens=8")
    found = profile(trained, paths, "other")
    assert BEHAVIOUR in found.missing and not found.changes


def test_behaviour_on_a_domain_is_no_forgetting(trained: Store, paths: Paths) -> None:
    for name, text in (("ref", "long " * 20), ("tuned", "short")):
        add_answers(trained, name, text, Finish.STOP, bench="shop")
    benches = {c.bench for c in profile(trained, paths, "tuned").changes if c.part == BEHAVIOUR}
    assert benches == {"ifeval"}
    asked = profile(trained, paths, "tuned", benches={"shop"})
    assert {c.bench for c in asked.changes if c.part == BEHAVIOUR} == {"ifeval", "shop"}


def test_distance_from_another_teacher_is_not_shown(trained: Store, paths: Paths) -> None:
    add_judgments(trained, "tuned", "heldout", "general_kl", [0.1] * N, baseline="id-else")
    metrics = {c.metric for c in profile(trained, paths, "tuned").changes if c.part == CLOSENESS}
    assert metrics == {"domain_kl"}


def test_parts_without_figures_are_named(store: Store, paths: Paths) -> None:
    for name in ("ref", "new"):
        store.add_checkpoint(Checkpoint(f"id-{name}", name, "sft", "", 1.0))
    found = profile(store, paths, "new")
    assert found.changes == [] and len(found.missing) == 6


def a_change(name: str, metric: str, value: float, part: str = GENERAL) -> Change:
    gap = Difference(value, None, None, 0.5, 40, None)
    return Change(part, name, "heldout", metric, "exact", 0.0, value, gap)


def test_prediction_is_a_line_over_checkpoints_or_says_too_few() -> None:
    rng = random.Random(1)
    changes = []
    for number in range(6):
        kl = 0.1 * (number + 1)
        changes += [
            a_change(f"c{number}", "domain_kl", kl, CLOSENESS),
            a_change(f"c{number}", "general_loss", 2 * kl + rng.gauss(0, 0.01)),
        ]
    changes.append(a_change("c0", "other_writer_loss", 0.2))
    found = {p.metric: p for p in predictions(changes)}
    line = found["general_loss"].line
    assert line is not None and line.low < 2 < line.high and line.r > 0.99
    assert found["other_writer_loss"].line is None and found["other_writer_loss"].n == 1


def test_each_checkpoint_that_is_left_out_is_named(trained: Store, kd: CommandLine) -> None:
    """A checkpoint that lacks a benchmark others have must not be missing in silence."""
    trained.add_checkpoint(Checkpoint(id="id-few", name="few", method="sft", path="", created=1.0))
    trained.set_bench_note("lm-eval-new", "r", {"scorer": "lm-eval", "flags": []})
    for name, count in (("ref", 40), ("tuned", 40), ("few", 3)):
        values = [float(n % 2) for n in range(count)]
        add_judgments(trained, name, "lm-eval-new", "acc", values, judge="imported:lm-eval")
    _, _, err = kd("forgetting", "ref", "tuned", "few", "--what", "profile")
    left = err.split("fewer than 5 items in common with the reference: ")[1]
    assert "lm-eval-new (few)" in left and "ifeval (few)" in left and "tuned" not in left
    assert "lm-eval-new acc" in err.split("the same in all: ")[1].splitlines()[0]


def test_the_command_prints_tables_and_rows(trained: Store, kd: CommandLine) -> None:
    code, out, err = kd("forgetting", "ref", "tuned")
    assert code == 0 and "instruction following" in out and "too few checkpoints" in out
    assert "nothing on" not in err
    code, out, _ = kd("forgetting", "ref", "tuned", "--format", "json")
    rows = json.loads(out)
    assert code == 0 and {row["part"] for row in rows} == {
        INSTRUCTIONS,
        OPEN,
        KNOWLEDGE,
        GENERAL,
        BEHAVIOUR,
        CLOSENESS,
    }
    assert {row["change"] for row in rows if row["part"] == CLOSENESS} == {""}
    code, out, _ = kd("forgetting", "ref", "tuned", "--what", "prediction", "--format", "json")
    assert code == 0 and json.loads(out)[0]["slope"] is None
    code, _, err = kd("forgetting", "ref", "nowhere")
    assert code != 0 and "nowhere" in err
