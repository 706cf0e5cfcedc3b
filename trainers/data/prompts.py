"""A prompt and its completion as one chat, of which only the completion is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.trainers.data.fields import REASONING

Turn = dict[str, Any]


def with_answers(asks: Sequence[Turn], answers: Sequence[Turn]) -> list[Turn]:
    """Join the turns of a prompt and of its completion.

    The assistant's turns of a prompt are context, unless one says that it is learnt. Where the last
    of them is directly followed by the completion's, it is the beginning of that answer
    (`prefill`): one turn, learnt from there on.

    Raises:
        DataError: a beginning that no text can continue.
    """
    context = [
        {**turn, "train": turn.get("train", False)} if turn["role"] == "assistant" else turn
        for turn in asks
    ]
    if not context or not answers:
        return [*context, *answers]
    begun, answer = context[-1], answers[0]
    if begun["role"] != "assistant" or answer["role"] != "assistant":
        return [*context, *answers]
    return [*context[:-1], _continued(begun, answer), *answers[1:]]


def _continued(begun: Turn, answer: Turn) -> Turn:
    """Return one turn of an answer's beginning and the rest of it."""
    if begun.get("tool_calls"):
        raise DataError(
            "the prompt ends with an assistant turn that calls a tool, and the completion is the "
            "assistant's too",
            hint="put the tool's result between them",
        )
    if any(map(answer.get, REASONING)):
        raise DataError(
            "the prompt ends with the beginning of the answer, and the completion has reasoning, "
            "which comes before it",
            hint="write the beginning and its reasoning into the completion",
        )
    if any(map(begun.get, REASONING)) and not begun["content"] and begun["train"] is False:
        raise DataError(
            "the prompt ends with reasoning, which the completion's answer would learn as its own",
            hint="write the reasoning into the completion, or set train: true on that turn to "
            "learn it",
        )
    whole = {**begun, **answer, "content": begun["content"] + answer["content"]}
    whole.pop("train", None)
    if "train" in answer:
        whole["train"] = answer["train"]
    if begun["content"] and begun["train"] is False:
        whole["prefill"] = begun["content"]
    return whole
