"""Validated rows of a user's own benchmark file.

A null field counts as missing. Every other field is used or refused, with the line and the field:
a benchmark that scores something other than its author meant is worse than one that does not load.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import DataError
from kdharness.harness.types import Item, Message
from kdharness.judges.benchmarks.base import read_jsonl
from kdharness.judges.scoring import exact_metrics as metrics
from kdharness.judges.scoring.choices import chosen
from kdharness.judges.scoring.folding import fold_width, reading_of

FILE_TOKENS = 512
MOST_TOKENS = 131_072
JUDGED = ("rating", "pair")
MISTAKES = 10
KEYS = (
    "id",
    "category",
    "system",
    "prompt",
    "messages",
    "turns",
    "reference",
    "references",
    "rubric",
    "choices",
    "metric",
    "max_new_tokens",
    "temperature",
)
_OTHER_NAMES = {
    "question": "prompt",
    "instruction": "prompt",
    "input": "prompt",
    "query": "prompt",
    "text": "prompt",
    "answer": "reference",
    "answers": "references",
    "target": "reference",
    "targets": "references",
    "expected": "reference",
    "output": "reference",
    "response": "reference",
    "completion": "reference",
    "label": "reference",
    "gold": "reference",
    "solution": "reference",
    "options": "choices",
    "system_prompt": "system",
    "metrics": "metric",
    "conversations": "messages",
    "conversation": "messages",
    "max_tokens": "max_new_tokens",
    "subject": "category",
    "task": "category",
    "type": "category",
    "criteria": "rubric",
    "question_id": "id",
    "name": "id",
}


@dataclass(frozen=True)
class BenchRow:
    """A validated row."""

    item: Item
    metrics: tuple[str, ...]
    rubric: str


def read_rows(path: Path, config: EvalConfig) -> list[BenchRow]:
    """Read and validate a user's benchmark file.

    Raises:
        DataError: with the line number of every mistake (up to ten).
    """
    rows: list[BenchRow] = []
    mistakes: list[str] = []
    seen: dict[str, int] = {}
    for place, (number, raw) in enumerate(read_jsonl(path), 1):
        try:
            # Empty lines do not count: with them every answer would be asked for again.
            row = check_row(raw, place, config)
        except ValueError as error:
            mistakes.append(f"line {number}: {error}")
            continue
        if row.item.id in seen:
            other = seen[row.item.id]
            mistakes.append(f"line {number}: duplicate id {row.item.id!r}, also on line {other}")
        seen[row.item.id] = number
        rows.append(row)
    if mistakes:
        more = f"\n  and {len(mistakes) - MISTAKES} more" if len(mistakes) > MISTAKES else ""
        raise DataError(
            "\n  ".join(["invalid rows:", *mistakes[:MISTAKES]]) + more,
            where=str(path),
        )
    if not rows:
        raise DataError("the file has no rows", where=str(path))
    return rows


def check_row(raw: dict[str, object], number: int, config: EvalConfig) -> BenchRow:
    """Validate one row and convert it into an item.

    Raises:
        ValueError: what is wrong with it, as a message for the user.
    """
    _refuse_unknown(raw)
    row = {key: value for key, value in raw.items() if value is not None}
    messages, turns, answered = _conversation(row)
    wanted = _metrics(row, config)
    exact = [name for name in wanted if name in metrics.METRICS]
    references = _references(row, answered, wanted)
    if not references and exact:
        raise ValueError(f"metric {exact[0]} needs a reference")
    choices = _choices(row)
    if exact:
        _check_references(references, choices, exact)
    limit = row.get("max_new_tokens", FILE_TOKENS)
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MOST_TOKENS:
        raise ValueError(f"max_new_tokens must be an integer from 1 to {MOST_TOKENS}")
    temperature = row.get("temperature", 0.0)
    if (
        not isinstance(temperature, (int, float))
        or isinstance(temperature, bool)
        or not 0 <= temperature <= 2
    ):
        raise ValueError("temperature must be a number from 0 to 2")
    name = row.get("id", number)
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise ValueError(f"id must be a string or an integer, not {_shown(name)}")
    if not str(name).strip():
        raise ValueError("id is empty")
    item = Item(
        id=str(name),
        category=_text(row, "category"),
        turns=tuple(turns),
        messages=tuple(messages),
        references=tuple(references),
        temperature=float(temperature),
        max_new_tokens=config.max_new_tokens or limit,
        metric="+".join(wanted),
        info={"choices": tuple(choices)},
    )
    return BenchRow(item, tuple(dict.fromkeys(wanted)), _text(row, "rubric"))


def _refuse_unknown(raw: dict[str, object]) -> None:
    unknown = sorted(set(raw) - set(KEYS))
    if not unknown:
        return
    names = []
    for name in unknown:
        near = _OTHER_NAMES.get(name.casefold()) or next(
            iter(difflib.get_close_matches(name, KEYS, 1)), ""
        )
        names.append(f"{name} (did you mean {near}?)" if near and near not in raw else name)
    raise ValueError(f"unknown field {', '.join(names)}; allowed fields: {', '.join(KEYS)}")


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _text(row: dict[str, object], field: str) -> str:
    """Return a field that must be a string; empty if it is missing."""
    value = row.get(field, "")
    if not isinstance(value, str):
        raise ValueError(f"{field} must be a string, not {_shown(value)}")
    return value


def _metrics(row: dict[str, object], config: EvalConfig) -> list[str]:
    named = row.get("metric") or ("pair" if config.baseline else "rating")
    wanted = [named] if isinstance(named, str) else named
    known = (*metrics.METRICS, *JUDGED)
    if not isinstance(wanted, list) or not wanted or any(name not in known for name in wanted):
        raise ValueError(f"metric must be one of {', '.join(known)}, not {_shown(named)}")
    if "pair" in wanted and not config.baseline:
        wanted = ["rating" if name == "pair" else name for name in wanted]
    return wanted


# ---------------------------------------------------------------- references and choices


def _references(row: dict[str, object], answered: str | None, wanted: Sequence[str]) -> list[str]:
    """Return the references as strings; those of json_f1 may be given as JSON values."""
    given = [name for name in ("reference", "references") if name in row]
    if len(given) > 1:
        raise ValueError("give either reference or references, not both")
    if not given:
        return [] if answered is None else [answered]
    value = row[given[0]]
    if given[0] == "reference" and "json_f1" in wanted and isinstance(value, list):
        _refuse_two_meanings(value)
    values = value if isinstance(value, list) else [value]
    references = [_reference(item, wanted) for item in values]
    if answered is not None and references != [answered]:
        raise ValueError(f"ends with an assistant turn and also has {given[0]}: keep one")
    return references


def _refuse_two_meanings(value: list[object]) -> None:
    """Refuse a list that may be either the expected JSON or several references."""
    if value and not all(isinstance(item, (str, list)) for item in value):
        raise ValueError(
            f"reference is a list, {_shown(value)}: use references for several, or [[…]] if the "
            "reference itself is a list"
        )


def _reference(value: object, wanted: Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (dict, list)):
        readers = ("json_f1", *JUDGED)
        if not any(name in readers for name in wanted):
            raise ValueError(
                f"metric {wanted[0]} compares strings, but the reference is {_shown(value)}: "
                "write it as a string, or use json_f1"
            )
        return json.dumps(value, ensure_ascii=False)
    raise ValueError(f'reference must be a string, not {_shown(value)}: write "{_shown(value)}"')


def _choices(row: dict[str, object]) -> list[str]:
    choices = row.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise ValueError("choices must be a list of strings")
    if not all(choice.strip() for choice in choices):
        raise ValueError("a choice is empty")
    if choices and reading_of(choices) is None:
        double = next(c for n, c in enumerate(choices) if reading_of([*choices[:n], c]) is None)
        raise ValueError(f"duplicate choice {_shown(double)}")
    return choices


def _check_references(
    references: Sequence[str], choices: Sequence[str], exact: Sequence[str]
) -> None:
    """Refuse references that an exact metric could never match, rather than score 0."""
    for reference in references:
        if not fold_width(reference):
            raise ValueError("the reference is empty")
        if "json_f1" in exact and not _is_json(reference):
            raise ValueError(
                f"metric json_f1 needs a JSON object or list as reference, not "
                f"{_shown(reference)} (JSON has double quotes)"
            )
    if not choices or "accuracy" not in exact:
        return
    for reference in references:
        if chosen(reference, choices) is None:
            raise ValueError(
                f"the reference is not one of the choices: {_shown(reference)}; write it exactly "
                "as in choices"
            )


def _is_json(reference: str) -> bool:
    """Return whether it contains an object, or is a list: a lone bracket may be a citation."""
    if isinstance(metrics.find_json(reference), dict):
        return True
    try:
        return isinstance(json.loads(reference), list)
    except (ValueError, RecursionError):
        return False


# ---------------------------------------------------------------- the conversation


def _conversation(row: dict[str, object]) -> tuple[list[Message], list[str], str | None]:
    """Return (earlier messages, the user turns to answer, a reference if the chat ends with it)."""
    given = [name for name in ("prompt", "messages", "turns") if name in row]
    if len(given) != 1:
        raise ValueError("needs exactly one of prompt, messages and turns")
    system = _text(row, "system")
    before: list[Message] = [{"role": "system", "content": system}] if system else []
    value = row[given[0]]
    if given[0] == "prompt":
        if not isinstance(value, str) or not value.strip():
            raise ValueError("prompt must be a non-empty string")
        return before, [value], None
    if given[0] == "turns":
        if not isinstance(value, list) or not value or not all(isinstance(t, str) for t in value):
            raise ValueError("turns must be a list of strings")
        if not all(turn.strip() for turn in value):
            raise ValueError("a turn is empty")
        return before, value, None
    if not isinstance(value, list) or not value:
        raise ValueError("messages must be a non-empty list")
    chat = [_message(message) for message in value]
    if system and chat[0]["role"] == "system":
        raise ValueError("has a system field and a system message: keep one")
    reference = chat.pop()["content"] if chat[-1]["role"] == "assistant" else None
    if not chat or chat[-1]["role"] != "user":
        raise ValueError("messages must end with a user turn, or a user turn and its answer")
    if not chat[-1]["content"].strip():
        raise ValueError("the user turn is empty")
    return before + chat[:-1], [chat[-1]["content"]], reference


def _message(message: object) -> Message:
    if (
        not isinstance(message, dict)
        or message.get("role")
        not in (
            "system",
            "user",
            "assistant",
        )
        or not isinstance(message.get("content"), str)
    ):
        raise ValueError("a message needs a role (system, user, assistant) and string content")
    more = sorted(key for key in set(message) - {"role", "content"} if message[key] is not None)
    if more:
        raise ValueError(f"unsupported fields in a message: {', '.join(more)}")
    return {"role": message["role"], "content": message["content"]}
