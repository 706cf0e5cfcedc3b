"""Teacher caches: what both kinds share, and the tail of distributions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.models import CacheSpec
from kdharness.harness.errors import DataError
from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.losses.top_k import TopK, share_tail, top_k
from kdharness.trainers.teachers.cache_store import row_key
from kdharness.trainers.teachers.cached import cache_address
from support.teacher_caches import (
    KINDS,
    NOTES,
    all_targets,
    filling,
    online,
    open_cache,
    same,
    tensors,
    three_rows,
    warm,
)
from support.training_steps import VOCAB, make_model


@pytest.fixture(scope="module")
def model(tiny_teacher: Path) -> Any:
    return load_model(str(tiny_teacher), Paths(tiny_teacher.parent / "home-c"))


# ---------------------------------------------------------------- both kinds


@pytest.mark.parametrize("kind", KINDS)
def test_filled_cache_returns_the_same_targets_without_the_teacher(
    kind: str, model: Any, tmp_path: Path
) -> None:
    data, batch = three_rows()
    part = batch["layout"].part([0, 2])
    built = filling(open_cache(kind, tmp_path), data, model).targets_for(batch, part, None)
    head, hidden = online(model, batch, part)
    if kind == "top-k":
        want = top_k(head, hidden, 4, 1.0, 8, 0)
        # The cache multiplies row by row: on some CPUs that rounds otherwise.
        assert isinstance(built, TopK) and torch.equal(built.ids, want.ids)
        assert built.drawn == want.drawn
        for one, other in zip(tensors(built), tensors(want), strict=True):
            assert torch.allclose(one, other, atol=1e-6)
    else:
        assert same(built, (head, hidden.bfloat16()))
    read = warm(open_cache(kind, tmp_path), data).targets_for(batch, part, None)
    assert same(read, built)
    size = sum(file.stat().st_size for file in tmp_path.glob("data-*.bin"))
    spec = CacheSpec(kind="hidden") if kind == "hidden" else CacheSpec(k=4)
    labelled = data.rows[0].labelled + data.rows[2].labelled
    assert size == labelled * spec.position_bytes(hidden.shape[1])


@pytest.mark.parametrize("kind", KINDS)
def test_student_pad_id_may_exceed_the_teacher_vocabulary(kind: str, tmp_path: Path) -> None:
    """The teacher could not embed padding ids that were collated before it was loaded."""
    model, beyond = make_model(1), VOCAB + 5
    data = Dataset([TrainRow(ids, ids, "general", 0, "r") for ids in ([5, 9, 33, 7], [6, 8])])
    targets = []
    for pad in (0, beyond):
        batch = Collator(pad, ["general"])([data[0], data[1]])
        assert bool(batch["input_ids"].eq(beyond).any()) == (pad == beyond)
        part = batch["layout"].every
        teacher = filling(open_cache(kind, tmp_path / str(pad)), data, model)
        targets.append(teacher.targets_for(batch, part, None))
        assert bool(batch["input_ids"].eq(beyond).any()) == (pad == beyond)
    assert same(*targets)


@pytest.mark.parametrize("kind", KINDS)
def test_cache_with_other_settings_is_rejected_with_the_difference(
    kind: str, tmp_path: Path
) -> None:
    open_cache(kind, tmp_path)
    with pytest.raises(DataError, match="teacher is 't' in the cache and 'u' here"):
        open_cache(kind, tmp_path, teacher="u")
    other = next(name for name in KINDS if name != kind)
    with pytest.raises(DataError, match="built with other settings"):
        open_cache(other, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_cache_truncated_mid_write_keeps_complete_entries(
    kind: str, model: Any, tmp_path: Path
) -> None:
    data, batch = three_rows()
    built = all_targets(filling(open_cache(kind, tmp_path), data, model), batch)
    file = tmp_path / "data-0.bin"
    file.write_bytes(file.read_bytes()[:-5])
    index = tmp_path / "index-0.jsonl"
    index.write_text(index.read_text("utf-8") + '["half', "utf-8")
    cache = open_cache(kind, tmp_path)
    assert [row_key(row) in cache for row in data.rows] == [True, True, False]
    assert cache.cut == {row_key(data.rows[2])}
    # What was cut off is computed again, into a file that the old index does not point into.
    assert same(all_targets(filling(cache, data, model), batch), built)
    again = open_cache(kind, tmp_path)
    assert again.cut == set()
    assert same(all_targets(warm(again, data), batch), built)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_another_process_stored_are_not_computed_again(
    kind: str, model: Any, tmp_path: Path
) -> None:
    """Two open caches of one folder, as of two processes or two runs, even of the same rank."""
    data, batch = three_rows()
    mine, other = open_cache(kind, tmp_path), open_cache(kind, tmp_path)
    first, second = batch["layout"].part([0]), batch["layout"].part([1, 2])
    filling(mine, data, model).targets_for(batch, first, None)
    filling(other, data, model).targets_for(batch, second, None)
    filling(mine, data, model).targets_for(batch, first, None)
    want = all_targets(filling(open_cache(kind, tmp_path / "x"), data, model), batch)
    for cache in (mine, other, open_cache(kind, tmp_path)):
        got = all_targets(warm(cache, data), batch)
        for one, two in zip(_numbers(got), _numbers(want), strict=True):
            assert torch.allclose(one, two, rtol=0.01, atol=1e-5)
    assert len(list(tmp_path.glob("data-*.bin"))) == 2


def _numbers(target: Any) -> list[torch.Tensor]:
    return [target[1].float()] if isinstance(target, tuple) else [target.ids.float(), target.logp]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_the_same_are_stored_once(kind: str, model: Any, tmp_path: Path) -> None:
    data, _ = three_rows()
    twice = Dataset([data.rows[0], data.rows[1], data.rows[0]])
    batch = Collator(2, ["general"])([twice[index] for index in range(3)])
    cache = open_cache(kind, tmp_path)
    built = all_targets(filling(cache, twice, model), batch)
    assert len((tmp_path / "index-0.jsonl").read_text("utf-8").splitlines()) == 2
    first, _, third = _numbers(built)[-1].split(3)
    assert torch.equal(first, third)


@pytest.mark.parametrize("kind", KINDS)
def test_data_that_is_lost_while_in_use_is_a_clear_error(
    kind: str, model: Any, tmp_path: Path
) -> None:
    data, batch = three_rows()
    cache = open_cache(kind, tmp_path)
    all_targets(filling(cache, data, model), batch)
    file = tmp_path / "data-0.bin"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"damaged: data-0.bin ends within the row"):
        all_targets(warm(cache, data), batch)
    file.unlink()
    with pytest.raises(DataError, match=r"damaged: data-0.bin cannot be read"):
        all_targets(warm(cache, data), batch)


@pytest.mark.parametrize("kind", KINDS)
def test_row_of_another_length_is_a_clear_error(kind: str, model: Any, tmp_path: Path) -> None:
    data, batch = three_rows()
    cache = open_cache(kind, tmp_path)
    all_targets(filling(cache, data, model), batch)
    key = row_key(data.rows[0])
    cache.index[key] = cache.index[key]._replace(positions=2)
    with pytest.raises(DataError, match="has 2 positions instead of 3"):
        all_targets(warm(cache, data), batch)


@pytest.mark.parametrize("kind", KINDS)
def test_copied_folder_is_complete(kind: str, model: Any, tmp_path: Path) -> None:
    """Nothing in it depends on where it was built."""
    data, batch = three_rows()
    there = filling(open_cache(kind, tmp_path / "there"), data, model)
    built = all_targets(there, batch)
    shutil.copytree(tmp_path / "there", tmp_path / "here")
    shutil.rmtree(tmp_path / "there")
    for file in (tmp_path / "here").glob("*"):
        assert str(tmp_path).encode() not in file.read_bytes()
    read = warm(open_cache(kind, tmp_path / "here", rank=3), data)
    assert same(read.targets_for(batch, batch["layout"].every, None), built)


# ---------------------------------------------------------------- addresses


class _Tokenizer:
    """The one thing that a cache's address takes from a tokenizer."""

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "b": 1}


def address_of(paths: Paths, cache: dict[str, Any], temperature: float = 1.0, **more: Any) -> Any:
    config = parse_config(
        {
            "method": "kd",
            "student": "s",
            "teacher": {"model": "t", "cache": cache, **more},
            "data": {"train": "x"},
            "trainer": {"attention_weight": 0, "temperature": temperature},
        }
    )
    return cache_address(
        config.teacher,
        config.trainer,
        paths,
        teacher="w",
        tokenizer=_Tokenizer(),  # type: ignore[arg-type]
        vocab=0,
    )


def test_addresses_of_distributions_are_those_of_earlier_versions(paths: Paths) -> None:
    """Recorded before there was another kind."""
    names = {
        "bucket": address_of(paths, {"k": 8, "tail": "bucket"}),
        "sampled": address_of(paths, {}),
        "bf16": address_of(paths, {"tail": "bucket"}, 2.0, dtype="bfloat16"),
    }
    assert {name: found.folder.name for name, found in names.items()} == EARLIER


EARLIER = {
    "bucket": "d1b1baa7fafc61e17d1d",
    "sampled": "67bcf185c546a6d497e4",
    "bf16": "70cb13a5349b2c2fc461",
}


def test_hidden_states_have_one_cache_for_all_temperatures(paths: Paths) -> None:
    first = address_of(paths, {"kind": "hidden"})
    assert address_of(paths, {"kind": "hidden"}, 2.0) == first
    others = [
        address_of(paths, {"kind": "hidden", "dtype": "float32"}),
        address_of(paths, {"kind": "hidden"}, dtype="bfloat16"),
        address_of(paths, {"kind": "hidden"}, quantization={}),
        address_of(paths, {"tail": "bucket"}),
        address_of(paths, {"tail": "bucket"}, 2.0),
    ]
    assert len({first.folder, *(found.folder for found in others)}) == 6


# ---------------------------------------------------------------- the tail of distributions


def test_sampled_tail_depends_only_on_the_row(model: Any, tmp_path: Path) -> None:
    data, batch = three_rows()
    targets: list[Any] = []
    for folder, rows in (("a", [0, 1, 2]), ("b", [1])):
        cache = open_cache("top-k", tmp_path / folder, tail="sampled")
        teacher = filling(cache, data, model)
        targets.append(teacher.targets_for(batch, batch["layout"].part(rows), None))
    whole, single = targets
    size = batch["layout"].every.sizes[1]
    assert torch.equal(whole.ids[size : 2 * size], single.ids)
    assert whole.entropy is not None and single.entropy is not None
    assert torch.allclose(whole.entropy[size : 2 * size], single.entropy, atol=1e-5)


def test_older_sampled_caches_are_read_and_extended_as_they_are(model: Any, tmp_path: Path) -> None:
    """In them drawn tokens have a share of the tail's mass instead of a probability."""
    data, batch = three_rows()
    targets: list[Any] = []
    for folder, note in (("older", {}), ("now", {"draws": "x"})):
        for _ in range(2):
            cache = open_cache("top-k", tmp_path / folder, tail="sampled", **note)
            targets.append(all_targets(filling(cache, data, model), batch))
    older, _, now, again = targets
    assert (older.drawn, now.drawn) == (0, 2) and torch.equal(now.logp, again.logp)
    assert torch.equal(older.ids, now.ids)
    assert torch.allclose(older.logp.exp().sum(-1), torch.ones(len(older.ids)), atol=1e-5)
    assert torch.allclose(share_tail(now).logp, older.logp, atol=1e-5)


def test_note_of_distributions_says_the_difference(tmp_path: Path) -> None:
    open_cache("top-k", tmp_path)
    assert NOTES["top-k"]["temperature"] == 1.0
    with pytest.raises(DataError, match=r"temperature is 1\.0 in the cache and 2\.0 here"):
        open_cache("top-k", tmp_path, temperature=2.0)
