"""What a row says beside its texts is rendered by the chat template, or refused by name.

A template drops what it does not know without a word: tools, tool calls, names, thoughts, a
system turn. Then the model would learn from something else than the row says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.habits import habits
from kdharness.harness.probes import locate
from kdharness.harness.rendering import REASONING, Extras, Message, reads_variable, render

_OTHER_TEMPLATE = "set data.chat_template to one that renders it, or take it out of the rows"
_THINK = "write the thought into content, as <think>…</think>, or take it out of the rows"


def check_honoured(tokenizer: Any, messages: Sequence[Message], text: str, extras: Extras) -> None:
    """Hold a rendering against what the row holds beside plain turns.

    Raises:
        DataError: something the template leaves out, by its name.
    """
    if extras:
        _check_extras(tokenizer, messages, text, extras)
    if any(len(m) > 2 for m in messages):
        _check_fields(tokenizer, messages, text, extras)
    _check_turns(tokenizer, messages, text, extras)


def _check_extras(tokenizer: Any, messages: Sequence[Message], text: str, extras: Extras) -> None:
    def without(less: Extras) -> bool:
        return _same(lambda: render(tokenizer, messages, prompt=False, extras=less), text)

    if extras.tools and without(replace(extras, tools=None)):
        raise _ignored("tools")
    for name in extras.variables:
        if name == "documents":
            rest = {k: v for k, v in extras.variables.items() if k != name}
            if without(replace(extras, variables=rest)):
                raise _ignored(name)
        elif not reads_variable(tokenizer, name):
            raise _ignored(name)


def _check_fields(tokenizer: Any, messages: Sequence[Message], text: str, extras: Extras) -> None:
    def unchanged(drop: Callable[[Message], tuple[str, ...]]) -> bool:
        fewer = [{k: v for k, v in m.items() if k not in drop(m)} for m in messages]
        return _same(lambda: render(tokenizer, fewer, prompt=False, extras=extras), text)

    if any(m.get("tool_calls") for m in messages) and unchanged(lambda m: ("tool_calls",)):
        raise _ignored("tool_calls")
    said = next((n for n in REASONING if any(m.get(n) for m in messages)), None)
    if said and not habits(tokenizer).reasoning and unchanged(lambda m: REASONING):
        raise _ignored(said, _THINK)
    named = [m for m in messages if m.get("name") and not _vouched(m, messages)]
    if named and unchanged(lambda m: ("name",) if m in named else ()):
        raise _ignored("name")
    if _out_of_order(messages) and unchanged(lambda m: ("tool_call_id",)):
        raise _ignored("tool_call_id", "give the results in the order of the calls")


def _vouched(message: Message, messages: Sequence[Message]) -> bool:
    """Whether a tool result's name is that of a call, which stands in the chat anyway."""
    return message["role"] == "tool" and any(
        call["function"]["name"] == message["name"]
        for other in messages
        for call in other.get("tool_calls") or ()
    )


def _out_of_order(messages: Sequence[Message]) -> bool:
    """Whether results of one turn's calls stand in another order than the calls."""
    asked: list[str] = []
    given: list[str] = []
    for message in [*messages, {"role": "user"}]:
        if message["role"] == "tool":
            given.append(str(message.get("tool_call_id") or ""))
            continue
        known = [one for one in given if one in asked]
        if known != [one for one in asked if one in known]:
            return True
        given = []
        asked = [str(call.get("id") or "") for call in message.get("tool_calls") or ()]
        asked = [one for one in asked if one]
    return False


def _check_turns(tokenizer: Any, messages: Sequence[Message], text: str, extras: Extras) -> None:
    """Every turn that is not the assistant's is in the text."""
    drops_system = habits(tokenizer).drops_system
    missing = [
        i
        for i, m in enumerate(messages)
        if m["role"] != "assistant"
        and (said := str(m.get("content") or "").strip())
        and (said not in text or (m["role"] == "system" and drops_system))
    ]
    if not missing:
        return
    found = locate(tokenizer, messages, text, prompt=False, extras=extras)
    for index in missing:
        if found is not None and not found[1].words[index]:
            raise _ignored(
                f"the {messages[index]['role']} turn",
                ("put its text into a user turn, or set data.chat_template to one that renders it"),
            )


def _same(again: Callable[[], str], text: str) -> bool:
    try:
        return again() == text
    except DataError:
        return False


def _ignored(what: str, hint: str = _OTHER_TEMPLATE) -> DataError:
    return DataError(f"this chat template does not render {what}", hint=hint)
