"""Merged weights: endpoints of the curve, means, tied weights, incompatible models."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file

from kdharness.harness import cli
from kdharness.harness.config.files import load_config, parse_config
from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.harness.store import Store
from kdharness.trainers.methods import merge
from kdharness.trainers.methods.merge import train
from kdharness.trainers.methods.merge_weights import average, interpolate, task_arithmetic
from support.models import make_llama, make_tokenizer
from support.reporters import Listener


def state(seed: int, **tensors: Any) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(7, 5, generator=rng), "b": torch.randn(5, generator=rng), **tensors}


def same_tensors(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


# ---------------------------------------------------------------- pure functions


@given(seed=st.integers(0, 50), half=st.booleans())
def test_interpolation_endpoints_are_bit_exact_and_midpoint_is_the_mean(
    seed: int, half: bool
) -> None:
    a, b = state(seed), state(seed + 1000)
    if half:
        a, b = ({k: v.bfloat16() for k, v in s.items()} for s in (a, b))
    assert same_tensors(interpolate(a, b, 0.0), a)
    assert same_tensors(interpolate(a, b, 1.0), b)
    middle = interpolate(a, b, 0.5)
    for key in a:
        assert middle[key].dtype == a[key].dtype
        mean = ((a[key].float() + b[key].float()) / 2).to(a[key].dtype)
        assert torch.allclose(
            middle[key].float(), mean.float(), rtol=1e-2 if half else 1e-6, atol=1e-6
        )


def test_average_and_task_arithmetic_match_their_formulas() -> None:
    base, a, b = state(1), state(2), state(3)
    mean = average([a, b], [3, 1])
    assert torch.allclose(mean["w"], 0.75 * a["w"] + 0.25 * b["w"])
    assert torch.allclose(average([a, b])["b"], interpolate(a, b, 0.5)["b"])
    added = task_arithmetic(base, [a, b], [1.0, 2.0], scale=0.5)
    expected = base["w"] + 0.5 * ((a["w"] - base["w"]) + 2 * (b["w"] - base["w"]))
    assert torch.allclose(added["w"], expected, atol=1e-6)
    assert torch.allclose(task_arithmetic(base, [a])["w"], a["w"], atol=1e-6)


def test_mismatched_tensors_are_rejected_by_name() -> None:
    a = state(1)
    with pytest.raises(ModelError, match=r"w is 7×5 in reference and 7×6 in expert"):
        interpolate(a, {**state(2), "w": torch.zeros(7, 6)}, 0.5)
    with pytest.raises(ModelError, match="expert has gate, which is missing from reference"):
        interpolate(a, state(2, gate=torch.zeros(1)), 0.5)
    counts = {"n": torch.tensor([1, 2])}
    assert same_tensors(interpolate({**a, **counts}, {**a, **counts}, 0.3), {**a, **counts})
    with pytest.raises(ModelError, match="the integer tensor n differs"):
        interpolate({**a, **counts}, {**a, "n": torch.tensor([1, 3])}, 0.3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused_by_tensor_and_model(value: float) -> None:
    good, bad = state(1), state(2)
    bad["b"][3] = value
    with pytest.raises(ModelError, match="b of expert has NaN or infinite values"):
        interpolate(good, bad, 0.5)
    with pytest.raises(ModelError, match="b of reference has NaN"):
        interpolate(bad, good, 0.0)
    with pytest.raises(ModelError, match="b of one has NaN"):
        average([good, bad], names=["zero", "one"])


def test_a_merge_that_overflows_is_refused() -> None:
    small, large = ({"w": torch.full((2,), v, dtype=torch.float16)} for v in (0.0, 6e4))
    with pytest.raises(ModelError, match="w of the merged model has values beyond float16"):
        task_arithmetic(small, [large], scale=2.0)
    assert task_arithmetic(small, [large])["w"].tolist() == [60000.0, 60000.0]


# ---------------------------------------------------------------- the chat template


class Templates:
    """Tokenizers by model name, of which a template is all that matters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **templates: str | None) -> None:
        self.made = {n: SimpleNamespace(chat_template=t) for n, t in templates.items()}
        monkeypatch.setattr(merge, "load_tokenizer", lambda name, *_, **__: self.made[name])


@pytest.mark.parametrize(
    ("templates", "want", "said"),
    [
        ({"a": "A", "b": "A"}, "A", []),
        ({"a": None, "b": "B"}, "B", ["a has no chat template: the merged model has that of b"]),
        ({"a": None, "b": None}, None, []),
        (
            {"a": "A", "b": "B"},
            "A",
            ["the chat templates of a and b differ: the merged model has that of a"],
        ),
        (
            {"a": None, "b": "B", "c": "C"},
            "B",
            [
                "a has no chat template: the merged model has that of b",
                "the chat templates of b and c differ: the merged model has that of b",
            ],
        ),
    ],
)
def test_a_merge_has_the_first_chat_template(
    templates: dict[str, str | None],
    want: str | None,
    said: list[str],
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizers, run = Templates(monkeypatch, **templates).made, job(paths, "m")
    found = merge.merged_tokenizer(list(templates), run, trust=False)
    assert found is tokenizers["a"] and found.chat_template == want
    assert [text for _, text in run.reporter.said] == said


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reference": "a"}, "needs a reference and an expert"),
        ({"reference": "a", "expert": "b", "alphas": [0, 1]}, "between 0 and 1"),
        ({"reference": "a", "expert": "b", "alphas": [0.5, 1.5]}, "between 0 and 1"),
        ({"kind": "average", "models": ["a"]}, "at least two models"),
        ({"kind": "average", "models": ["a", "a"]}, "duplicate model"),
        ({"kind": "average", "models": ["a", "b"], "weights": [1]}, "1 weights for 2 models"),
        ({"kind": "average", "models": ["a", "b"], "weights": [1, -1]}, "more than 0"),
        ({"kind": "task-arithmetic", "models": ["a"]}, "needs a reference"),
        ({"kind": "task-arithmetic", "reference": "r", "models": ["a"], "scale": 0}, "scale of 0"),
        (
            {"kind": "task-arithmetic", "reference": "r", "models": ["a"], "expert": "e"},
            "does not use expert",
        ),
    ],
)
def test_invalid_merge_configs_are_rejected_with_a_reason(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        MergeConfig(**values)
    with pytest.raises(ConfigError, match=message):
        parse_config({"method": "merge", **values})


def test_alphas_are_sorted_and_endpoints_dropped() -> None:
    config = MergeConfig(reference="a", expert="b", alphas=[1.0, 0.75, 0.0, 0.25, 0.25])
    assert config.alphas == [0.25, 0.75]


# ---------------------------------------------------------------- runs


def two_models(tmp_path: Path, **changes: Any) -> tuple[Path, Path]:
    """Create two tiny models with the same architecture and tokenizer."""
    a, b = tmp_path / "ref", tmp_path / "exp"
    make_llama(a, seed=1, **changes)
    make_llama(b, seed=2, **changes)
    return a, b


def job(paths: Paths, name: str) -> Job:
    return Job(paths=paths, run=name, folder=paths.run(name), reporter=Listener())


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_merge_run_stores_one_checkpoint_per_alpha(
    paths: Paths, tmp_path: Path, tied: bool
) -> None:
    a, b = two_models(tmp_path, tie_word_embeddings=tied)
    config = MergeConfig(reference=str(a), expert=str(b), alphas=[0.25, 0.5])
    outcome = train(config, job(paths, "curve"))
    assert outcome.folder.name == "alpha-0.5" and outcome.step == 2
    with Store(paths.store) as store:
        checkpoints = {c.name: c for c in store.checkpoints("curve")}
        parents = {c.id: Path(c.path).name for c in store.checkpoints() if c.method == "model"}
    assert {n: c.info["alpha"] for n, c in checkpoints.items()} == {
        "curve-alpha-0.25": 0.25,
        "curve-alpha-0.5": 0.5,
    }
    ours, theirs = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    for checkpoint in checkpoints.values():
        roles = {role: parents[parent] for role, parent in checkpoint.parents.items()}
        assert roles == {"reference": "ref", "expert": "exp"}
        merged = load_file(Path(checkpoint.path) / "model.safetensors")
        assert ("lm_head.weight" in merged) is not tied
        assert same_tensors(merged, interpolate(ours, theirs, checkpoint.info["alpha"]))
        model = load_model(checkpoint.name, paths, device="cpu")
        same = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        assert same is tied


@pytest.mark.slow
def test_interrupted_merge_creates_only_missing_checkpoints(paths: Paths, tmp_path: Path) -> None:
    a, b = two_models(tmp_path)
    config = MergeConfig(reference=str(a), expert=str(b), alphas=[0.25, 0.5])
    train(config.model_copy(update={"alphas": [0.25, 0.9]}), job(paths, "curve"))
    file = paths.run("curve") / "alpha-0.25" / "model.safetensors"
    before = file.stat().st_mtime_ns
    train(config, job(paths, "curve"))
    assert file.stat().st_mtime_ns == before
    assert (paths.run("curve") / "alpha-0.5" / "model.safetensors").exists()


def test_merged_model_keeps_the_dtype_of_the_first_model(paths: Paths, tmp_path: Path) -> None:
    a, b = two_models(tmp_path)
    load_model(str(a), paths, device="cpu").to(torch.bfloat16).save_pretrained(a)
    train(MergeConfig(reference=str(a), expert=str(b), alphas=[0.5]), job(paths, "one"))
    merged = load_file(paths.run("one") / "final" / "model.safetensors")
    assert {t.dtype for t in merged.values()} == {torch.bfloat16}


@pytest.mark.slow
def test_adapter_is_merged_as_its_full_model(paths: Paths, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    a, _ = two_models(tmp_path)
    torch.manual_seed(0)
    student = get_peft_model(
        load_model(str(a), paths, device="cpu"),
        LoraConfig(
            r=4,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            init_lora_weights=False,
        ),
    )
    student.save_pretrained(tmp_path / "lora")
    make_tokenizer(tmp_path / "lora")
    train(
        MergeConfig(reference=str(a), expert=str(tmp_path / "lora"), alphas=[0.5]),
        job(paths, "half"),
    )
    full_state = load_model(str(tmp_path / "lora"), paths, device="cpu").state_dict()
    expected = interpolate(load_file(a / "model.safetensors"), full_state, 0.5)
    assert same_tensors(load_file(paths.run("half") / "final" / "model.safetensors"), expected)


@pytest.mark.slow
def test_incompatible_models_are_rejected_with_the_difference(paths: Paths, tmp_path: Path) -> None:
    a, b = two_models(tmp_path)

    def merge_with(other: Path) -> None:
        train(MergeConfig(reference=str(a), expert=str(other)), job(paths, "no"))

    with pytest.raises(ModelError, match="have the same weights"):
        merge_with(a)
    make_llama(tmp_path / "wide", seed=3, intermediate_size=48)
    with pytest.raises(ModelError, match=r"intermediate_size is 64 in .*ref and 48 in .*wide"):
        merge_with(tmp_path / "wide")
    make_llama(tmp_path / "deep", seed=3, num_hidden_layers=5)
    with pytest.raises(ModelError, match=r"num_hidden_layers is 4 in .*ref and 5 in .*deep"):
        merge_with(tmp_path / "deep")
    make_llama(tmp_path / "tied", seed=3, tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"tie_word_embeddings is False in .*ref and True in"):
        merge_with(tmp_path / "tied")
    make_tokenizer(b, words=380)
    with pytest.raises(ModelError, match=r"tokenizers of .* differ|split") as caught:
        merge_with(b)
    assert "embeddings" in caught.value.hint


@pytest.mark.slow
def test_merge_and_train_commands(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = two_models(tmp_path)
    file = tmp_path / "merge.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "method": "merge",
                "name": "wise",
                "reference": str(a),
                "expert": str(b),
                "alphas": [0.3, 0.6],
            }
        ),
        "utf-8",
    )
    home = ["--home", str(paths.home)]
    assert cli.run([*home, "merge", str(file)]) == 0
    assert capsys.readouterr().out.split() == ["wise-alpha-0.3", "wise-alpha-0.6"]
    assert cli.run([*home, "train", str(file), "--set", "alphas=[0.5]", "--name", "mid"]) == 0
    average_file = tmp_path / "average.yaml"
    average_file.write_text(
        yaml.safe_dump(
            {"method": "merge", "kind": "average", "name": "soup", "models": [str(a), "mid"]}
        ),
        "utf-8",
    )
    assert cli.run([*home, "train", str(average_file)]) == 0
    with Store(paths.store) as store:
        runs = {run.id: run for run in store.runs()}
        assert {n: (r.status.value, r.checkpoint) for n, r in runs.items()} == {
            "wise": ("finished", "wise-alpha-0.6"),
            "mid": ("finished", "mid"),
            "soup": ("finished", "soup"),
        }
        soup = store.checkpoint("soup")
        assert soup is not None and set(soup.parents) == {"model-1", "model-2"}
    other = tmp_path / "eval.yaml"
    other.write_text("method: eval\ncheckpoints: [mid]\n", "utf-8")
    capsys.readouterr()
    assert cli.run([*home, "merge", str(other)]) == 2
    assert "not a merge config" in capsys.readouterr().err
    assert load_config(file).method == "merge"
