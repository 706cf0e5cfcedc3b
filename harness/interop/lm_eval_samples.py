"""Samples of lm-evaluation-harness: values by document; prompts, answers and targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from kdharness.harness.errors import DataError
from kdharness.harness.interop.rows import read_integer, read_rows
from kdharness.harness.types import Answer, Finish, digest
from kdharness.harness.util.untrusted import read_lines

LONGEST_PROMPT = 4000
"""Characters kept of a prompt, from its end: the examples before the question are left out."""
LONGEST_TARGET = 2000


_KNOWN = frozenset(
    (
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter"),
        *("doc_hash", "prompt_hash", "target_hash", "metrics"),
    )
)
"""Fields of a sample that are no metrics, in versions that do not name these."""


class Sample(NamedTuple):
    """One document under one filter.

    Attributes:
        item: the document.
        filter: its name; None before version 0.4.7, which logs one pass over all documents after
            the other.
        turn: which pass it is, from 0.
        values: metric -> value.
        row: the sample as it is stored.
    """

    item: str
    filter: str | None
    turn: int
    values: Mapping[str, float]
    row: Mapping[str, Any]


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def sample_texts(file: Path) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
    """Yield (where, sample); before version 0.4.3 the file is one list, whatever its name."""
    with file.open("rb") as stream:
        listed = stream.read(1) == b"["
    if listed:
        yield from read_rows(file)
    else:
        for line, text in read_lines(file, DataError):
            yield f"{file}, line {line}", text


def read_sample(row: Mapping[str, Any]) -> Sample:
    """Return a sample's document, filter and numeric metrics."""
    item = str(read_integer(row["doc_id"], "doc_id"))
    # A document's number alone would pair other documents after a task has changed.
    if mark := row.get("doc_hash"):
        item = f"{item}/{str(mark)[:12]}"
    named = row.get("metrics")
    names = named if isinstance(named, list) else [key for key in row if key not in _KNOWN]
    values = {
        str(name): float(row[name])
        for name in names
        if is_number(row.get(name)) or isinstance(row.get(name), bool)
    }
    return Sample(item, str(row["filter"]) if "filter" in row else None, 0, values, row)


def sample_answers(
    samples: Sequence[Sample], checkpoint: str, bench: str, revision: str, created: float
) -> dict[str, Answer]:
    """Return the answers in samples by item; filters of one document share its answer."""
    answers: dict[str, Answer] = {}
    for sample in samples:
        if sample.item not in answers:
            answer = _answer(sample.row, checkpoint, bench, revision, sample.item, created)
            if answer is not None:
                answers[sample.item] = answer
    return answers


def _answer(
    row: Mapping[str, object], checkpoint: str, bench: str, revision: str, item: str, created: float
) -> Answer | None:
    """Return the answer in a sample; None for figures without one, such as perplexities.

    In a multiple-choice task the model answers by the likeliest continuation.
    """
    requests, replies = _requests(row.get("arguments")), row.get("resps")
    if not isinstance(replies, list) or not replies:
        return None
    choice = _likeliest(replies)
    if choice is not None and len(requests) == len(replies) and len(requests[choice]) > 1:
        text = requests[choice][1].strip()
    else:
        reply = _innermost(replies[0])
        if not isinstance(reply, str) or any(len(texts) > 1 for texts in requests):
            return None
        text = reply
    prompt = requests[0][0] if requests and requests[0] else ""
    target = row.get("target")
    return Answer(
        id=digest("lm-eval answer", checkpoint, bench, revision, item),
        checkpoint=checkpoint,
        bench=bench,
        revision=revision,
        item=item,
        turn=1,
        text=text,
        finish=Finish.STOP,
        prompt_hash="",
        settings="",
        created=created,
        info={
            "prompt": prompt if len(prompt) <= LONGEST_PROMPT else f"… {prompt[-LONGEST_PROMPT:]}",
            "target": _target(row.get("doc"), target)[:LONGEST_TARGET],
        },
    )


def _requests(arguments: object) -> list[list[str]]:
    """Return the texts of each request: its context, and its continuation if it has one.

    Since version 0.4.3 they are `{"gen_args_0": {"arg_0": …}}`, before that lists.
    """
    if isinstance(arguments, dict):
        parts: Sequence[object] = list(arguments.values())
    else:
        parts = arguments if isinstance(arguments, list) else []
    requests = []
    for part in parts:
        values = list(part.values()) if isinstance(part, dict) else part
        texts = values if isinstance(values, list) else []
        requests.append([text for text in texts if isinstance(text, str)])
    return requests


def _likeliest(replies: Sequence[object]) -> int | None:
    """Return the index of the continuation with the highest log-likelihood."""
    scores = []
    for reply in replies:
        score = _innermost(reply)
        try:
            scores.append(float(score) if isinstance(score, (str, int, float)) else math.nan)
        except ValueError:
            return None
    if len(scores) < 2 or any(map(math.isnan, scores)):
        return None
    return max(range(len(scores)), key=scores.__getitem__)


def _innermost(reply: object) -> object:
    """Return the first thing in nested lists."""
    while isinstance(reply, list) and reply:
        reply = reply[0]
    return reply


def _target(doc: object, target: object) -> str:
    """Return the right answer's text: a choice's number is looked up in the document."""
    choices = doc.get("choices") if isinstance(doc, dict) else None
    if isinstance(choices, dict):
        choices = choices.get("text")
    index = (
        int(target) if isinstance(target, str) and target.isascii() and target.isdigit() else target
    )
    if isinstance(choices, list) and isinstance(index, int) and 0 <= index < len(choices):
        return str(choices[index])
    return "" if target is None else str(target)
