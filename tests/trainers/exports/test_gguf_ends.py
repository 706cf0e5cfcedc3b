"""End tokens of GGUF files, and the comparison with llama.cpp's own tokens."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from kdharness.harness.errors import ModelError
from kdharness.harness.paths import Paths
from kdharness.trainers.exports.export import export_folder, export_gguf
from kdharness.trainers.exports.gguf_model import tensors
from support.exports import Exported
from support.models import make_llama


def edited(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, **changes}), "utf-8")


def add_tokens(folder: Path, *texts: str) -> list[int]:
    """Turn the last ordinary tokens of a tiny tokenizer into added ones."""
    path = folder / "tokenizer.json"
    inner = json.loads(path.read_text("utf-8"))
    vocab = inner["model"]["vocab"]
    last = sorted(vocab, key=lambda token: vocab[token])[-len(texts) :]
    ids = [vocab.pop(token) for token in last]
    inner["model"]["merges"] = [m for m in inner["model"]["merges"] if "".join(m) not in last]
    inner["added_tokens"] += [
        {"id": number, "content": text, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for number, text in zip(ids, texts, strict=True)
    ]
    path.write_text(json.dumps(inner), "utf-8")
    return ids


def test_further_ends_are_named(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    ids = add_tokens(tmp_path / "m", "<turn/>", "<|endoftext|>", "<call/>")
    edited(tmp_path / "m" / "generation_config.json", eos_token_id=[1, *ids])
    export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    file = Exported(tmp_path / "out")
    found = [file.value(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    # llama.cpp knows <|endoftext|> by its text.
    assert found == [1, ids[0], ids[2]]
    stops = (tmp_path / "out" / "Modelfile").read_text("utf-8")
    for text in ("<|im_end|>", "<turn/>", "<|endoftext|>", "<call/>"):
        assert f'PARAMETER stop "{text}"' in stops


def test_more_ends_than_a_file_can_name_are_refused(paths: Paths, tmp_path: Path) -> None:
    make_llama(tmp_path / "m")
    ids = add_tokens(tmp_path / "m", "<a/>", "<b/>", "<c/>")
    edited(tmp_path / "m" / "generation_config.json", eos_token_id=[1, *ids])
    with pytest.raises(ModelError, match="cannot name so many end tokens: <a/>, <b/>, <c/>"):
        export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    # A folder's generation config takes any number.
    export_folder(str(tmp_path / "m"), str(tmp_path / "folder"), paths)
    written = json.loads((tmp_path / "folder" / "generation_config.json").read_text("utf-8"))
    assert written["eos_token_id"] == [1, *ids]


def test_a_template_that_writes_a_missing_bos_is_refused(paths: Paths, tmp_path: Path) -> None:
    """llama.cpp would put an arbitrary token's text there."""
    make_llama(tmp_path / "m")
    path = tmp_path / "m" / "chat_template.jinja"
    path.write_text("{{ bos_token }}" + path.read_text("utf-8"), "utf-8")
    with pytest.raises(ModelError, match="writes bos_token, and the tokenizer has none"):
        export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)


def begin_with_bos(folder: Path, template: str) -> None:
    """Let a tokenizer add a BOS token to every text, and set its chat template."""
    path = folder / "tokenizer.json"
    inner = json.loads(path.read_text("utf-8"))
    inner["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|pad|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|pad|>": {"id": "<|pad|>", "ids": [2], "tokens": ["<|pad|>"]}},
    }
    path.write_text(json.dumps(inner), "utf-8")
    edited(folder / "tokenizer_config.json", bos_token="<|pad|>", pad_token=None)
    (folder / "chat_template.jinja").write_text(template, "utf-8")


@pytest.mark.parametrize("writes", [True, False])
def test_bos_is_added_to_chats_only_where_the_template_writes_it(
    writes: bool, paths: Paths, tmp_path: Path
) -> None:
    make_llama(tmp_path / "m")
    own = (tmp_path / "m" / "chat_template.jinja").read_text("utf-8")
    begin_with_bos(tmp_path / "m", "{{ bos_token }}" * writes + own)
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert Exported(made.folder).value("tokenizer.ggml.add_bos_token") is writes
    said = [note for note in made.notes if "the file says not to add it" in note]
    assert len(said) == (not writes)
    # Ollama adds what the file says: the Modelfile's template never has it in addition.
    assert "<|pad|>" not in (made.folder / "Modelfile").read_text("utf-8")


def test_weights_that_are_quantised_already_are_refused() -> None:
    model = make_llama()
    layer = model.model.layers[0].mlp.down_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match=r"down_proj\.weight is quantised already \(uint8\)"):
        tensors(model, "q8_0")


def test_a_weight_without_a_place_is_refused() -> None:
    model = make_llama()
    model.model.layers[1].mlp.register_parameter("extra", torch.nn.Parameter(torch.ones(3)))
    with pytest.raises(ModelError, match=r"no place for the weight model\.layers\.1\.mlp\.extra"):
        tensors(model, "q8_0")


class Stand:
    """A stand-in for `llama_cpp.Llama` with the tokenizer of a folder."""

    folder = Path()
    shift = 0
    error = ""

    def __init__(self, path: str, *, vocab_only: bool, verbose: bool) -> None:
        from transformers import AutoTokenizer

        assert vocab_only and not verbose and Path(path).suffix == ".gguf"
        if self.error:
            raise ValueError(self.error)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    def tokenize(self, text: bytes, *, add_bos: bool, special: bool) -> list[int]:
        assert special and not add_bos
        ids = self.tokenizer(text.decode(), add_special_tokens=False).input_ids
        return [*ids[: len(ids) - self.shift]]

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Stand]:
    package: Any = ModuleType("llama_cpp")
    package.__spec__ = ModuleSpec("llama_cpp", None)
    package.Llama = type("Own", (Stand,), {"folder": tmp_path / "m"})
    package.llama_log_callback = lambda function: function
    package.llama_log_set = lambda callback, _: callback(4, b"words", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    found: type[Stand] = package.Llama
    return found


def test_tokens_are_compared_where_llama_cpp_is(
    llama: type[Stand], paths: Paths, tmp_path: Path
) -> None:
    make_llama(tmp_path / "m")
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert made.notes == []
    llama.shift = 1
    with pytest.raises(ModelError, match=r"llama\.cpp splits a text into other tokens"):
        export_gguf(str(tmp_path / "m"), str(tmp_path / "two"), paths)
    llama.error = "unknown pre-tokenizer type: 'gpt-2'"
    with pytest.raises(ModelError, match="cannot load the file: unknown pre-tokenizer") as caught:
        export_gguf(str(tmp_path / "m"), str(tmp_path / "two"), paths)
    assert "--upgrade llama-cpp-python" in str(caught.value.hint)
    assert not (tmp_path / "two").exists() and not list(tmp_path.glob(".exporting-*"))


def test_without_llama_cpp_it_is_said(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    make_llama(tmp_path / "m")
    made = export_gguf(str(tmp_path / "m"), str(tmp_path / "out"), paths)
    assert made.notes == ["not compared with llama.cpp's tokens: pip install 'kdharness[llama]'"]
