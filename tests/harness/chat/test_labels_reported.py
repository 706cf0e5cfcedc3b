"""Minimal reproductions of label bugs reported against other training frameworks."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kdharness.harness.chat.end_tokens import end_of_turn
from kdharness.harness.chat.template import encode_chat
from kdharness.harness.errors import DataError
from support.chat_templates import FAMILIES, with_tokens
from support.labels import MARKED, answer, call, labelled, runs, system, user

# It keeps the last answer's reasoning, drops earlier ones, and opens <think> in the prompt.
REASONING_TEMPLATE = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'assistant' and not loop.last and '</think>' in m.content -%}"
    "{{- m.content.split('</think>')[1] | trim -}}{%- else -%}{{- m.content -}}{%- endif -%}"
    "{{- '<|im_end|>' if not loop.last else '</s>' -}}{{- '\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>' -}}{%- endif -%}"
)


def test_reasoning_templates_are_supported(plain_tokenizer: Any) -> None:
    """Every row of such a template was dropped as ambiguous, or labelled from its middle."""
    tokenizer = with_tokens(plain_tokenizer, REASONING_TEMPLATE)
    chat = [
        user("ONE?"),
        answer("<think>hm</think> ONE"),
        user("TWO?"),
        answer("<think>ho</think> TWO"),
    ]
    assert labelled(tokenizer, chat) == ["ONE<|im_end|>", "ho</think> TWO</s>"]
    two_answers = [chat[0], chat[1], answer("<think>and</think> MORE")]
    assert labelled(tokenizer, two_answers) == ["ONE<|im_end|>", "and</think> MORE</s>"]


# Two tokens close an answer, and one opens it.
RESPONSE = (
    "{%- for m in messages -%}{{- '<|START_OF_TURN_TOKEN|>' -}}{%- if m.role == 'assistant' -%}"
    "{{- '<|CHATBOT_TOKEN|><|START_RESPONSE|>' + m.content + '<|END_RESPONSE|>' -}}"
    "{%- else -%}{{- '<|USER_TOKEN|>' + m.content -}}{%- endif -%}"
    "{{- '<|END_OF_TURN_TOKEN|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}"
    "{%- endif -%}"
)


def test_answer_closed_by_two_tokens(plain_tokenizer: Any) -> None:
    from tokenizers import AddedToken

    tokenizer = with_tokens(plain_tokenizer, RESPONSE)
    tokenizer.add_tokens(
        [
            AddedToken(f"<|{word}_RESPONSE|>", special=True, normalized=False)
            for word in ("START", "END")
        ]
    )
    labelled_text = labelled(tokenizer, [user("B"), answer("B"), user("B"), answer("C")])
    close = "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    assert labelled_text == [f"<|START_RESPONSE|>B{close}", f"<|START_RESPONSE|>C{close}"]
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|END_OF_TURN_TOKEN|>")


# An answer after a tool result continues the same turn, without a header.
CONTINUED = (
    "{{- '<bos>' -}}{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{{- '<start_of_turn>user\n' + m.content + '<end_of_turn>\n' -}}"
    "{%- elif m.role == 'tool' -%}{{- '<tool_response>' + m.content + '</tool_response>' -}}"
    "{%- else -%}{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}"
    "{{- '<start_of_turn>model\n' -}}{%- endif -%}{{- m.content -}}"
    "{%- for c in m.tool_calls or [] -%}"
    "{{- '<tool_call>' + c.function.name + (c.function.arguments | tojson) + '</tool_call>' -}}"
    "{%- endfor -%}{%- if not m.tool_calls -%}{{- '<end_of_turn>\n' -}}{%- endif -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt and messages[-1].role != 'tool' -%}"
    "{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)


def test_repeated_answer_after_a_tool_result(plain_tokenizer: Any) -> None:
    """The end-of-turn token differs from the EOS token, and all answers are identical."""
    tokenizer = with_tokens(plain_tokenizer, CONTINUED)
    chat = [
        user("same"),
        answer("same"),
        user("same"),
        answer("", tool_calls=[call("look", at="same")]),
        {"role": "tool", "content": "same"},
        answer("same"),
    ]
    assert labelled(tokenizer, chat) == [
        "same<end_of_turn>",
        '<tool_call>look{"at": "same"}</tool_call>',
        "same<end_of_turn>",
    ]


def test_markers_that_include_the_separator_keep_answers_separate(plain_tokenizer: Any) -> None:
    """A run of marked tokens may be two answers, one of them with `train: false`."""
    tokenizer = copy.deepcopy(plain_tokenizer)
    tokenizer.chat_template = (
        "{%- for m in messages -%}{%- if m.role == 'assistant' -%}{%- generation -%}"
        "{{- m.content + '<|im_end|>\n' -}}{%- endgeneration -%}{%- else -%}"
        "{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' -}}{%- endif -%}{%- endfor -%}"
    )
    chat = [user("a"), answer("one", train=False), answer("two")]
    assert labelled(tokenizer, chat) == ["two<|im_end|>\n"]
    assert labelled(tokenizer, [chat[0], answer("one"), chat[2]]) == [
        "one<|im_end|>\ntwo<|im_end|>\n"
    ]


def test_markers_in_a_template_that_drops_reasoning(plain_tokenizer: Any) -> None:
    marked = MARKED.replace(
        "{{- m.content + '<|im_end|>' -}}{%- endgen",
        "{{- (m.content.split('</think>')[-1] if not loop.last else m.content) + '<|im_end|>' -}}"
        "{%- endgen",
    )
    tokenizer = with_tokens(plain_tokenizer, marked)
    chat = [user("x"), answer("<think>h</think>x"), user("x"), answer("<think>h</think>x")]
    assert labelled(tokenizer, chat) == ["x<|im_end|>", "<think>h</think>x<|im_end|>"]
    chat[1]["train"] = False
    assert labelled(tokenizer, chat) == ["<think>h</think>x<|im_end|>"]


# The prompt closes the reasoning block for a model that should not reason.
CLOSED_REASONING = (
    "{%- for m in messages -%}{%- if m.role == 'user' -%}{{- '<｜User｜>' + m.content -}}"
    "{%- else -%}{{- '<｜Assistant｜></think>' + m.content + '<｜end▁of▁sentence｜>' -}}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' + "
    "('<think>' if thinking else '</think>') -}}{%- endif -%}"
)


def test_prompt_that_closes_the_reasoning_block(plain_tokenizer: Any) -> None:
    tokenizer = with_tokens(plain_tokenizer, CLOSED_REASONING)
    chat = [user("B"), answer("B"), user("B"), answer("C")]
    end = "<｜end▁of▁sentence｜>"
    assert labelled(tokenizer, chat) == [f"B{end}", f"C{end}"]
    # A prompt that opens the block differs from the rendered chat; that part is labelled too.
    labelled_text = labelled(tokenizer, chat, variables={"thinking": True})
    assert [text.removeprefix("</think>") for text in labelled_text] == [f"B{end}", f"C{end}"]


@pytest.mark.parametrize("kind", ["prepended", "bare", "first", "always"])
@pytest.mark.parametrize("family", ["llama2", "mistral3", "mistral-tekken", "zephyr", "gemma2"])
def test_tokenizers_with_sentencepiece_space_markers(kind: str, family: str) -> None:
    """SentencePiece's space marker in the variants used by converted tokenizers."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if kind in ("prepended", "bare"):
        head = [normalizers.Prepend("▁")] if kind == "prepended" else []
        inner.normalizer = normalizers.Sequence([*head, normalizers.Replace(" ", "▁")])
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    words = ["[INST] Say yes and the door is open [/INST] The cat sat. It rains. user model"]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{code:02X}>" for code in range(256))]
    inner.train_from_iterator(
        words * 20, trainers.BpeTrainer(vocab_size=380, special_tokens=special, show_progress=False)
    )
    bare = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    tokenizer = with_tokens(bare, FAMILIES[family])
    chat = [
        user("Say The cat sat."),
        answer("The cat sat."),
        user("It rains."),
        answer("It rains.\n\nyes and"),
        user("非"),
        answer("非"),
    ]
    encoded = encode_chat(tokenizer, chat)
    labelled_text = [text.replace(" ", "") for text in runs(tokenizer, encoded)]
    end = tokenizer.convert_ids_to_tokens([end_of_turn(tokenizer)])[0]
    assert [text.removesuffix(end) for text in labelled_text[:2]] == [
        "Thecatsat.",
        "Itrains.\n\nyesand",
    ]
    last = encoded.labels[-8:]
    assert len([label for label in last if label != -100]) >= 4, "three bytes and the end"


@pytest.mark.parametrize("family", ["mistral1", "gemma2"])
def test_template_without_a_system_role_is_reported(family: str, plain_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"the chat template rejects this chat: .*(role|System)"):
        labelled(
            with_tokens(plain_tokenizer, FAMILIES[family]), [system("Be."), user("a"), answer("b")]
        )


def test_template_that_ignores_the_generation_prompt(plain_tokenizer: Any) -> None:
    """Headers are not labelled, and a warning reports that generation will lack them."""
    from kdharness.trainers.data.reports import Report, Template

    template = FAMILIES["chatml"].partition("{%- if add_generation_prompt")[0]
    tokenizer = with_tokens(plain_tokenizer, template)
    chat = [user("B"), answer("B"), user("B"), answer("C")]
    assert labelled(tokenizer, chat) == ["B<|im_end|>", "C<|im_end|>"]
    (warning,) = Template.of(tokenizer).warnings(Report("rows.jsonl", "general", rows=1))
    assert "no generation prompt" in warning and "'<|im_start|>assistant'" in warning


def test_generation_prompt_ending_in_a_space_is_reported(plain_tokenizer: Any) -> None:
    from kdharness.trainers.data.reports import Report, Template

    report = Report("rows.jsonl", "general", rows=3, straddling=2)
    (warning,) = Template.of(with_tokens(plain_tokenizer, FAMILIES["text"])).warnings(report)
    assert warning.startswith(
        "in 2 of 3 rows the first token of an answer starts inside the prompt"
    )
    assert "the generation prompt ends with a space" in warning
