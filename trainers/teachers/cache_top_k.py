"""A cache of distributions: k tokens with log-probabilities, at one temperature (`TopK`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdharness.harness.config.models import BYTES_PER_POSITION, BYTES_PER_TOKEN
from kdharness.harness.models.lm_head import Head
from kdharness.trainers.losses.top_k import TopK, share_tail, top_k
from kdharness.trainers.teachers.cache_store import TeacherCache

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TopKCache(TeacherCache):
    """One folder of cached distributions."""

    def __init__(
        self, folder: Path, note: Mapping[str, object], rank: int = 0, chunk: int | None = None
    ) -> None:
        """Open or create a cache; see `TeacherCache`.

        Args:
            folder: where it is.
            note: `k`, `temperature`, `vocab` (ids that count; 0: all), `tail` (`sampled` or
                `bucket`), and what else the values depend on. Without `draws`, sampled tokens
                share the tail's mass, as in caches of older versions.
            rank: this process's number.
            chunk: positions whose logits are in memory at once.
        """
        self.k, self.chunk = int(str(note["k"])), chunk
        self.temperature = float(str(note["temperature"]))
        self.vocab = int(str(note.get("vocab") or 0))
        self.sampled = self.k // 2 if note.get("tail") == "sampled" else 0
        self.has_draws = "draws" in note
        super().__init__(folder, note, rank)

    @property
    def position_bytes(self) -> int:
        """Bytes per labelled position."""
        return self.k * BYTES_PER_TOKEN + BYTES_PER_POSITION

    def add(self, keys: Sequence[str], sizes: Sequence[int], head: Head, hidden: Tensor) -> None:
        """Store the distributions of some rows, in order; see `TeacherCache.add`."""
        found = []
        for key, states in zip(keys, hidden.split(list(sizes)), strict=True):
            # The row's own seed: the draw depends on neither batch nor order.
            generator = torch.Generator(states.device).manual_seed(int(key[:12], 16))
            target = top_k(
                head,
                states,
                self.k,
                self.temperature,
                self.chunk,
                self.vocab,
                self.sampled,
                generator,
            )
            found.append(share_tail(target) if self.sampled and not self.has_draws else target)
        self.put(keys, found)

    def put(self, keys: Sequence[str], found: Sequence[TopK]) -> None:
        """Append one distribution per row."""
        self.append(
            [(key, len(part.ids), _bytes(part)) for key, part in zip(keys, found, strict=True)]
        )

    def get(self, key: str) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """Return (ids [n, k], log-weights [n, k], entropy [n]) of one row, as numpy arrays.

        Raises:
            DataError: damaged files.
        """
        raw, entry = self.read(key), self.index[key]
        cells = entry.positions * self.k
        ids = np.frombuffer(raw, np.int32, cells).reshape(entry.positions, self.k)
        logp = np.frombuffer(raw, np.float32, cells, cells * 4).reshape(entry.positions, self.k)
        entropy = np.frombuffer(raw, np.float32, entry.positions, cells * BYTES_PER_TOKEN)
        vocab = self.vocab or 1 << 31
        if cells and (ids.min() < 0 or ids.max() >= vocab or not (logp < 1).all()):
            raise self.damaged(f"invalid distributions in {entry.file} at offset {entry.offset}")
        return ids, logp, entropy

    def targets(self, keys: Sequence[str], device: torch.device) -> TopK:
        """Return the distributions of some stored rows; see `TeacherCache.targets`."""
        parts = [self.get(key) for key in keys]
        ids = torch.from_numpy(np.concatenate([part[0] for part in parts]).astype(np.int64))
        logp = torch.from_numpy(np.concatenate([part[1] for part in parts]))
        entropy = torch.from_numpy(np.concatenate([part[2] for part in parts]))
        return TopK(
            ids.to(device),
            logp.to(device),
            entropy.to(device) if self.sampled else None,
            self.sampled if self.has_draws else 0,
        )


def _bytes(found: TopK) -> bytes:
    """Return a row's distributions as they are stored: all ids, all log-weights, all entropies."""
    ids = found.ids.to("cpu", torch.int32).numpy()
    logp = found.logp.to("cpu", torch.float32).numpy()
    entropy = (
        np.full(len(ids), np.nan, np.float32)
        if found.entropy is None
        else found.entropy.to("cpu", torch.float32).numpy()
    )
    return b"".join(np.ascontiguousarray(part).tobytes() for part in (ids, logp, entropy))
