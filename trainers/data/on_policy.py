"""Which rows are on-policy, from which prompt and seed: pure functions of seed, step and row.

No generator has a state: a resumed run, and each of several processes, chooses and draws what a
single uninterrupted process would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.harness.config.trainer import DistillSpec
from kdharness.harness.protocols import TokenPrompt
from kdharness.harness.types import IGNORE_INDEX
from kdharness.trainers.data.dataset import TrainRow


def settings_of(config: object) -> OnPolicySpec | None:
    """Return `trainer.on_policy` of a training config."""
    trainer = getattr(config, "trainer", None)
    return trainer.on_policy if isinstance(trainer, DistillSpec) else None


def _word(purpose: str, seed: int, step: int, row: int) -> int:
    """Return 64 bits that depend on all of the arguments."""
    text = f"{purpose}/{seed}/{step}/{row}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_on_policy(seed: int, step: int, row: int, share: float) -> bool:
    """Return whether a row is answered by the student in a step, which `share` of all are."""
    return (_word("on-policy", seed, step, row) >> 11) / (1 << 53) < share


def sampling_seed(seed: int, step: int, row: int) -> int:
    """Return the seed of a row's draws in a step."""
    return _word("rollout", seed, step, row)


def answer_start(labels: Sequence[int]) -> int:
    """Return where the last labelled turn begins; the first token of a row is always a prompt."""
    end = len(labels)
    while end and labels[end - 1] == IGNORE_INDEX:
        end -= 1
    start = end
    while start and labels[start - 1] != IGNORE_INDEX:
        start -= 1
    return max(start, 1)


def prompt_of(
    row: TrainRow, index: int, step: int, seed: int, spec: OnPolicySpec, room: int
) -> TokenPrompt | None:
    """Return what the student continues in a step; None if the row keeps the data's answer.

    Args:
        row: the row.
        index: its number in the data.
        step: the optimiser step, from 1.
        seed: the run's.
        spec: the settings.
        room: the most tokens of prompt and answer together.
    """
    if not is_on_policy(seed, step, index, spec.share):
        return None
    start = answer_start(row.labels)
    limit = min(spec.max_new_tokens, room - start)
    if limit < 1:
        return None
    return TokenPrompt(tuple(row.input_ids[:start]), limit, sampling_seed(seed, step, index))


def longest_answers(
    rows: Sequence[TrainRow],
    steps: Iterable[tuple[int, int]],
    seed: int,
    spec: OnPolicySpec,
    room: int,
) -> dict[tuple[int, int], int]:
    """Return (step, row) -> the most tokens of each answer that a training would sample.

    Args:
        rows: all rows.
        steps: (step, row) of the training.
        seed, spec, room: as in `prompt_of`.
    """
    found = {
        (step, row): prompt_of(rows[row], row, step, seed, spec, room) for step, row in set(steps)
    }
    return {key: prompt.limit for key, prompt in found.items() if prompt is not None}


def sampled_row(row: TrainRow, prompt: Sequence[int], answer: Sequence[int]) -> TrainRow:
    """Return a row with a sampled answer, all of whose tokens are labelled, and nothing else."""
    return TrainRow(
        [*prompt, *answer],
        [*[IGNORE_INDEX] * len(prompt), *answer],
        row.kind,
        row.source,
        row.where,
    )


def with_sampled(
    rows: Sequence[TrainRow], batch: Sequence[int], step: int, sizes: Mapping[tuple[int, int], int]
) -> list[TrainRow]:
    """Return a micro-batch's rows as they were trained, with placeholders for sampled tokens.

    Args:
        rows: all rows.
        batch: the numbers of those in the micro-batch.
        step: the optimiser step, from 1.
        sizes: (step, row) -> tokens of the sampled answer, of all that were sampled.
    """
    return [
        rows[index]
        if (step, index) not in sizes
        else sampled_row(
            rows[index],
            rows[index].input_ids[: answer_start(rows[index].labels)],
            [0] * sizes[step, index],
        )
        for index in batch
    ]
