"""FLOPs of a training from dimensions, before it starts (docs/method.md#flops)."""

from __future__ import annotations

from kdharness.harness.runs.rollouts import SamplingWork
from kdharness.harness.runs.sizes import Size


def step_flops(
    student: Size,
    teacher: Size | None,
    *,
    tokens: int,
    labelled: int,
    width: int,
    lora: bool,
    checkpointing: bool,
) -> float:
    """Return the FLOPs of one step, including attention and heads (docs/method.md#flops)."""
    times = (2 if lora else 3) + bool(checkpointing)
    scores = 4.0 * tokens * width
    total = 2.0 * times * student.body * tokens
    total += scores * student.layers * student.heads * student.head_size * (3.5 + checkpointing)
    total += 2.0 * (2 if lora else 3) * student.vocab * student.hidden * labelled
    if teacher is not None:
        total += forward_flops(teacher, tokens=tokens, labelled=labelled, width=width)
    return total


def weighing_flops(student: Size, *, tokens: int, labelled: int, width: int, split: bool) -> float:
    """Return the FLOPs of the losses that token weights depend on (docs/method.md#token-weights).

    Args:
        student: its dimensions.
        tokens, labelled, width: as in `step_flops`.
        split: whether a step has several micro-batches, which are run once more.
    """
    head = 2.0 * student.vocab * student.hidden * labelled
    once = forward_flops(student, tokens=tokens, labelled=labelled, width=width)
    return head + once if split else head


def writing_flops(size: Size, *, rows: int, prompt: int, tokens: int) -> float:
    """Return the FLOPs of writing rows, of `tokens` after `prompt`, with keys and values kept."""
    # Each token sees those before it: half the products of a forward pass over all of them.
    length = prompt + tokens
    whole = forward_flops(size, tokens=length, labelled=tokens, width=length)
    return rows * (whole - 2.0 * length**2 * size.layers * size.heads * size.head_size)


def forward_flops(size: Size, *, tokens: int, labelled: int, width: int) -> float:
    """Return the FLOPs of a forward pass, with the head at labelled positions."""
    scores = 4.0 * tokens * width * size.layers * size.heads * size.head_size
    return 2.0 * size.body * tokens + scores + 2.0 * size.vocab * size.hidden * labelled


def sampling_flops(student: Size, work: SamplingWork) -> float:
    """Return the FLOPs of sampling the answers of on-policy rows."""
    total = 2.0 * student.body * work.read + 2.0 * student.vocab * student.hidden * work.tokens
    return total + 4.0 * work.scores * student.layers * student.heads * student.head_size
