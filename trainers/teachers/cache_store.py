"""A folder of a teacher's outputs at the labelled positions of rows: what all caches share.

Content-addressed: the folder's name is the hash of what the values depend on, which its note
spells out, and a row is keyed by its tokens and labelled positions. A folder whose note does not
match is refused. There are no paths in it: copied to another home, it is found there.

Each process appends to files of its own, so that several runs may fill one cache. An index entry is
written after its data, so that a process killed at any point leaves only complete entries.
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor, device

from kdharness.harness.errors import DataError
from kdharness.harness.models.lm_head import Head
from kdharness.harness.types import IGNORE_INDEX, digest
from kdharness.harness.util.atomic import atomic_write_text, sync_folder
from kdharness.harness.util.untrusted import parse_json, read_json_object
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.losses.top_k import TopK

NOTE = "note.json"
LINE_BYTES = 1 << 20
"""The longest index line that is read at once; what we write has about 60 bytes."""


def row_key(row: TrainRow) -> str:
    """Return the key of a cached row: a hash of its tokens and labelled positions."""
    return digest(row.input_ids, [label != IGNORE_INDEX for label in row.labels])


class Entry(NamedTuple):
    """Where a row's values are: a data file, the offset in it, and the number of positions."""

    file: str
    offset: int
    positions: int
    checksum: int | None


class TeacherCache(ABC):
    """One folder of cached values, row by row."""

    checked: ClassVar[bool] = False
    """Whether index entries have a checksum of their data: where any bytes would be valid."""

    def __init__(self, folder: Path, note: Mapping[str, object], rank: int = 0) -> None:
        """Open or create a cache.

        Args:
            folder: where it is.
            note: what its values depend on.
            rank: this process's number, which is part of the names of its files.

        Raises:
            DataError: the folder was built with other settings; the message says which differ.
        """
        self.folder, self.rank = folder, rank
        folder.mkdir(parents=True, exist_ok=True)
        self._hold_note(note)
        self.index: dict[str, Entry] = {}
        self.cut: set[str] = set()
        """Rows whose data ends early: the folder was copied in part, or a disk lost it."""
        self._read: dict[str, int] = {}
        self._own = ""
        self.refresh()

    def _hold_note(self, note: Mapping[str, object]) -> None:
        path = self.folder / NOTE
        if not path.exists():
            atomic_write_text(path, json.dumps(dict(note), indent=1))
            return
        stored = read_json_object(path, "the note of this teacher cache", DataError)
        differs = [
            f"{name} is {stored.get(name)!r} in the cache and {value!r} here"
            for name, value in note.items()
            if stored.get(name) != value
        ]
        if differs:
            raise DataError(
                f"this teacher cache was built with other settings: {'; '.join(differs)}",
                where=str(self.folder),
                hint="delete the folder to rebuild it",
            )

    # ------------------------------------------------------------ what a kind defines

    @property
    @abstractmethod
    def position_bytes(self) -> int:
        """Bytes per labelled position."""

    @abstractmethod
    def add(self, keys: Sequence[str], sizes: Sequence[int], head: Head, hidden: Tensor) -> None:
        """Store some rows, in order.

        Args:
            keys: of the rows.
            sizes: labelled positions of each.
            head: the teacher's.
            hidden: its last hidden states [n, h] at the labelled positions of all these rows.
        """

    @abstractmethod
    def targets(self, keys: Sequence[str], device: device) -> TopK | tuple[Head, Tensor]:
        """Return what the loss takes as the teacher of some stored rows.

        Raises:
            DataError: damaged files.
        """

    # ------------------------------------------------------------ entries

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def refresh(self) -> None:
        """Read what other processes have stored since the last time.

        Raises:
            DataError: an index that cannot be read.
        """
        for file in sorted(self.folder.glob("index-*.jsonl")):
            if file.name != f"index-{self._own}.jsonl":
                self._read_index(file)
        self.cut -= self.index.keys()

    def _read_index(self, file: Path) -> None:
        begin, lines = self._read.get(file.name, 0), []
        try:
            if not file.is_file():
                raise DataError("not a regular file", where=str(file))
            with file.open("rb") as stream:
                stream.seek(begin)
                while line := stream.readline(LINE_BYTES):
                    if not line.endswith(b"\n") and len(line) < LINE_BYTES:
                        break  # still being written, or its writer was killed
                    lines.append(line)
                    begin = stream.tell()
            data = f"data-{file.stem.removeprefix('index-')}.bin"
            path = self.folder / data
            size = path.stat().st_size if path.exists() else 0
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=str(file)) from error
        self._read[file.name] = begin
        for line in lines:
            self._enter(line, data, size)

    def _enter(self, line: bytes, data: str, size: int) -> None:
        """Add a line of an index, if it is whole and its data is there."""
        try:
            key, offset, count, *rest = parse_json(line)
        except (ValueError, TypeError):
            return
        numbers = [offset, count, *rest]
        whole = isinstance(key, str) and len(rest) == self.checked
        if not whole or not all(type(number) is int and number >= 0 for number in numbers):
            return
        if offset + count * self.position_bytes > size:
            self.cut.add(key)
            return
        self.index[key] = Entry(data, offset, count, rest[0] if rest else None)

    def append(self, entries: Sequence[tuple[str, int, bytes]]) -> None:
        """Append rows to this process's files: (key, labelled positions, bytes) of each."""
        if not self._own:
            self._own = self._new_files()
        name, lines = f"data-{self._own}.bin", []
        added: dict[str, Entry] = {}
        with (self.folder / name).open("ab") as stream:
            for key, count, raw in entries:
                checksum = zlib.crc32(raw) if self.checked else None
                entry = Entry(name, stream.tell(), count, checksum)
                stream.write(raw)
                lines.append([key, *entry[1 : 4 if self.checked else 3]])
                added[key] = entry
            # An index entry without its data would train a student on zeros.
            stream.flush()
            os.fsync(stream.fileno())
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with (self.folder / f"index-{self._own}.jsonl").open("ab") as stream:
            stream.write(text.encode())
        self.index |= added
        self.cut -= added.keys()

    def _new_files(self) -> str:
        """Create a data and an index file that no other process has; return their common name."""
        for number in itertools.count():
            name = f"{self.rank}-{number}" if number else str(self.rank)
            index = self.folder / f"index-{name}.jsonl"
            if index.exists():
                continue
            try:
                (self.folder / f"data-{name}.bin").open("xb").close()
            except FileExistsError:
                continue
            index.touch()
            sync_folder(self.folder)
            return name
        raise AssertionError("unreachable")

    def read(self, key: str) -> bytes:
        """Return the bytes of a stored row.

        Raises:
            DataError: they cannot be read, or are not those that were written.
        """
        name, offset, positions, checksum = self.index[key]
        size = positions * self.position_bytes
        try:
            with (self.folder / name).open("rb") as stream:
                stream.seek(offset)
                raw = stream.read(size)
        except OSError as error:
            raise self.damaged(f"{name} cannot be read: {error.strerror}") from error
        if len(raw) < size:
            raise self.damaged(f"{name} ends within the row at offset {offset}")
        if checksum is not None and zlib.crc32(raw) != checksum:
            raise self.damaged(f"{name} at offset {offset} is not what was written there")
        return raw

    def hold_sizes(self, keys: Sequence[str], sizes: Sequence[int]) -> None:
        """Refuse stored rows that have other numbers of labelled positions.

        Raises:
            DataError: names the first.
        """
        for key, size in zip(keys, sizes, strict=True):
            if (count := self.index[key].positions) != size:
                raise self.damaged(f"row {key} has {count} positions instead of {size}")

    def damaged(self, what: str) -> DataError:
        """Return the error for a damaged cache."""
        return DataError(
            f"this teacher cache is damaged: {what}",
            where=str(self.folder),
            hint="delete the folder to rebuild it",
        )
