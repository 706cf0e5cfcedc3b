"""export hf: a folder that vLLM, and transformers 4 and 5, read alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
)

from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.trainers.exports.export import export_folder, export_gguf
from support.adapters import make_adapter
from support.exports import BASE, Exported, make_family
from support.models import make_llama, make_tokenizer

YARN = {
    "rope_theta": 500000.0,
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def test_the_folder_is_whole(paths: Paths, tmp_path: Path) -> None:
    model = make_family(tmp_path / "m", "Qwen3", rope_parameters=YARN)
    made = export_folder(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    for name in ("model.safetensors", "generation_config.json", "tokenizer.json"):
        assert name in made.files
    config = read(tmp_path / "out" / "config.json")
    assert config["rope_theta"] == 500000.0 and config["torch_dtype"] == config["dtype"]
    assert config["rope_scaling"] == {k: v for k, v in YARN.items() if k != "rope_theta"}
    tokens = read(tmp_path / "out" / "tokenizer_config.json")
    template = (tmp_path / "m" / "chat_template.jinja").read_text("utf-8")
    assert tokens["chat_template"] == template
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (tmp_path / "out" / "chat_template.jinja").read_text("utf-8") == template
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ours = AutoConfig.from_pretrained(tmp_path / "m").rope_parameters
    assert back.config.rope_parameters == ours
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(back(ids).logits, model(ids).logits)
    text = "The quick brown fox, 12 times <|im_end|>"
    old, new = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("m", "out"))
    assert old(text).input_ids == new(text).input_ids
    assert str(tmp_path) not in json.dumps(tokens) + json.dumps(config)


def test_further_special_tokens_are_read_by_both_versions(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    added = ["<|im_start|>", "<|pad|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": added})
    tokenizer.save_pretrained(tmp_path / "m")
    assert read(tmp_path / "m" / "tokenizer_config.json")["extra_special_tokens"] == added
    export_folder(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    written = read(tmp_path / "out" / "tokenizer_config.json")
    assert written["additional_special_tokens"] == added
    # transformers 4 calls .keys() of it.
    assert "extra_special_tokens" not in written
    assert AutoTokenizer.from_pretrained(tmp_path / "out").extra_special_tokens == added


def test_bases_that_differ_between_layers_have_their_older_names(
    paths: Paths, tmp_path: Path
) -> None:
    rope = {
        "full_attention": {"rope_theta": 5e5, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {"rope_theta": 2e4, "rope_type": "default"},
    }
    config = Gemma3TextConfig(**BASE, head_dim=16, rope_parameters=rope)
    Gemma3ForCausalLM(config).save_pretrained(tmp_path / "m")
    make_tokenizer(tmp_path / "m")
    made = export_folder(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    written = read(tmp_path / "out" / "config.json")
    assert (written["rope_theta"], written["rope_local_base_freq"]) == (5e5, 2e4)
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert AutoConfig.from_pretrained(tmp_path / "out").rope_parameters == rope
    assert not any("rotary" in note for note in made.notes)


def test_every_end_of_an_answer_is_named(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m", eos_token_id=3)
    made = export_folder(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert read(tmp_path / "out" / "generation_config.json")["eos_token_id"] == [3, 1]
    assert "generation_config.json now ends answers at <|im_end|> too" in made.notes


def test_an_adapter_is_merged_and_has_its_source(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "base")
    adapter = make_adapter(tmp_path / "base", tmp_path / "adapter")
    made = export_folder(str(adapter), str(tmp_path / "out"), paths, dtype="bfloat16")
    assert "adapter_config.json" not in made.files
    assert read(tmp_path / "out" / "config.json")["dtype"] == "bfloat16"
    with Store(paths.store) as store:
        known = store.checkpoint(made.checkpoint)
        assert known is not None and known.info["exported"] == "bfloat16"
        source = store.checkpoint(known.parents["source"])
    assert source is not None and source.path == str(adapter)


def test_the_type_of_the_weights_is_kept(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m").to(torch.bfloat16).save_pretrained(tmp_path / "m")
    export_folder(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert read(tmp_path / "out" / "config.json")["dtype"] == "bfloat16"


def test_a_model_without_a_chat_template_is_refused(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        export_folder(str(tmp_path / "m"), str(tmp_path / "out"), paths)


def test_of_several_templates_the_default_is_embedded(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    folder = tmp_path / "m" / "additional_chat_templates"
    folder.mkdir()
    (folder / "tool_use.jinja").write_text("{{ tools }}", "utf-8")
    usual = (tmp_path / "m" / "chat_template.jinja").read_text("utf-8")
    export_folder(str(tmp_path / "m"), str(tmp_path / "hf"), paths)
    assert read(tmp_path / "hf" / "tokenizer_config.json")["chat_template"] == usual
    back = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert back.get_chat_template() == usual
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "gguf"), paths)
    file = Exported(made.folder)
    assert file.value("tokenizer.chat_template") == usual
    assert file.value("tokenizer.chat_template.tool_use") == "{{ tools }}"
    assert "Modelfile" in made.files
