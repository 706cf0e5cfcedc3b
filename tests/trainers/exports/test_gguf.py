"""GGUF export: every weight and entry of each family, read back; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.resolve import convert_gguf
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.trainers.exports.export import export_gguf
from support.adapters import make_adapter
from support.exports import Exported, expected_weights, make_family
from support.models import make_llama

ROPE3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def rope(**values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **values}}


CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("Llama", "llama", {}, {"rope.dimension_count": 16, "attention.key_length": 16}),
    "biases": ("Llama", "llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "tied": ("Llama", "llama", {"tie_word_embeddings": True}, {}),
    "head size": (
        "Mistral",
        "llama",
        {"head_dim": 32, "sliding_window": None},
        {"rope.dimension_count": 32, "context_length": 512},
    ),
    "window": ("Mistral", "llama", {"sliding_window": 128}, {"context_length": 128}),
    "qwen2": ("Qwen2", "qwen2", {"tie_word_embeddings": True}, {"context_length": 512}),
    "qwen3": ("Qwen3", "qwen3", {"head_dim": 32}, {"attention.key_length": 32}),
    "linear": (
        "Llama",
        "llama",
        rope(rope_type="linear", factor=4.0),
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "yarn": (
        "Qwen2",
        "qwen2",
        rope(**YARN),
        {"rope.scaling.type": "yarn", "rope.scaling.original_context_length": 128},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_weight_and_setting(name: str, paths: Paths, tmp_path: Path) -> None:
    family, architecture, changes, entries = CASES[name]
    model = make_family(tmp_path / "m", family, **changes)
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths, kind="f32")
    file = Exported(made.folder)
    expected = expected_weights(model, rotates=architecture == "llama")
    found = file.weights()
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        assert torch.equal(found[key], weight), key
    assert file.value("general.architecture") == architecture
    usual = {
        "block_count": 2,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "rope.freq_base": 10000.0,
        "vocab_size": 448,
    }
    for key, value in {**usual, **entries}.items():
        assert file.value(f"{architecture}.{key}") == value, key
    assert file.value(f"{architecture}.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)


def test_frequencies_of_llama_3(paths: Paths, tmp_path: Path) -> None:
    model = make_family(tmp_path / "m", "Llama", **rope(**ROPE3))
    export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths, kind="q8_0")
    file = Exported(tmp_path / "out")
    factors = file.weights()["rope_freqs.weight"]
    assert file.types()["rope_freqs.weight"] == "F32"
    plain = 10000.0 ** (-torch.arange(0, 16, 2) / 16)
    own = model.model.rotary_emb.inv_freq
    assert torch.allclose(plain / factors, own, rtol=1e-6)
    assert factors.min() == 1.0 and factors.max() == 8.0


@pytest.mark.parametrize(
    ("kind", "stored", "error"),
    [("f16", "F16", 2**-11), ("bf16", "BF16", 2**-8), ("q8_0", "Q8_0", 1 / 127)],
)
def test_types(kind: str, stored: str, error: float, paths: Paths, tmp_path: Path) -> None:
    model = make_family(tmp_path / "m", "Qwen3", head_dim=32)
    export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths, kind=kind)
    file = Exported(tmp_path / "out")
    types, found = file.types(), file.weights()
    for key, weight in expected_weights(model, rotates=False).items():
        assert types[key] == ("F32" if weight.ndim == 1 else stored)
        assert (found[key] - weight).abs().max() <= error * weight.abs().max()


def test_rows_that_are_not_whole_blocks_are_kept_in_f16(paths: Paths, tmp_path: Path) -> None:
    make_family(tmp_path / "m", "Llama", hidden_size=80, head_dim=16)
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    types = Exported(made.folder).types()
    assert types["blk.0.attn_q.weight"] == "F16" and types["blk.0.ffn_down.weight"] == "Q8_0"
    assert any("not multiples of 32" in note for note in made.notes)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
def test_another_reader_computes_the_same(
    family: str, paths: Paths, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """transformers reads the file with code of its own, and gives the same logits."""
    from transformers import AutoModelForCausalLM

    model = make_family(tmp_path / "m", family)
    export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths, kind="f32")
    capfd.readouterr()
    convert_gguf(Exported(tmp_path / "out").path, tmp_path / "back")
    assert capfd.readouterr() == ("", "")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    ids = torch.arange(40)[None] * 7 % 400
    with torch.no_grad():
        assert torch.allclose(back(ids).logits, model(ids).logits, atol=1e-4)


def test_the_vocabulary_is_padded_and_the_template_is_there(paths: Paths, tmp_path: Path) -> None:
    make_family(tmp_path / "m", "Llama")
    export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths, kind="f16")
    file = Exported(tmp_path / "out")
    inner = json.loads((tmp_path / "m" / "tokenizer.json").read_text("utf-8"))["model"]
    tokens, types = file.value("tokenizer.ggml.tokens"), file.value("tokenizer.ggml.token_type")
    assert tokens[:400] == sorted(inner["vocab"], key=inner["vocab"].get)
    assert tokens[400:] == [f"[PAD{row}]" for row in range(400, 448)]
    assert types[:3] == [3, 3, 3] and set(types[3:400]) == {1} and set(types[400:]) == {5}
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in inner["merges"]]
    assert file.value("tokenizer.ggml.merges") == pairs
    assert file.value("tokenizer.ggml.model") == "gpt2"
    assert file.value("tokenizer.ggml.pre") == "gpt-2"
    assert file.value("tokenizer.ggml.eos_token_id") == 1
    assert file.value("tokenizer.ggml.padding_token_id") == 2
    assert file.value("tokenizer.ggml.add_bos_token") is False
    template = (tmp_path / "m" / "chat_template.jinja").read_text("utf-8")
    assert file.value("tokenizer.chat_template") == template


def test_an_adapter_is_merged(paths: Paths, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_llama(base)
    adapter = make_adapter(base, tmp_path / "adapter")
    for name, source in (("a", adapter), ("b", base)):
        export_gguf(str(source), str(tmp_path / name), paths, kind="f32")
    merged, plain = (Exported(tmp_path / name).weights() for name in ("a", "b"))
    assert merged.keys() == plain.keys()
    assert any(not torch.equal(merged[key], plain[key]) for key in plain)


def test_the_file_is_a_checkpoint_with_its_source(paths: Paths, tmp_path: Path) -> None:
    make_family(tmp_path / "m", "Llama")
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    with Store(paths.store) as store:
        known = store.checkpoint(made.checkpoint)
        assert known is not None and known.method == "export" and known.info["exported"] == "q8_0"
        source = store.checkpoint(known.parents["source"])
    assert source is not None and source.path == str(tmp_path / "m")
    assert known.path == str(Exported(made.folder).path)
    assert Exported(made.folder).value("kdharness.source") == source.id
    assert str(tmp_path) not in made.folder.joinpath("kdharness.json").read_text("utf-8")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another family": ("Gemma2", {"head_dim": 16}, "no GGUF export for models of type gemma2"),
    "activation": ("Llama", {"hidden_act": "gelu"}, "with silu, not gelu"),
    "dynamic rope": ("Llama", rope(rope_type="dynamic", factor=4.0), "embeddings of type dynamic"),
    "yarn of its own": ("Llama", rope(**YARN, attention_factor=1.0), "yarn with attention_factor"),
    "llama3 rope in qwen": ("Qwen2", rope(**ROPE3), "embeddings of type llama3"),
    "too few rows": ("Llama", {"vocab_size": 390}, "has token 399, but the model only 390 rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, paths: Paths, tmp_path: Path) -> None:
    family, changes, words = REFUSED[name]
    make_family(tmp_path / "m", family, **changes)
    with pytest.raises(ModelError, match=words):
        export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".exporting-*"))


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (float("nan"), "q8_0", "not finite"),
        (float("inf"), "f32", "not finite"),
        (1e6, "f16", "too large for f16"),
    ],
)
def test_values_that_a_type_cannot_hold(
    value: float, kind: str, words: str, paths: Paths, tmp_path: Path
) -> None:
    model = make_llama(tmp_path / "m")
    model.model.layers[0].mlp.up_proj.weight.data[3, 4] = value
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=words):
        export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths, kind=kind)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".exporting-*"))


def test_no_end_token_is_refused(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m", eos_token_id=None)
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(path.read_text("utf-8").replace('"eos_token"', '"other"'), "utf-8")
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ messages[0].content }}", "utf-8")
    with pytest.raises(ModelError, match="answers would not end"):
        export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)


def test_only_an_earlier_export_is_replaced(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    out = tmp_path / "out"
    export_gguf(str(tmp_path / "m"), str(out), paths)
    with pytest.raises(ConfigError, match="already exists"):
        export_gguf(str(tmp_path / "m"), str(out), paths)
    made = export_gguf(str(tmp_path / "m"), str(out), paths, kind="f16", force=True)
    assert made.files == ["Modelfile", "kdharness.json", "m-f16.gguf"]
    shutil.rmtree(out)
    out.mkdir()
    (out / "thesis.txt").write_text("mine", "utf-8")
    with pytest.raises(ConfigError, match="not an earlier export"):
        export_gguf(str(tmp_path / "m"), str(out), paths, force=True)
    assert (out / "thesis.txt").read_text("utf-8") == "mine"


def test_a_folder_below_a_file_is_refused(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", "utf-8")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ConfigError, match="this is a file"):
            export_gguf("never-loaded", str(output), paths, force=True)


def test_a_full_disk_is_noticed_before(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_llama(tmp_path / "m")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match="GiB left"):
        export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert not (tmp_path / "out").exists()
