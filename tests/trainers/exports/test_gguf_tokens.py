"""Tokenizers in GGUF files: named by what they do, and refused where llama.cpp has no equal."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from kdharness.harness.errors import ModelError
from kdharness.trainers.exports.gguf_tokens import vocabulary

TEXTS = ["the cat sat on the mat, 12 times", "it's the best  of\n\n1,024 worlds", "naïve café"] * 3
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = ByteLevel(add_prefix_space=False, use_regex=False)
WITH_WORDS = ByteLevel(add_prefix_space=False)
LLAMA3 = Sequence([Split(Regex(WORDS), "isolated"), BYTES])
QWEN2 = Sequence([Split(Regex(WORDS.replace("{1,3}", "")), "isolated"), BYTES])


def byte_level(steps: Any, *, unmerged: bool = False, normalizer: Any = None) -> Any:
    inner = Tokenizer(models.BPE(ignore_merges=unmerged))
    inner.pre_tokenizer = steps
    inner.decoder = decoders.ByteLevel()
    if normalizer is not None:
        inner.normalizer = normalizer
    special = ["<s>", "<|im_end|>"]
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|im_end|>")


def sentencepiece(normalizer: Any = None, steps: Any = None, template: str = "") -> Any:
    """A BPE with bytes for unknown characters, as sentencepiece's are converted."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>", "[INST]", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = BpeTrainer(vocab_size=360, special_tokens=special, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    plain = json.loads(inner.to_str())
    plain["added_tokens"] = [
        token for token in plain["added_tokens"] if not token["content"].startswith("<0x")
    ]
    inner = Tokenizer.from_str(json.dumps(plain))
    if steps is not None:
        inner.normalizer, inner.pre_tokenizer = normalizer, steps
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    found.chat_template = template or None
    return found


@pytest.mark.parametrize(
    ("steps", "unmerged", "name"),
    [
        (WITH_WORDS, False, "gpt-2"),
        (Sequence([Digits(individual_digits=True), WITH_WORDS]), False, "smollm"),
        (LLAMA3, True, "llama-bpe"),
        (LLAMA3, False, "smaug-bpe"),
        (QWEN2, False, "qwen2"),
        (Sequence([Split(Regex(TEKKEN), "isolated"), BYTES]), True, "tekken"),
        (Sequence([Split(Regex(TEKKEN), "removed", invert=True), BYTES]), True, "tekken"),
        (Sequence([Sequence([WITH_WORDS])]), False, "gpt-2"),
    ],
)
def test_pre_tokenizers_are_named_by_what_they_do(steps: Any, unmerged: bool, name: str) -> None:
    found = vocabulary(byte_level(steps, unmerged=unmerged), 320)
    assert (found.model, found.pre, found.space_prefix) == ("gpt2", name, None)


@pytest.mark.parametrize(
    ("steps", "unmerged", "normalizer"),
    [
        (ByteLevel(add_prefix_space=True), False, None),
        (Sequence([Digits(individual_digits=False), WITH_WORDS]), False, None),
        (Sequence([Split(Regex(r"\d"), "isolated"), WITH_WORDS]), False, None),
        (Sequence([Split(Regex(WORDS), "merged_with_next"), BYTES]), True, None),
        (Sequence([Split(Regex(WORDS.replace("'s|", "")), "isolated"), BYTES]), True, None),
        (QWEN2, True, None),
        (WITH_WORDS, True, None),
        (WITH_WORDS, False, normalizers.Lowercase()),
        (QWEN2, False, normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])),
        (pre_tokenizers.Whitespace(), False, None),
    ],
)
def test_what_llama_cpp_does_otherwise_is_refused(
    steps: Any, unmerged: bool, normalizer: Any
) -> None:
    tokenizer = byte_level(steps, unmerged=unmerged, normalizer=normalizer)
    with pytest.raises(ModelError, match=r"llama\.cpp has no tokenizer like this one"):
        vocabulary(tokenizer, 320)


def test_the_normal_form_of_qwen_is_accepted() -> None:
    assert vocabulary(byte_level(QWEN2, normalizer=normalizers.NFC()), 320).pre == "qwen2"


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_tokens_that_take_blanks_are_refused(flag: str) -> None:
    tokenizer = byte_level(WITH_WORDS)
    tokenizer.add_tokens([AddedToken("<|x|>", special=True, **{flag: True})])
    with pytest.raises(ModelError, match="takes blanks"):
        vocabulary(tokenizer, 330)


def test_added_tokens_and_padding() -> None:
    tokenizer = byte_level(WITH_WORDS)
    size = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    tokenizer.add_tokens([AddedToken(f"[PAD{size + 2}]", special=True)])
    found = vocabulary(tokenizer, size + 4)
    taken = f"[PAD{size + 2}]"
    assert found.tokens[size:] == ["<tool>", taken, f"[{taken}]", f"[PAD{size + 3}]"]
    assert found.types[size:] == [4, 3, 5, 5] and found.types[:2] == [3, 3]
    with pytest.raises(ModelError, match="resize_token_embeddings"):
        vocabulary(tokenizer, size)


@pytest.mark.parametrize("around", [True, False])
def test_bos_is_added_as_the_tokenizer_does(around: bool) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level(WITH_WORDS)
    if around:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    found = vocabulary(tokenizer, 320)
    assert (found.begins, found.ends) == (around, False)


def adding(before: str, after: str, template: str) -> Any:
    """Return a tokenizer that adds tokens around a text, with a chat template."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level(WITH_WORDS)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{before} $A {after}".strip(), special_tokens=[("<s>", 0), ("<|im_end|>", 1)]
    )
    tokenizer.chat_template = template or None
    return tokenizer


TURNS = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
SYSTEM_ONLY = "{% if messages[0].role == 'system' %}{{ bos_token }}{% endif %}" + TURNS
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
)


@pytest.mark.parametrize(
    ("around", "template", "added", "said"),
    [
        (("<s>", ""), "", (True, False), []),
        (("<s>", "<|im_end|>"), "", (True, True), []),
        (("<s>", ""), "{{ bos_token }}" + TURNS, (True, False), []),
        (("<s>", ""), NO_SYSTEM + TURNS, (True, False), []),
        (("<s>", ""), TURNS, (False, False), ["<s>"]),
        (("<s>", ""), SYSTEM_ONLY, (False, False), ["<s>"]),
        (("<s>", ""), "\n" + "{{ ' ' + bos_token }}" + TURNS, (False, False), ["<s>"]),
        (("<s>", "<|im_end|>"), TURNS, (False, False), ["<s>", "<|im_end|>"]),
        (("", "<|im_end|>"), TURNS, (False, False), ["<|im_end|>"]),
        (("", ""), "{{ bos_token }}" + TURNS, (False, False), []),
    ],
)
def test_nothing_is_added_to_a_chat_that_its_template_does_not_write(
    around: tuple[str, str], template: str, added: tuple[bool, bool], said: list[str]
) -> None:
    """Public reports: answers get worse with one BOS too many, and end at once with an EOS."""
    found = vocabulary(adding(*around, template), 320)
    assert (found.begins, found.ends) == added
    assert [note.split()[3] for note in found.notes] == said


def merged(text: str, tokens: list[str], scores: list[float]) -> list[str]:
    """Merge as llama.cpp does: the pair whose result has the best score, leftmost first."""
    rank = dict(zip(tokens, scores, strict=True))
    parts = list(text)
    while True:
        pairs = [(-rank[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in rank]
        if not pairs:
            return parts
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_scores_merge_as_the_merges_do() -> None:
    tokenizer = sentencepiece()
    found = vocabulary(tokenizer, 360)
    assert (found.model, found.pre, found.merges) == ("llama", "default", [])
    assert found.types[:4] == [2, 3, 3, 3] and set(found.types[4:260]) == {6}
    for text in ("the cat sat on the mat", "the best of the times", "a mat at the cat"):
        ours = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)
        assert merged("▁" + text.replace(" ", "▁"), found.tokens, found.scores) == ours


INST = "<s>[INST] {{ messages[-1]['content'] }}[INST]"
RAW = "{% for m in messages %}user: {{ m['content'] }}</s>{% endfor %}"


@pytest.mark.parametrize(
    ("steps", "template", "prefix"),
    [
        (None, "", True),
        (Metaspace("▁", "never", split=False), INST, False),
        (Metaspace("▁", "first", split=False), INST, False),
        (Metaspace("▁", "first", split=False), "", True),
        (Metaspace("▁", "always", split=False), INST.replace("[INST] ", "[INST]"), True),
    ],
)
def test_the_space_before_a_text(steps: Any, template: str, prefix: bool) -> None:
    assert vocabulary(sentencepiece(None, steps, template), 360).space_prefix is prefix


def test_a_space_that_llama_cpp_cannot_put_is_refused() -> None:
    steps = Metaspace("▁", "first", split=False)
    with pytest.raises(ModelError, match="before some stretches of a chat"):
        vocabulary(sentencepiece(None, steps, RAW), 360)
    with pytest.raises(ModelError, match="not one of SentencePiece"):
        vocabulary(sentencepiece(None, Metaspace("▁", "always", split=True)), 360)


def test_merges_that_scores_cannot_order_are_refused() -> None:
    plain = json.loads(sentencepiece().backend_tokenizer.to_str())
    first = next(m for m in plain["model"]["merges"] if len("".join(m)) == 3)
    piece = "".join(first)
    other = [piece[:1], piece[1:]] if first[0] != piece[:1] else [piece[:2], piece[2:]]
    plain["model"]["vocab"].setdefault("".join(other[0]), 358)
    plain["model"]["vocab"].setdefault("".join(other[1]), 359)
    plain["model"]["merges"].append(other)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(plain)), eos_token="</s>", bos_token="<s>"
    )
    with pytest.raises(ModelError, match="order of its merges"):
        vocabulary(tokenizer, 400)


def test_models_other_than_bpe_are_refused() -> None:
    inner = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    with pytest.raises(ModelError, match="its model is WordLevel"):
        vocabulary(tokenizer, 4)
