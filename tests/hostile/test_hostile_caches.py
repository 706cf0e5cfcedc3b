"""Hostile teacher caches: read correctly or rejected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.errors import DataError
from kdharness.trainers.teachers.cached import TeacherCache
from support.mutations import MALFORMED_FILES, error_of, mutated

FAST = settings(settings.get_profile("hostile"), max_examples=120)

NOTE = {"teacher": "t", "k": 4, "vocab": 10, "temperature": 1.0}
INDEX = [json.dumps(["row", 0, 2]), json.dumps(["next", 72, 1])]


@FAST
@given(entry=mutated(["row", 0, 2]), note=mutated(NOTE), write=st.booleans())
def test_mutated_caches(entry: Any, note: Any, write: bool, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "index-0.jsonl").write_text(json.dumps(entry) + "\n", "utf-8")
    (folder / "data-0.bin").write_bytes(bytes(72))
    if write:
        (folder / "note.json").write_text(json.dumps(note), "utf-8")

    def read_all() -> None:
        cache = TeacherCache(folder, NOTE)
        for key in cache.index:
            ids, logp, entropy = cache.get(key)
            assert ids.shape == logp.shape == (len(entropy), 4) and (ids < 10).all()

    error_of(read_all)


@pytest.mark.parametrize("raw", MALFORMED_FILES, ids=lambda raw: repr(raw[:12]))
def test_malformed_cache_files_are_ignored_or_rejected(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "index-0.jsonl").write_bytes(raw)
    (tmp_path / "data-0.bin").write_bytes(bytes(72))
    assert TeacherCache(tmp_path, NOTE).index == {}
    (tmp_path / "note.json").write_bytes(raw)
    with pytest.raises(DataError, match=r"note|built with other settings"):
        TeacherCache(tmp_path, NOTE)


def test_cache_with_invalid_ids_or_nan_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "index-0.jsonl").write_text(INDEX[0] + "\n", "utf-8")
    ids = np.full(8, 99, np.int32).tobytes()
    (tmp_path / "data-0.bin").write_bytes(ids + bytes(40))
    with pytest.raises(DataError, match="damaged"):
        TeacherCache(tmp_path, NOTE).get("row")
    (tmp_path / "data-0.bin").write_bytes(
        bytes(32) + np.full(8, np.nan, np.float32).tobytes() + bytes(8)
    )
    with pytest.raises(DataError, match="damaged"):
        TeacherCache(tmp_path, NOTE).get("row")
