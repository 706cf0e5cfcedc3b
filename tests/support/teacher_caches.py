"""Teacher caches of both kinds, for the same tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdharness.harness.models.lm_head import head_of
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.data.layout import Part
from kdharness.trainers.losses.top_k import TopK
from kdharness.trainers.teachers.cache_hidden import HiddenCache
from kdharness.trainers.teachers.cache_top_k import TopKCache
from kdharness.trainers.teachers.cached import CachedTeacher
from kdharness.trainers.teachers.online import OnlineTeacher, hidden_states

NOTES: dict[str, dict[str, Any]] = {
    "top-k": {"teacher": "t", "tokenizer": "x", "temperature": 1.0, "k": 4, "vocab": 0},
    "hidden": {"teacher": "t", "tokenizer": "x", "kind": "hidden", "stored": "bfloat16"},
}
KINDS = tuple(NOTES)


def open_cache(kind: str, folder: Path, rank: int = 0, **changes: Any) -> TopKCache | HiddenCache:
    """Open or create a cache of a kind; `changes` are to its note."""
    note = {**NOTES[kind], **changes}
    return HiddenCache(folder, note, rank) if kind == "hidden" else TopKCache(folder, note, rank)


def three_rows() -> tuple[Dataset, dict[str, Any]]:
    """Return three rows with three labelled positions each, and their batch."""
    rows = [
        TrainRow([5, 9, 33, 7, 61 + i], [-100, -100, 33, 7, 61 + i], "general", 0, f"r{i}")
        for i in range(3)
    ]
    data = Dataset(rows)
    return data, Collator(2, ["general"])([data[i] for i in range(3)])


def filling(cache: TopKCache | HiddenCache, data: Dataset, model: Any) -> CachedTeacher:
    """Return a cached teacher that runs `model` on what is missing."""
    return CachedTeacher(cache, data, lambda: OnlineTeacher(model))


def warm(cache: TopKCache | HiddenCache, data: Dataset) -> CachedTeacher:
    """Return a cached teacher that fails if its model is loaded."""

    def load() -> OnlineTeacher:
        raise AssertionError("the teacher ran")

    return CachedTeacher(cache, data, load)


def tensors(target: TopK | tuple[Any, Tensor]) -> list[Tensor]:
    """Return all tensors of a target, bf16 as fp32."""
    if isinstance(target, TopK):
        return [value for value in (target.ids, target.logp, target.entropy) if value is not None]
    return [target[0].weight.float(), target[1].float()]


def all_targets(teacher: CachedTeacher, batch: dict[str, Any]) -> Any:
    """Return the targets of every row of a batch."""
    return teacher.targets_for(batch, batch["layout"].every, None)


def online(model: Any, batch: dict[str, Any], part: Part) -> Any:
    """Return a teacher's head and hidden states, without any cache."""
    return head_of(model), hidden_states(model, batch, part)


def same(first: TopK | tuple[Any, Tensor], second: TopK | tuple[Any, Tensor]) -> bool:
    """Return whether two targets are equal bit by bit."""
    pairs = zip(tensors(first), tensors(second), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)
