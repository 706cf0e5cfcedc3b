"""Validation of a GGUF file's header against the file's size.

The gguf package trusts counts and lengths: a header that claims 2^60 entries makes it run, and
allocate memory, without end. Everything here is bounded by the file's size.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from kdharness.harness.errors import ModelError

ENTRIES = 100_000
TENSORS = 1_000_000
NAME_BYTES = 65_536
DIMENSIONS = 8
SHORT = 1024
"""Bytes of the longest text that is kept."""
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def check_gguf(path: Path) -> tuple[int, int]:
    """Refuse a GGUF file whose header is damaged or claims more than the file contains.

    Returns:
        (number of elements, number of tensors).

    Raises:
        ModelError: with what is wrong.
    """
    header, tensors = _walked(path)
    return header.elements, tensors


def gguf_texts(path: Path) -> dict[str, str]:
    """Return the short texts of a GGUF file's header.

    Raises:
        ModelError: as `check_gguf`.
    """
    return _walked(path)[0].texts


def _walked(path: Path) -> tuple[_Header, int]:
    """Return a checked header, and the number of tensors."""
    try:
        with path.open("rb") as stream:
            header = _Header(stream, path.stat().st_size, str(path))
            return header, header.walk()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error


class _Header:
    def __init__(self, stream: BinaryIO, size: int, where: str) -> None:
        self.stream, self.size, self.where = stream, size, where
        self.alignment, self.elements = 32, 0
        self.texts: dict[str, str] = {}

    def walk(self) -> int:
        """Read magic, version and counts; then metadata; then the positions of the tensors."""
        if self.bytes(4) != b"GGUF":
            raise self.wrong("not a GGUF file")
        version = self.number("<I")
        if version not in (2, 3):
            raise self.wrong(f"unsupported version {version} (supported: 2 and 3)")
        tensors, entries = self.number("<Q"), self.number("<Q")
        if entries > ENTRIES or tensors > TENSORS:
            raise self.wrong(f"the header claims {tensors:,} tensors and {entries:,} settings")
        for _ in range(entries):
            name = self.text()
            kind = self.number("<I")
            if name == b"general.alignment" and kind == 4:
                self.alignment = self.number("<I")
            elif kind == _STRING:
                self.keep_text(name)
            else:
                self.skip_value(kind, 0)
        if not 1 <= self.alignment <= 1 << 20:
            raise self.wrong(f"invalid alignment {self.alignment}")
        ends = [self.tensor() for _ in range(tensors)]
        position = self.stream.tell()
        start = (position + self.alignment - 1) // self.alignment * self.alignment
        if ends and start + max(ends) > self.size:
            raise self.wrong(
                f"its tensors end at byte {start + max(ends):,}, but the file has {self.size:,} "
                "bytes"
            )
        return tensors

    def tensor(self) -> int:
        """Return where a tensor's bytes end, counted from the start of the data."""
        name = self.text()
        dimensions = self.number("<I")
        if dimensions > DIMENSIONS:
            raise self.wrong(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        count = int(math.prod([self.number("<Q") for _ in range(dimensions)]))
        self.elements += count
        kind, offset = self.number("<I"), self.number("<Q")
        return offset + self.bytes_of(count, kind, name)

    def bytes_of(self, count: int, kind: int, name: bytes) -> int:
        """Return the size of `count` numbers in a quantised format."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, size = map(int, GGML_QUANT_SIZES[GGMLQuantizationType(kind)])
        except (KeyError, ValueError):
            raise self.wrong(f"the tensor {name[:80]!r} has an unknown format {kind}") from None
        return (count + block - 1) // block * size

    def skip_value(self, kind: int, depth: int) -> None:
        """Skip one value."""
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.skip(self.number("<Q"))
        elif kind == _ARRAY and depth < 2:
            inner, count = self.number("<I"), self.number("<Q")
            if count > self.size:
                raise self.wrong(f"a list claims {count:,} values")
            if inner in _SIZES:
                self.skip(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self.skip_value(inner, depth + 1)
        else:
            raise self.wrong(f"unknown value type {kind}")

    def keep_text(self, name: bytes) -> None:
        """Keep a text if it is short, such as a name; skip others, such as templates."""
        length = self.number("<Q")
        if length <= SHORT:
            self.texts[name.decode("utf-8", "replace")] = self.bytes(length).decode(
                "utf-8", "replace"
            )
        else:
            self.skip(length)

    def text(self) -> bytes:
        """Read a name."""
        length = self.number("<Q")
        if length > NAME_BYTES:
            raise self.wrong(f"a name claims {length:,} bytes")
        return self.bytes(length)

    def number(self, form: str) -> int:
        """Read one integer."""
        return int(struct.unpack(form, self.bytes(struct.calcsize(form)))[0])

    def bytes(self, count: int) -> bytes:
        """Read the next `count` bytes; raise if the file ends before."""
        raw = self.stream.read(count)
        if len(raw) != count:
            raise self.wrong("its header is truncated")
        return raw

    def skip(self, count: int) -> None:
        """Skip `count` bytes, which must exist."""
        if count > self.size - self.stream.tell():
            raise self.wrong("its header is truncated")
        self.stream.seek(count, 1)

    def wrong(self, what: str) -> ModelError:
        """Return the error for a damaged file."""
        return ModelError(
            f"this GGUF file is damaged: {what}", where=self.where, hint="download it again"
        )
