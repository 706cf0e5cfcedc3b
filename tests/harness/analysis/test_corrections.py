"""Corrected scores on the leaderboard and in comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from kdharness.harness.analysis.compare import compare_all
from kdharness.harness.analysis.labelling import label_tasks, open_tasks
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_bookkeeping, is_headline
from kdharness.harness.analysis.prompts import BenchTexts
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from support.commands import CommandLine
from support.labelled_home import JUDGE, add_labels, add_pairs, add_ratings

RNG = np.random.default_rng(1)
QUALITY = np.clip(np.round(RNG.normal(5.5, 1.5, 60)), 1, 8)
"""What people say of 60 answers."""
GENEROUS = np.clip(np.round(QUALITY + 1.5 + RNG.normal(0, 0.4, 60)), 1, 10)


def by_metric(store: Store, paths: Paths, **rest: object) -> dict[str, Score]:
    return {s.metric: s for s in leaderboard(store, paths, checkpoints=["kd"], **rest)}  # type: ignore[arg-type]


def test_a_generous_judges_score_is_corrected_beside_the_raw_one(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", list(GENEROUS))
        before = by_metric(store, paths)
        add_labels(store, "kd", list(QUALITY[:20]))
        after = by_metric(store, paths)
    assert {name: after[name] for name in before} == before
    corrected, raw = after["corrected_score"], after["score"]
    assert corrected.judge == raw.judge == JUDGE and raw.value is not None
    assert corrected.value is not None and abs(corrected.value - QUALITY.mean()) < 0.4
    assert raw.value > QUALITY.mean() + 1
    assert corrected.n == 20 and "labels:20 of 60" in corrected.flags
    assert after["n_labels"].value == 20
    assert "n_labels_to_halve" not in after, "not even by labelling all 60"
    kappa, rank = after["agreement_people_kappa"], after["agreement_people_spearman"]
    assert kappa.value is not None and rank.value is not None and kappa.value < rank.value
    assert is_headline("corrected_score") and is_bookkeeping("agreement_people_kappa")


def test_without_labels_and_as_published_nothing_is_added(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", list(GENEROUS))
        assert not [name for name in by_metric(store, paths) if "corrected" in name]
        add_labels(store, "kd", list(QUALITY[:20]))
        published = by_metric(store, paths, as_published=True)
        assert not [name for name in published if "corrected" in name]


def test_several_people_count_by_their_mean_and_chosen_answers_are_flagged(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", [5.0] * 10)
        add_labels(store, "kd", [4.0] * 10, labeller="ann")
        add_labels(store, "kd", [6.0] * 10, labeller="bob")
        assert by_metric(store, paths)["corrected_score"].value == 5.0
        assert "chosen-labels" not in by_metric(store, paths)["corrected_score"].flags
        add_labels(store, "kd", [8.0], labeller="eve", sampled=False)
        assert by_metric(store, paths)["corrected_score"].value == pytest.approx(5.1)
        assert "chosen-labels" in by_metric(store, paths)["corrected_score"].flags


def test_how_many_more_labels_halve_the_interval(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", [7.0] * 60)
        add_labels(store, "kd", [4.0, 8.0] * 5)
        more = by_metric(store, paths)["n_labels_to_halve"].value
        assert more is not None and 20 <= more <= 30
        half = by_metric(store, paths)["corrected_score"]
        add_labels(store, "kd", ([4.0, 8.0] * 30)[: 10 + int(more)])
        full = by_metric(store, paths)["corrected_score"]
    widths = [(score.ci_high or 0.0) - (score.ci_low or 0.0) for score in (half, full)]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.25)


def test_labels_of_first_turns_alone_are_flagged(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", list(GENEROUS[:20]), turns=2)
        add_labels(store, "kd", list(QUALITY[:10]))
        assert "chosen-labels" in by_metric(store, paths)["corrected_score"].flags
        add_labels(store, "kd", list(QUALITY[:9]), turn=2)
        assert "chosen-labels" not in by_metric(store, paths)["corrected_score"].flags
        assert by_metric(store, paths)["n_labels"].value == 19


def test_expected_ratings_have_a_corrected_score_of_their_own(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", list(GENEROUS))
        add_ratings(store, "kd", list(GENEROUS / 2), metric="expected_rating", revision="2")
        store.set_bench_note("mt-bench", "2", {"flags": ["rating:expected"], "used": 6.0})
        add_labels(store, "kd", list(QUALITY[:20]))
        scores = by_metric(store, paths)
    assert {"corrected_score", "corrected_expected_rating"} <= set(scores)
    for name in ("corrected_score", "corrected_expected_rating"):
        assert scores[name].value == pytest.approx(QUALITY.mean(), abs=0.5)


def test_comparisons_are_corrected_as_win_rates(paths: Paths) -> None:
    judged = [1.0] * 45 + [0.0] * 15
    people = [1.0, 0.0] * 15
    with Store(paths.store) as store:
        add_pairs(store, "kd", "base", judged)
        add_labels(store, "kd", people, bench="mt-bench-pair", baseline="base")
        scores = by_metric(store, paths)
    corrected = scores["corrected_win_rate_adjusted"]
    assert scores["win_rate_adjusted"].value == 0.75
    assert corrected.value == pytest.approx(0.5, abs=0.1) and corrected.n == 30
    assert corrected.ci_low is not None and corrected.ci_high is not None
    assert 0 <= corrected.ci_low < 0.5 < corrected.ci_high <= 1


def test_preferences_are_corrected_in_percent(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_pairs(store, "kd", "base", [1.5, 1.9, 1.1, 2.0] * 10, metric="preference")
        add_labels(store, "kd", [1.0, 0.0] * 10, bench="alpaca-eval-2", baseline="base")
        scores = by_metric(store, paths)
    corrected = scores["corrected_win_rate"]
    assert scores["win_rate"].value == pytest.approx(62.5)
    assert corrected.value is not None and 30 < corrected.value < 75


def differences(store: Store, paths: Paths) -> dict[str, tuple[float, str, int]]:
    return {
        c.metric: (c.gap.value, c.verdict, c.gap.n)
        for c in compare_all(store, paths, ["kd", "dae"])
    }


def fill_two(store: Store, labels: int) -> None:
    """Add `dae`, which people rate 1.5 above `kd`, and which the judge rates 1.5 below it."""
    add_ratings(store, "kd", list(GENEROUS))
    add_ratings(store, "dae", list(np.maximum(GENEROUS - 1.5, 1)))
    add_labels(store, "kd", list(QUALITY[:labels]))
    add_labels(store, "dae", list(QUALITY[:labels] + 1.5 + np.arange(labels) % 2 / 4))


def test_differences_are_corrected_over_the_answers_of_both(paths: Paths) -> None:
    with Store(paths.store) as store:
        fill_two(store, 20)
        found = differences(store, paths)
        raw = found["score"]
        store.db.execute("DELETE FROM labels")
        assert differences(store, paths)["score"] == raw
    assert raw[0] < -1 and raw[1] == "worse"
    assert found["corrected_score"] == (pytest.approx(1.625, abs=0.1), "better", 20)


def test_there_is_no_verdict_below_five_labelled_questions(paths: Paths) -> None:
    with Store(paths.store) as store:
        fill_two(store, 4)
        gap, verdict, n = differences(store, paths)["corrected_score"]
    assert (gap, verdict, n) == (pytest.approx(1.625, abs=0.1), "not told apart", 4)


def test_labels_of_one_side_alone_give_no_difference(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", list(GENEROUS))
        add_ratings(store, "dae", list(GENEROUS))
        add_labels(store, "kd", list(QUALITY[:20]))
        assert "corrected_score" not in differences(store, paths)


def test_every_listing_shows_it(paths: Paths, kd: CommandLine) -> None:
    with Store(paths.store) as store:
        fill_two(store, 20)
    table = kd("leaderboard")
    assert "corrected_score" in table[1] and "agreement_people_kappa" not in table[1]
    assert "labels: corrected by people's labels" in table[2]
    assert "agreement_people_kappa" in kd.ok("leaderboard", "--all")
    rows = kd.json("leaderboard", "--metric", "corrected_score")
    assert {row["checkpoint"] for row in rows} == {"kd", "dae"}
    assert all(math.isfinite(row["ci_low"]) for row in rows)
    assert "corrected_score" in kd.ok("leaderboard", "--format", "csv")
    assert "corrected_score" in kd.ok("compare", "kd", "dae", "--what", "differences")


def test_an_answer_generated_again_loses_its_label(paths: Paths) -> None:
    def counted(changed: Sequence[int]) -> float | None:
        with Store(paths.store) as store:
            for n in changed:
                store.db.execute("UPDATE answers SET text = 'new' WHERE id = ?", [f"a-kd-1-{n}"])
            return by_metric(store, paths)["n_labels"].value

    with Store(paths.store) as store:
        add_ratings(store, "kd", list(GENEROUS))
        add_labels(store, "kd", list(QUALITY[:20]))
    assert counted([]) == 20 and counted([0, 1, 2]) == 17


def test_a_pair_of_two_checkpoints_is_asked_for_once_and_counts_for_both(paths: Paths) -> None:
    with Store(paths.store) as store:
        outcomes = [1.0, 1.0, 0.0, 1.0] * 5
        add_pairs(store, "kd", "dae", outcomes)
        add_pairs(store, "dae", "kd", [1 - outcome for outcome in outcomes])
        sides = [c for c in store.checkpoints() if c.name in ("kd", "dae")]
        tasks = label_tasks(store, "mt-bench-pair", sides, BenchTexts())
        assert len(tasks) == 40 and len(open_tasks(tasks, [], "ann", 0)) == 20
        add_labels(store, "kd", [1.0] * 8 + [0.0] * 2, bench="mt-bench-pair", baseline="dae")
        assert len(open_tasks(tasks, store.labels(), "ann", 0)) == 10
        scores = {
            s.checkpoint: s.value
            for s in leaderboard(store, paths)
            if s.metric == "corrected_win_rate_adjusted"
        }
    assert scores["kd"] is not None and scores["kd"] + (scores["dae"] or 0) == pytest.approx(1)


def test_other_revisions_verdicts_of_the_same_answers_are_not_compared_twice(paths: Paths) -> None:
    with Store(paths.store) as store:
        fill_two(store, 20)
        for name, shift in (("kd", 0.0), ("dae", 1.0)):
            judged = list(np.clip(GENEROUS - 1 + shift, 1, 10))
            add_ratings(store, name, judged, revision="2", created=900.0)
        store.set_bench_note("mt-bench", "2", {"flags": [], "used": 9.0})
        corrected = [
            c for c in compare_all(store, paths, ["kd", "dae"]) if c.metric == "corrected_score"
        ]
        assert [c.revision for c in corrected] == ["2"]
