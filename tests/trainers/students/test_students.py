"""Students derived from other models, layer maps, and tokenizer mismatches."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from kdharness.harness.config.models import StudentSpec
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.checkpoints import model_checkpoint
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.trainers.layers import cut_model, kept_layers, map_layers
from kdharness.trainers.students.cut import kept_of
from kdharness.trainers.students.mixture import mix_models
from kdharness.trainers.students.start import make_student
from kdharness.trainers.teachers.online import (
    check_tokenizers,
)

IDS = torch.tensor([[5, 9, 33, 7, 61]])


@given(depth=st.integers(2, 80), data=st.data())
def test_kept_layers_are_evenly_spread_and_include_both_ends(depth: int, data: Any) -> None:
    keep = data.draw(st.integers(2, depth))
    kept = kept_layers(keep, depth)
    assert len(set(kept)) == keep
    assert (kept[0], kept[-1]) == (0, depth - 1)
    gaps = [b - a for a, b in pairwise(kept)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("keep", [0, 5, [], [2, 1], [0, 9], [1, 1]])
def test_invalid_keep_layers_are_rejected(keep: Any) -> None:
    with pytest.raises(ConfigError):
        kept_layers(keep, 4)


def test_layer_map_strategies() -> None:
    assert map_layers("uniform", 2, 4) == {0: 1, 1: 3}
    assert map_layers("uniform", 3, 3) == {0: 0, 1: 1, 2: 2}
    assert map_layers("last-k", 2, 4) == {0: 2, 1: 3}
    assert map_layers("last-k", 4, 2) == {2: 0, 3: 1}
    assert map_layers([3, -1, 0], 3, 4) == {0: 3, 2: 0}
    with pytest.raises(ConfigError, match="layer map needs 2 numbers"):
        map_layers([0], 2, 4)


def test_cut_model_matches_the_teacher_without_the_dropped_layers(tiny_teacher: Path) -> None:
    paths = Paths(tiny_teacher.parent / "home-cut")
    teacher = load_model(str(tiny_teacher), paths)
    uncut, kept = cut_model(teacher, 4)
    assert kept == [0, 1, 2, 3]
    assert torch.equal(uncut(IDS).logits, teacher(IDS).logits)
    student, kept = cut_model(teacher, [0, 3])
    assert student.config.num_hidden_layers == 2
    assert [layer.self_attn.layer_idx for layer in student.model.layers] == [0, 1]
    assert len(teacher.model.layers) == 4
    hidden = teacher.model.embed_tokens(IDS)
    position_embeddings = teacher.model.rotary_emb(hidden, torch.arange(IDS.shape[1])[None])
    for index in (0, 3):
        out = teacher.model.layers[index](
            hidden, position_embeddings=position_embeddings, attention_mask=None
        )
        hidden = out[0] if isinstance(out, tuple) else out
    want = teacher.lm_head(teacher.model.norm(hidden))
    assert torch.allclose(student(IDS).logits, want, atol=1e-5)
    student(IDS).logits.sum().backward()
    assert teacher.model.layers[0].mlp.up_proj.weight.grad is None


def test_cut_student_is_created_once_and_records_its_parent(
    tiny_teacher: Path, paths: Paths
) -> None:
    spec = StudentSpec.model_validate({"from": "teacher", "keep_layers": 2})
    first = make_student(spec, str(tiny_teacher), paths)
    again = make_student(spec, str(tiny_teacher), paths)
    assert first == again
    teacher = model_checkpoint(paths, str(tiny_teacher))
    assert kept_of(first, teacher, paths) == [0, 3]
    assert kept_of(first, replace(teacher, weights="another"), paths) is None
    loaded = load_model(first.path, paths)
    assert loaded.config.num_hidden_layers == 2
    with pytest.raises(ConfigError, match="no teacher to cut from"):
        make_student(spec, None, paths)


def test_upcycled_mixture_matches_the_dense_model(tiny_teacher: Path) -> None:
    dense = load_model(str(tiny_teacher), Paths(tiny_teacher.parent / "home-moe"))
    mixture = mix_models([dense])
    assert mixture.config.num_local_experts == 2
    assert torch.allclose(mixture(IDS).logits, dense(IDS).logits, atol=1e-4)


def test_experts_with_different_shapes_are_rejected(tiny_teacher: Path) -> None:
    import copy

    dense = load_model(str(tiny_teacher), Paths(tiny_teacher.parent / "home-moe"))
    other = copy.deepcopy(dense)
    other.config.intermediate_size = 65
    with pytest.raises(ModelError, match="differ in intermediate_size"):
        mix_models([dense, other])


def test_tokenizers_are_compared_by_content(tiny_teacher: Path, tmp_path: Path) -> None:
    from_disk = [AutoTokenizer.from_pretrained(tiny_teacher) for _ in range(2)]
    assert check_tokenizers(*from_disk, "a", "b") == 400
    inner = json.loads((tiny_teacher / "tokenizer.json").read_text("utf-8"))
    vocab = inner["model"]["vocab"]
    first, second = sorted(vocab, key=lambda token: vocab[token])[300:302]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    for file in tiny_teacher.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text(json.dumps(inner), "utf-8")
    other = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the tokenizers of a and b differ: id 300"):
        check_tokenizers(from_disk[0], other, "a", "b")
