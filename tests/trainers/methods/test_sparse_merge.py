"""TIES and DARE: mergekit's values, the papers' properties, and whole merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.trainers.methods.merge import train
from kdharness.trainers.methods.merge_weights import dare, task_arithmetic, ties, trim
from support.models import make_llama
from support.reporters import Listener

CASES = json.loads((Path(__file__).parents[2] / "fixtures/merging/ties.json").read_text())


def states(seed: int, count: int = 3, size: int = 60) -> list[dict[str, Any]]:
    rng = torch.Generator().manual_seed(seed)
    return [{"w": torch.randn(size, generator=rng)} for _ in range(count)]


@pytest.mark.parametrize("case", CASES)
def test_ties_gives_what_mergekit_gives(case: dict[str, Any]) -> None:
    base, *others = ({"w": torch.tensor(value)} for value in (case["base"], *case["others"]))
    got = ties(base, others, case["weights"], case["scale"], case["density"])["w"]
    assert torch.allclose(got, torch.tensor(case["merged"]), atol=1e-6)


def reference_ties(base: list[float], others: list[list[float]], density: float) -> list[float]:
    """Do the paper's three steps one number at a time."""
    deltas = [[x - b for x, b in zip(other, base, strict=True)] for other in others]
    count = max(1, int(density * len(base)))
    for delta in deltas:
        kept = sorted(range(len(base)), key=lambda i: -abs(delta[i]))[:count]
        delta[:] = [value if i in kept else 0.0 for i, value in enumerate(delta)]
    merged = []
    for i, start in enumerate(base):
        column = [delta[i] for delta in deltas]
        sign = 1 if sum(column) >= 0 else -1
        agree = [value for value in column if value * sign > 0]
        merged.append(start + (sum(agree) / len(agree) if agree else 0.0))
    return merged


@given(seed=st.integers(0, 99), density=st.sampled_from([0.01, 0.2, 0.5, 1.0]))
def test_ties_takes_the_papers_steps(seed: int, density: float) -> None:
    base, *others = states(seed)
    want = reference_ties(base["w"].tolist(), [o["w"].tolist() for o in others], density)
    assert torch.allclose(ties(base, others, density=density)["w"], torch.tensor(want), atol=1e-5)


def test_ties_of_one_whole_difference_is_that_model() -> None:
    base, other = states(1, 2)
    assert torch.allclose(ties(base, [other], density=1.0)["w"], other["w"], atol=1e-6)


def test_trimming_keeps_the_largest_and_at_least_one() -> None:
    values = torch.tensor([[0.1, -3.0], [2.0, 2.0]])
    assert trim(values, 0.5).tolist() == [[0.0, -3.0], [2.0, 0.0]]
    assert trim(values, 0.01).tolist() == [[0.0, -3.0], [0.0, 0.0]]
    assert trim(torch.zeros(0), 0.5).numel() == 0


def test_dare_is_task_arithmetic_on_average_and_whole_at_density_one() -> None:
    base, *others = states(2, 3, 40)
    want = task_arithmetic(base, others, [1.0, 0.5], 0.7)["w"]
    assert torch.allclose(dare(base, others, [1.0, 0.5], 0.7, 1.0)["w"], want, atol=1e-5)
    draws = torch.stack(
        [dare(base, others, [1.0, 0.5], 0.7, 0.3, seed)["w"] for seed in range(4000)]
    )
    error = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - want).abs() <= 5 * error + 1e-6).all()


def test_dare_keeps_the_wanted_share_and_depends_on_the_seed_alone() -> None:
    base, other = states(3, 2, 10_000)
    first, again, third = (dare(base, [other], density=0.2, seed=s)["w"] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, third)
    kept = first != base["w"]
    assert kept.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert torch.allclose((first - base["w"])[kept], 5 * (other["w"] - base["w"])[kept], atol=1e-4)


def test_a_tensor_with_two_names_is_merged_once() -> None:
    base, other = ({"a": s["w"], "b": s["w"]} for s in states(4, 2))
    merged = dare(base, [other], density=0.5)
    assert torch.equal(merged["a"], merged["b"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "ties", "models": ["a"]}, "ties needs a reference"),
        ({"kind": "dare", "reference": "r"}, "at least one model"),
        ({"kind": "dare", "reference": "r", "models": ["a"], "density": 0}, "density"),
        ({"kind": "ties", "reference": "r", "models": ["a", "b"], "weights": [1, -1]}, "above 0"),
        (
            {"kind": "task-arithmetic", "reference": "r", "models": ["a"], "density": 0.5},
            "density is for ties and dare",
        ),
        ({"kind": "average", "models": ["a", "b"], "scale": 2}, "a scale has no effect"),
        ({"reference": "a", "expert": "b", "scale": 2}, "a scale has no effect"),
        ({"kind": "average", "models": ["a", "b"], "alphas": [0.1]}, "alphas are for wise-ft"),
    ],
)
def test_what_a_kind_does_not_use_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MergeConfig(**values)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ties", "dare"])
def test_a_whole_merge_is_stored_with_its_recipe(kind: str, paths: Paths, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in "rab"]
    for number, path in enumerate(folders):
        make_llama(Path(path), seed=number)
    config = MergeConfig(kind=kind, reference=folders[0], models=folders[1:], density=0.5)
    folder = paths.run("m")
    folder.mkdir(parents=True)
    outcome = train(config, Job(paths, "m", folder, Listener()))
    assert outcome.info["kind"] == kind and outcome.info["density"] == 0.5
    merged, start = (
        load_file(Path(path) / "model.safetensors") for path in (outcome.folder, folders[0])
    )
    share = torch.cat([(merged[k] != start[k]).flatten() for k in merged]).float().mean().item()
    assert 0.5 < share < 1.0
