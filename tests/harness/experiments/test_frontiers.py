"""Claims against a frontier: every run of a step along one varied number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import FAILS, HOLDS, UNSURE, ClaimSpec, finding_lines
from kdharness.harness.experiments.expand import load_sweep
from kdharness.harness.experiments.frontiers import on_frontier
from kdharness.harness.paths import Paths
from kdharness.harness.stats.tradeoff import AnsweredItems, Plane, above_line, draw_plane
from kdharness.harness.store import Store
from support.scored_store import add_checkpoint, verdict

SHOP = {"train": {"path": "shop:train", "kind": "domain"}}
STEPS: dict[str, Any] = {
    "expert": {
        "method": "sft",
        "student": "start",
        "data": SHOP,
        "trainer": {"learning_rate": 2e-4},
    },
    "sft": {"method": "sft", "student": "start", "data": SHOP},
    "dae": {"method": "dae", "student": "start", "expert": "expert", "data": SHOP},
}
RATES = [1e-6, 1e-5, 1e-4]
VARY = {"sft.trainer.learning_rate": RATES, "seed": [1, 2]}
# (general loss, domain score)
SCORES = {
    "start": (2.0, 0.2),
    "expert": (2.8, 0.9),
    "dae": (2.05, 0.75),
    "sft-learning_rate1e_06": (2.02, 0.3),
    "sft-learning_rate1e_05": (2.2, 0.6),
    "sft-learning_rate0.0001": (2.7, 0.88),
}


def claim(figure: str, **more: Any) -> dict[str, Any]:
    values = {"of": "dae", "reference": "start", "expert": "expert", "frontier": "sft"}
    return {"text": figure, "figure": figure, **values, **more}


CLAIMS = [
    claim("gain_above_frontier"),
    claim("retention_above_frontier"),
    claim("retention_above_frontier", text="by far", threshold=0.5),
    claim("gain_above_frontier", text="the expert", of="expert"),
]


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "x.yaml"
    values = {"name": "x", "steps": STEPS, "vary": VARY, "claims": CLAIMS, **changes}
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


def fill(paths: Paths, names: list[str]) -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 0.2, (2, 40))
    with Store(paths.store) as store:
        for name in ["start", *names]:
            known = next(
                v for k, v in SCORES.items() if name in (k, *(f"x-{k}-s{s}" for s in (1, 2)))
            )
            add_checkpoint(store, name, "sft", path="")
            for axis, (bench, metric) in enumerate(
                (("heldout", "other_writer_loss"), ("shop", "score"))
            ):
                values = known[axis] + common[axis] + rng.normal(0, 0.02, 40)
                store.add_judgments(
                    verdict(name, i, float(v), bench=bench, metric=metric, category="")
                    for i, v in enumerate(values)
                )


@pytest.mark.slow
def test_claims_against_the_frontier_of_a_grid(paths: Paths, tmp_path: Path) -> None:
    sweep, planned = load_sweep(written(tmp_path))
    fill(paths, [run.name for run in planned])
    with Store(paths.store) as store:
        results = judge_claims(store, sweep.claims, planned)
    assert [result.verdict for result in results] == [HOLDS, HOLDS, FAILS, UNSURE]
    gained, kept = (result.effect for result in results[:2])
    assert gained is not None
    assert kept is not None
    assert len(gained.per_seed) == 2
    # DAE keeps 2 / 2.05; on the line from (2 / 2.02, 1/7) to (2 / 2.2, 4/7) that is 0.214 of gain.
    assert gained.value == pytest.approx(0.55 / 0.7 - 0.214, abs=0.04)
    # DAE gains 0.786; on the line from (4/7, 2 / 2.2) to (0.971, 2 / 2.7) that keeps 0.818.
    assert kept.value == pytest.approx(2 / 2.05 - 0.818, abs=0.02)
    assert "dae against all of sft" in "\n".join(finding_lines(results))


def test_a_grid_that_is_not_finished_gives_no_verdict(paths: Paths, tmp_path: Path) -> None:
    sweep, planned = load_sweep(written(tmp_path))
    fill(paths, [run.name for run in planned if run.name != "x-sft-learning_rate1e_05-s2"])
    with Store(paths.store) as store:
        first = judge_claims(store, sweep.claims[:1], planned)[0]
    assert "1 of 2 seeds" in first.note
    assert "x-sft-learning_rate1e_05-s2 does not exist yet" in first.note


def test_a_rate_that_varies_everywhere_is_the_frontiers_axis(tmp_path: Path) -> None:
    """Each DAE run is compared with SFT at every rate, not at its own alone."""
    vary = {"sft.trainer.learning_rate": RATES, "dae.trainer.temperature": [1, 2], "seed": [1, 2]}
    _, planned = load_sweep(written(tmp_path, vary=vary))
    for run in planned:
        if run.step == "dae":
            members = on_frontier(ClaimSpec(**claim("gain_above_frontier")), run, planned)
            assert [m.step for m in members] == ["sft", "sft", "sft", "expert"]
            assert all(m.name.endswith(f"-s{run.settings['seed']}") for m in members)


def test_the_expert_is_on_the_frontier_if_only_its_rate_differs(tmp_path: Path) -> None:
    def members(expert: dict[str, Any], **more: Any) -> list[str]:
        steps = {**STEPS, "expert": {**STEPS["expert"], "trainer": expert}}
        _, planned = load_sweep(written(tmp_path, steps=steps))
        run = next(run for run in planned if run.step == more.get("of", "dae"))
        spec = ClaimSpec(**claim("gain_above_frontier", **more))
        return [m.name for m in on_frontier(spec, run, planned)]

    low, middle, high = (f"x-sft-learning_rate{rate}-s1" for rate in ("1e_06", "1e_05", "0.0001"))
    assert members({"learning_rate": 2e-4}) == [low, middle, high, "x-expert-s1"]
    assert members({"learning_rate": 5e-6}) == [low, "x-expert-s1", middle, high]
    assert members({"learning_rate": 2e-4, "epochs": 3}) == [low, middle, high]
    # What is compared is not compared with itself.
    assert members({"learning_rate": 2e-4}, of="expert") == [low, middle, high]


def sums(values: list[float]) -> dict[str, tuple[float, float]]:
    return {str(i): (v, 1.0) for i, v in enumerate(values)}


def test_distances_by_hand() -> None:
    points = {
        "start": (1.0, 0.0),
        "low": (0.9, 0.5),
        "high": (0.5, 1.0),
        "inside": (0.8, 0.4),
        "outside": (0.9, 0.75),
        "beyond": (0.3, 1.2),
    }
    answered = [AnsweredItems(n, sums([g] * 3), sums([d] * 3)) for n, (g, d) in points.items()]
    drawn = draw_plane(answered, Plane("start", "high"), resamples=5)
    line = ["start", "low", "high"]

    def above(name: str, *, kept: bool) -> float:
        return round(above_line(drawn, name, line, kept=kept)[0], 9)

    assert above("inside", kept=False) == round(0.4 - 0.625, 9)
    assert above("inside", kept=True) == round(0.8 - 0.92, 9)
    assert above("outside", kept=False) == 0.25
    assert above("outside", kept=True) == round(0.9 - 0.7, 9)
    # More gain than any point of the line: compared with the retention of its best.
    assert above("beyond", kept=True) == round(0.3 - 0.5, 9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": {"seed": [1, 2]}}, "the runs of sft do not differ"),
        (
            {"vary": {**VARY, "sft.trainer.epochs": [1, 2]}},
            r"differ in 2 settings \(sft.trainer.learning_rate, sft.trainer.epochs\)",
        ),
        (
            {"vary": {"sft.trainer.schedule": ["linear", "constant"]}},
            "sft.trainer.schedule of sft is not one",
        ),
        ({"claims": [claim("gain_above_frontier", frontier="none")]}, "unknown step 'none'"),
    ],
)
def test_frontiers_along_no_single_number_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_sweep(written(tmp_path, **changes))
    assert "claims.1.frontier" in str(error.value.where)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (claim("gain_above_frontier", frontier=None), "belongs to gain_above_frontier and"),
        (claim("gain"), "belongs to gain_above_frontier and"),
        (claim("gain_above_frontier", of="sft"), "the same step"),
    ],
)
def test_claims_that_mean_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClaimSpec.model_validate(values)
