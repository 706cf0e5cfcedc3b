"""A GGUF file's header, walked once and held against the file's size.

The gguf package trusts counts and lengths: a header that claims 2^60 entries keeps it busy, and
the memory filling, for ever. Everything here is bounded by the bytes there are.
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
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def check_gguf(path: Path) -> tuple[int, int]:
    """Refuse a GGUF file whose header is damaged or claims what the file does not hold.

    Returns:
        How many numbers there are, in how many tensors.

    Raises:
        ModelError: with what is wrong.
    """
    try:
        with path.open("rb") as stream:
            header = _Header(stream, path.stat().st_size, str(path))
            tensors = header.walk()
            return header.elements, tensors
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error


class _Header:
    def __init__(self, stream: BinaryIO, size: int, where: str) -> None:
        self.stream, self.size, self.where = stream, size, where
        self.alignment, self.elements = 32, 0

    def walk(self) -> int:
        """Magic, version, counts; then metadata; then the places of so many tensors."""
        if self.bytes(4) != b"GGUF":
            raise self.wrong("it is not a GGUF file")
        version = self.number("<I")
        if version not in (2, 3):
            raise self.wrong(f"version {version} is not read (2 and 3 are)")
        tensors, entries = self.number("<Q"), self.number("<Q")
        if entries > ENTRIES or tensors > TENSORS:
            raise self.wrong(f"it claims {tensors:,} tensors and {entries:,} settings")
        for _ in range(entries):
            name = self.text()
            kind = self.number("<I")
            if name == b"general.alignment" and kind == 4:
                self.alignment = self.number("<I")
            else:
                self.skip_value(kind, 0)
        if not 1 <= self.alignment <= 1 << 20:
            raise self.wrong(f"an alignment of {self.alignment}")
        ends = [self.tensor() for _ in range(tensors)]
        place = self.stream.tell()
        start = (place + self.alignment - 1) // self.alignment * self.alignment
        if ends and start + max(ends) > self.size:
            raise self.wrong(
                f"its tensors end at {start + max(ends):,} bytes, the file after {self.size:,}"
            )
        return tensors

    def tensor(self) -> int:
        """Where a tensor's bytes end, counted from the start of the data."""
        name = self.text()
        dimensions = self.number("<I")
        if dimensions > DIMENSIONS:
            raise self.wrong(f"the tensor {name[:80]!r} has {dimensions} dimensions")
        count = int(math.prod([self.number("<Q") for _ in range(dimensions)]))
        self.elements += count
        kind, offset = self.number("<I"), self.number("<Q")
        return offset + self.bytes_of(count, kind, name)

    def bytes_of(self, count: int, kind: int, name: bytes) -> int:
        """The size of so many numbers in a quantised format."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, size = map(int, GGML_QUANT_SIZES[GGMLQuantizationType(kind)])
        except (KeyError, ValueError):
            raise self.wrong(f"the tensor {name[:80]!r} has an unknown format {kind}") from None
        return (count + block - 1) // block * size

    def skip_value(self, kind: int, depth: int) -> None:
        """Go past one value."""
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.skip(self.number("<Q"))
        elif kind == _ARRAY and depth < 2:
            inner, count = self.number("<I"), self.number("<Q")
            if count > self.size:
                raise self.wrong(f"a list of {count:,} values")
            if inner in _SIZES:
                self.skip(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self.skip_value(inner, depth + 1)
        else:
            raise self.wrong(f"a value of unknown kind {kind}")

    def text(self) -> bytes:
        """A name."""
        length = self.number("<Q")
        if length > NAME_BYTES:
            raise self.wrong(f"a name of {length:,} bytes")
        return self.bytes(length)

    def number(self, form: str) -> int:
        """One whole number."""
        return int(struct.unpack(form, self.bytes(struct.calcsize(form)))[0])

    def bytes(self, count: int) -> bytes:
        """The next bytes; all of them, or the file is cut off."""
        raw = self.stream.read(count)
        if len(raw) != count:
            raise self.wrong("its header is cut off")
        return raw

    def skip(self, count: int) -> None:
        """Go on by so many bytes, which must be there."""
        if count > self.size - self.stream.tell():
            raise self.wrong("its header is cut off")
        self.stream.seek(count, 1)

    def wrong(self, what: str) -> ModelError:
        """The error that says so."""
        return ModelError(
            f"this GGUF file is damaged: {what}", where=self.where, hint="fetch it again"
        )
