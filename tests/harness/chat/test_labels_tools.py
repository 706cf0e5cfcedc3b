"""Turns that call tools, and ends of turn, in the shapes that published templates give them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kdharness.harness.chat.end_tokens import end_of_turn
from kdharness.harness.errors import DataError
from support.chat_templates import CHATML, FAMILIES, with_tokens
from support.labels import answer, call, labelled, system, user


def result(content: str, **more: Any) -> dict[str, Any]:
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
ASKED = [
    user("same"),
    answer("", tool_calls=[call("look", at="same")]),
    result("same"),
    answer("same"),
]

# Two tokens close an answer, and the next turn is opened whether it is asked for or not.
OPENED_UNASKED = (
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


def test_an_end_of_two_tokens_before_a_turn_that_is_opened_unasked(plain_tokenizer: Any) -> None:
    tokenizer = with_tokens(plain_tokenizer, OPENED_UNASKED)
    chat = [user("B"), answer("B"), user("B"), answer("C")]
    end = "</s><|END_OF_TURN_TOKEN|>"
    assert labelled(tokenizer, chat) == [f"B{end}", f"C{end}"]
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|END_OF_TURN_TOKEN|>")


def test_a_call_ends_before_the_role_of_its_result(plain_tokenizer: Any) -> None:
    """What both the next turn and the one opened unasked begin with is not the call's."""
    assert labelled(with_tokens(plain_tokenizer, OPENED_UNASKED), ASKED) == [
        '[TOOL_CALLS]look{"at": "same"}[/TOOL_RESULTS]<|END_OF_TURN_TOKEN|>',
        "same</s><|END_OF_TURN_TOKEN|>",
    ]


# The last answer is left open; those before it are closed.
OPEN_AT_THE_END = CHATML.replace(
    "m.content + '<|im_end|>\n' -}}",
    "m.content -}}{%- if m.role != 'assistant' or not loop.last -%}{{- '<|im_end|>\n' -}}"
    "{%- endif -%}",
)


def test_answers_before_an_open_last_one_keep_their_ends(plain_tokenizer: Any) -> None:
    chat = [user("B"), answer("B"), user("B"), answer("C"), user("C"), answer("B")]
    found = labelled(with_tokens(plain_tokenizer, OPEN_AT_THE_END), chat)
    assert found == ["B<|im_end|>", "C<|im_end|>", "B"]


def test_what_opens_the_next_turn_is_no_end_of_an_answer(plain_tokenizer: Any) -> None:
    chat = [user("B"), answer("B"), user("B"), answer("C")]
    endless = with_tokens(plain_tokenizer, CHATML.replace("<|im_end|>", ""))
    assert labelled(endless, chat) == ["B", "C"]


def test_ends_that_are_no_tokens_of_the_tokenizer_are_learnt_whole(plain_tokenizer: Any) -> None:
    """The labels ended within the text of an end, where two ends begin alike."""
    bare = copy.deepcopy(plain_tokenizer)
    bare.chat_template = FAMILIES["harmony"]
    found = labelled(bare, [user("same"), answer("same"), *ASKED])
    head = "<|channel|>final<|message|>"
    assert found == [
        f"{head}same<|end|>",
        ' to=functions.look<|channel|>commentary json<|message|>{"at": "same"}<|call|>',
        f"{head}same<|return|>",
    ]
    assert end_of_turn(bare) is None


# The result of a call is introduced with the called name, as the call was.
NAMED_RESULT = (
    # The chat begins otherwise as long as its last turn is a call.
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


def test_a_name_that_stands_again_before_the_result_is_not_the_calls(plain_tokenizer: Any) -> None:
    assert labelled(with_tokens(plain_tokenizer, NAMED_RESULT), ASKED) == [
        ' to=look<|message|>{"at": "same"}<|call|>',
        "<|message|>same<|return|>",
    ]


# The result stands between the call and what was said beside the call.
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


def test_a_result_inside_the_turn_that_asked_for_it_is_never_learnt(plain_tokenizer: Any) -> None:
    """The result was labelled as what the assistant says."""
    chat = [dict(turn) for turn in ASKED]
    chat[1]["content"] = "Let me see."
    with pytest.raises(DataError, match="another turn into assistant turn 1") as error:
        labelled(with_tokens(plain_tokenizer, RESULT_INSIDE), chat)
    assert "remove the content of turns that call tools" in error.value.hint


# A call of which more is written once other turns follow, and no part of the chat is its prefix.
LONGER_LATER = (
    "{%- for m in messages -%}{%- if m.tool_calls -%}{{- '<|assistant|>\n' -}}"
    "{%- set f = m.tool_calls[0].function -%}"
    '{{- \'[{"name": "\' + f.name + \'", "arguments": \' + (f.arguments | tojson) -}}'
    "{%- if not loop.last -%}{{- ', \"id\": \"' + m.tool_calls[0].id + '\"' -}}{%- endif -%}"
    "{{- '}]\n<|end|>\n' -}}"
    "{%- else -%}{{- '<|' + m.role + '|>\n' + m.content + '\n<|end|>\n' -}}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)


def test_a_call_that_is_written_longer_before_its_result_is_learnt_whole(
    plain_tokenizer: Any,
) -> None:
    found = labelled(with_tokens(plain_tokenizer, LONGER_LATER), ASKED)
    assert found == [
        '[{"name": "look", "arguments": {"at": "same"}, "id": "abcdefghi"}]\n<|end|>',
        "same\n<|end|>",
    ]


# It joins the tools' names: without tools it renders no chat at all.
NEEDS_TOOLS = (
    "{%- for t in tools -%}{{- t.function.name + ' ' -}}{%- endfor -%}{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\n' -}}{%- for c in m.tool_calls or [] -%}"
    "{{- '<tool_call>' + c.function.name + (c.function.arguments | tojson) + '</tool_call>' -}}"
    "{%- endfor -%}{{- m.content -}}"
    # A result that is not the last turn has a line of its own.
    "{%- if m.role == 'tool' and not loop.last -%}{{- '\n' -}}{%- endif -%}"
    "{{- '<|im_end|>' -}}{%- if m.role != 'tool' -%}{{- '\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def test_a_template_for_chats_with_tools_is_known_with_a_tool(plain_tokenizer: Any) -> None:
    """Studied without one it had no header, and the header was learnt."""
    tokenizer = with_tokens(plain_tokenizer, NEEDS_TOOLS)
    assert labelled(tokenizer, ASKED, tools=TOOLS) == [
        '<tool_call>look{"at": "same"}</tool_call><|im_end|>',
        "same<|im_end|>",
    ]
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    with pytest.raises(DataError, match="rejects this chat") as error:
        labelled(tokenizer, ASKED[:1] + ASKED[-1:])
    assert "add tools to the rows" in error.value.hint


@pytest.mark.parametrize("marked", [False, True])
def test_a_template_of_its_own_for_chats_with_tools(marked: bool, plain_tokenizer: Any) -> None:
    """Its header was learnt; or, where the other template has marks, nothing at all."""
    tokenizer = with_tokens(plain_tokenizer, "")
    word = "{%- generation -%}{{- m.content + '</s>' -}}{%- endgeneration -%}"
    other = (
        "{%- for m in messages -%}{{- '<|' + m.role + '|>\n' -}}{%- if m.role == 'assistant' -%}"
        + (word if marked else "{{- m.content + '</s>' -}}")
        + "{%- else -%}{{- m.content + '\n' -}}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
    )
    tokenizer.chat_template = {"default": other, "tool_use": NEEDS_TOOLS}
    assert labelled(tokenizer, ASKED[:1] + ASKED[-1:]) == ["same</s>"]
    assert labelled(tokenizer, ASKED, tools=TOOLS) == [
        '<tool_call>look{"at": "same"}</tool_call><|im_end|>',
        "same<|im_end|>",
    ]


# The prompt behind a result writes no header, but the chat has one there.
HEADER_UNASKED = CHATML.replace(
    "add_generation_prompt", "add_generation_prompt and messages[-1].role != 'tool'"
).replace("m.content +", "(m.tool_calls | tojson if m.tool_calls else m.content) +")


def test_a_header_that_the_prompt_leaves_out_behind_a_result(plain_tokenizer: Any) -> None:
    found = labelled(with_tokens(plain_tokenizer, HEADER_UNASKED), ASKED)
    assert [found[0][:1], *found[1:]] == ["[", "same<|im_end|>"]


# ---------------------------------------------------------------- what is left out


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("family", ["llama3", "mistral3", "harmony"])
def test_text_beside_a_call_that_the_template_drops_is_refused(
    family: str, train: bool, plain_tokenizer: Any
) -> None:
    """Llama 3.1, Mistral and gpt-oss write the call alone."""
    chat = [
        user("same Let me see."),
        answer("Let me see.", tool_calls=[call("look", at="same")], train=train),
        result("same", tool_call_id="abcdefghi"),
        answer("same"),
    ]
    with pytest.raises(DataError, match="content of an assistant turn with tool_calls"):
        labelled(with_tokens(plain_tokenizer, FAMILIES[family]), chat)


def test_text_beside_a_call_is_learnt_where_it_is_rendered(plain_tokenizer: Any) -> None:
    chat = [dict(turn) for turn in ASKED]
    chat[1]["content"] = "same"
    found = labelled(with_tokens(plain_tokenizer, FAMILIES["qwen2.5"]), chat)
    assert found[0].startswith("\nsame\n<tool_call>") or found[0].startswith("same\n<tool_call>")


@pytest.mark.parametrize("family", ["llama3", "harmony"])
def test_a_second_call_that_the_template_drops_is_refused(
    family: str, plain_tokenizer: Any
) -> None:
    """Only the first was learnt, and the second one's result stood in the first one's place."""
    both = [
        {**call("look", at="same"), "id": "abcdefgh1"},
        {**call("look", at="there"), "id": "abcdefgh2"},
    ]
    chat = [
        user("same"),
        answer("", tool_calls=both),
        result("same", tool_call_id="abcdefgh1"),
        result("so", tool_call_id="abcdefgh2"),
        answer("same"),
    ]
    with pytest.raises(DataError, match="more than one of a turn's tool_calls") as error:
        labelled(with_tokens(plain_tokenizer, FAMILIES[family]), chat)
    assert "its own turn" in error.value.hint


def test_a_cut_call_whose_place_is_unknown_is_refused(plain_tokenizer: Any) -> None:
    """Its end of turn was learnt though it had none."""
    shouts = CHATML.replace(
        "m.content +", "(m.tool_calls | string | upper if m.tool_calls else m.content) +"
    ).replace("| upper", "| replace('\U000f0000', '?') | upper")
    chat = [user("same"), answer("", tool_calls=[call("look", at="same")])]
    with pytest.raises(DataError, match="cannot be located") as error:
        labelled(with_tokens(plain_tokenizer, shouts), chat, truncated=True)
    assert "remove the row" in error.value.hint


# ---------------------------------------------------------------- advice


def test_advice_names_what_the_template_would_take(plain_tokenizer: Any) -> None:
    """A hint about the system turn was given for any refused chat that had one."""
    picky = (
        "{%- for m in messages -%}{%- if m.role == 'tool' -%}"
        "{{- raise_exception('Unexpected role: tool') -}}{%- endif -%}"
        "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endfor -%}"
    )
    chat = [system("Be."), *ASKED]
    with pytest.raises(DataError, match="Unexpected role: tool") as error:
        labelled(with_tokens(plain_tokenizer, picky), chat)
    assert "tool calls and their results" in error.value.hint
