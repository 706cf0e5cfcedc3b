"""Claims: verdicts from the store to the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdharness.harness import cli
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import (
    FAILS,
    HOLDS,
    UNSURE,
    finding_lines,
)
from kdharness.harness.experiments.expand import find_experiment, load_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.stats import two_way_p
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, digest

# ---------------------------------------------------------------- from the store

EXPERIMENT: dict[str, Any] = {
    "name": "x",
    "steps": {
        "expert": {"method": "sft", "student": "start", "data": {"train": "shop:train"}},
        "dae": {
            "method": "dae",
            "student": "start",
            "reference": "start",
            "expert": "expert",
            "data": {"train": ["general:train", {"path": "shop:train", "kind": "domain"}]},
        },
        "wise": {"method": "merge", "reference": "start", "expert": "expert", "alphas": [0.5]},
    },
    "vary": {"seed": [1, 2]},
    "claims": [
        {
            "text": "DAE loses less",
            "metric": "heldout:other_writer_loss",
            "of": "dae",
            "than": "expert",
        },
        {
            "text": "the expert loses less",
            "metric": "heldout:other_writer_loss",
            "of": "expert",
            "than": "dae",
        },
        {
            "text": "DAE has half of the gain",
            "figure": "gain",
            "of": "dae",
            "reference": "start",
            "expert": "expert",
            "threshold": 0.5,
        },
        {
            "text": "DAE keeps generality",
            "figure": "retention",
            "of": "dae",
            "reference": "start",
            "expert": "expert",
            "threshold": 0.9,
        },
        {
            "text": "DAE is above the curve",
            "figure": "above_curve",
            "of": "dae",
            "reference": "start",
            "expert": "expert",
            "curve": "wise",
        },
        {
            "text": "judges like it",
            "metric": "alpaca-eval-2:win_rate",
            "of": "dae",
            "than": "expert",
        },
    ],
}
# (general loss, domain score)
TRUE_SCORES = {"start": (2.0, 0.2), "expert": (2.6, 0.9), "wise": (2.2, 0.5), "dae": (2.05, 0.8)}


def write_experiment(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, **changes}), "utf-8")
    return path


def fill_simulated_store(paths: Paths) -> None:
    rng = np.random.default_rng(1)
    loss_difficulty, score_difficulty = rng.normal(0, 0.4, 50), rng.normal(0, 0.1, 50)
    with Store(paths.store) as store:
        for name in ["start", *(f"x-{s}-s{n}" for s in ("expert", "dae", "wise") for n in (1, 2))]:
            loss, score = TRUE_SCORES[name.split("-")[1] if "-" in name else name]
            store.add_checkpoint(
                Checkpoint(id=digest(name), name=name, method="sft", path="", created=1.0)
            )
            for bench, metric, mean, common, weight in (
                ("heldout", "other_writer_loss", loss, loss_difficulty, 30.0),
                ("shop", "score", score, score_difficulty, 1.0),
            ):
                values = mean + common + rng.normal(0, 0.05, 50)
                store.add_judgments(
                    Judgment(
                        id=f"{name}-{metric}-{i}",
                        checkpoint=digest(name),
                        bench=bench,
                        revision="1",
                        item=str(i),
                        turn=1,
                        category="",
                        judge="exact",
                        metric=metric,
                        status=JudgmentStatus.OK,
                        created=1.0,
                        value=float(v) * weight,
                        weight=weight,
                    )
                    for i, v in enumerate(values)
                )


@pytest.mark.slow
def test_claims_get_the_verdicts_of_the_true_scores(paths: Paths, tmp_path: Path) -> None:
    fill_simulated_store(paths)
    sweep, planned = load_sweep(write_experiment(tmp_path))
    with Store(paths.store) as store:
        results = judge_claims(store, sweep.claims, planned)
    assert [result.verdict for result in results] == [HOLDS, FAILS, HOLDS, HOLDS, HOLDS, UNSURE]
    by_text = {result.claim.text: result for result in results}
    loses = by_text["DAE loses less"].effect
    assert loses is not None and loses.value == pytest.approx(0.55, abs=0.03)
    assert len(loses.per_seed) == 2 and loses.questions == 50
    gained = by_text["DAE has half of the gain"].effect
    assert gained is not None and gained.value == pytest.approx(6 / 7, abs=0.05)
    # At DAE's retention of 2 / 2.05 the curve from (1, 0) to (2 / 2.2, 3/7) gives 0.115.
    above = by_text["DAE is above the curve"].effect
    assert above is not None and above.value == pytest.approx(6 / 7 - 0.115, abs=0.07)
    assert "alpaca-eval-2:win_rate" in by_text["judges like it"].note
    # Six claims are corrected, though one of them has no result yet.
    assert by_text["judges like it"].p_holm is None
    known = [r for r in results if r.effect is not None]
    raw = sorted(two_way_p(r.effect, r.claim.threshold) or 0 for r in known if r.effect)
    assert max(r.p_holm or 0 for r in known) >= raw[-1] * 2
    assert min(r.p_holm or 0 for r in known) == pytest.approx(raw[0] * 6)
    lines = finding_lines(results)
    assert lines[0] == "1. holds: DAE loses less" and "2 seeds (" in lines[3]


@pytest.mark.slow
def test_missing_seed_is_reported(paths: Paths, tmp_path: Path) -> None:
    fill_simulated_store(paths)
    sweep, planned = load_sweep(write_experiment(tmp_path, vary={"seed": [1, 2, 3]}))
    with Store(paths.store) as store:
        results = judge_claims(store, sweep.claims, planned)
    assert [result.verdict for result in results] == [HOLDS, FAILS, HOLDS, HOLDS, HOLDS, UNSURE]
    assert results[0].note == "2 of 3 seeds: x-dae-s3 does not exist yet: finish the experiment"
    assert "2 of 3 seeds" in "\n".join(finding_lines(results))


@pytest.mark.slow
def test_report_lists_claims_and_verdicts(paths: Paths, tmp_path: Path) -> None:
    fill_simulated_store(paths)
    (paths.home / "sweeps").mkdir()
    (paths.home / "sweeps" / "x.yaml").write_text(yaml.safe_dump(EXPERIMENT), "utf-8")
    (paths.home / "sweeps" / "broken.yaml").write_text("steps: [", "utf-8")
    out = tmp_path / "report.html"
    assert cli.run(["--home", str(paths.home), "report", "--output", str(out)]) == 0
    for text in (out.read_text("utf-8"), out.with_suffix(".md").read_text("utf-8")):
        assert "Claims and results" in text and "does not hold" in text
        assert "DAE has half of the gain" in text and "threshold 0.5" in text
        assert "Cannot read the claims of broken.yaml" in text


def test_each_setting_other_than_the_seed_is_a_separate_claim(paths: Paths, tmp_path: Path) -> None:
    vary = {"dae.trainer.temperature": [1, 2], "seed": [1, 2]}
    sweep, planned = load_sweep(
        write_experiment(tmp_path, vary=vary, claims=EXPERIMENT["claims"][:1])
    )
    with Store(paths.store) as store:
        results = judge_claims(store, sweep.claims, planned)
    assert [result.settings for result in results] == [
        {"dae.trainer.temperature": 1},
        {"dae.trainer.temperature": 2},
    ]
    assert all(
        result.verdict == UNSURE and "does not exist yet" in result.note for result in results
    )


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"text": "a", "of": "dae"}, "a metric or a figure"),
        ({"text": "a", "of": "dae", "metric": "x:y", "figure": "gain"}, "a metric or a figure"),
        ({"text": "a", "of": "dae", "metric": "x:y"}, "needs `than`"),
        ({"text": "a", "of": "dae", "metric": "loss", "than": "expert"}, "claims.0.metric"),
        ({"text": "a", "of": "dae", "figure": "gain"}, "needs a reference and an expert"),
        (
            {"text": "a", "of": "dae", "figure": "above_curve", "reference": "r", "expert": "e"},
            "needs `curve`, the step that makes the curve",
        ),
        ({"text": "a", "of": "kd", "metric": "x:y", "than": "dae"}, "unknown step 'kd'"),
    ],
)
def test_invalid_claims_are_reported(tmp_path: Path, claim: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(write_experiment(tmp_path, claims=[claim]))


def test_shipped_replication_trains_on_equal_tokens() -> None:
    sweep, planned = load_sweep(find_experiment("replication"))
    assert len(sweep.claims) >= 9 and {run.settings.get("seed") for run in planned} == {1, 2, 3}
    tokens = {
        step: {run.config.trainer.max_tokens for run in planned if run.step == step}  # type: ignore[union-attr]
        for step in ("sft", "kd", "expert", "lora", "replay", "dae")
    }
    assert tokens["sft"] == tokens["kd"] and len(tokens["kd"]) == 1
    assert tokens["expert"] == tokens["lora"] == tokens["replay"] == tokens["dae"]


@pytest.mark.slow
def test_replicate_end_to_end_and_repeated(
    tiny_teacher: Path, paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": {"path": "general:train", "limit": 16}, "max_length": 96}
    trainer = {"max_steps": 4, "batch_size": 4, "learning_rate": 0.01}
    experiment = {
        "name": "tiny",
        "steps": {
            "sft": {
                "method": "sft",
                "student": str(tiny_teacher),
                "data": data,
                "trainer": trainer,
            },
            "kd": {
                "method": "kd",
                "student": str(tiny_teacher),
                "teacher": str(tiny_teacher),
                "data": data,
                "trainer": trainer,
            },
            "scores": {
                "method": "eval",
                "checkpoints": ["sft", "kd"],
                "benches": ["heldout"],
                "limit": 8,
                "heldout": {"teacher": str(tiny_teacher)},
            },
        },
        "claims": [
            {"text": "KD is closer", "metric": "heldout:general_kl", "of": "kd", "than": "sft"}
        ],
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment), "utf-8")
    args = ["--home", str(paths.home), "replicate", str(path), "--seeds", "2"]
    assert cli.run([*args, "--dry-run", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 6
    assert cli.run(args) == 0
    first = capsys.readouterr()
    # With the student as its own teacher, KD keeps the divergence close to zero.
    assert "1. holds: KD is closer" in first.out and "2 seeds" in first.out
    assert cli.run([*args, "--format", "json"]) == 0
    repeated = capsys.readouterr()
    assert repeated.err.count("done before") == 6
    (row,) = json.loads(repeated.out)
    assert row["verdict"] == "holds" and row["effect"] > 0 and len(row["per_seed"]) == 2
    without_claims = tmp_path / "plain.yaml"
    without_claims.write_text(yaml.safe_dump({**experiment, "claims": []}), "utf-8")
    assert cli.run(["--home", str(paths.home), "replicate", str(without_claims)]) == 2
    assert "has no claims" in capsys.readouterr().err
