"""A fast tokenizer as the vocabulary of a GGUF file.

llama.cpp splits text by rules of its own, chosen by a name in the file. A wrong name loads without
an error and gives other tokens, so a tokenizer is identified by what it does (its `tokenizer.json`)
and refused where no name of llama.cpp does the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from gguf import TokenType

from kdharness.harness.chat.rendering import render
from kdharness.harness.errors import DataError, ModelError
from kdharness.harness.util.untrusted import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Json = Mapping[str, object]
Step = tuple[object, ...]

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = ("bytes", False)
_WORDS_AND_BYTES = ("bytes", True)

KNOWN: dict[tuple[tuple[Step, ...], bool], str] = {
    ((_WORDS_AND_BYTES,), False): "gpt-2",
    ((("digits",), _WORDS_AND_BYTES), False): "smollm",
    ((("split", _WORDS % "{1,3}"), _BYTES), True): "llama-bpe",
    ((("split", _WORDS % "{1,3}"), _BYTES), False): "smaug-bpe",
    ((("split", _WORDS % ""), _BYTES), False): "qwen2",
    ((("split", _TEKKEN), _BYTES), True): "tekken",
}
"""(Steps before BPE, whether a whole word in the vocabulary is taken unmerged) -> the name."""

SPACE = "\u2581"
UNUSED_SCORE = -1000.0


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer; `space_prefix` is None where it does not apply."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_prefix: bool | None = None
    begins: bool = False
    ends: bool = False
    notes: list[str] = field(default_factory=list)


def vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """Describe a tokenizer for llama.cpp, padded to the model's `size` rows.

    Raises:
        ModelError: a tokenizer that llama.cpp has no equal of, or with more tokens than the model.
    """
    inner = _inner(tokenizer)
    model = _part(inner, "model")
    if model.get("type") != "BPE":
        raise _refused(f"its model is {model.get('type')}, not BPE")
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            raise _refused(f"its BPE has {name}")
    listed = cast("list[Sequence[str] | str]", model.get("merges") or [])
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in listed]
    tokens, types = _tokens(tokenizer, inner, size)
    begins, ends, notes = _added_to_prompts(tokenizer)
    if model.get("byte_fallback"):
        return Vocabulary(
            "llama",
            "default",
            tokens,
            types,
            scores=_scores(tokens, merges),
            space_prefix=_space_prefix(tokenizer, inner),
            begins=begins,
            ends=ends,
            notes=notes,
        )
    pre = _pre_tokenizer(inner, bool(model.get("ignore_merges")))
    pairs = [" ".join(part.replace(" ", "\u0120") for part in pair) for pair in merges]
    return Vocabulary("gpt2", pre, tokens, types, pairs, begins=begins, ends=ends, notes=notes)


def _inner(tokenizer: PreTrainedTokenizerBase) -> Json:
    """Return the contents of `tokenizer.json`."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused("it is a slow tokenizer, without a tokenizer.json")
    return cast(Json, parse_json(backend.to_str()))


def _part(inner: Json, name: str) -> Json:
    return cast(Json, inner.get(name) or {})


def _refused(why: str) -> ModelError:
    return ModelError(
        f"llama.cpp has no tokenizer like this one: {why}",
        hint="serve it through vLLM instead: kdharness export hf",
    )


# ---------------------------------------------------------------- tokens


def _tokens(
    tokenizer: PreTrainedTokenizerBase, inner: Json, size: int
) -> tuple[list[str], list[int]]:
    """Return the text and the type of each row of the embedding."""
    model = _part(inner, "model")
    vocab = dict(cast("Mapping[str, int]", model["vocab"]))
    added = dict(tokenizer.added_tokens_decoder)
    for number, token in added.items():
        if token.lstrip or token.rstrip or token.single_word:
            raise _refused(f"its token {token.content!r} takes blanks around it, or whole words")
        vocab[token.content] = number
    last = max(vocab.values())
    if last >= size:
        raise ModelError(
            f"the tokenizer has token {last}, but the model only {size} rows of embeddings",
            hint="resize the embeddings to the tokenizer (resize_token_embeddings), or remove "
            "what was added to the tokenizer",
        )
    texts = {number: text for text, number in vocab.items()}
    unknown, fallback = model.get("unk_token"), bool(model.get("byte_fallback"))
    tokens, types = [], []
    for row in range(size):
        text = texts.get(row)
        if text is None:
            tokens.append(_free(f"[PAD{row}]", vocab))
            types.append(TokenType.UNUSED)
            continue
        tokens.append(text)
        if fallback and text == unknown:
            types.append(TokenType.UNKNOWN)
        elif row in added:
            types.append(TokenType.CONTROL if added[row].special else TokenType.USER_DEFINED)
        elif fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    return tokens, [int(kind) for kind in types]


def _free(name: str, taken: Mapping[str, int]) -> str:
    while name in taken:
        name = f"[{name}]"
    return name


def _added_around(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Return whether a text's tokens begin with the BOS token, and end with the EOS token."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    begins = len(whole) > len(plain) and whole[0] == tokenizer.bos_token_id
    ends = len(whole) > len(plain) and whole[-1] == tokenizer.eos_token_id
    if len(whole) != len(plain) + begins + ends:
        raise _refused("it adds other tokens around a text than BOS and EOS")
    return begins, ends


def _added_to_prompts(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool, list[str]]:
    """Return whether llama.cpp is to add BOS and EOS to a prompt, and notes.

    Chats are trained and scored as their template writes them. A server adds what the file says to
    a chat as well, and leaves out one BOS of two: what the template does not write must not be
    added.
    """
    begins, ends = _added_around(tokenizer)
    chats = _chats(tokenizer)
    if not chats:
        return begins, ends, []
    bos, eos = str(tokenizer.bos_token), str(tokenizer.eos_token)
    writes = all(chat.startswith(bos) for chat in chats)
    parts = [bos] * (begins and not writes) + [eos] * ends
    notes = [
        f"the tokenizer adds {token} to a text and the chat template does not: the file says not "
        "to add it, so that chats are read as in training"
        for token in parts
    ]
    return begins and writes, False, notes


def _chats(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return prompts as the chat template writes them; none without a template."""
    asked = {"role": "user", "content": "Hi"}
    longer = [asked, {"role": "assistant", "content": "Yes"}, asked]
    found = []
    for turns in ([asked], longer, [{"role": "system", "content": "Be kind"}, asked]):
        # A template may take no system prompt.
        with suppress(DataError):
            found.append(render(tokenizer, turns, prompt=True))
    return found


# ---------------------------------------------------------------- byte-level BPE


def _pre_tokenizer(inner: Json, unmerged: bool) -> str:
    """Return llama.cpp's name for what a byte-level tokenizer does before BPE."""
    normalizer = _steps(_part(inner, "normalizer"), "normalizers")
    # Text that is not in Unicode's form NFC is rare, and llama.cpp leaves it as it is.
    if any(step.get("type") != "NFC" for step in normalizer):
        raise _refused(f"its normalizer is {[step.get('type') for step in normalizer]}")
    steps = tuple(_step(step) for step in _steps(_part(inner, "pre_tokenizer"), "pretokenizers"))
    name = KNOWN.get((steps, unmerged))
    if name is None:
        shown = ", ".join(str(step[0]) for step in steps)
        raise _refused(f"its pre-tokenizer ({shown}; ignore_merges: {unmerged}) is not known")
    return name


def _steps(part: Json, inside: str) -> list[Json]:
    """Return the steps of a sequence, of a single step, or none."""
    if part.get("type") == "Sequence":
        return [
            inner for step in cast("list[Json]", part[inside]) for inner in _steps(step, inside)
        ]
    return [part] if part else []


def _step(step: Json) -> Step:
    """Return what tells a step from others."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return ("bytes", bool(step.get("use_regex", True)))
    if kind == "Digits" and step.get("individual_digits"):
        return ("digits",)
    isolated = step.get("behavior") == "Isolated" and not step.get("invert")
    removed = step.get("behavior") == "Removed" and step.get("invert")
    pattern = cast(Json, step.get("pattern") or {}).get("Regex")
    if kind == "Split" and pattern and (isolated or removed):
        return ("split", pattern)
    return (f"{kind} {sorted((k, str(v)) for k, v in step.items() if k != 'type')}",)


# ---------------------------------------------------------------- SentencePiece's BPE


def _scores(tokens: Sequence[str], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """Return scores that make llama.cpp merge in the order of the merges.

    llama.cpp merges the pair whose result has the best score, the leftmost of equal ones. That is
    the same order where all merges that give one piece stand together. Merges of blanks do not:
    SentencePiece gives all runs of them one score.
    """
    spans: dict[str, tuple[int, int]] = {}
    for rank, pair in enumerate(merges):
        piece = "".join(pair)
        spans[piece] = (spans.get(piece, (rank, rank))[0], rank)
    scores: dict[str, float] = {}
    group: list[str] = []
    reached = -1
    for piece, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        if first > reached:
            group = []
        group.append(piece)
        if len(group) > 1 and len(set("".join(group))) > 1:
            raise _refused("the order of its merges cannot be written as scores of pieces")
        reached = max(reached, last)
        scores[piece] = scores[group[0]] if len(group) > 1 else -float(first)
    return [scores.get(token, UNUSED_SCORE - len(merges)) for token in tokens]


def _space_prefix(tokenizer: PreTrainedTokenizerBase, inner: Json) -> bool:
    """Return whether llama.cpp is to put a space before every stretch of text.

    A stretch is what is between special tokens. Tokenizers put a space before all of them, before
    those that do not begin with one, or only at the start of a text; llama.cpp before all or none.
    """
    steps = [
        *_steps(_part(inner, "normalizer"), "normalizers"),
        *_steps(_part(inner, "pre_tokenizer"), "pretokenizers"),
    ]
    scheme = "never"
    for step in steps:
        kind = step.get("type")
        pattern = cast(Json, step.get("pattern") or {}).get("String")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            scheme = "all"
        elif kind == "Metaspace" and step.get("replacement") == SPACE and not step.get("split"):
            scheme = str(step.get("prepend_scheme", "always"))
        elif not (kind == "Replace" and pattern == " " and step.get("content") == SPACE):
            raise _refused(f"its step {kind} is not one of SentencePiece's")
    if scheme in ("all", "never"):
        return scheme == "all"
    wanted = {
        not text.startswith(" ") and (start == 0 or scheme == "always")
        for text, start in _stretches(tokenizer)
    }
    if len(wanted) > 1:
        raise _refused("it puts a space before some stretches of a chat, and not before others")
    return wanted.pop() if wanted else True


def _stretches(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, int]]:
    """Return the texts between the special tokens of a chat, and where each begins."""
    turns = [("user", "Hi"), ("assistant", "Yes"), ("user", "Why")]
    try:
        messages = [{"role": role, "content": text} for role, text in turns]
        text = render(tokenizer, messages, prompt=True)
    except DataError:
        return []
    added = sorted(map(str, tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    found = re.compile("|".join(map(re.escape, added)) or r"(?!)")
    ends = [0, *(match.end() for match in found.finditer(text))]
    starts = [*(match.start() for match in found.finditer(text)), len(text)]
    return [(text[a:b], a) for a, b in zip(ends, starts, strict=True) if b > a]
