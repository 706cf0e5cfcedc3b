"""The best settings of a search: chosen by validation rows, tested once; equal budgets."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdharness.harness import cli
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.choose import (
    Candidate,
    as_overrides,
    best_of,
    candidates,
    choice_lines,
)
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import HOLDS, ClaimSpec, finding_lines
from kdharness.harness.experiments.expand import find_experiment, load_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.store import Store
from support.scored_store import add_checkpoint, verdict
from support.workers import Workers

SHOP = {"train": {"path": "shop:train", "kind": "domain"}}
STEPS: dict[str, Any] = {
    "expert": {"method": "sft", "student": "start", "data": SHOP},
    "dae": {"method": "dae", "student": "start", "expert": "expert", "data": SHOP},
}
CHOOSE = {
    "of": "dae",
    "reference": "start",
    "expert": "expert",
    "general": "heldout:general_loss",
    "domain": "validation:score",
    "keep": 0.98,
    "test": "test.yaml",
}
SEARCH = {
    "name": "x",
    "steps": STEPS,
    "vary": [{"seed": 1}, {"dae.trainer.temperature": [2, 4], "seed": 1}],
    "choose": CHOOSE,
}
TEST = {
    "name": "x-test",
    "steps": STEPS,
    "vary": {"seed": [11, 12]},
    "claims": [{"text": "x", "of": "dae", "than": "expert", "metric": "heldout:general_loss"}],
}
# (general loss, domain score): at temperature 4 the gain is largest, and too much is lost.
SCORES = {
    "start": (2.0, 0.2),
    "x-expert-s1": (2.8, 0.9),
    "x-dae-s1": (2.01, 0.5),
    "x-dae-temperature2-s1": (2.02, 0.7),
    "x-dae-temperature4-s1": (2.3, 0.85),
}


def written(folder: Path, name: str, values: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


def fill(store: Store, general: str = "heldout", domain: str = "validation") -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(0, 0.05, 40)
    for name, known in SCORES.items():
        add_checkpoint(store, name, "sft", path="")
        axes = ((general, "general_loss"), (domain, "score"))
        for value, (bench, metric) in zip(known, axes, strict=True):
            store.add_judgments(
                verdict(name, i, float(value + x), bench=bench, metric=metric, category="")
                for i, x in enumerate(common)
            )


def test_the_best_is_the_largest_gain_that_keeps_enough(paths: Paths, tmp_path: Path) -> None:
    sweep, planned = load_sweep(written(tmp_path, "x.yaml", SEARCH))
    assert sweep.choose is not None
    with Store(paths.store) as store:
        fill(store)
        found = candidates(judge_claims(store, sweep.choose.claims(), planned))
    assert [c.gain for c in found] == pytest.approx([3 / 7, 5 / 7, 0.65 / 0.7], abs=0.01)
    best = best_of(found, 0.98)
    assert best is not None
    assert best.settings == {"dae.trainer.temperature": 2}
    assert as_overrides(best.settings) == ["steps.dae.trainer.temperature=2"]
    assert best_of(found, 0.5) is found[2]
    assert best_of(found, 1.2) is None
    assert "* dae.trainer.temperature 2: gain 0.71" in "\n".join(choice_lines(found, best, 0.98))
    assert "nothing keeps 1.2" in choice_lines(found, None, 1.2)[-1]


@given(
    st.lists(
        st.tuples(
            st.none() | st.just(math.nan) | st.floats(-1, 2),
            st.none() | st.just(math.nan) | st.floats(0, 2),
        ),
        min_size=1,
        max_size=8,
    ),
    st.floats(0.1, 1.5),
)
def test_no_other_candidate_that_keeps_enough_gains_more(
    values: list[tuple[float | None, float | None]], keep: float
) -> None:
    found = [Candidate({}, gain, kept) for gain, kept in values]
    known = [(g, kept) for g, kept in values if g is not None and kept is not None]
    enough = [g for g, kept in known if kept >= keep and not math.isnan(g)]
    best = best_of(found, keep)
    assert (best.gain if best else None) == max(enough, default=None)


@pytest.mark.slow
def test_the_choice_is_tested_once(
    workers: Workers,
    paths: Paths,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = written(tmp_path, "x.yaml", SEARCH)
    written(tmp_path, "test.yaml", TEST)
    with Store(paths.store) as store:
        fill(store)
    command = ["--home", str(paths.home), "replicate", str(file), "--format", "json"]
    assert cli.run(command) == 0
    printed = capsys.readouterr()
    assert "* dae.trainer.temperature 2" in printed.err
    assert [row["claim"] for row in json.loads(printed.out)] == ["x"]
    tested = [name for name in workers.spawned if name.startswith("x-test")]
    assert tested == [f"x-test-{step}-s{n}" for n in (11, 12) for step in ("expert", "dae")]
    with Store(paths.store) as store:
        run = store.run("x-test-dae-s11")
    assert run is not None
    assert run.config["trainer"]["temperature"] == 2
    # Another choice in the same home would be a second test on the same rows.
    other = written(tmp_path, "x.yaml", {**SEARCH, "choose": {**CHOOSE, "keep": 0.5}})
    assert cli.run(["--home", str(paths.home), "replicate", str(other)]) == 1
    assert "different settings" in capsys.readouterr().err
    nothing = written(tmp_path, "x.yaml", {**SEARCH, "choose": {**CHOOSE, "keep": 1.2}})
    assert cli.run(["--home", str(paths.home), "replicate", str(nothing)]) == 0
    assert "nothing is tested" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choose": {**CHOOSE, "of": "kd"}}, "unknown step 'kd'"),
        ({"vary": {"trainer.temperature": [1, 2]}}, "does not say which step it belongs to"),
        ({"choose": {**CHOOSE, "keep": 0}}, "choose.keep"),
        ({"choose": {**CHOOSE, "domain": "score"}}, "choose.domain"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(written(tmp_path, "x.yaml", {**SEARCH, **changes}))


@pytest.mark.parametrize(
    ("name", "varied"),
    [
        (
            "recipe",
            {
                "dae.data.domain_share",
                "dae.trainer.learning_rate",
                "dae.trainer.temperature",
                "dae.trainer.max_tokens",
                "expert.trainer.max_tokens",
            },
        ),
        (
            "recipe-combined",
            {
                "dae.data.domain_share",
                "dae.trainer.learning_rate",
                "dae.trainer.temperature",
                "dae.trainer.max_tokens",
            },
        ),
    ],
)
def test_the_shipped_recipes_are_tested_on_other_rows_with_other_seeds(
    name: str, varied: set[str]
) -> None:
    sweep, planned = load_sweep(find_experiment(name))
    assert sweep.choose is not None
    scored = next(run.config for run in planned if run.config.method == "eval")
    assert [Path(b).name for b in scored.benches] == ["validation.jsonl", "heldout"]  # type: ignore[union-attr]
    settings = [r.settings for r in planned if r.step == "dae" and len(r.settings) > 1]
    assert {key for s in settings for key in s if key != "seed"} == varied
    for chosen in settings:
        changes = {key: value for key, value in chosen.items() if key != "seed"}
        test, runs = load_sweep(find_experiment(sweep.choose.test), as_overrides(changes))
        assert {run.settings["seed"] for run in runs} == {11, 12, 13}
        assert {c.threshold for c in test.claims} == {0.95, 0.98}
        for key, value in changes.items():
            step, *fields = key.split(".")
            tested: Any = next(run.config for run in runs if run.step == step)
            for field in fields:
                tested = getattr(tested, field)
            assert tested == value


# ---------------------------------------------------------------- budgets and predictions


def test_results_say_how_equal_the_budgets_were(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    data = {"train": ["general:train", SHOP["train"]], "domain_share": 0.75}
    trainer = {"batch_size": 4}
    steps = {
        "expert": {**STEPS["expert"], "trainer": trainer},
        "dae": {**STEPS["dae"], "data": data, "trainer": trainer},
    }
    claims = [
        {**TEST["claims"][0], "equal": ["tokens", "domain tokens", "FLOPs"]},  # type: ignore[index]
        {**TEST["claims"][0]},  # type: ignore[index]
    ]
    values = {"name": "x", "steps": steps, "claims": claims}
    sweep, planned = load_sweep(written(tmp_path, "x.yaml", values))
    with Store(paths.store) as store:
        before = judge_claims(store, sweep.claims, planned)
    assert before[0].equal == {}
    assert "at equal tokens (not known yet)" in "\n".join(finding_lines(before))
    for run in planned:
        launch.prepare(paths, run.config, run.name)
    measured = {
        "x-expert": (60, {"tokens": 1000, "flops": 1e12, "shares": {"domain": 1.0}}),
        "x-dae": (80, {"tokens": 1700, "flops": 1.05e12, "shares": {"domain": 0.75}}),
    }
    with Store(paths.store) as store:
        for name, (step, info) in measured.items():
            store.update_run(name, step=step, info=info, status="finished")
        results = judge_claims(store, sweep.claims, planned)
    assert results[0].equal == pytest.approx({"tokens": 1.7, "domain tokens": 1.0, "FLOPs": 1.05})
    assert results[0].as_dict()["equal"] == results[0].equal
    assert results[1].equal == {}
    text = "\n".join(finding_lines(results))
    assert "at equal tokens (1.70 times: NOT EQUAL), domain tokens (1.00 times), FLOPs" in text
    assert text.count("at equal") == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"than": "start"}, "start is not trained in this experiment"),
        ({"than": "wise"}, "wise is not trained in this experiment"),
        ({"of": "wise"}, "wise is not trained in this experiment"),
    ],
)
def test_budgets_of_what_is_not_trained_are_refused(
    tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    merge = {"method": "merge", "reference": "start", "expert": "expert", "alphas": [0.5]}
    claim = {**TEST["claims"][0], "equal": ["FLOPs"], **changes}  # type: ignore[index, dict-item]
    values = {"name": "x", "steps": {**STEPS, "wise": merge}, "claims": [claim]}
    with pytest.raises(ConfigError, match=name):
        load_sweep(written(tmp_path, "x.yaml", values))


PREDICTION = {
    "text": "KL orders what is lost",
    "figure": "prediction",
    "predictor": "heldout:domain_kl",
    "of": "expert",
    "over": ["sft"],
    "reference": "start",
    "threshold": 0.5,
}


@pytest.mark.slow
def test_a_prediction_is_a_claim(paths: Paths, tmp_path: Path) -> None:
    """Loss rises with KL under the first claim's predictor, and not with the other's."""
    rates = [1e-6, 1e-5, 1e-4, 1e-3]
    values = {
        "name": "x",
        "steps": {"expert": STEPS["expert"], "sft": STEPS["expert"]},
        "vary": {"sft.trainer.learning_rate": rates, "seed": [1, 2]},
        "claims": [PREDICTION, {**PREDICTION, "predictor": "heldout:general_kl"}],
    }
    sweep, planned = load_sweep(written(tmp_path, "x.yaml", values))
    common = np.random.default_rng(1).normal(0, 0.05, 30)
    turns: dict[int, int] = {}
    with Store(paths.store) as store:
        add_checkpoint(store, "start", "sft", path="")
        for run in planned:
            seed = run.settings["seed"]
            rank = turns[seed] = turns.get(seed, -1) + 1
            add_checkpoint(store, run.name, "sft", path="")
            metrics = {
                "other_writer_loss": 2 + 0.2 * rank,
                "domain_kl": 1 + rank,
                "general_kl": [1.0, 3.0, 0.5, 2.5, 2.0][rank],
            }
            for metric, value in metrics.items():
                store.add_judgments(
                    verdict(run.name, i, value + x, bench="heldout", metric=metric, category="")
                    for i, x in enumerate(common)
                )
        results = judge_claims(store, sweep.claims, planned)
        few = judge_claims(
            store, sweep.claims[:1], [r for r in planned if r.settings["seed"] == 1][:4]
        )
    assert results[0].verdict == results[0].adjusted == HOLDS
    effect = results[0].effect
    assert effect is not None
    assert (effect.value, effect.per_seed, effect.questions) == (1.0, (1.0, 1.0), 30)
    weak = results[1].effect
    assert weak is not None
    # Ranks 1, 4, 0, 3, 2 against 0 to 4: 1 - 6 · 20 / (5 · 24).
    assert weak.value == pytest.approx(1 - 6 * (1 + 9 + 4 + 0 + 4) / 120)
    assert results[1].verdict != HOLDS
    assert few[0].effect is None
    assert "4 checkpoints: fewer than 5" in few[0].note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictor": None}, "belong to prediction"),
        ({"over": []}, "belong to prediction"),
        ({"figure": "gain", "expert": "expert"}, "belong to prediction"),
        ({"reference": None}, "needs a reference"),
        ({"predictor": "kl"}, "predictor"),
    ],
)
def test_predictions_that_are_not_whole_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClaimSpec(**{**PREDICTION, **changes})
