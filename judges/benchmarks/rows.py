"""Rows of a user's own benchmark file, checked: what is asked, and how the answer is scored.

A field that is null counts as left out. Anything else that a row holds is used or refused, with
the line and the field: a benchmark that scores something else than its writer meant is worse
than one that does not load.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """A checked row."""

    item: Item
    metrics: tuple[str, ...]
    rubric: str


def read_rows(path: Path, config: EvalConfig) -> list[BenchRow]:
    """Check a user's benchmark file.

    Raises:
        DataError: with the line number of every mistake (up to ten).
    """
    rows: list[BenchRow] = []
    mistakes: list[str] = []
    seen: dict[str, int] = {}
    for number, raw in read_jsonl(path):
        try:
            row = check_row(raw, number, config)
        except ValueError as error:
            mistakes.append(f"line {number}: {error}")
            continue
        if row.item.id in seen:
            other = seen[row.item.id]
            mistakes.append(f"line {number}: id {row.item.id!r} is also on line {other}")
        seen[row.item.id] = number
        rows.append(row)
    if mistakes:
        more = f"\n  and {len(mistakes) - MISTAKES} more" if len(mistakes) > MISTAKES else ""
        raise DataError(
            "\n  ".join(["rows that cannot be used:", *mistakes[:MISTAKES]]) + more,
            where=str(path),
        )
    if not rows:
        raise DataError("holds no rows", where=str(path))
    return rows


def check_row(raw: dict[str, Any], number: int, config: EvalConfig) -> BenchRow:
    """Turn one row into an item.

    Raises:
        ValueError: what is wrong with it, for a person to read.
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
        raise ValueError(f"max_new_tokens must be a whole number in 1-{MOST_TOKENS}")
    temperature = row.get("temperature", 0.0)
    if (
        not isinstance(temperature, (int, float))
        or isinstance(temperature, bool)
        or not 0 <= temperature <= 2
    ):
        raise ValueError("temperature must be a number in 0-2")
    name = row.get("id", number)
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise ValueError(f"id must be text or a whole number, not {_shown(name)}")
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


def _refuse_unknown(raw: dict[str, Any]) -> None:
    unknown = sorted(set(raw) - set(KEYS))
    if not unknown:
        return
    told = []
    for name in unknown:
        near = _OTHER_NAMES.get(name.casefold()) or next(
            iter(difflib.get_close_matches(name, KEYS, 1)), ""
        )
        told.append(f"{name} (did you mean {near}?)" if near and near not in raw else name)
    raise ValueError(f"unknown field {', '.join(told)}; a row may have: {', '.join(KEYS)}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _text(row: dict[str, Any], field: str) -> str:
    """A field that must be text; left out it is empty."""
    value = row.get(field, "")
    if not isinstance(value, str):
        raise ValueError(f"{field} must be text, not {_shown(value)}")
    return value


def _metrics(row: dict[str, Any], config: EvalConfig) -> list[str]:
    named = row.get("metric") or ("pair" if config.baseline else "rating")
    wanted = [named] if isinstance(named, str) else named
    known = (*metrics.METRICS, *JUDGED)
    if not isinstance(wanted, list) or not wanted or any(name not in known for name in wanted):
        raise ValueError(f"metric must be one of {', '.join(known)}, not {_shown(named)}")
    if "pair" in wanted and not config.baseline:
        wanted = ["rating" if name == "pair" else name for name in wanted]
    return wanted


# ---------------------------------------------------------------- references and choices


def _references(row: dict[str, Any], answered: str | None, wanted: Sequence[str]) -> list[str]:
    """The references as texts; those of json_f1 may be given as JSON itself."""
    given = [name for name in ("reference", "references") if name in row]
    if len(given) > 1:
        raise ValueError("needs reference or references, not both")
    if not given:
        return [] if answered is None else [answered]
    value = row[given[0]]
    if given[0] == "reference" and "json_f1" in wanted and isinstance(value, list):
        _refuse_two_meanings(value)
    found = [_reference(one, wanted) for one in (value if isinstance(value, list) else [value])]
    if answered is not None and found != [answered]:
        raise ValueError(f"ends with an assistant turn and has {given[0]} besides: keep one")
    return found


def _refuse_two_meanings(value: list[Any]) -> None:
    """A list may be the wanted JSON or several references; only its writer can tell."""
    if value and not all(isinstance(one, (str, list)) for one in value):
        raise ValueError(
            f"reference is a list, {_shown(value)}: write references for several, or [[…]] for "
            "one that is a list itself"
        )


def _reference(value: Any, wanted: Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (dict, list)):
        readers = ("json_f1", *JUDGED)
        if not any(name in readers for name in wanted):
            raise ValueError(
                f"metric {wanted[0]} compares texts, but the reference is {_shown(value)}: "
                "write it as text, or use json_f1"
            )
        return json.dumps(value, ensure_ascii=False)
    raise ValueError(f'reference must be text, not {_shown(value)}: write "{_shown(value)}"')


def _choices(row: dict[str, Any]) -> list[str]:
    choices = row.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise ValueError("choices must be a list of texts")
    if not all(choice.strip() for choice in choices):
        raise ValueError("a choice is empty")
    if choices and reading_of(choices) is None:
        double = next(c for n, c in enumerate(choices) if reading_of([*choices[:n], c]) is None)
        raise ValueError(f"the choice {_shown(double)} is there twice")
    return choices


def _check_references(
    references: Sequence[str], choices: Sequence[str], exact: Sequence[str]
) -> None:
    """What an exact metric could never score is refused, rather than scored 0."""
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
                f"the reference is none of the choices: {_shown(reference)}; write it as it "
                "stands there"
            )


def _is_json(reference: str) -> bool:
    """An object somewhere in it, or a list that is all of it: a lone bracket may be a citation."""
    if isinstance(metrics.find_json(reference), dict):
        return True
    try:
        return isinstance(json.loads(reference), list)
    except (ValueError, RecursionError):
        return False


# ---------------------------------------------------------------- the conversation


def _conversation(row: dict[str, Any]) -> tuple[list[Message], list[str], str | None]:
    """(what comes before, the user turns to answer, a reference if the chat ends with one)."""
    given = [name for name in ("prompt", "messages", "turns") if name in row]
    if len(given) != 1:
        raise ValueError("needs exactly one of prompt, messages and turns")
    system = _text(row, "system")
    before: list[Message] = [{"role": "system", "content": system}] if system else []
    value = row[given[0]]
    if given[0] == "prompt":
        if not isinstance(value, str) or not value.strip():
            raise ValueError("prompt must be text")
        return before, [value], None
    if given[0] == "turns":
        if not isinstance(value, list) or not value or not all(isinstance(t, str) for t in value):
            raise ValueError("turns must be a list of texts")
        if not all(turn.strip() for turn in value):
            raise ValueError("a turn is empty")
        return before, value, None
    if not isinstance(value, list) or not value:
        raise ValueError("messages must be a list")
    chat = [_message(message) for message in value]
    if system and chat[0]["role"] == "system":
        raise ValueError("has a system field and a system message: keep one")
    reference = chat.pop()["content"] if chat[-1]["role"] == "assistant" else None
    if not chat or chat[-1]["role"] != "user":
        raise ValueError("messages must end with a user turn, or a user turn and its answer")
    if not chat[-1]["content"].strip():
        raise ValueError("the user turn is empty")
    return before + chat[:-1], [chat[-1]["content"]], reference


def _message(message: Any) -> Message:
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
        raise ValueError("a message needs a role (system, user, assistant) and a text content")
    more = sorted(key for key in set(message) - {"role", "content"} if message[key] is not None)
    if more:
        raise ValueError(f"a message has {', '.join(more)}, which is not asked with")
    return {"role": message["role"], "content": message["content"]}
