"""Check that the chat template renders every field of a row; otherwise refuse it by name.

A template silently drops what it does not support: tools, tool calls, names, reasoning, a system
turn. The model would then learn from something else than the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kdharness.harness.chat.probes import locate
from kdharness.harness.chat.rendering import (
    NOTHING,
    REASONING,
    Extras,
    Message,
    reads_variable,
    render,
    with_one_call,
)
from kdharness.harness.chat.traits import template_traits
from kdharness.harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OTHER_TEMPLATE = "set data.chat_template to one that renders it, or remove it from the rows"
_IN_ROW = "move its text to a user turn, or set data.chat_template to one that renders it"
_IN_PROMPT = "move its text to a user turn, or evaluate with a template that renders it"
_THINK = "write the reasoning into content, as <think>…</think>, or remove it from the rows"


def check_honoured(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str, extras: Extras
) -> None:
    """Check a rendering against what the row contains besides plain turns.

    Raises:
        DataError: a field that the template does not render, by name.
    """
    if extras:
        _check_extras(tokenizer, messages, text, extras)
    if any(len(m) > 2 for m in messages):
        _check_fields(tokenizer, messages, text, extras)
    check_turns(tokenizer, messages, text, extras)


def _check_extras(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str, extras: Extras
) -> None:
    def without(less: Extras) -> bool:
        return _same(lambda: render(tokenizer, messages, prompt=False, extras=less), text)

    if extras.tools and without(replace(extras, tools=None)):
        raise _ignored("tools")
    for name in extras.variables:
        if name == "documents":
            rest = {k: v for k, v in extras.variables.items() if k != name}
            if without(replace(extras, variables=rest)):
                raise _ignored(name)
        elif not reads_variable(tokenizer, name, extras):
            raise _ignored(name)


def _check_fields(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str, extras: Extras
) -> None:
    def unchanged(edit: Callable[[Message], Message]) -> bool:
        edited = [edit(m) for m in messages]
        return _same(lambda: render(tokenizer, edited, prompt=False, extras=extras), text)

    if any(m.get("tool_calls") for m in messages) and unchanged(_without("tool_calls")):
        raise _ignored("tool_calls")
    if any(len(m.get("tool_calls") or ()) > 1 for m in messages) and unchanged(with_one_call):
        raise _ignored(
            "more than one of a turn's tool_calls",
            "give each call its own turn, or set data.chat_template to one that renders all",
        )
    field = next((n for n in REASONING if any(m.get(n) for m in messages)), None)
    if (
        field
        and not template_traits(tokenizer, extras).reasoning
        and unchanged(_without(*REASONING))
    ):
        raise _ignored(field, _THINK)
    named = [m for m in messages if m.get("name") and not _names_a_call(m, messages)]
    if named and unchanged(lambda m: _without("name")(m) if m in named else m):
        raise _ignored("name")
    if _out_of_order(messages) and unchanged(_without("tool_call_id")):
        raise _ignored("tool_call_id", "order the results like the calls")


def _without(*names: str) -> Callable[[Message], Message]:
    return lambda message: {k: v for k, v in message.items() if k not in names}


def _names_a_call(message: Message, messages: Sequence[Message]) -> bool:
    """Return whether a tool result's name is that of a call, which the chat contains anyway."""
    return message["role"] == "tool" and any(
        call["function"]["name"] == message["name"]
        for other in messages
        for call in other.get("tool_calls") or ()
    )


def _out_of_order(messages: Sequence[Message]) -> bool:
    """Return whether the results of one turn's calls are in another order than the calls."""
    asked: list[str] = []
    given: list[str] = []
    for message in [*messages, {"role": "user"}]:
        if message["role"] == "tool":
            given.append(str(message.get("tool_call_id") or ""))
            continue
        known = [call_id for call_id in given if call_id in asked]
        if known != [call_id for call_id in asked if call_id in known]:
            return True
        given = []
        asked = [str(call.get("id") or "") for call in message.get("tool_calls") or ()]
        asked = [call_id for call_id in asked if call_id]
    return False


def check_turns(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    text: str,
    extras: Extras = NOTHING,
    *,
    prompt: bool = False,
) -> None:
    """Check that the text holds the words of every turn, except an assistant's reasoning.

    Args:
        prompt: the text ends with an assistant turn opened for an answer.

    Raises:
        DataError: a turn that the template leaves out, by its role.
    """
    drops_system = template_traits(tokenizer, extras).drops_system
    doubtful = [
        i
        for i, m in enumerate(messages)
        if (content := _visible_text(m))
        and (content not in text or (m["role"] == "system" and drops_system) or m.get("tool_calls"))
    ]
    located = locate(tokenizer, messages, text, prompt=prompt, extras=extras) if doubtful else None
    if located is None:
        return
    for index in doubtful:
        role = messages[index]["role"]
        if messages[index].get("tool_calls") and index in located[1].unsaid:
            raise _ignored(
                "the content of an assistant turn with tool_calls",
                "remove that text, move it to reasoning_content if it is reasoning, or set "
                "data.chat_template to one that renders both",
            )
        if (prompt or role != "assistant") and not located[1].words[index]:
            raise _ignored(f"the {role} turn", _IN_PROMPT if prompt else _IN_ROW)


def left_out(messages: Sequence[Message], text: str) -> str:
    """Return the role of the first turn whose words are not in a prompt; empty if all are.

    For templates that are rendered elsewhere, of which only the text is known.
    """
    words = " ".join(text.split())
    missing = (m for m in messages if " ".join(_visible_text(m).split()) not in words)
    return next((str(m["role"]) for m in missing), "")


def _visible_text(message: Message) -> str:
    """Return a turn's content without its reasoning."""
    content = str(message.get("content") or "")
    thoughtless = message["role"] == "assistant"
    return (content.rpartition("</think>")[2] if thoughtless else content).strip()


def _same(again: Callable[[], str], text: str) -> bool:
    try:
        return again() == text
    except DataError:
        return False


def _ignored(what: str, hint: str = _OTHER_TEMPLATE) -> DataError:
    return DataError(f"this chat template does not render {what}", hint=hint)
