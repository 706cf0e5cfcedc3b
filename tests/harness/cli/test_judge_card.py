"""`kdharness judge card`: the stored card, and the agreement with people."""

from __future__ import annotations

import numpy as np
import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.labelled_home import JUDGE, add_labels, add_pairs, add_ratings

CARD = {
    "labels": ["near-chance"],
    "created": 1.0,
    "calls": 2,
    "failed": 0,
    "checks": {"readable": {"share": 1.0, "low": 0.9, "high": 1.0, "n": 12}},
    "ratings": {"intact_above_spoilt": {"share": 0.5, "low": 0.2, "high": 0.8, "n": 10}},
}


def test_agreement_with_people_stands_beside_the_stored_card(paths: Paths, kd: CommandLine) -> None:
    judged = [float(n % 10 + 1) for n in range(30)]
    with Store(paths.store) as store:
        store.add_card(JUDGE, CARD)
        for name in ("kd", "dae"):
            add_ratings(store, name, judged)
            add_labels(store, name, [max(1.0, value - 1) for value in judged[:20]])
        add_pairs(store, "sft", "base", [1.0, 0.0] * 10)
        add_labels(
            store, "sft", [1.0, 0.0] * 9 + [0.0, 1.0], bench="mt-bench-pair", baseline="base"
        )
    rows = {row["check"]: row for row in kd.json("judge", "card", JUDGE)}
    kappa = rows["agrees with people on mt-bench, rating (weighted kappa)"]
    rank = rows["agrees with people on mt-bench, rating (rank correlation)"]
    assert kappa["n"] == rank["n"] == 40 and rank["value"] > 0.99 > kappa["value"] > 0.8
    pairs = rows["agrees with people on mt-bench-pair, pair (weighted kappa)"]
    assert pairs["value"] == pytest.approx(0.8) and pairs["low"] < 0.8 < pairs["high"]
    assert rows["replies with a readable verdict"]["value"] == 1.0
    assert np.isfinite([row["value"] for row in rows.values()]).all()


def test_what_is_missing_is_said(paths: Paths, kd: CommandLine) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", [5.0, 6.0])
    code, _, err = kd("judge", "card", JUDGE)
    assert code == 0 and "kdharness judge check" in err and "kdharness label" in err
    code, _, err = kd("judge", "card", "openai:k")
    assert code == 2 and "did you mean openai:j" in err
