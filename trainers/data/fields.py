"""The fields of one turn: which are read, and which are refused by name.

Rows come from many programs, each with fields of its own. A field that matters for training is
either honoured or an error that names it; null counts as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.util.repeated_fields import RepeatedFieldError
from kdharness.harness.util.untrusted import parse_json
from kdharness.trainers.data.learning_flags import CUT, LEARN, learnt_turn, shown, was_cut

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
_CALLING = {"function_call", "tool_call"}
REASONING = ("reasoning_content", "reasoning", "thinking")
_REFUSED = {
    "train_detail": "labels cannot cover part of a turn",
    "mask": "it is ambiguous: use train: true or false",
    "prefix": "partial answers cannot be trained on",
    "thought": "use reasoning_content",
    "thoughts": "use reasoning_content",
    "refusal": "use content",
    "tools": "tools belong to the row, not to a turn",
    "functions": "tools belong to the row, not to a turn",
    "chosen": "preference pairs cannot be trained on",
    "rejected": "preference pairs cannot be trained on",
    **dict.fromkeys(("cot", "chain_of_thought"), "use reasoning_content"),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), "only text is"),
}
_READ = {
    "role",
    "from",
    "content",
    "value",
    *LEARN,
    "masked",
    *REASONING,
    "tool_calls",
    "function_call",
    "tool_call_id",
    "name",
    "channel",
    "recipient",
    *CUT,
}
_TEXT_PARTS = {"text", "input_text", "output_text"}


def keys(row: object) -> str:
    """Return the field names of a value that should be an object, for a message."""
    if not isinstance(row, Mapping):
        return type(row).__name__
    return ", ".join(sorted(map(str, row)))[:200] or "none"


def looks_like_turn(value: object) -> bool:
    """Return whether a value has a turn's role and content, under either pair of names."""
    return (
        isinstance(value, Mapping)
        and ("role" in value or "from" in value)
        and (
            "content" in value
            or "value" in value
            or "tool_calls" in value
            or "function_call" in value
        )
    )


def read_turns(turns: object, unread: set[str]) -> list[dict[str, object]]:
    """Read a list of turns as messages.

    Args:
        turns: the row's turns.
        unread: collects the names of ignored fields.

    Raises:
        DataError: an invalid turn, or one with an unsupported field.
    """
    if isinstance(turns, str):
        turns = parsed(turns, "the list of turns")
    if isinstance(turns, Mapping):
        turns = _rows_of_columns(turns)
    if not isinstance(turns, list):
        raise DataError(f"the turns are not a list: {shown(turns)}")
    return [read_turn(turn, number, unread) for number, turn in enumerate(turns, 1)]


def _rows_of_columns(turns: Mapping[str, Any]) -> Any:
    """Transpose turns that a table stores as one list per field; return others unchanged."""
    columns = list(turns.values())
    if not columns or not all(isinstance(column, list) for column in columns):
        return dict(turns)
    if len({len(column) for column in columns}) != 1:
        raise DataError("the fields of the turns differ in length")
    return [dict(zip(turns, values, strict=True)) for values in zip(*columns, strict=True)]


def read_turn(turn: object, number: int, unread: set[str]) -> dict[str, object]:
    """Read one turn as a message; `number` from 1 names it in errors.

    Raises:
        DataError: as `read_turns`.
    """
    try:
        if not isinstance(turn, Mapping):
            raise DataError(f"not an object with role and content: {shown(turn)}")
        turn = {key: value for key, value in turn.items() if value is not None}
        for name, reason in _REFUSED.items():
            if turn.get(name) not in (None, "", [], {}, False):
                raise DataError(f"{name} is not supported: {reason}")
        unread.update(str(key) for key in turn if key not in _READ and key not in _REFUSED)
        _refuse_kinds_of_thought(turn)
        return _message(turn)
    except DataError as error:
        raise DataError(f"turn {number}: {error.message}", hint=error.hint) from error


def _message(turn: Mapping[str, object]) -> dict[str, object]:
    given = _either(turn, "role", "from")
    if not isinstance(given, str):
        raise DataError(
            f"no role (fields: {keys(turn)})"
            if given is None
            else f"the role is not text: {shown(given)}",
            hint="turns need role and content, or from and value",
        )
    name = given.strip().lower()
    role = ROLES.get(name)
    if role is None:
        raise DataError(
            f"unknown role {given[:80]!r}", hint="known roles: " + ", ".join(sorted(ROLES))
        )
    content = _either(turn, "content", "value")
    message: dict[str, object] = {"role": role, "content": content}
    if name in _CALLING:
        message.update(content="", tool_calls=_calls(content, name))
    _add_calls(message, turn)
    for field in REASONING:
        if turn.get(field):
            message[field] = joined(turn[field], field)
    if sum(field in message for field in REASONING) > 1:
        raise DataError("the reasoning is given in more than one field")
    if message["content"] is None and (message.keys() & {"tool_calls", *REASONING}):
        message["content"] = ""
    if message["content"] is None:
        raise DataError(
            f"the {role} turn has no content (fields: {keys(turn)})",
            hint="turns need role and content, or from and value",
        )
    message["content"] = joined(message["content"], f"the {role} turn's content")
    learnt = learnt_turn(turn, role)
    if learnt is not None:
        message["train"] = learnt
    if role == "assistant" and was_cut(turn):
        message["cut"] = True
    return message


def _refuse_kinds_of_thought(turn: Mapping[str, object]) -> None:
    """Refuse fields that mark content as reasoning, or address a turn to someone.

    Raises:
        DataError: the field, and what to use instead.
    """
    if not any(turn.get(name) for name in REASONING):
        for name in ("reasoning_details", "thinking_blocks"):
            if turn.get(name):
                raise DataError(f"{name} is not supported: use reasoning_content")
    if turn.get("channel") not in (None, "", "final"):
        raise DataError(
            f"channel {shown(turn['channel'])} is not supported: use reasoning_content for "
            "reasoning and tool_calls for calls"
        )
    if turn.get("recipient") not in (None, "", "all"):
        raise DataError(f"recipient {shown(turn['recipient'])} is not supported: use tool_calls")


def _either(turn: Mapping[str, object], one: str, other: str) -> object:
    first, second = turn.get(one), turn.get(other)
    if first is not None and second is not None and first != second:
        raise DataError(f"{one} and {other} contradict each other")
    return second if first is None else first


def joined(content: object, what: str) -> str:
    """Read a turn's content: text, or a list of text parts, which are joined.

    Raises:
        DataError: neither, a part that is not text, or several texts that are no parts.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"{what} is not text: {shown(content)}")
    if len(content) > 1 and any(isinstance(part, str) for part in content):
        # Several answers, or a column of a table: their sum is nobody's text.
        raise DataError(
            f"{what} is a list of {len(content)} texts, and one text is wanted: {shown(content)}",
            hint='write one row for each; parts of one text are written {"type": "text", '
            '"text": …}',
        )
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(kind, str) or kind not in _TEXT_PARTS:
            raise DataError(f"{what} has a part of type {shown(kind)}: only text is supported")
        if not isinstance(text, str):
            raise DataError(f"{what} is not text: {shown(part)}")
        for name in LEARN:
            if isinstance(part, Mapping) and part.get(name) is not None:
                raise DataError(f"{name} on a content part is not supported")
        texts.append(text)
    return "".join(texts)


# ---------------------------------------------------------------- tools


def _add_calls(message: dict[str, object], turn: Mapping[str, object]) -> None:
    calls, old = turn.get("tool_calls"), turn.get("function_call")
    if calls and old:
        raise DataError("both tool_calls and function_call are given")
    if calls or old:
        if message["role"] != "assistant":
            raise DataError(f"a {message['role']} turn cannot call tools")
        if message.get("tool_calls"):
            raise DataError("tool calls are given in two fields")
        message["tool_calls"] = _calls(calls or old, "tool_calls" if calls else "function_call")
    for name in ("tool_call_id", "name"):
        if turn.get(name):
            if not isinstance(turn[name], str):
                raise DataError(f"{name} is not text: {shown(turn[name])}")
            message[name] = turn[name]


def _calls(value: object, what: str) -> list[dict[str, object]]:
    """Read tool calls in OpenAI's format, with arguments as mappings."""
    if isinstance(value, str):
        value = parsed(value, what)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        raise DataError(f"{what} is not a list of calls: {shown(value)}")
    return [_call(call, what) for call in value]


def _call(call: Any, what: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{what} has a call without a name: {shown(call)}")
    if call.get("type", "function") != "function":
        raise DataError(f"{what} has a call of type {shown(call['type'])}")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = (
            parsed(arguments, f"the arguments of {function['name']}") if (arguments.strip()) else {}
        )
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise DataError(
            f"the arguments of {function['name']} are not a JSON object: {shown(arguments)}"
        )
    read: dict[str, object] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": dict(arguments)},
    }
    return {"id": call["id"], **read} if isinstance(call.get("id"), str) else read


def read_tools(row: Mapping[str, object]) -> list[dict[str, Any]] | None:
    """Read a row's tool schemas (`tools`, or OpenAI's old `functions`).

    Raises:
        DataError: something that is not a list of schemas.
    """
    names = [name for name in ("tools", "functions") if row.get(name)]
    if len(names) > 1:
        raise DataError("both tools and functions are given")
    if not names:
        return None
    value = row[names[0]]
    if isinstance(value, str):
        if not value.strip():
            return None
        value = parsed(value, names[0])
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise DataError(f"{names[0]} is not a list of tool schemas: {shown(value)}")
    return [_schema(schema, names[0]) for schema in value] or None


def _schema(value: Any, what: str) -> dict[str, object]:
    if isinstance(value, str):
        value = parsed(value, what)
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{what} has a schema without a name: {shown(value)}")
    return dict(value) if "function" in value else {"type": "function", "function": dict(value)}


def parsed(text: str, what: str) -> Any:
    """Parse JSON from a string.

    Raises:
        DataError: it is not valid JSON.
    """
    try:
        return parse_json(text, unique=True)
    except RepeatedFieldError as error:
        raise DataError(f"{what}: {error}") from error
    except ValueError as error:
        raise DataError(f"{what} is not JSON: {shown(text)}") from error


def without_nulls(value: object) -> object:
    """Remove null fields, which a table adds to every object."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
