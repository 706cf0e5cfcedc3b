"""Labels of templates with generation markers."""

from __future__ import annotations

from typing import Any

from support.labels import (
    MARKED,
    TALK,
    answer,
    labelled,
    marked_tokenizer,
)


def test_generation_markers_determine_the_labels(plain_tokenizer: Any) -> None:
    tokenizer = marked_tokenizer(plain_tokenizer, MARKED)
    assert labelled(tokenizer, TALK) == ["B<|im_end|>", "C<|im_end|>"]
    assert labelled(tokenizer, [answer("B"), *TALK]) == ["B<|im_end|>"] * 2 + ["C<|im_end|>"]
    assert labelled(tokenizer, [*TALK[:3], answer("")]) == ["B<|im_end|>"]
    assert labelled(tokenizer, [TALK[0], answer("B", train=False), *TALK[2:]]) == ["C<|im_end|>"]
    assert labelled(tokenizer, TALK, truncated=True) == ["B<|im_end|>", "C"]
    bare = MARKED.replace(
        "m.content + '<|im_end|>' -}}{%- endgen", "m.content -}}{%- endgen"
    ).replace("{%- else", "{{- '<|im_end|>' -}}{%- else")
    assert labelled(marked_tokenizer(plain_tokenizer, bare), TALK) == ["B", "C"]


def test_markers_around_only_some_turns(plain_tokenizer: Any) -> None:
    last = MARKED.replace(
        "{%- if m.role == 'assistant' -%}", "{%- if m.role == 'assistant' and loop.last -%}"
    )
    assert labelled(marked_tokenizer(plain_tokenizer, last), TALK) == ["C<|im_end|>"]
    untrained = [*TALK[:3], answer("C", train=False)]
    assert labelled(marked_tokenizer(plain_tokenizer, last), untrained) == []


def test_marker_ending_between_tokens_does_not_extend_to_the_chats_end(
    plain_tokenizer: Any,
) -> None:
    """The mask that transformers computes for it extends to the end of the chat."""
    from tokenizers import AddedToken

    tokenizer = marked_tokenizer(
        plain_tokenizer, MARKED.replace("'<|im_end|>' -}}{%- endgen", "'<|turn|> ' -}}{%- endgen")
    )
    tokenizer.add_tokens([AddedToken("<|turn|>", rstrip=True, special=True, normalized=False)])
    assert labelled(tokenizer, TALK) == ["B<|turn|>", "C<|turn|>"]
