"""The teacher cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.errors import DataError
from kdharness.harness.models.lm_head import head_of
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.losses.top_k import share_tail, top_k
from kdharness.trainers.teachers.cached import CachedTeacher, TeacherCache, cache_bytes, row_key
from kdharness.trainers.teachers.online import OnlineTeacher, hidden_states
from support.training_steps import VOCAB, make_model

NOTE: dict[str, Any] = {"teacher": "t", "tokenizer": "x", "temperature": 1.0, "k": 4, "vocab": 0}


def cache_case(tiny_teacher: Path) -> tuple[Dataset, dict[str, Any], Any]:
    rows = [
        TrainRow([5, 9, 33, 7, 61 + i], [-100, -100, 33, 7, 61 + i], "general", 0, f"r{i}")
        for i in range(3)
    ]
    data = Dataset(rows)
    batch = Collator(2, ["general"])([data[i] for i in range(3)])
    return data, batch, load_model(str(tiny_teacher), Paths(tiny_teacher.parent / "home-c"))


def test_filled_cache_returns_the_same_targets_without_the_teacher(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    data, batch, model = cache_case(tiny_teacher)
    part = batch["layout"].part([0, 2])
    calls = []

    def load() -> OnlineTeacher:
        calls.append(1)
        return OnlineTeacher(model)

    first = CachedTeacher(TeacherCache(tmp_path, NOTE), data, load, 1.0, 0)
    built = first.targets_for(batch, part, None)
    head, hidden = head_of(model), hidden_states(model, batch, part)
    want = top_k(head, hidden, 4, 1.0, 8, 0)
    assert torch.equal(built.ids, want.ids)
    assert torch.allclose(built.logp, want.logp)
    assert len(calls) == 1

    def load_unexpectedly() -> OnlineTeacher:
        raise AssertionError("the teacher ran")

    warm = CachedTeacher(TeacherCache(tmp_path, NOTE), data, load_unexpectedly, 1.0, 0)
    read = warm.targets_for(batch, part, None)
    assert torch.equal(read.ids, built.ids)
    assert torch.equal(read.logp, built.logp)
    size = sum(file.stat().st_size for file in tmp_path.glob("data-*.bin"))
    assert size == cache_bytes([data.rows[0], data.rows[2]], 4)


def test_student_pad_id_may_exceed_the_teacher_vocabulary(tmp_path: Path) -> None:
    """The teacher could not embed padding ids that were collated before it was loaded."""
    model, beyond = make_model(1), VOCAB + 5
    data = Dataset([TrainRow(ids, ids, "general", 0, "r") for ids in ([5, 9, 33, 7], [6, 8])])
    targets = []
    for pad in (0, beyond):
        batch = Collator(pad, ["general"])([data[0], data[1]])
        assert bool(batch["input_ids"].eq(beyond).any()) == (pad == beyond)
        part = batch["layout"].every
        cache = TeacherCache(tmp_path / str(pad), NOTE)
        teacher = CachedTeacher(cache, data, lambda: OnlineTeacher(model), 1.0, 0)
        targets.append(teacher.targets_for(batch, part, None))
        assert bool(batch["input_ids"].eq(beyond).any()) == (pad == beyond)
    assert torch.equal(targets[0].ids, targets[1].ids)
    assert torch.equal(targets[0].logp, targets[1].logp)


def test_sampled_tail_depends_only_on_the_row(tiny_teacher: Path, tmp_path: Path) -> None:
    data, batch, model = cache_case(tiny_teacher)
    targets = []
    for folder, rows in (("a", [0, 1, 2]), ("b", [1])):
        teacher = CachedTeacher(
            TeacherCache(tmp_path / folder, NOTE),
            data,
            lambda: OnlineTeacher(model),
            1.0,
            0,
            sampled=2,
        )
        targets.append(teacher.targets_for(batch, batch["layout"].part(rows), None))
    whole, single = targets
    size = batch["layout"].every.sizes[1]
    assert torch.equal(whole.ids[size : 2 * size], single.ids)
    assert whole.entropy is not None and single.entropy is not None
    assert torch.allclose(whole.entropy[size : 2 * size], single.entropy, atol=1e-5)


def test_older_sampled_caches_are_read_and_extended_as_they_are(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    """In them drawn tokens have a share of the tail's mass instead of a probability."""
    data, batch, model = cache_case(tiny_teacher)
    part = batch["layout"].every
    targets = []
    for folder, note in (("older", NOTE), ("now", {**NOTE, "draws": "x"})):
        for _ in range(2):
            cache = TeacherCache(tmp_path / folder, note)
            teacher = CachedTeacher(cache, data, lambda: OnlineTeacher(model), 1.0, 0, sampled=2)
            targets.append(teacher.targets_for(batch, part, None))
    older, _, now, again = targets
    assert (older.drawn, now.drawn) == (0, 2) and torch.equal(now.logp, again.logp)
    assert torch.equal(older.ids, now.ids)
    assert torch.allclose(older.logp.exp().sum(-1), torch.ones(len(older.ids)), atol=1e-5)
    assert torch.allclose(share_tail(now).logp, older.logp, atol=1e-5)


def test_cache_with_other_settings_is_rejected_with_the_difference(tmp_path: Path) -> None:
    TeacherCache(tmp_path, NOTE)
    with pytest.raises(DataError, match=r"temperature is 1\.0 in the cache and 2\.0 here"):
        TeacherCache(tmp_path, {**NOTE, "temperature": 2.0})


def test_cache_truncated_mid_write_keeps_complete_entries(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    data, batch, model = cache_case(tiny_teacher)
    part = batch["layout"].every
    full = CachedTeacher(TeacherCache(tmp_path, NOTE), data, lambda: OnlineTeacher(model), 1.0, 0)
    full.targets_for(batch, part, None)
    file = tmp_path / "data-0.bin"
    file.write_bytes(file.read_bytes()[:-5])
    index = tmp_path / "index-0.jsonl"
    index.write_text(index.read_text("utf-8") + '["half', "utf-8")
    cache = TeacherCache(tmp_path, NOTE)
    assert [row_key(row) in cache for row in data.rows] == [True, True, False]
