"""A teacher's distributions on disk: top-k tokens with log-probabilities and a tail bucket.

Content-addressed: the folder's name is the hash of what the values depend on (teacher and its
precision, tokenizer, temperature, k, shared vocabulary), and a row is keyed by its tokens and
labelled positions. Later epochs, seeds and sweeps then run no teacher. A folder whose note does not
match is refused.

Each process appends to its own data file; an index entry is written after its data, so that a
process killed at any point leaves only complete entries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdharness.harness.config.evaluation import plain_http_warning
from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.trainer import DistillSpec
from kdharness.harness.errors import DataError
from kdharness.harness.models.lm_head import head_of
from kdharness.harness.types import IGNORE_INDEX, digest
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.untrusted import parse_json, read_json_object, read_lines
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.data.layout import Batch, Part
from kdharness.trainers.losses.attention import AttentionTape
from kdharness.trainers.losses.top_k import TopK, share_tail, top_k
from kdharness.trainers.teachers.build import load_frozen
from kdharness.trainers.teachers.online import OnlineTeacher, hidden_states
from kdharness.trainers.teachers.served import ServedTeacher

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kdharness.trainers.context import TrainContext

BYTES_PER_TOKEN = 8
"""An id (int32) and a log-weight (float32)."""
BYTES_PER_POSITION = 4
"""The entropy of the whole distribution (float32); NaN where the tail is a bucket."""


def row_key(row: TrainRow) -> str:
    """Return the key of a cached row: a hash of its tokens and labelled positions."""
    return digest(row.input_ids, [label != IGNORE_INDEX for label in row.labels])


def cache_bytes(rows: Sequence[TrainRow], k: int) -> int:
    """Return the size of the cached distributions of some rows, in bytes."""
    return sum(row.labelled for row in rows) * (k * BYTES_PER_TOKEN + BYTES_PER_POSITION)


class TeacherCache:
    """One folder of cached distributions."""

    def __init__(self, folder: Path, note: Mapping[str, Any], rank: int = 0) -> None:
        """Open or create a cache.

        Raises:
            DataError: the folder was built with other settings; the message says which differ.
        """
        self.folder, self.k, self.rank = folder, int(note["k"]), rank
        self.has_draws = "draws" in note
        self.vocab = int(note.get("vocab") or 1 << 31)
        self.position_bytes = self.k * BYTES_PER_TOKEN + BYTES_PER_POSITION
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "note.json"
        if path.exists():
            stored = read_json_object(path, "the note of this teacher cache", DataError)
            differs = [
                f"{name} is {stored.get(name)!r} in the cache and {value!r} here"
                for name, value in note.items()
                if stored.get(name) != value
            ]
            if differs:
                raise DataError(
                    f"this teacher cache was built with other settings: {'; '.join(differs)}",
                    where=str(folder),
                    hint="delete the folder to rebuild it",
                )
        else:
            atomic_write_text(path, json.dumps(dict(note), indent=1))
        self.index: dict[str, tuple[str, int, int]] = {}
        for file in sorted(folder.glob("index-*.jsonl")):
            self._read_index(file)

    def _read_index(self, file: Path) -> None:
        data = f"data-{file.stem.removeprefix('index-')}.bin"
        size = (self.folder / data).stat().st_size if (self.folder / data).exists() else 0
        for _, line in read_lines(file, DataError):
            try:
                key, offset, count = parse_json(line)
                whole = isinstance(key, str) and type(offset) is type(count) is int
            except (ValueError, TypeError):
                continue  # the last line of a process that was killed
            if whole and offset >= 0 and 0 <= count <= (size - offset) // self.position_bytes:
                self.index[key] = (data, offset, count)

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def add(self, keys: Sequence[str], sizes: Sequence[int], found: TopK) -> None:
        """Append the distributions of some rows, in order."""
        name = f"data-{self.rank}.bin"
        ids = found.ids.to("cpu", torch.int32).numpy()
        logp = found.logp.to("cpu", torch.float32).numpy()
        entropy = (
            np.full(len(ids), np.nan, np.float32)
            if found.entropy is None
            else found.entropy.to("cpu", torch.float32).numpy()
        )
        start = 0
        lines = []
        with (self.folder / name).open("ab") as stream:
            for key, size in zip(keys, sizes, strict=True):
                offset = stream.tell()
                stream.write(np.ascontiguousarray(ids[start : start + size]).tobytes())
                stream.write(np.ascontiguousarray(logp[start : start + size]).tobytes())
                stream.write(np.ascontiguousarray(entropy[start : start + size]).tobytes())
                lines.append(json.dumps([key, offset, size]))
                self.index[key] = (name, offset, size)
                start += size
            # An index entry without its data would train a student on zeros.
            stream.flush()
            os.fsync(stream.fileno())
        with (self.folder / f"index-{self.rank}.jsonl").open("a", encoding="utf-8") as stream_index:
            stream_index.write("\n".join(lines) + "\n")

    def get(self, key: str) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """Return (ids [n, k], log-weights [n, k], entropy [n]) of one row, as numpy arrays."""
        name, offset, count = self.index[key]
        with (self.folder / name).open("rb") as stream:
            stream.seek(offset)
            cells = count * self.k
            raw = stream.read(count * self.position_bytes)
        ids = np.frombuffer(raw, np.int32, cells).reshape(count, self.k)
        logp = np.frombuffer(raw, np.float32, cells, cells * 4).reshape(count, self.k)
        entropy = np.frombuffer(raw, np.float32, count, cells * BYTES_PER_TOKEN)
        if cells and (ids.min() < 0 or ids.max() >= self.vocab or not (logp < 1).all()):
            raise self._damaged(f"invalid distributions in {name} at offset {offset}")
        return ids, logp, entropy

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"this teacher cache is damaged: {what}",
            where=str(self.folder),
            hint="delete the folder to rebuild it",
        )


class CachedTeacher:
    """A teacher that runs only for rows whose distributions are not cached yet."""

    def __init__(
        self,
        cache: TeacherCache,
        data: Dataset,
        load: Callable[[], OnlineTeacher],
        temperature: float,
        vocab: int,
        chunk: int | None = None,
        sampled: int = 0,
        served: ServedTeacher | None = None,
    ) -> None:
        """Create a cached teacher.

        `load` creates the OnlineTeacher when a row is missing; it may never be called. `served` is
        queried instead if the teacher runs on a server. `sampled` of the k tokens are drawn from
        the tail, with the row's own seed.
        """
        self.sampled, self.served = sampled, served
        self.cache, self.data, self.load = cache, data, load
        self.temperature, self.vocab, self.chunk = temperature, vocab, chunk
        self.keys: dict[int, str] = {}
        self.online: OnlineTeacher | None = None

    def targets_for(self, batch: Batch, part: Part, tape: AttentionTape | None) -> TopK:
        """Return cached distributions at labelled positions; run and store missing rows first."""
        keys = [self.key(index) for index in part.index]
        missing = [row for row, key in zip(part.rows, keys, strict=True) if key not in self.cache]
        if missing:
            self._fill(batch, batch["layout"].part(missing))
        found = [self.cache.get(key) for key in keys]
        for key, cells, size in zip(keys, found, part.sizes, strict=True):
            if len(cells[0]) != size:
                raise self.cache._damaged(
                    f"row {key} has {len(cells[0])} positions instead of {size}"
                )
        device = part.at.device
        ids = torch.from_numpy(np.concatenate([cells[0] for cells in found]).astype(np.int64))
        logp = torch.from_numpy(np.concatenate([cells[1] for cells in found]))
        entropy = torch.from_numpy(np.concatenate([cells[2] for cells in found]))
        return TopK(
            ids.to(device),
            logp.to(device),
            entropy.to(device) if self.sampled else None,
            self.sampled if self.cache.has_draws else 0,
        )

    def key(self, index: int) -> str:
        """Return the cache's key of a row of the data, hashed once."""
        if index not in self.keys:
            self.keys[index] = row_key(self.data.rows[index])
        return self.keys[index]

    def _fill(self, batch: Batch, part: Part) -> None:
        keys = [self.key(index) for index in part.index]
        if self.served is not None:
            targets = self.served.distributions(batch, part.rows)
            for key, size, target in zip(keys, part.sizes, targets, strict=True):
                self.cache.add([key], [size], target)
            return
        if self.online is None:
            self.online = self.load()

        hidden = hidden_states(self.online.model, batch, part)
        sizes = list(part.sizes)
        head = head_of(self.online.model, self.vocab)
        for key, size, states in zip(keys, sizes, hidden.split(sizes), strict=True):
            # The row's own seed: the draw depends on neither batch nor order.
            generator = torch.Generator(states.device).manual_seed(int(key[:12], 16))
            target = top_k(
                head,
                states,
                self.cache.k,
                self.temperature,
                self.chunk,
                self.vocab,
                self.sampled,
                generator,
            )
            if self.sampled and not self.cache.has_draws:
                target = share_tail(target)
            self.cache.add([key], [size], target)


def cached_teacher(
    setting: TrainContext,
    spec: TeacherSpec,
    teacher_weights: str,
    vocab: int,
    kind: str | None = None,
) -> CachedTeacher:
    """Return the cached teacher of a training run; log its size and how much is stored."""
    assert spec.cache is not None
    trainer = setting.config.trainer
    assert isinstance(trainer, DistillSpec)
    note = {
        "teacher": teacher_weights,
        "tokenizer": digest(sorted(setting.tokenizer.get_vocab().items())),
        "temperature": trainer.temperature,
        "k": spec.cache.k,
        "tail": spec.cache.tail,
        "vocab": vocab,
    }
    # Not at their defaults, so that caches of older versions are still found.
    if spec.dtype != "auto":
        note["dtype"] = spec.dtype
    if spec.quantization:
        note["quantization"] = spec.quantization.method
    folder = setting.job.paths.cache / digest(note)
    if spec.cache.tail == "sampled" and not folder.exists():
        # Caches of older versions have no probabilities of the sampled tokens; they are still read.
        note["draws"] = "probability within the tail"
        folder = setting.job.paths.cache / digest(note)
    cache = TeacherCache(folder, note, setting.job.rank)
    teacher = CachedTeacher(
        cache,
        setting.train,
        lambda: OnlineTeacher(load_frozen(spec, setting), vocab),
        trainer.temperature,
        vocab,
        trainer.chunk,
        spec.cache.k // 2 if spec.cache.tail == "sampled" else 0,
        ServedTeacher(spec.model, spec.served, spec.cache.k, vocab) if spec.served else None,
    )
    rows = setting.train.rows
    taught = [index for index, row in enumerate(rows) if kind is None or row.kind == kind]
    stored = sum(teacher.key(index) in cache for index in taught)
    size = cache_bytes([rows[index] for index in taught], spec.cache.k)
    if spec.served and (warning := plain_http_warning(f"openai:{spec.model}@{spec.served}")):
        setting.job.reporter.say(warning, kind="warning")
    setting.job.reporter.say(
        f"teacher cache: {size / 1e6:.1f} MB for {len(taught)} rows, {stored} already stored, "
        f"in {folder}"
    )
    return teacher
