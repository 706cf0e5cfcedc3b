"""Intervals of the trade-off, held to what they promise on worlds whose truth is known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from kdharness.harness import cli
from kdharness.harness.paths import Paths
from kdharness.harness.stats.tradeoff import (
    AnsweredItems,
    Plane,
    above_curve,
    draw_plane,
    pick,
    recipe_stats,
    seed_interval,
    trade_off_stats,
)
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, Run, RunStatus, digest

# Truth on both axes: (general, domain). DAE keeps 0.98 and takes 0.9 of the gain; the merges
# lie on a line that at retention 0.98 has taken 0.3.
WORLD = {
    "ref": (6.0, 0.2),
    "expert": (4.8, 0.7),
    "merge-25": (5.94, 0.3),
    "merge-50": (5.7, 0.45),
    "dae": (5.88, 0.65),
    "twin": (5.94, 0.3),
}
PLANE = Plane("ref", "expert", curve=("merge-25", "merge-50"))
TRUTH = {"dae": {"gain": 0.9, "retention": 0.98}, "twin": {"gain": 0.2, "retention": 0.99}}
TRIALS, QUESTIONS = 150, 80


def planted_world(
    rng: np.random.Generator, n: int = QUESTIONS, **levels: tuple[float, float]
) -> list[AnsweredItems]:
    """Rows of every checkpoint: what questions have in common is most of their spread."""
    levels = levels or WORLD
    hard, easy = rng.normal(0, 1.5, n), rng.normal(0, 0.2, n)
    found = []
    for name, (general, domain) in levels.items():
        g = general + hard + rng.normal(0, 0.5, n)
        d = domain + easy + rng.normal(0, 0.15, n)
        found.append(
            AnsweredItems(
                name,
                {f"g{i}": (float(v), 1.0) for i, v in enumerate(g)},
                {f"d{i}": (float(v), 1.0) for i, v in enumerate(d)},
            )
        )
    return found


def stats_of(rng: np.random.Generator, plane: Plane = PLANE, **more: Any) -> Any:
    return trade_off_stats(planted_world(rng, **more), plane, resamples=400)


def test_intervals_cover_the_planted_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    # On the true curve at retention 0.98: from (0.99, 0.2) to (0.95, 0.5), a quarter of the way.
    truth_above = 0.9 - (0.2 + 0.25 * 0.3)
    hits: dict[str, int] = {}
    width = 0.0
    for _ in range(TRIALS):
        found = {p.checkpoint: p for p in stats_of(rng).points}
        for name, truths in TRUTH.items():
            for figure, truth in truths.items():
                part = getattr(found[name], figure)
                hits[f"{name} {figure}"] = hits.get(f"{name} {figure}", 0) + (
                    part.low <= truth <= part.high
                )
        above = found["dae"].above_curve
        hits["above"] = hits.get("above", 0) + (above.low <= truth_above <= above.high)
        hits["told above"] = hits.get("told above", 0) + (above.low > 0)
        width += found["dae"].retention.high - found["dae"].retention.low
    told = hits.pop("told above")
    assert all(0.91 <= count / TRIALS <= 0.99 for count in hits.values()), hits
    assert told / TRIALS > 0.99
    # Pairing: without it retention's interval would be some 0.15 wide (1.5 / 6 · 2 · 1.96 / √80).
    assert width / TRIALS < 0.06


def test_a_point_on_the_curve_is_hardly_ever_told_above_it() -> None:
    """No difference planted: `twin` has the truth of the first merge."""
    rng = np.random.default_rng(4)
    told = sum(
        {p.checkpoint: p for p in stats_of(rng).points}["twin"].above_curve.low > 0
        for _ in range(TRIALS)
    )
    assert told / TRIALS <= 0.05


def test_what_stands_on_the_curve_or_defines_an_axis_has_no_chance_of_its_own() -> None:
    found = {p.checkpoint: p for p in stats_of(np.random.default_rng(0)).points}
    for name, gain in (("ref", 0.0), ("expert", 1.0)):
        assert (found[name].gain.low, found[name].gain.value, found[name].gain.high) == (gain,) * 3
        assert found[name].above_curve is None
    assert found["ref"].retention.low == found["ref"].retention.high == 1.0
    assert found["merge-25"].above_curve is None


def test_hypervolume_covers_the_planted_front() -> None:
    rng = np.random.default_rng(5)
    levels = {n: WORLD[n] for n in ("ref", "expert", "dae")}
    # Above (0.5, 0): the expert's 0.3 × 1, the DAE's 0.18 × 0.9; the reference has no gain.
    truth = 0.3 * 1 + (0.98 - 0.8) * 0.9
    plane = Plane("ref", "expert", floor=(0.5, 0.0))
    hits = 0
    for _ in range(100):
        volume = stats_of(rng, plane, **levels).hypervolume
        hits += volume.low <= truth <= volume.high
    assert hits >= 90


def test_the_planted_best_is_picked_and_rivals_are_named() -> None:
    rng = np.random.default_rng(6)
    found = [pick(stats_of(rng), 0.96) for _ in range(50)]
    assert sum(p is not None and p.checkpoint == "dae" for p in found) >= 48
    assert all(not p.rivals for p in found if p is not None and p.checkpoint == "dae")
    levels = {**WORLD, "other": WORLD["dae"]}
    twins = [pick(stats_of(rng, **levels), 0.92) for _ in range(50)]
    assert (
        sum(p is not None and set(p.rivals) <= {"dae", "other"} and bool(p.rivals) for p in twins)
        >= 45
    )
    everything = stats_of(rng)
    ends = {name: WORLD[name] for name in ("ref", "expert")}
    strict = pick(stats_of(rng, Plane("ref", "expert"), **ends), 1.0)
    assert strict is not None and strict.checkpoint == "ref" and strict.sure
    assert pick(everything, 1.5) is None
    border = [pick(stats_of(rng), 0.979) for _ in range(30)]
    assert any(p is not None and p.checkpoint == "dae" and not p.sure for p in border)


def test_an_expert_that_gained_nothing_makes_no_share() -> None:
    rng = np.random.default_rng(7)
    silent = 0
    for _ in range(40):
        stats = stats_of(rng, Plane("ref", "expert"), ref=(6, 0.2), expert=(5, 0.2), dae=(6, 0.2))
        silent += stats.points[2].gain is None and stats.hypervolume is None
        if not stats.draws.gain_known:
            assert "not told apart from 0" in stats.notes[0] and pick(stats, 0.5) is None
    assert silent >= 37
    alone = stats_of(rng, Plane("ref"))
    assert alone.points[0].gain is None and alone.points[4].retention is not None
    assert "unknown expert" in alone.notes[0]


def test_losses_turn_round() -> None:
    loss = Plane("ref", "expert", general_lower_is_better=True, domain_lower_is_better=True)
    stats = stats_of(np.random.default_rng(8), loss, ref=(6, 2.0), expert=(9, 1.0), dae=(6, 1.2))
    dae = stats.points[2]
    assert dae.gain.value == pytest.approx(0.8, abs=0.1)
    assert dae.retention.value == pytest.approx(1.0, abs=0.05)
    assert stats.points[1].retention.value == pytest.approx(6 / 9, abs=0.05)


def test_questions_that_one_checkpoint_lacks_keep_the_others_figures() -> None:
    rows = planted_world(np.random.default_rng(9))
    few = dict(list(rows[4].general.items())[:40])
    rows[4] = AnsweredItems("dae", few, rows[4].domain)
    whole = draw_plane(planted_world(np.random.default_rng(9)), PLANE, resamples=50)
    part = draw_plane(rows, PLANE, resamples=50)
    assert part.retention[1] == whole.retention[1]
    base = np.mean([v for v, _ in rows[0].general.values()])
    assert part.retention[4] == pytest.approx(np.mean([v for v, _ in few.values()]) / base)


def test_the_curve_by_hand() -> None:
    def above(r: float, g: float, *curve: tuple[float, float]) -> float:
        rs, gs = np.array([[c[0] for c in curve]]), np.array([[c[1] for c in curve]])
        return float(above_curve(np.array([r]), np.array([g]), rs, gs)[0])

    line = ((1.0, 0.0), (0.9, 0.5), (0.5, 1.0))
    assert above(0.95, 0.25, *line) == pytest.approx(0.0)
    assert above(0.7, 0.9, *line) == pytest.approx(0.15)
    assert above(0.9, 0.4, *line) == pytest.approx(-0.1)
    # Beyond both ends: the most general corner above, the most domain below.
    assert above(1.2, 0.1, *line) == pytest.approx(0.1)
    assert above(0.2, 1.0, *line) == pytest.approx(0.0)
    # A curve that first gains generality: its bulge counts for what keeps less.
    bulge = ((1.0, 0.0), (1.1, 0.4), (0.5, 1.0))
    assert above(1.0, 0.5, *bulge) == pytest.approx(0.0, abs=1e-9)
    assert above(1.1, 0.4, *bulge) == pytest.approx(0.0)


def test_seeds_and_questions_are_kept_apart() -> None:
    rng = np.random.default_rng(10)
    hits = 0
    for _ in range(200):
        levels = {"ref": (6.0, 0.2), "expert": (4.8, 0.7)}
        effects = rng.normal(0, 0.1, 4)
        for k, effect in enumerate(effects):
            levels[f"dae-{k}"] = (5.9, 0.55 + float(effect))
        draws = draw_plane(planted_world(rng, n=2000, **levels), PLANE, resamples=50)
        found = recipe_stats("dae", [(f"dae-{k}", draws) for k in range(4)], "gain")
        assert found is not None
        # Gain's seed spread is 0.1 / 0.5; thousands of questions leave almost no other chance.
        hits += found.seeds.low <= 0.7 <= found.seeds.high
        assert found.questions.high - found.questions.low < found.seeds.high - found.seeds.low
    assert 0.91 <= hits / 200 <= 0.99
    assert seed_interval([1.0, 2.0, 3.0]).high == pytest.approx(2 + 4.30265 / math.sqrt(3), 1e-4)
    assert seed_interval([1.0]).high == math.inf
    assert recipe_stats("one", [("dae-0", draws)], "gain") is None


# ---------------------------------------------------------------- from the store to the command


def planted_store(paths: Paths) -> None:
    """Two seeds of everything, a merge, and rows with the truth of `WORLD`."""
    rng = np.random.default_rng(11)
    with Store(paths.store) as store:
        made: dict[str, str] = {}

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
            made[name] = digest(name)
            store.add_checkpoint(
                Checkpoint(
                    id=made[name],
                    name=name,
                    method=method,
                    path="",
                    created=float(len(made)),
                    run=name,
                    parents={role: made[p] for role, p in roles.items()},
                    info=info,
                )
            )
            for bench, mean, spread in (
                ("mt-bench", WORLD[level][0], 0.4),
                ("shop", WORLD[level][1], 0.1),
            ):
                store.add_judgments(
                    Judgment(
                        id=f"{name}-{bench}-{i}",
                        checkpoint=made[name],
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


def test_the_command_tells_intervals_seeds_and_the_pick(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    planted_store(paths)
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
    found = view["statistics"]
    assert (view["reference"], view["expert"]) == ("kd-s2", "expert-s2")
    assert found["curve"] == ["wise-s2"] and found["notes"] == []
    assert found["points"]["dae-s2"]["above_curve"]["ci_low"] > 0
    assert found["points"]["expert-s2"]["gain"]["value"] == 1
    assert found["pick"]["checkpoint"] in ("dae-s1", "dae-s2")
    assert found["hypervolume"]["value"] == pytest.approx(view["hypervolume"])
    recipes = {(r["recipe"], r["figure"]): r for r in found["recipes"]}
    dae = recipes["dae-s1", "gain"]
    assert dae["checkpoints"] == ["dae-s1", "dae-s2"]
    # Each seed is held against its own expert, which is 1 for it by definition.
    assert recipes["expert-s1", "gain"]["seeds"]["ci_low"] == pytest.approx(1)
    assert dae["seeds"] != dae["questions"] and dae["mean"] == pytest.approx(0.9, abs=0.15)
    assert cli.run(args) == 0
    text = capsys.readouterr().out
    assert "pick dae-s" in text and "over seeds" in text and "95 % intervals" in text
    assert cli.run([*args[:-1], "1.5"]) == 0
    assert "no checkpoint retains 1.5 of the general score" in capsys.readouterr().out
