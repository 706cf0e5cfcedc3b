"""Writing a GGUF file, one weight after the other."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from gguf import GGML_QUANT_VERSION, MODEL_ARCH_NAMES, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape

from kdharness.harness.chat.rendering import render
from kdharness.harness.errors import DataError, ModelError
from kdharness.harness.models.engine_files import LLAMA
from kdharness.harness.models.llama_library import last_errors, llama_library
from kdharness.trainers.exports.gguf_model import (
    TYPES,
    Tensor,
    architecture,
    arrays,
    settings,
)
from kdharness.trainers.exports.gguf_tokens import Vocabulary
from kdharness.trainers.exports.modelfile import default_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENDS_BY_NAME = frozenset({"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"})
"""Tokens at which llama.cpp stops without being told."""
PROBE = "Hello, world! It's 3.14 (or 1,024)\n\n  café №7 你好 🙂 <b>x</b>\tend"


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ends: list[int],
    words: Vocabulary,
    listed: list[Tensor],
    kind: str,
    texts: Mapping[str, str],
) -> None:
    """Write a model as a GGUF file.

    Args:
        path: the new file.
        model: the model, with an adapter merged.
        tokenizer: its tokenizer.
        ends: the tokens that end an answer, in the order of `listed_ends`.
        words: the tokenizer's vocabulary.
        listed: the weights.
        kind: f32, f16, bf16 or q8_0.
        texts: further entries of the header.

    Raises:
        ModelError: a weight or a chat template that the format cannot hold.
    """
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[architecture(model)])
    try:
        writer.add_type("model")
        writer.add_file_type(TYPES[kind][1])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        for key, text in texts.items():
            writer.add_string(key, text)
        for key, value in settings(model).items():
            adders: Any = {int: writer.add_uint32, float: writer.add_float32}
            adders.get(type(value), writer.add_string)(key, value)
        _add_vocabulary(writer, words)
        _add_tokens(writer, tokenizer, ends)
        for tensor in listed:
            writer.add_tensor_info(
                tensor.name,
                quant_shape_to_byte_shape(tensor.shape, tensor.kind),
                numpy.dtype(numpy.uint8),
                tensor.bytes,
                raw_dtype=tensor.kind,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for array in arrays(model, listed):
            writer.write_tensor_data(array)
        writer.flush()
    finally:
        writer.close()


def _add_vocabulary(writer: GGUFWriter, words: Vocabulary) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.scores:
        writer.add_token_scores(words.scores)
    if words.merges:
        writer.add_token_merges(words.merges)
    if words.space_prefix is not None:
        writer.add_add_space_prefix(words.space_prefix)
    writer.add_add_bos_token(words.begins)
    writer.add_add_eos_token(words.ends)


def _add_tokens(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, ends: list[int]) -> None:
    """Add the special tokens and the chat template."""
    eos, *others = ends
    template, several = default_template(tokenizer), tokenizer.chat_template
    if tokenizer.bos_token_id is None and "bos_token" in template:
        raise ModelError(
            "the chat template writes bos_token, and the tokenizer has none",
            hint="set the tokenizer's bos_token, or remove it from the template",
        )
    if isinstance(several, Mapping):
        named = [{"name": str(name), "template": str(text)} for name, text in several.items()]
        writer.add_chat_template(named)
    elif template:
        writer.add_chat_template(template)
    writer.add_eos_token_id(eos)
    # Without one llama.cpp takes an arbitrary token; it is not added to texts.
    writer.add_bos_token_id(eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
    for add, token in zip((writer.add_eot_token_id, writer.add_eom_token_id), others, strict=False):
        add(token)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)


def listed_ends(ends: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Order end tokens for a GGUF file: EOS, those it has entries for, those known by their text.

    Raises:
        ModelError: there are more than it has entries for.
    """
    named = [t for t in ends[1:] if tokenizer.convert_ids_to_tokens(t) in ENDS_BY_NAME]
    unnamed = [token for token in ends[1:] if token not in named]
    if len(unnamed) > 2:
        shown = ", ".join(map(str, tokenizer.convert_ids_to_tokens(unnamed)))
        raise ModelError(
            f"a GGUF file cannot name so many end tokens: {shown}",
            hint="remove some of eos_token_id in generation_config.json",
        )
    return [ends[0], *unnamed, *named]


def check_tokens(path: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Compare llama.cpp's tokens with the tokenizer's, if llama-cpp-python is installed.

    Returns:
        Whether it was.

    Raises:
        ModelError: they differ.
    """
    if importlib.util.find_spec(LLAMA) is None:
        return False
    api = llama_library()
    last_errors.clear()
    try:
        llama = api.Llama(str(path), vocab_only=True, verbose=False)
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"llama.cpp cannot load the file: {'; '.join(last_errors) or error}",
            where=str(path),
            hint="does this version know the tokenizer? pip install --upgrade llama-cpp-python",
        ) from error
    try:
        for text in _probes(tokenizer):
            ours = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            theirs = list(llama.tokenize(text.encode(), add_bos=False, special=True))
            if ours != theirs:
                raise ModelError(
                    f"llama.cpp splits a text into other tokens: {text[:80]!r}",
                    where=str(path),
                    hint="kdharness export hf writes a folder that vLLM reads as it is",
                )
    finally:
        llama.close()
    return True


def _probes(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return texts to compare: a chat if there is a template, else plain text."""
    chat = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
    try:
        return [render(tokenizer, [*chat, chat[0]], prompt=True)]
    except DataError:
        return [PROBE]
