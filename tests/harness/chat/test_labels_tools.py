"""Labels of tool calls and ends of turn, in the forms used by published templates."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kdharness.harness.chat.end_tokens import end_of_turn
from kdharness.harness.errors import DataError
from support.chat_templates import CHATML, FAMILIES, with_tokens
from support.labels import answer, call, labelled, system, user


def tool_result(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look it up.",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
        },
    }
]
TOOL_CHAT = [
    user("same"),
    answer("", tool_calls=[call("look", at="same")]),
    tool_result("same"),
    answer("same"),
]

# Two tokens close an answer; the next turn is opened even without add_generation_prompt.
ALWAYS_OPENED = (
    "{{- '<BOS_TOKEN>' -}}{%- for m in messages -%}{{- '<|START_OF_TURN_TOKEN|>' -}}"
    "{%- if m.role == 'assistant' -%}{{- '<|CHATBOT_TOKEN|>' -}}{%- if m.tool_calls -%}"
    "{%- set f = m.tool_calls[0].function -%}"
    "{{- '[TOOL_CALLS]' + f.name + (f.arguments | tojson) + '[/TOOL_RESULTS]' -}}"
    "{%- else -%}{{- m.content + '</s>' -}}{%- endif -%}"
    "{%- elif m.role == 'tool' -%}{{- '<|SYSTEM_TOKEN|>' + m.content -}}"
    "{%- else -%}{{- '<|USER_TOKEN|>' + m.content -}}{%- endif -%}"
    "{{- '<|END_OF_TURN_TOKEN|>' -}}{%- endfor -%}"
    "{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}"
)


def test_two_end_tokens_before_a_turn_that_is_always_opened(plain_tokenizer: Any) -> None:
    tokenizer = with_tokens(plain_tokenizer, ALWAYS_OPENED)
    chat = [user("B"), answer("B"), user("B"), answer("C")]
    end = "</s><|END_OF_TURN_TOKEN|>"
    assert labelled(tokenizer, chat) == [f"B{end}", f"C{end}"]
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|END_OF_TURN_TOKEN|>")


def test_tool_call_labels_end_before_the_role_of_the_result(plain_tokenizer: Any) -> None:
    """The common start of the next turn and of the always-opened one is not part of the call."""
    assert labelled(with_tokens(plain_tokenizer, ALWAYS_OPENED), TOOL_CHAT) == [
        '[TOOL_CALLS]look{"at": "same"}[/TOOL_RESULTS]<|END_OF_TURN_TOKEN|>',
        "same</s><|END_OF_TURN_TOKEN|>",
    ]


# The last answer has no end token; earlier ones do.
NO_FINAL_END_TOKEN = CHATML.replace(
    "m.content + '<|im_end|>\n' -}}",
    "m.content -}}{%- if m.role != 'assistant' or not loop.last -%}{{- '<|im_end|>\n' -}}"
    "{%- endif -%}",
)


def test_answers_before_an_unclosed_last_answer_keep_their_end_tokens(plain_tokenizer: Any) -> None:
    chat = [user("B"), answer("B"), user("B"), answer("C"), user("C"), answer("B")]
    labelled_text = labelled(with_tokens(plain_tokenizer, NO_FINAL_END_TOKEN), chat)
    assert labelled_text == ["B<|im_end|>", "C<|im_end|>", "B"]


def test_header_of_the_next_turn_is_not_labelled(plain_tokenizer: Any) -> None:
    chat = [user("B"), answer("B"), user("B"), answer("C")]
    endless = with_tokens(plain_tokenizer, CHATML.replace("<|im_end|>", ""))
    assert labelled(endless, chat) == ["B", "C"]


def test_end_markers_outside_the_vocabulary_are_labelled_completely(plain_tokenizer: Any) -> None:
    """Labels used to stop inside an end marker if two markers share a prefix."""
    bare = copy.deepcopy(plain_tokenizer)
    bare.chat_template = FAMILIES["harmony"]
    labelled_text = labelled(bare, [user("same"), answer("same"), *TOOL_CHAT])
    head = "<|channel|>final<|message|>"
    assert labelled_text == [
        f"{head}same<|end|>",
        ' to=functions.look<|channel|>commentary json<|message|>{"at": "same"}<|call|>',
        f"{head}same<|return|>",
    ]
    assert end_of_turn(bare) is None


# The header of a tool result contains the called name, as the call does.
NAMED_RESULT = (
    # The chat begins differently while its last turn is a call.
    "{%- if messages[-1].tool_calls -%}{{- '<|channel|>' -}}{%- endif -%}"
    "{%- set ns = namespace(name='') -%}{%- for m in messages -%}"
    "{%- if m.role == 'assistant' and m.tool_calls -%}{%- set f = m.tool_calls[0].function -%}"
    "{%- set ns.name = f.name -%}{{- '<|start|>assistant' -}}"
    "{{- ' to=' + f.name + '<|message|>' + (f.arguments | tojson) + '<|call|>' -}}"
    "{%- elif m.role == 'tool' -%}"
    "{{- '<|start|>' + ns.name + ' to=assistant<|message|>' + m.content + '<|end|>' -}}"
    "{%- else -%}{{- '<|start|>' + m.role + '<|message|>' + m.content -}}"
    "{{- '<|return|>' if m.role == 'assistant' and loop.last else '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"
)


def test_tool_name_in_the_result_header_is_not_labelled(plain_tokenizer: Any) -> None:
    assert labelled(with_tokens(plain_tokenizer, NAMED_RESULT), TOOL_CHAT) == [
        ' to=look<|message|>{"at": "same"}<|call|>',
        "<|message|>same<|return|>",
    ]


# The result is rendered between the call and the content of the calling turn.
RESULT_INSIDE = (
    "{%- for m in messages -%}{%- if m.role == 'tool' -%}{%- else -%}"
    "{{- '<start_of_turn>' + m.role + '\n' -}}"
    "{%- for c in m.tool_calls or [] -%}"
    "{{- '<tool_call>' + c.function.name + (c.function.arguments | tojson) + '</tool_call>' -}}"
    "{%- if messages[loop.index] is defined -%}{%- for r in messages -%}{%- if r.role == 'tool' -%}"
    "{{- '<tool_response>' + r.content + '</tool_response>' -}}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{%- endfor -%}"
    "{{- m.content + '<end_of_turn>\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>assistant\n' -}}{%- endif -%}"
)


def test_tool_result_rendered_inside_the_calling_turn_is_rejected(plain_tokenizer: Any) -> None:
    """The result used to be labelled as assistant text."""
    chat = [dict(turn) for turn in TOOL_CHAT]
    chat[1]["content"] = "Let me see."
    with pytest.raises(DataError, match="another turn into assistant turn 1") as error:
        labelled(with_tokens(plain_tokenizer, RESULT_INSIDE), chat)
    assert "remove the content of turns that call tools" in error.value.hint


# A call is rendered with more fields once other turns follow; no partial chat is a prefix.
CALL_GROWS_LATER = (
    "{%- for m in messages -%}{%- if m.tool_calls -%}{{- '<|assistant|>\n' -}}"
    "{%- set f = m.tool_calls[0].function -%}"
    '{{- \'[{"name": "\' + f.name + \'", "arguments": \' + (f.arguments | tojson) -}}'
    "{%- if not loop.last -%}{{- ', \"id\": \"' + m.tool_calls[0].id + '\"' -}}{%- endif -%}"
    "{{- '}]\n<|end|>\n' -}}"
    "{%- else -%}{{- '<|' + m.role + '|>\n' + m.content + '\n<|end|>\n' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)


def test_call_that_grows_when_a_result_follows_is_labelled_completely(
    plain_tokenizer: Any,
) -> None:
    labelled_text = labelled(with_tokens(plain_tokenizer, CALL_GROWS_LATER), TOOL_CHAT)
    assert labelled_text == [
        '[{"name": "look", "arguments": {"at": "same"}, "id": "abcdefghi"}]\n<|end|>',
        "same\n<|end|>",
    ]


# It loops over the tools: without tools it cannot render any chat.
NEEDS_TOOLS = (
    "{%- for t in tools -%}{{- t.function.name + ' ' -}}{%- endfor -%}{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\n' -}}{%- for c in m.tool_calls or [] -%}"
    "{{- '<tool_call>' + c.function.name + (c.function.arguments | tojson) + '</tool_call>' -}}"
    "{%- endfor -%}{{- m.content -}}"
    # A result that is not the last turn is on a separate line.
    "{%- if m.role == 'tool' and not loop.last -%}{{- '\n' -}}{%- endif -%}"
    "{{- '<|im_end|>' -}}{%- if m.role != 'tool' -%}{{- '\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def test_template_that_requires_tools_is_analyzed_with_a_tool(plain_tokenizer: Any) -> None:
    """Analyzed without a tool, its header was not detected and was labelled."""
    tokenizer = with_tokens(plain_tokenizer, NEEDS_TOOLS)
    assert labelled(tokenizer, TOOL_CHAT, tools=TOOLS) == [
        '<tool_call>look{"at": "same"}</tool_call><|im_end|>',
        "same<|im_end|>",
    ]
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    with pytest.raises(DataError, match="rejects this chat") as error:
        labelled(tokenizer, TOOL_CHAT[:1] + TOOL_CHAT[-1:])
    assert "add tools to the rows" in error.value.hint


@pytest.mark.parametrize("marked", [False, True])
def test_separate_template_for_chats_with_tools(marked: bool, plain_tokenizer: Any) -> None:
    """Its header used to be labelled; or nothing, if the other template has generation markers."""
    tokenizer = with_tokens(plain_tokenizer, "")
    generation = "{%- generation -%}{{- m.content + '</s>' -}}{%- endgeneration -%}"
    other = (
        "{%- for m in messages -%}{{- '<|' + m.role + '|>\n' -}}{%- if m.role == 'assistant' -%}"
        + (generation if marked else "{{- m.content + '</s>' -}}")
        + "{%- else -%}{{- m.content + '\n' -}}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
    )
    tokenizer.chat_template = {"default": other, "tool_use": NEEDS_TOOLS}
    assert labelled(tokenizer, TOOL_CHAT[:1] + TOOL_CHAT[-1:]) == ["same</s>"]
    assert labelled(tokenizer, TOOL_CHAT, tools=TOOLS) == [
        '<tool_call>look{"at": "same"}</tool_call><|im_end|>',
        "same<|im_end|>",
    ]


# The generation prompt after a tool result has no header, but the rendered chat has one.
NO_HEADER_IN_PROMPT = CHATML.replace(
    "add_generation_prompt", "add_generation_prompt and messages[-1].role != 'tool'"
).replace("m.content +", "(m.tool_calls | tojson if m.tool_calls else m.content) +")


def test_header_missing_from_the_prompt_after_a_result(plain_tokenizer: Any) -> None:
    labelled_text = labelled(with_tokens(plain_tokenizer, NO_HEADER_IN_PROMPT), TOOL_CHAT)
    assert [labelled_text[0][:1], *labelled_text[1:]] == ["[", "same<|im_end|>"]


# ---------------------------------------------------------------- dropped content


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("family", ["llama3", "mistral3", "harmony"])
def test_content_beside_a_tool_call_that_the_template_drops_is_rejected(
    family: str, train: bool, plain_tokenizer: Any
) -> None:
    """Llama 3.1, Mistral and gpt-oss render only the call."""
    chat = [
        user("same Let me see."),
        answer("Let me see.", tool_calls=[call("look", at="same")], train=train),
        tool_result("same", tool_call_id="abcdefghi"),
        answer("same"),
    ]
    with pytest.raises(DataError, match="content of an assistant turn with tool_calls"):
        labelled(with_tokens(plain_tokenizer, FAMILIES[family]), chat)


def test_content_beside_a_tool_call_is_labelled_if_rendered(plain_tokenizer: Any) -> None:
    chat = [dict(turn) for turn in TOOL_CHAT]
    chat[1]["content"] = "same"
    labelled_text = labelled(with_tokens(plain_tokenizer, FAMILIES["qwen2.5"]), chat)
    assert labelled_text[0].startswith("\nsame\n<tool_call>") or labelled_text[0].startswith(
        "same\n<tool_call>"
    )


@pytest.mark.parametrize("family", ["llama3", "harmony"])
def test_second_tool_call_that_the_template_drops_is_rejected(
    family: str, plain_tokenizer: Any
) -> None:
    """Only the first call was labelled, followed by the second call's result."""
    two_calls = [
        {**call("look", at="same"), "id": "abcdefgh1"},
        {**call("look", at="there"), "id": "abcdefgh2"},
    ]
    chat = [
        user("same"),
        answer("", tool_calls=two_calls),
        tool_result("same", tool_call_id="abcdefgh1"),
        tool_result("so", tool_call_id="abcdefgh2"),
        answer("same"),
    ]
    with pytest.raises(DataError, match="more than one of a turn's tool_calls") as error:
        labelled(with_tokens(plain_tokenizer, FAMILIES[family]), chat)
    assert "its own turn" in error.value.hint


def test_truncated_tool_call_that_cannot_be_located_is_rejected(plain_tokenizer: Any) -> None:
    """Its end-of-turn token used to be labelled although the call is truncated."""
    uppercase_template = CHATML.replace(
        "m.content +", "(m.tool_calls | string | upper if m.tool_calls else m.content) +"
    ).replace("| upper", "| replace('\U000f0000', '?') | upper")
    chat = [user("same"), answer("", tool_calls=[call("look", at="same")])]
    with pytest.raises(DataError, match="cannot be located") as error:
        labelled(with_tokens(plain_tokenizer, uppercase_template), chat, truncated=True)
    assert "remove the row" in error.value.hint


# ---------------------------------------------------------------- advice


def test_hint_matches_the_reason_for_the_rejection(plain_tokenizer: Any) -> None:
    """Any rejected chat with a system turn used to get a hint about the system turn."""
    no_tool_role = (
        "{%- for m in messages -%}{%- if m.role == 'tool' -%}"
        "{{- raise_exception('Unexpected role: tool') -}}{%- endif -%}"
        "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endfor -%}"
    )
    chat = [system("Be."), *TOOL_CHAT]
    with pytest.raises(DataError, match="Unexpected role: tool") as error:
        labelled(with_tokens(plain_tokenizer, no_tool_role), chat)
    assert "tool calls and their results" in error.value.hint
