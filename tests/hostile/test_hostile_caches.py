"""Hostile teacher caches: read correctly or rejected."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.errors import DataError
from kdharness.harness.models.lm_head import Head
from kdharness.trainers.teachers.cache_hidden import HEAD, HiddenCache
from kdharness.trainers.teachers.cache_top_k import TopKCache
from support.mutations import MALFORMED_FILES, error_of, mutated
from support.teacher_caches import KINDS

FAST = settings(settings.get_profile("hostile"), max_examples=60)

NOTES: dict[str, dict[str, Any]] = {
    "top-k": {"teacher": "t", "k": 4, "vocab": 10, "temperature": 1.0},
    "hidden": {"teacher": "t", "kind": "hidden", "stored": "bfloat16"},
}
WIDTH = 18
"""Hidden size that makes a position of both kinds 36 bytes."""
CHECKSUM = zlib.crc32(bytes(72))
ENTRIES: dict[str, list[Any]] = {"top-k": ["row", 0, 2], "hidden": ["row", 0, 2, CHECKSUM]}


def open_cache(kind: str, folder: Path) -> TopKCache | HiddenCache:
    return (TopKCache if kind == "top-k" else HiddenCache)(folder, NOTES[kind])


def make_folder(kind: str, folder: Path) -> Path:
    """Write a cache's head, if it has one, and the data of two positions."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if kind == "hidden":
        head = Head(torch.zeros(10, WIDTH))
        HiddenCache(folder, NOTES[kind]).add([], [], head, torch.zeros(0, WIDTH))
        (folder / "note.json").unlink()
        for file in (*folder.glob("index-*"), *folder.glob("data-*")):
            file.unlink()
    (folder / "data-0.bin").write_bytes(bytes(72))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@FAST
@given(drawn=st.data(), write=st.booleans())
def test_mutated_caches(kind: str, drawn: Any, write: bool, tmp_path: Path) -> None:
    folder = make_folder(kind, tmp_path / "cache")
    entry = drawn.draw(mutated(ENTRIES[kind]))
    (folder / "index-0.jsonl").write_text(json.dumps(entry) + "\n", "utf-8")
    if write:
        (folder / "note.json").write_text(json.dumps(drawn.draw(mutated(NOTES[kind]))), "utf-8")

    def read_all() -> None:
        cache = open_cache(kind, folder)
        for key in cache.index:
            if isinstance(cache, HiddenCache):
                assert cache.get(key).shape == (cache.index[key].positions, WIDTH)
            else:
                ids, logp, entropy = cache.get(key)
                assert ids.shape == logp.shape == (len(entropy), 4) and (ids < 10).all()

    error_of(read_all)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("raw", MALFORMED_FILES, ids=lambda raw: repr(raw[:12]))
def test_malformed_cache_files_are_ignored_or_rejected(
    kind: str, raw: bytes, tmp_path: Path
) -> None:
    folder = make_folder(kind, tmp_path / "cache")
    (folder / "index-0.jsonl").write_bytes(raw)
    assert open_cache(kind, folder).index == {}
    (folder / "note.json").write_bytes(raw)
    with pytest.raises(DataError, match=r"note|built with other settings"):
        open_cache(kind, folder)


@pytest.mark.parametrize("kind", KINDS)
def test_index_that_is_no_file_is_rejected(kind: str, tmp_path: Path) -> None:
    folder = make_folder(kind, tmp_path / "cache")
    (folder / "index-0.jsonl").mkdir()
    with pytest.raises(DataError, match="not a regular file"):
        open_cache(kind, folder)


@pytest.mark.parametrize("raw", MALFORMED_FILES, ids=lambda raw: repr(raw[:12]))
def test_malformed_heads_are_rejected(raw: bytes, tmp_path: Path) -> None:
    folder = make_folder("hidden", tmp_path / "cache")
    (folder / "index-0.jsonl").write_text(json.dumps(ENTRIES["hidden"]) + "\n", "utf-8")
    assert open_cache("hidden", folder).get("row").shape == (2, WIDTH)
    (folder / HEAD).write_bytes(raw)
    with pytest.raises(DataError, match=r"damaged: head\.safetensors"):
        open_cache("hidden", folder)


def test_cache_with_invalid_ids_or_nan_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "index-0.jsonl").write_text(json.dumps(ENTRIES["top-k"]) + "\n", "utf-8")
    ids = np.full(8, 99, np.int32).tobytes()
    (tmp_path / "data-0.bin").write_bytes(ids + bytes(40))
    with pytest.raises(DataError, match="damaged"):
        open_cache("top-k", tmp_path).get("row")  # type: ignore[union-attr]
    (tmp_path / "data-0.bin").write_bytes(
        bytes(32) + np.full(8, np.nan, np.float32).tobytes() + bytes(8)
    )
    with pytest.raises(DataError, match="damaged"):
        open_cache("top-k", tmp_path).get("row")  # type: ignore[union-attr]
