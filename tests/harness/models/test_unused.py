"""Tensors of a model's files that its config has no place for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from kdharness.harness.models.loading import load_model
from kdharness.harness.models.unused import unused_note, unused_note_of
from kdharness.harness.paths import Paths


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")


def add_tensors(folder: Path, **names: str) -> None:
    """Copy tensors of a folder under other names."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors |= {new.replace("__", "."): tensors[old].clone() for new, old in names.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def test_whole_layers_that_the_config_leaves_out_are_named(
    model_folder: Path, paths: Paths
) -> None:
    depth = json.loads((model_folder / "config.json").read_text("utf-8"))["num_hidden_layers"]
    change_config(model_folder, num_hidden_layers=depth - 1)
    note = unused_note_of(load_model(str(model_folder), paths, device="cpu"))
    assert "9 tensors in its files are not used" in note
    assert f"(model.layers.{depth - 1}.input_layernorm.weight, " in note and ", …)" in note


def test_biases_that_the_config_does_not_have_are_named(model_folder: Path, paths: Paths) -> None:
    add_tensors(model_folder, model__layers__0__self_attn__q_proj__bias="model.norm.weight")
    note = unused_note_of(load_model(str(model_folder), paths, device="cpu"))
    assert (
        "1 tensor in its files is not used" in note
        and "(model.layers.0.self_attn.q_proj.bias)" in note
    )


def test_a_whole_model_and_known_extras_say_nothing(model_folder: Path, paths: Paths) -> None:
    assert unused_note_of(load_model(str(model_folder), paths, device="cpu")) == ""
    add_tensors(model_folder, mtp__layers__0__weight="model.norm.weight")
    assert unused_note_of(load_model(str(model_folder), paths, device="cpu")) == ""


@pytest.mark.parametrize(
    "name",
    [
        "mtp.layers.0.mlp.weight",
        "model.mtp.head.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.embeddings.position_ids",
        "transformer.h.0.attn.bias",
        "transformer.h.0.attn.masked_bias",
        "lm_head.weight",
        "score.weight",
        "v_head.summary.bias",
        "vision_tower.blocks.0.weight",
    ],
)
def test_known_extras_are_left_out(name: str) -> None:
    assert unused_note([name], "m") == ""


@pytest.mark.parametrize(
    "name", ["model.layers.3.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias"]
)
def test_parts_of_the_model_are_named(name: str) -> None:
    assert name in unused_note([name, "lm_head.weight"], "m")
