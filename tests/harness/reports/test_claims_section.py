"""The claims section of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdharness.harness.experiments.claims import HOLDS, UNSURE, ClaimResult, ClaimSpec
from kdharness.harness.paths import Paths
from kdharness.harness.reports import claims as section
from kdharness.harness.reports.blocks import Table
from kdharness.harness.stats import Effect
from kdharness.harness.store import Store

CLAIM = {"text": "B is better", "metric": "shop:score", "of": "b", "than": "a"}
STEP = {"method": "sft", "student": "start", "data": {"train": "shop:train"}}


def test_each_verdict_is_beside_what_is_left_after_the_correction(
    paths: Paths, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interval above 0 is not enough where p is 0.2 over all claims of the experiment."""
    claim = ClaimSpec.model_validate(CLAIM)
    effect = Effect(0.5, 0.1, 0.9, 40, (0.4, 0.6))
    results = [
        ClaimResult(claim, {}, effect, p_holm=0.01),
        ClaimResult(claim, {"seed": 1}, effect, p_holm=0.2),
        ClaimResult(claim, {}, None, "b does not exist yet"),
    ]
    monkeypatch.setattr(section, "judge_claims", lambda *_: results)
    paths.sweeps.mkdir(parents=True)
    values = {"name": "x", "steps": {"a": STEP, "b": STEP}, "claims": [CLAIM]}
    Path(paths.sweeps / "x.yaml").write_text(yaml.safe_dump(values), "utf-8")
    (table,) = [block for block in section.claims(store, paths) if isinstance(block, Table)]
    assert table.columns[1:3] == ("verdict", "adjusted")
    assert [row[1:3] for row in table.rows] == [
        (HOLDS, HOLDS),
        (HOLDS, UNSURE),
        ("no result", ""),
    ]
    assert {len(row) for row in table.rows} == {len(table.columns)}
