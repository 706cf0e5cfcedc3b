"""Settings of an evaluation that its benchmarks do not use are named."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation.pipeline import load_benches
from kdharness.harness.evaluation.unused import unused_settings
from kdharness.harness.paths import Paths
from support.commands import CommandLine
from support.files import WriteRows

JUDGE = ["local:judge"]


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"benches": ["shop"], "judge": JUDGE}, ["judge"]),
        ({"benches": ["shop"], "judge_max_tokens": 64}, ["judge_max_tokens"]),
        ({"benches": ["shop"], "baseline": "old"}, ["baseline"]),
        ({"benches": ["shop"], "heldout": {"max_length": 64}}, ["heldout"]),
        ({"benches": ["heldout"], "heldout": {"max_length": 64}}, []),
        ({"benches": ["heldout"], "max_new_tokens": 8}, ["max_new_tokens"]),
        ({"benches": ["heldout", "shop"], "max_new_tokens": 8}, []),
        ({"benches": ["mt-bench"], "judge": JUDGE, "references": "classic"}, []),
        ({"benches": ["mt-bench"], "judge": JUDGE, "baseline": "old"}, ["baseline"]),
        ({"benches": ["mt-bench-pair"], "judge": JUDGE, "baseline": "old"}, []),
        ({"benches": ["alpaca-eval-2"], "references": "classic"}, ["references"]),
        ({"benches": ["alpaca-eval-2"], "baseline": "old", "discrete_fallback": True}, []),
        ({"benches": ["mt-bench"], "discrete_fallback": True}, ["discrete_fallback"]),
        ({"benches": ["mt-bench"], "judge_config": "x"}, ["judge_config"]),
        ({"benches": ["shop"], "answer_engine": "vllm", "cuda_graphs": True}, ["cuda_graphs"]),
    ],
)
def test_settings_of_evaluations(
    assets_home: Paths, values: dict[str, Any], fields: list[str]
) -> None:
    config = EvalConfig.model_validate(values)
    sentences = unused_settings(config, load_benches(config, assets_home))
    assert [sentence.split()[0].rstrip(":") for sentence in sentences] == fields
    assert all(" has no effect: " in sentence for sentence in sentences)


def test_a_file_of_ones_own_with_exact_metrics(
    kd: CommandLine, tiny_teacher: Any, write_jsonl: WriteRows
) -> None:
    """`--judge` and `--baseline` need rows that a judge compares."""
    rows = [{"id": "a", "prompt": "1 + 1?", "reference": "2", "metric": "exact_match"}]
    exact = str(write_jsonl("exact.jsonl", rows))
    pairs = str(write_jsonl("pairs.jsonl", [{"id": "a", "prompt": "Say hello.", "metric": "pair"}]))
    options = ["--ckpt", str(tiny_teacher), "--judge", "openai:m@http://localhost:1/v1"]
    options += ["--baseline", str(tiny_teacher), "--dry-run"]
    code, _, err = kd("eval", *options, "--bench", exact)
    assert code == 0, err
    assert 'judge: ["openai:m@http://localhost:1/v1"] has no effect: exact needs no judge' in err
    assert "has no effect: exact compares no pairs" in err
    code, _, err = kd("eval", *options, "--bench", pairs)
    assert "has no effect" not in err
