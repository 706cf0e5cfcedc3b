"""Rendering a chat as the text that a model reads, through the tokenizer's own template.

All template inputs besides role and content (tool calls, reasoning, names, tools, variables) are
passed here and nowhere else, so that training, held-out scoring and generation render alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from kdharness.harness.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
Span = tuple[int, int]

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Message fields for reasoning besides the content, under any of which it may be given."""
_PASSED = ("tool_calls", "tool_call_id", "name", *REASONING)
_RESERVED = frozenset(
    {
        "messages",
        "conversation",
        "conversations",
        "tools",
        "chat_template",
        "tokenize",
        "add_generation_prompt",
        "continue_final_message",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "sanitize_control_tokens",
        "strftime_now",
    }
)
DAY = datetime(2024, 7, 26)
"""The date that templates get: the default of Llama 3's."""
_DIRECTIVES = (
    "%-d",
    "%e",
    "%-m",
    *(f"%{letter}" for letter in "aAbBcdDFGHIjmMpSTuUVwWxXyYzZ"),
    "%%",
)
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True)
class Extras:
    """Template inputs besides the turns: tool schemas, and the template's own variables."""

    tools: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = sorted(_RESERVED & set(self.variables))
        if taken:
            raise DataError(f"reserved template variable name {taken[0]!r}")

    def __bool__(self) -> bool:
        return bool(self.tools or self.variables)


NOTHING = Extras()
TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "gh",
        "description": "Ij",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
"""A sample tool, to test how a template renders tools."""


def render(
    tokenizer: Any, messages: Sequence[Message], *, prompt: bool, extras: Extras = NOTHING
) -> str:
    """Render a chat as the text the model reads; `prompt` opens an assistant turn at the end.

    Raises:
        DataError: the tokenizer has no chat template, or the template refuses these turns.
    """
    _need_template(tokenizer)
    try:
        text = tokenizer.apply_chat_template(
            [as_turn(m) for m in messages],
            tools=list(extras.tools) if extras.tools else None,
            tokenize=False,
            chat_template=_dated(tokenizer, extras),
            add_generation_prompt=prompt,
            **extras.variables,
        )
    except Exception as error:  # jinja has its own errors, and templates may raise anything
        raise _refused(error) from error
    return str(text)


def _dated(tokenizer: Any, extras: Extras) -> str | None:
    """Return the template on a fixed day, or None if it is the tokenizer's own as it is."""
    if "strftime_now" not in template_source(tokenizer, extras):
        return None
    tools = list(extras.tools) if extras.tools else None
    return on_a_fixed_day(tokenizer.get_chat_template(None, tools))


def on_a_fixed_day(source: str) -> str:
    """Return a template that writes `DAY` where it would write today's date.

    Otherwise a run could not be resumed tomorrow, and scores of two days would be of different
    prompts. A macro of the same name goes before the library's function, which cannot be passed.
    """
    if "strftime_now" not in source:
        return source
    replaced = "".join(f"|replace({name!r}, {DAY.strftime(name)!r})" for name in _DIRECTIVES)
    body = f"{{{{- format{replaced} -}}}}"
    return f"{{%- macro strftime_now(format) -%}}{body}{{%- endmacro +%}}{source}"


def has_marks(tokenizer: PreTrainedTokenizerBase, extras: Extras = NOTHING) -> bool:
    """Return whether the template marks assistant text with `{% generation %}`."""
    return bool(_GENERATION.search(template_source(tokenizer, extras)))


def render_marked(
    tokenizer: Any, messages: Sequence[Message], extras: Extras = NOTHING
) -> tuple[str, list[Span]]:
    """Render a chat, with the character spans that its `{% generation %}` blocks wrote.

    transformers' own token mask is not used: it extends to the end of the chat if a block ends in
    characters that belong to no token.

    Raises:
        DataError: as `render`.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    _need_template(tokenizer)
    tools = list(extras.tools) if extras.tools else None
    try:
        # Its annotation leaves out the second value.
        rendered: Any = render_jinja_template(
            conversations=[[as_turn(m) for m in messages]],
            tools=cast(Any, tools),
            chat_template=on_a_fixed_day(tokenizer.get_chat_template(None, tools)),
            return_assistant_tokens_mask=True,
            **{**tokenizer.special_tokens_map, **extras.variables},
        )
    except Exception as error:  # as above
        raise _refused(error) from error
    texts, spans = rendered
    return str(texts[0]), [(int(start), int(end)) for start, end in spans[0]]


def as_turn(message: Message) -> dict[str, Any]:
    """Reduce a message to the fields that templates read; missing content becomes empty text."""
    content = message.get("content")
    turn: dict[str, object] = {
        "role": str(message["role"]),
        "content": "" if content is None else str(content),
    }
    for name in _PASSED:
        if message.get(name) is not None:
            turn[name] = message[name]
    return turn


def template_source(tokenizer: PreTrainedTokenizerBase, extras: Extras = NOTHING) -> str:
    """Return the template source that renders a chat: of several, the tool or the default one.

    If none of them would be chosen, return all of them joined.
    """
    source = getattr(tokenizer, "chat_template", None)
    if not isinstance(source, dict):
        return str(source or "")
    plain = source.get("default", "\n".join(map(str, source.values())))
    return str(source.get("tool_use", plain) if extras.tools else plain)


def reads_variable(tokenizer: PreTrainedTokenizerBase, name: str, extras: Extras) -> bool:
    """Return whether the template mentions a variable at all."""
    source = template_source(tokenizer, extras)
    return bool(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", source))


def settle_arguments(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], extras: Extras
) -> tuple[Sequence[Message], str]:
    """Render a whole chat with tool arguments in the form that the template accepts.

    Most templates expect a mapping; some (DeepSeek's) concatenate the arguments as JSON text and
    fail on a mapping.

    Returns:
        The messages in the form that renders, and the text.

    Raises:
        DataError: neither form renders; the error is that of the mapping.
    """
    try:
        return messages, render(tokenizer, messages, prompt=False, extras=extras)
    except DataError as error:
        error.hint = error.hint or _advice(tokenizer, messages, extras, error.message)
        if not any(message.get("tool_calls") for message in messages):
            raise
        written = [_with_written_arguments(message) for message in messages]
        try:
            return written, render(tokenizer, written, prompt=False, extras=extras)
        except DataError:
            pass
        raise


def _advice(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], extras: Extras, error: str
) -> str:
    """Return a hint for a chat that a template refuses: what it accepts instead, by trying."""

    def accepts(chat: Sequence[Message], given: Extras = extras) -> bool:
        try:
            return bool(chat) and bool(render(tokenizer, chat, prompt=False, extras=given))
        except DataError:
            return False

    others = [m for m in messages if m["role"] != "system"]
    if others and others[0]["role"] == "assistant" and accepts(others[1:]):
        return "this chat begins with the assistant: remove that turn, or make it a system turn"
    if len(others) < len(messages) and ("System role" in error or accepts(others)):
        return "the template has no system role: put the system text into the first user turn"
    repeated = any(first["role"] == second["role"] for first, second in pairwise(others))
    if repeated and accepts(_one_each(others)):
        return "consecutive turns of the same role: join them"
    if accepts([with_one_call(m) for m in messages]):
        return "this template accepts one tool call per turn: give each its own turn"
    if any(m["role"] == "tool" or m.get("tool_calls") for m in messages):
        return "does this template support tool calls and their results? Not all do"
    if not extras.tools and accepts(messages, replace(extras, tools=[TOOL])):
        return "this template requires tools: add tools to the rows, or choose another template"
    return ""


def with_one_call(message: Message) -> Message:
    """Return a turn with only the first of its tool calls."""
    calls = message.get("tool_calls")
    return {**message, "tool_calls": calls[:1]} if calls else message


def _one_each(messages: Sequence[Message]) -> list[Message]:
    """Return the chat with consecutive turns of one role reduced to the first."""
    chat: list[Message] = []
    for message in messages:
        if not chat or chat[-1]["role"] != message["role"]:
            chat.append(message)
    return chat


def _with_written_arguments(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {**message, "tool_calls": [_written(call) for call in calls]}


def _written(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    function["arguments"] = json.dumps(function.get("arguments"), ensure_ascii=False)
    return {**call, "function": function}


def _need_template(tokenizer: PreTrainedTokenizerBase) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', '')!r} has no chat template",
            hint="to train: set data.chat_template to a template file, or to chatml; to evaluate: "
            "add chat_template.jinja to the model's folder",
        )


def _refused(error: Exception) -> DataError:
    return DataError(f"the chat template rejects this chat: {error}")
