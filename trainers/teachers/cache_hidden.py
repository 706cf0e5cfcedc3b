"""A cache of last hidden states, and the teacher's output head once: its whole distribution.

The loss is then that of the teacher itself, with its states rounded to the stored dtype: any
divergence, any temperature. The head is written before the first row.
"""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdharness.harness.errors import ModelError
from kdharness.harness.models.lm_head import Head
from kdharness.harness.models.validate import tensor_shapes
from kdharness.harness.util.atomic import sync_file, sync_folder
from kdharness.trainers.teachers.cache_store import TeacherCache

HEAD = "head.safetensors"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
"""How hidden states, and heads, may be stored."""


class HiddenCache(TeacherCache):
    """One folder of cached hidden states, with the head that they belong to."""

    # Any bytes are valid numbers, so that lost ones would not show.
    checked = True

    def __init__(
        self, folder: Path, note: Mapping[str, object], rank: int = 0, vocab: int = 0
    ) -> None:
        """Open or create a cache; see `TeacherCache`.

        Args:
            folder: where it is.
            note: `stored`, the dtype of its states, and what else they depend on.
            rank: this process's number.
            vocab: `Head.vocab`, which belongs to the student as well and is not stored.

        Raises:
            DataError: also if its head is missing or damaged.
        """
        self.dtype, self.vocab = DTYPES[str(note["stored"])], vocab
        self.head_shape: tuple[int, int] | None = None
        """Tokens and width of the stored head; None before there is one."""
        self._head: Head | None = None
        super().__init__(folder, note, rank)

    @property
    def position_bytes(self) -> int:
        """Bytes per labelled position; 0 before there is a head."""
        return (self.head_shape[1] if self.head_shape else 0) * self.dtype.itemsize

    def refresh(self) -> None:
        """Read what other processes have stored since the last time, the head too.

        Raises:
            DataError: an index or a head that cannot be read.
        """
        # In this order: whoever writes rows has written the head before.
        has_rows = any(file.stat().st_size for file in self.folder.glob("index-*.jsonl"))
        if self.head_shape is None:
            self.head_shape = self._stored_shape()
        if has_rows and self.head_shape is None:
            raise self.damaged(f"{HEAD}, the teacher's output head, is missing")
        if self.head_shape is not None:  # else head and rows that come now are read next time
            super().refresh()

    def _stored_shape(self) -> tuple[int, int] | None:
        path = self.folder / HEAD
        if not path.exists():
            return None
        try:
            shapes = tensor_shapes(path)
        except ModelError as error:
            raise self.damaged(f"{HEAD}: {error.message}") from error
        tokens, width = (*shapes.get("weight", ()), 0, 0)[:2]
        if len(shapes.get("weight", ())) != 2 or shapes.get("bias", (tokens,)) != (tokens,):
            raise self.damaged(f"{HEAD} holds no output head")
        return tokens, width

    # ------------------------------------------------------------ rows

    def add(self, keys: Sequence[str], sizes: Sequence[int], head: Head, hidden: Tensor) -> None:
        """Store the states of some rows, in order, and the head before the first of them.

        Raises:
            ModelError: states that are not finite, or a head that cannot be stored.
        """
        if self.head_shape is None:
            self._store_head(head, hidden.shape[-1])
        states = hidden.to("cpu", self.dtype)
        if not bool(states.isfinite().all()):
            beyond = bool(hidden.isfinite().all())
            name = str(self.dtype).removeprefix("torch.")
            raise ModelError(
                f"the teacher's hidden states are {f'beyond {name}' if beyond else 'not finite'}",
                hint=f"set teacher.{'cache.' if beyond else ''}dtype: float32",
            )
        parts = states.contiguous().view(torch.uint8).split(list(sizes))
        self.append(
            [
                (key, size, part.numpy().tobytes())
                for key, size, part in zip(keys, sizes, parts, strict=True)
            ]
        )

    def get(self, key: str) -> Tensor:
        """Return the states [n, h] of one row, on the CPU.

        Raises:
            DataError: damaged files.
        """
        raw, count = self.read(key), self.index[key].positions
        if not raw:
            return torch.empty(count, self.position_bytes // self.dtype.itemsize, dtype=self.dtype)
        return torch.frombuffer(bytearray(raw), dtype=self.dtype).reshape(count, -1)

    def targets(self, keys: Sequence[str], device: torch.device) -> tuple[Head, Tensor]:
        """Return the head and the states of some stored rows; see `TeacherCache.targets`."""
        states = torch.cat([self.get(key) for key in keys])
        return self.head(device), states.to(device)

    # ------------------------------------------------------------ the head

    def _store_head(self, head: Head, width: int) -> None:
        """Write the head, all of its vocabulary and in its own dtype.

        Raises:
            ModelError: its weight is not a plain matrix of this width.
        """
        weight = head.weight.detach()
        # A quantiser packs weights into integers, or into a tensor class of its own.
        plain = type(weight) is Tensor and weight.dtype in DTYPES.values() and weight.dim() == 2
        if not plain or weight.shape[1] != width:
            raise ModelError(
                f"the teacher's output head ({type(weight).__name__} {list(weight.shape)} of "
                f"{weight.dtype}) is no plain matrix of its states, so it cannot be cached",
                hint="a quantised head is one: set teacher.cache.kind: top-k",
            )
        tensors = {"weight": weight.to("cpu", copy=True).contiguous()}
        if head.bias is not None:
            tensors["bias"] = head.bias.detach().to("cpu", copy=True).contiguous()
        note = {"scale": repr(head.scale), "softcap": repr(head.softcap)}
        path = self.folder / HEAD
        scratch = path.with_name(f".{HEAD}.{uuid.uuid4().hex}")
        try:
            save_file(tensors, scratch, metadata={**note, "checksum": str(_checksum(tensors))})
            sync_file(scratch)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        sync_folder(self.folder)
        self.head_shape = int(weight.shape[0]), int(weight.shape[1])

    def head(self, device: torch.device) -> Head:
        """Return the stored head on a device, read once.

        Raises:
            DataError: damaged, or not what was written.
        """
        if self._head is None:
            self._head = self._load_head(device)
        return self._head

    def _load_head(self, device: torch.device) -> Head:
        try:
            with safe_open(self.folder / HEAD, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                note = file.metadata() or {}
            head = Head(None, None, float(note["scale"]), float(note["softcap"]), self.vocab)
            expected = int(note["checksum"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise self.damaged(f"{HEAD} cannot be read: {error}") from error
        if _checksum(tensors) != expected:
            raise self.damaged(f"{HEAD} is not what was written there")
        placed = {name: tensor.to(device) for name, tensor in tensors.items()}
        return replace(head, weight=placed["weight"], bias=placed.get("bias"))


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return the CRC-32 of tensors' bytes, in the order of their names."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, total)
    return total
