"""The answers that a student sampled during its training: a file in the run's folder.

One JSON object per line, in the order of steps. A worker adds lines, and a resumed one first drops
those of steps that it will train again, so that the file is always that of one uninterrupted run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from kdharness.harness.errors import RunError
from kdharness.harness.util.atomic import atomic_write_text, sync_file
from kdharness.harness.util.untrusted import parse_json_object, read_lines

NAME = "rollouts.jsonl"


@dataclass(frozen=True)
class Rollout:
    """One sampled answer.

    Attributes:
        step: the optimiser step that it was sampled for, from 1.
        row: the row's number in the training data, from 0.
        where: the row's file and line.
        kind: the row's kind, which decides who scores.
        prompt_tokens: tokens before the answer.
        tokens: tokens of the answer, its end of turn included.
        ended: whether it ended by itself; else it was cut off.
        distinct: share of different three-token sequences in it; None if it has none.
        score: mean divergence from its teacher per token, in nats.
        text: the answer.
    """

    step: int
    row: int
    where: str
    kind: str
    prompt_tokens: int
    tokens: int
    ended: bool
    distinct: float | None
    score: float
    text: str

    def as_dict(self) -> dict[str, object]:
        """Return the fields as the JSON values of a line."""
        return asdict(self)


_TYPES: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "row": (int,),
    "where": (str,),
    "kind": (str,),
    "prompt_tokens": (int,),
    "tokens": (int,),
    "ended": (bool,),
    "distinct": (int, float, type(None)),
    "score": (int, float),
    "text": (str,),
}


def read_rollouts(folder: Path) -> Iterator[Rollout]:
    """Yield a run's sampled answers; the last line of a run that was killed may be missing its end.

    Raises:
        RunError: the run has none, or a line is damaged.
    """
    path = folder / NAME
    if not path.exists():
        raise RunError(
            f"no sampled answers in run {folder.name}",
            where=str(path),
            hint="only runs with trainer.on_policy have them, from their first step on",
        )
    for number, line in read_lines(path, RunError):
        if line.endswith(b"\n"):
            yield _parse(line, f"{path}:{number}")


def _parse(line: bytes, where: str) -> Rollout:
    try:
        values = parse_json_object(line)
    except ValueError as error:
        raise _damaged(str(error), where) from error
    wrong = [
        name
        for name, types in _TYPES.items()
        if not isinstance(values.get(name), types)
        or (bool not in types and isinstance(values.get(name), bool))
        or name not in values
    ]
    if wrong:
        raise _damaged(f"missing or invalid {', '.join(wrong)}", where)
    return Rollout(**{name: values[name] for name in _TYPES})  # type: ignore[arg-type]


def _damaged(problem: str, where: str) -> RunError:
    return RunError(
        f"damaged line: {problem}",
        where=where,
        hint="delete the line: it is a record, and nothing is trained from it",
    )


class SamplingWork(NamedTuple):
    """What sampling takes with a cache of keys and values; the work of several answers adds up.

    Attributes:
        read: tokens that the model runs on: the prompt in one pass, then all but the last token.
        tokens: tokens of the answers, each of which needs the output head once.
        scores: pairs of a query and a key that are compared, per head.
    """

    read: int
    tokens: int
    scores: float


NO_SAMPLING = SamplingWork(0, 0, 0.0)


def sampling_work(prompt: int, tokens: int) -> SamplingWork:
    """Return the work of sampling one answer after a prompt, both in tokens."""
    later = max(tokens - 1, 0)
    return SamplingWork(
        prompt + later, tokens, float(prompt**2 + later * prompt + later * (later + 1) / 2)
    )


class RolloutFile:
    """Writes a run's sampled answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME

    def restart_after(self, step: int) -> list[Rollout]:
        """Drop what was sampled after a step; return the rest."""
        if not self.path.exists():
            return []
        kept = [rollout for rollout in read_rollouts(self.folder) if rollout.step <= step]
        atomic_write_text(self.path, "".join(map(_line, kept)))
        return kept

    def add(self, rollouts: Iterable[Rollout]) -> None:
        """Append some."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(map(_line, rollouts)))

    def sync(self) -> None:
        """Write what was added to the disk."""
        if self.path.exists():
            sync_file(self.path)


def _line(rollout: Rollout) -> str:
    # ASCII, so that a lone surrogate of a damaged answer can be written.
    return json.dumps(rollout.as_dict()) + "\n"
