"""Check the trade-off's intervals by simulation with known true values."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from kdharness.harness import cli
from kdharness.harness.paths import Paths
from kdharness.harness.stats.answer import verdict_at
from kdharness.harness.stats.plane import AnsweredItems, Plane, draw_plane
from kdharness.harness.stats.tradeoff import (
    above_curve,
    pick,
    recipe_stats,
    seed_interval,
    trade_off_stats,
)
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, Run, RunStatus, digest

# True scores (general, domain). DAE has retention 0.98 and gain 0.9; the merges are on a
# line whose gain at retention 0.98 is about 0.3.
TRUE_SCORES = {
    "ref": (6.0, 0.2),
    "expert": (4.8, 0.7),
    "merge-25": (5.94, 0.3),
    "merge-50": (5.7, 0.45),
    "dae": (5.88, 0.65),
    "twin": (5.94, 0.3),
}
PLANE = Plane("ref", "expert", curve=("merge-25", "merge-50"))
TRUTH = {"dae": {"gain": 0.9, "retention": 0.98}, "twin": {"gain": 0.2, "retention": 0.99}}
TRIALS, N_ITEMS = 150, 80


def simulated_items(
    rng: np.random.Generator, n: int = N_ITEMS, **levels: tuple[float, float]
) -> list[AnsweredItems]:
    """Simulate rows of every checkpoint; item difficulty accounts for most of the variance."""
    levels = levels or TRUE_SCORES
    general_difficulty, domain_difficulty = rng.normal(0, 1.5, n), rng.normal(0, 0.2, n)
    checkpoints = []
    for name, (general, domain) in levels.items():
        g = general + general_difficulty + rng.normal(0, 0.5, n)
        d = domain + domain_difficulty + rng.normal(0, 0.15, n)
        checkpoints.append(
            AnsweredItems(
                name,
                {f"g{i}": (float(v), 1.0) for i, v in enumerate(g)},
                {f"d{i}": (float(v), 1.0) for i, v in enumerate(d)},
            )
        )
    return checkpoints


def stats_of(rng: np.random.Generator, plane: Plane = PLANE, **more: Any) -> Any:
    return trade_off_stats(simulated_items(rng, **more), plane, resamples=400)


@pytest.mark.slow
def test_intervals_reach_nominal_coverage() -> None:
    rng = np.random.default_rng(3)
    # On the true curve at retention 0.98: from (0.99, 0.2) to (0.95, 0.5), a quarter of the way.
    truth_above = 0.9 - (0.2 + 0.25 * 0.3)
    hits: dict[str, int] = {}
    width = 0.0
    for _ in range(TRIALS):
        points = {p.checkpoint: p for p in stats_of(rng).points}
        for name, truths in TRUTH.items():
            for score, truth in truths.items():
                interval = getattr(points[name], score)
                hits[f"{name} {score}"] = hits.get(f"{name} {score}", 0) + (
                    interval.low <= truth <= interval.high
                )
        above = points["dae"].above_curve
        hits["above"] = hits.get("above", 0) + (above.low <= truth_above <= above.high)
        hits["told above"] = hits.get("told above", 0) + (above.low > 0)
        width += points["dae"].retention.high - points["dae"].retention.low
    significant = hits.pop("told above")
    assert all(0.91 <= count / TRIALS <= 0.99 for count in hits.values()), hits
    assert significant / TRIALS > 0.99
    # Without pairing, retention's interval would be about 0.15 wide (1.5 / 6 · 2 · 1.96 / √80).
    assert width / TRIALS < 0.06


@pytest.mark.slow
def test_false_positive_rate_for_a_point_on_the_curve() -> None:
    """Under the null: `twin` has the same true scores as the first merge."""
    rng = np.random.default_rng(4)
    significant = sum(
        {p.checkpoint: p for p in stats_of(rng).points}["twin"].above_curve.low > 0
        for _ in range(TRIALS)
    )
    assert significant / TRIALS <= 0.05


def test_points_that_define_the_curve_or_an_axis_have_no_uncertainty() -> None:
    points = {p.checkpoint: p for p in stats_of(np.random.default_rng(0)).points}
    for name, gain in (("ref", 0.0), ("expert", 1.0)):
        assert (points[name].gain.low, points[name].gain.value, points[name].gain.high) == (
            gain,
        ) * 3
        assert points[name].above_curve is None
    assert points["ref"].retention.low == points["ref"].retention.high == 1.0
    assert points["merge-25"].above_curve is None


@pytest.mark.slow
def test_hypervolume_interval_covers_the_true_front() -> None:
    rng = np.random.default_rng(5)
    levels = {n: TRUE_SCORES[n] for n in ("ref", "expert", "dae")}
    # Above (0.5, 0): the expert's 0.3 × 1, the DAE's 0.18 × 0.9; the reference has no gain.
    truth = 0.3 * 1 + (0.98 - 0.8) * 0.9
    plane = Plane("ref", "expert", floor=(0.5, 0.0))
    hits = 0
    for _ in range(100):
        volume = stats_of(rng, plane, **levels).hypervolume
        hits += volume.low <= truth <= volume.high
    assert hits >= 90


@pytest.mark.slow
def test_best_checkpoint_is_picked_and_rivals_are_listed() -> None:
    rng = np.random.default_rng(6)
    picks = [pick(stats_of(rng), 0.96) for _ in range(50)]
    assert sum(p is not None and p.checkpoint == "dae" for p in picks) >= 48
    assert all(not p.rivals for p in picks if p is not None and p.checkpoint == "dae")
    levels = {**TRUE_SCORES, "other": TRUE_SCORES["dae"]}
    twins = [pick(stats_of(rng, **levels), 0.92) for _ in range(50)]
    assert (
        sum(p is not None and set(p.rivals) <= {"dae", "other"} and bool(p.rivals) for p in twins)
        >= 45
    )
    stats = stats_of(rng)
    endpoints = {name: TRUE_SCORES[name] for name in ("ref", "expert")}
    strict = pick(stats_of(rng, Plane("ref", "expert"), **endpoints), 1.0)
    assert strict is not None and strict.checkpoint == "ref" and strict.sure
    assert pick(stats, 1.5) is None
    borderline = [pick(stats_of(rng), 0.979) for _ in range(30)]
    assert any(p is not None and p.checkpoint == "dae" and not p.sure for p in borderline)


def test_gain_is_undefined_if_the_expert_gained_nothing() -> None:
    rng = np.random.default_rng(7)
    undefined = 0
    for _ in range(40):
        stats = stats_of(rng, Plane("ref", "expert"), ref=(6, 0.2), expert=(5, 0.2), dae=(6, 0.2))
        undefined += stats.points[2].gain is None and stats.hypervolume is None
        if not stats.draws.gain_known:
            assert "not told apart from 0" in stats.notes[0] and pick(stats, 0.5) is None
    assert undefined >= 37
    reference_only = stats_of(rng, Plane("ref"))
    assert reference_only.points[0].gain is None and reference_only.points[4].retention is not None
    assert "unknown expert" in reference_only.notes[0]


def test_lower_is_better_metrics_are_inverted() -> None:
    loss = Plane("ref", "expert", general_lower_is_better=True, domain_lower_is_better=True)
    stats = stats_of(np.random.default_rng(8), loss, ref=(6, 2.0), expert=(9, 1.0), dae=(6, 1.2))
    dae = stats.points[2]
    assert dae.gain.value == pytest.approx(0.8, abs=0.1)
    assert dae.retention.value == pytest.approx(1.0, abs=0.05)
    assert stats.points[1].retention.value == pytest.approx(6 / 9, abs=0.05)
    # The reference's own gain is 0 with a plus sign.
    assert str(stats.points[0].gain.value) == "0.0"


def test_an_unfinished_checkpoint_is_compared_on_the_questions_it_answered() -> None:
    """The first 40 questions are the easiest: their mean alone would be called a gain."""
    levels = {name: at for name, at in TRUE_SCORES.items() if name != "twin"}
    rows = simulated_items(np.random.default_rng(9), **levels)
    at = [row.checkpoint for row in rows].index("dae")
    easy = sorted(rows[0].general, key=lambda q: -rows[0].general[q][0])[:40]
    low = sorted(rows[0].domain, key=lambda q: -rows[0].domain[q][0])[:20]
    rows[at] = AnsweredItems(
        "dae", {q: rows[at].general[q] for q in easy}, {q: rows[at].domain[q] for q in low}
    )
    complete = draw_plane(simulated_items(np.random.default_rng(9), **levels), PLANE, resamples=50)
    partial = draw_plane(rows, PLANE, resamples=50)

    def mean(row: AnsweredItems, axis: str, keys: Sequence[str]) -> float:
        return fmean(getattr(row, axis)[q][0] for q in keys)

    # The others are compared on all questions, bit for bit as before.
    for name in set(levels) - {"dae"}:
        other = partial.names.index(name)
        assert partial.retention[other] == complete.retention[other]
        assert np.array_equal(partial.gain_draws[:, other], complete.gain_draws[:, other])
    # Written out by hand over the shared questions.
    base, expert, dae = rows[0], rows[list(levels).index("expert")], rows[at]
    kept = mean(dae, "general", easy) / mean(base, "general", easy)
    start = mean(base, "domain", low)
    gain = (mean(dae, "domain", low) - start) / (mean(expert, "domain", low) - start)
    assert partial.retention[at] == pytest.approx(kept)
    assert partial.gain[at] == pytest.approx(gain)
    # Unpaired, it would keep more than everything.
    assert mean(dae, "general", easy) / mean(base, "general", list(base.general)) > 1.1
    assert 0.9 < kept < 1.05
    assert partial.general_counts[at] == 40 and partial.domain_counts[at] == 20
    found = trade_off_stats(rows, PLANE, resamples=50)
    point = next(point for point in found.points if point.checkpoint == "dae")
    assert point.retention.n == 40 and point.gain.n == 20 and point.above_curve.n == 20
    assert any("dae: compared on the 40 of 80 general questions" in note for note in found.notes)


def test_nothing_is_claimed_of_a_checkpoint_with_two_answers() -> None:
    """Its evaluation has begun; those of all others are finished."""
    rows = simulated_items(np.random.default_rng(9))
    at = [row.checkpoint for row in rows].index("dae")
    best = dict.fromkeys(list(rows[at].domain)[:2], (2.0, 1.0))
    rows[at] = AnsweredItems("dae", rows[at].general, best)
    found = trade_off_stats(rows, PLANE, resamples=200)
    chosen = pick(found, 0.5)
    assert chosen is not None and chosen.checkpoint != "dae" and "dae" not in chosen.rivals
    verdict = verdict_at(found, "ref", 0.5)
    assert verdict is not None
    assert "dae" not in {one.checkpoint for one in (*verdict.leaders, *verdict.perhaps)}
    assert verdict.compared == len(rows) - 2


def test_above_curve_matches_hand_computed_values() -> None:
    def above(r: float, g: float, *curve: tuple[float, float]) -> float:
        rs, gs = np.array([[c[0] for c in curve]]), np.array([[c[1] for c in curve]])
        return float(above_curve(np.array([r]), np.array([g]), rs, gs)[0])

    line = ((1.0, 0.0), (0.9, 0.5), (0.5, 1.0))
    assert above(0.95, 0.25, *line) == pytest.approx(0.0)
    assert above(0.7, 0.9, *line) == pytest.approx(0.15)
    assert above(0.9, 0.4, *line) == pytest.approx(-0.1)
    # Outside the curve's range: compare with its highest-retention or its highest-gain end.
    assert above(1.2, 0.1, *line) == pytest.approx(0.1)
    assert above(0.2, 1.0, *line) == pytest.approx(0.0)
    # A curve that first gains retention: its bulge also applies at lower retention.
    bulge = ((1.0, 0.0), (1.1, 0.4), (0.5, 1.0))
    assert above(1.0, 0.5, *bulge) == pytest.approx(0.0, abs=1e-9)
    assert above(1.1, 0.4, *bulge) == pytest.approx(0.0)


@pytest.mark.slow
def test_seed_and_item_uncertainty_are_separate() -> None:
    rng = np.random.default_rng(10)
    hits = 0
    for _ in range(200):
        levels = {"ref": (6.0, 0.2), "expert": (4.8, 0.7)}
        effects = rng.normal(0, 0.1, 4)
        for k, effect in enumerate(effects):
            levels[f"dae-{k}"] = (5.9, 0.55 + float(effect))
        draws = draw_plane(simulated_items(rng, n=2000, **levels), PLANE, resamples=50)
        recipe = recipe_stats("dae", [(f"dae-{k}", draws) for k in range(4)], "gain")
        assert recipe is not None
        # The gain's standard deviation over seeds is 0.1 / 0.5; 2000 items add almost no noise.
        hits += recipe.seeds.low <= 0.7 <= recipe.seeds.high
        assert recipe.questions.high - recipe.questions.low < recipe.seeds.high - recipe.seeds.low
    assert 0.91 <= hits / 200 <= 0.99
    assert seed_interval([1.0, 2.0, 3.0]).high == pytest.approx(2 + 4.30265 / math.sqrt(3), 1e-4)
    assert seed_interval([1.0]).high == math.inf
    assert recipe_stats("one", [("dae-0", draws)], "gain") is None


# ---------------------------------------------------------------- from the store to the command


def simulated_store(paths: Paths) -> None:
    """Fill a store with two seeds of each recipe, a merge, and rows simulated from TRUE_SCORES."""
    rng = np.random.default_rng(11)
    with Store(paths.store) as store:
        ids: dict[str, str] = {}

        def add(
            name: str,
            level: str,
            method: str,
            config: dict[str, Any],
            roles: dict[str, str],
            **info: Any,
        ) -> None:
            store.add_run(
                Run(
                    id=name,
                    method=method,
                    status=RunStatus.FINISHED,
                    folder="",
                    config={"method": method, "name": name, **config},
                    created=1.0,
                    config_hash=digest(config),
                )
            )
            ids[name] = digest(name)
            store.add_checkpoint(
                Checkpoint(
                    id=ids[name],
                    name=name,
                    method=method,
                    path="",
                    created=float(len(ids)),
                    run=name,
                    parents={role: ids[p] for role, p in roles.items()},
                    info=info,
                )
            )
            for bench, mean, spread in (
                ("mt-bench", TRUE_SCORES[level][0], 0.4),
                ("shop", TRUE_SCORES[level][1], 0.1),
            ):
                store.add_judgments(
                    Judgment(
                        id=f"{name}-{bench}-{i}",
                        checkpoint=ids[name],
                        bench=bench,
                        revision="1",
                        item=str(i),
                        turn=1,
                        category="",
                        judge="exact",
                        metric="score",
                        status=JudgmentStatus.OK,
                        created=1.0,
                        value=float(np.clip(mean + rng.normal(0, spread), 0, 10)),
                    )
                    for i in range(60)
                )

        for seed in (1, 2):
            s = f"-s{seed}"
            add("kd" + s, "ref", "kd", {"seed": seed}, {})
            add(
                "expert" + s,
                "expert",
                "sft",
                {"seed": seed, "student": "kd" + s},
                {"student": "kd" + s},
            )
            add(
                "dae" + s,
                "dae",
                "dae",
                {"seed": seed, "student": "kd" + s, "expert": "expert" + s},
                {"student": "kd" + s, "reference": "kd" + s, "expert": "expert" + s},
            )
            add(
                "wise" + s,
                "merge-50",
                "merge",
                {"seed": seed, "reference": "kd" + s, "expert": "expert" + s},
                {"reference": "kd" + s, "expert": "expert" + s},
                alpha=0.5,
            )


@pytest.mark.slow
def test_tradeoff_command_reports_intervals_seeds_and_the_pick(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated_store(paths)
    args = [
        "--home",
        str(paths.home),
        "tradeoff",
        "--general",
        "mt-bench:score",
        "--domain",
        "shop:score",
        "--keep",
        "0.96",
    ]
    assert cli.run([*args, "--format", "json"]) == 0
    view = json.loads(capsys.readouterr().out)
    statistics = view["statistics"]
    assert (view["reference"], view["expert"]) == ("kd-s2", "expert-s2")
    assert statistics["curve"] == ["wise-s2"] and statistics["notes"] == []
    assert statistics["points"]["dae-s2"]["above_curve"]["ci_low"] > 0
    assert statistics["points"]["expert-s2"]["gain"]["value"] == 1
    assert statistics["pick"]["checkpoint"] in ("dae-s1", "dae-s2")
    assert statistics["hypervolume"]["value"] == pytest.approx(view["hypervolume"])
    recipes = {(r["recipe"], r["figure"]): r for r in statistics["recipes"]}
    dae = recipes["dae-s1", "gain"]
    assert dae["checkpoints"] == ["dae-s1", "dae-s2"]
    # Each seed is compared with its own expert, whose gain is 1 by definition.
    assert recipes["expert-s1", "gain"]["seeds"]["ci_low"] == pytest.approx(1)
    assert dae["seeds"] != dae["questions"] and dae["mean"] == pytest.approx(0.9, abs=0.15)
    assert cli.run(args) == 0
    text = capsys.readouterr().out
    assert "pick dae-s" in text and "over seeds" in text and "95 % intervals" in text
    assert cli.run([*args[:-1], "1.5"]) == 0
    assert "no checkpoint retains 1.5 of the general score" in capsys.readouterr().out
