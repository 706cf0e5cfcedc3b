"""Hostile GGUF files: a valid model or a KDHarnessError."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings

from kdharness.harness.errors import ModelError
from kdharness.harness.models.gguf import check_gguf
from kdharness.harness.models.resolve import convert_gguf
from support.mutations import corrupted, error_of

FAST = settings(settings.get_profile("hostile"), max_examples=120)


def gguf_string(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(
    entries: bytes = b"",
    count: int = 0,
    tensors: bytes = b"",
    tensor_count: int = 0,
    data: bytes = b"",
    version: int = 3,
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, count) + entries + tensors
    return head + bytes(-len(head) % 32) + data


TENSOR = gguf_string(b"a") + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
SETTING = gguf_string(b"general.architecture") + struct.pack("<I", 8) + gguf_string(b"llama")
HUGE = struct.pack("<Q", 1 << 60)
GGUFS = {
    "2^60 settings": gguf(SETTING, 1 << 60),
    "2^60 tensors": gguf(SETTING, 1, TENSOR, 1 << 60, bytes(64)),
    "more settings than bytes": gguf(SETTING, 9000),
    "a name of 2^60 bytes": gguf(HUGE + b"x", 1),
    "a text of 2^60 bytes": gguf(gguf_string(b"k") + struct.pack("<I", 8) + HUGE, 1),
    "a list of 2^60 numbers": gguf(gguf_string(b"k") + struct.pack("<II", 9, 4) + HUGE, 1),
    "a list of 2^60 texts": gguf(gguf_string(b"k") + struct.pack("<II", 9, 8) + HUGE, 1),
    "lists in lists": gguf(
        gguf_string(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000, 1
    ),
    "an unknown kind": gguf(gguf_string(b"k") + struct.pack("<II", 99, 0), 1),
    "a tensor past the end": gguf(
        SETTING, 1, gguf_string(b"a") + struct.pack("<IQQIQ", 2, 4, 4, 0, 1 << 50), 1, bytes(64)
    ),
    "a tensor of 2^120 numbers": gguf(
        SETTING,
        1,
        gguf_string(b"a") + struct.pack("<IQQIQ", 2, 1 << 60, 1 << 60, 0, 0),
        1,
        bytes(64),
    ),
    "2^31 dimensions": gguf(SETTING, 1, gguf_string(b"a") + struct.pack("<I", 1 << 31), 1),
    "an unknown format": gguf(
        SETTING, 1, gguf_string(b"a") + struct.pack("<IQIQ", 1, 4, 9999, 0), 1
    ),
    "version 99": gguf(SETTING, 1, version=99),
    "no magic": b"FUGG" + bytes(64),
    "empty": b"",
    "cut": gguf(SETTING, 1)[:30],
    "an alignment of 0": gguf(
        gguf_string(b"general.alignment") + struct.pack("<II", 4, 0), 1, TENSOR, 1
    ),
}


@pytest.mark.parametrize("name", GGUFS)
def test_malformed_gguf_is_rejected(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUFS[name])
    with pytest.raises(ModelError, match="damaged"):
        check_gguf(path)
    with pytest.raises(ModelError, match=r"model\.gguf"):
        convert_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_valid_gguf_with_missing_tensors_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(SETTING, 1, TENSOR, 1, bytes(64)))
    assert check_gguf(path) == (16, 1)
    error = error_of(lambda: convert_gguf(path, tmp_path / "out"))
    assert isinstance(error, ModelError) and "model.gguf" in str(error)
    assert "num_hidden_layers is 32, but the weights have only 1 tensors" in str(error)


@FAST
@given(raw=corrupted(gguf(SETTING * 3, 3, TENSOR, 1, bytes(64))))
def test_corrupted_gguf(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    error_of(lambda: check_gguf(path))
