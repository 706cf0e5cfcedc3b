"""What is labelled where a template marks what it generates."""

from __future__ import annotations

from typing import Any

from support.labels import (
    MARKED,
    TALK,
    answer,
    labelled,
    marked_tokenizer,
)


def test_generation_marks_decide(plain_tokenizer: Any) -> None:
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


def test_marks_around_some_turns_are_followed_turn_by_turn(plain_tokenizer: Any) -> None:
    last = MARKED.replace(
        "{%- if m.role == 'assistant' -%}", "{%- if m.role == 'assistant' and loop.last -%}"
    )
    assert labelled(marked_tokenizer(plain_tokenizer, last), TALK) == ["C<|im_end|>"]
    off = [*TALK[:3], answer("C", train=False)]
    assert labelled(marked_tokenizer(plain_tokenizer, last), off) == []


def test_a_mark_that_ends_in_characters_of_no_token_ends_there(plain_tokenizer: Any) -> None:
    """The mask that transformers makes of it runs on to the end of the chat."""
    from tokenizers import AddedToken

    tokenizer = marked_tokenizer(
        plain_tokenizer, MARKED.replace("'<|im_end|>' -}}{%- endgen", "'<|turn|> ' -}}{%- endgen")
    )
    tokenizer.add_tokens([AddedToken("<|turn|>", rstrip=True, special=True, normalized=False)])
    assert labelled(tokenizer, TALK) == ["B<|turn|>", "C<|turn|>"]
