"""GGUF files from anyone: a sound model or an error of ours."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from hypothesis import given, settings

from kdharness.harness.errors import ModelError
from kdharness.harness.models.gguf import check_gguf
from kdharness.harness.models.resolve import convert_gguf
from support.mutations import damaged, told

FAST = settings(settings.get_profile("hostile"), max_examples=120)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(
    entries: bytes = b"",
    count: int = 0,
    tensors: bytes = b"",
    of: int = 0,
    data: bytes = b"",
    version: int = 3,
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, of, count) + entries + tensors
    return head + bytes(-len(head) % 32) + data


TENSOR = text(b"a") + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
SETTING = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
HUGE = struct.pack("<Q", 1 << 60)
GGUFS = {
    "2^60 settings": gguf(SETTING, 1 << 60),
    "2^60 tensors": gguf(SETTING, 1, TENSOR, 1 << 60, bytes(64)),
    "more settings than bytes": gguf(SETTING, 9000),
    "a name of 2^60 bytes": gguf(HUGE + b"x", 1),
    "a text of 2^60 bytes": gguf(text(b"k") + struct.pack("<I", 8) + HUGE, 1),
    "a list of 2^60 numbers": gguf(text(b"k") + struct.pack("<II", 9, 4) + HUGE, 1),
    "a list of 2^60 texts": gguf(text(b"k") + struct.pack("<II", 9, 8) + HUGE, 1),
    "lists in lists": gguf(text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000, 1),
    "an unknown kind": gguf(text(b"k") + struct.pack("<II", 99, 0), 1),
    "a tensor past the end": gguf(
        SETTING, 1, text(b"a") + struct.pack("<IQQIQ", 2, 4, 4, 0, 1 << 50), 1, bytes(64)
    ),
    "a tensor of 2^120 numbers": gguf(
        SETTING, 1, text(b"a") + struct.pack("<IQQIQ", 2, 1 << 60, 1 << 60, 0, 0), 1, bytes(64)
    ),
    "2^31 dimensions": gguf(SETTING, 1, text(b"a") + struct.pack("<I", 1 << 31), 1),
    "an unknown format": gguf(SETTING, 1, text(b"a") + struct.pack("<IQIQ", 1, 4, 9999, 0), 1),
    "version 99": gguf(SETTING, 1, version=99),
    "no magic": b"FUGG" + bytes(64),
    "empty": b"",
    "cut": gguf(SETTING, 1)[:30],
    "an alignment of 0": gguf(text(b"general.alignment") + struct.pack("<II", 4, 0), 1, TENSOR, 1),
}


@pytest.mark.parametrize("name", GGUFS)
def test_gguf_that_claims_too_much(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUFS[name])
    began = time.monotonic()
    with pytest.raises(ModelError, match="damaged"):
        check_gguf(path)
    with pytest.raises(ModelError, match=r"model\.gguf"):
        convert_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and time.monotonic() - began < 3


def test_a_sound_gguf_passes_and_its_nonsense_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(SETTING, 1, TENSOR, 1, bytes(64)))
    assert check_gguf(path) == (16, 1)
    error = told(lambda: convert_gguf(path, tmp_path / "out"))
    assert isinstance(error, ModelError) and "model.gguf" in str(error)
    assert "num_hidden_layers is 32, but the weights have only 1 tensors" in str(error)


@FAST
@given(raw=damaged(gguf(SETTING * 3, 3, TENSOR, 1, bytes(64))))
def test_damaged_gguf(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    told(lambda: check_gguf(path))
