"""Where a micro-batch's labelled positions and kinds are, worked out before it reaches the device.

A boolean index, `nonzero` or `.item()` on a GPU makes the host wait for everything that was queued.
All of it depends on the data alone, so the collator computes it once: indices as tensors, sizes as
Python numbers. A step then only gathers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor

from kdharness.trainers.losses.fused import labelled_positions

Batch = Mapping[str, Any]
"""A micro-batch by the collator's names: tensors and, as `layout`, a `Layout`."""


class _Movable:
    """A dataclass whose tensors move together; data loaders call these methods."""

    def to(self, device: Any, non_blocking: bool = False) -> Self:
        """Return a copy with every tensor on a device."""
        moved: Self = _each_tensor(self, lambda value: value.to(device, non_blocking=non_blocking))
        return moved

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory, from which a GPU copies on its own."""
        pinned: Self = _each_tensor(self, lambda value: value.pin_memory())
        return pinned


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each_tensor(part, change) for key, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: getattr(value, part.name) for part in fields(value)}
        return replace(value, **_each_tensor(parts, change))
    return value


@dataclass(frozen=True)
class Packing(_Movable):
    """Rows [B, T] without their padding, end to end.

    Attributes:
        real: [n] the real tokens, as places in the flattened rows [B · T].
        positions: [1, n] each token's position in its own row.
        offsets: [B + 1] where each row begins, and the end; int32, as flash kernels want them.
        longest: tokens of the longest row.
        shape: (B, T).
    """

    real: Tensor
    positions: Tensor
    offsets: Tensor
    longest: int
    shape: tuple[int, int]

    def pack(self, values: Tensor) -> Tensor:
        """Return the real tokens [1, n] of rows [B, T]."""
        return values.flatten().index_select(0, self.real)[None]

    def unpack(self, values: Tensor, dim: int = 1) -> Tensor:
        """Return values [..., n, ...] along a dimension as [..., B · T, ...], 0 at padding."""
        sizes = list(values.shape)
        sizes[dim] = self.shape[0] * self.shape[1]
        return values.new_zeros(sizes).index_copy(dim, self.real, values)

    def arguments(self) -> dict[str, Any]:
        """Return what a decoder's forward needs so that each row attends to itself alone."""
        return {
            "position_ids": self.positions,
            "cu_seq_lens_q": self.offsets,
            "cu_seq_lens_k": self.offsets,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }


@dataclass(frozen=True)
class Part(_Movable):
    """Some rows of a micro-batch [B, T], cut to the columns that they use.

    Attributes:
        rows: their places in the batch, ascending; `at` is the same on the device, [b].
        columns: the first column they use, and the one after the last.
        inside: [n] their labelled positions, as places in the flattened cut rows; row by row,
            those of sampled answers last.
        positions: [n] the same positions, as places in the flattened batch [B · T].
        order: [n] the same positions, as places among all labelled ones of the batch.
        sizes: labelled positions of each row; they add up to n.
        index: each row's number in the data set; empty if the batch has none.
        whole: whether these are all rows and columns of the batch.
        sampled: (place in the batch, labelled positions) of each row whose answer was sampled.
        packing: the cut rows without padding; None where the models run on padded rows.
    """

    rows: tuple[int, ...]
    at: Tensor
    columns: tuple[int, int]
    inside: Tensor
    positions: Tensor
    order: Tensor
    sizes: tuple[int, ...]
    index: tuple[int, ...]
    whole: bool
    packing: Packing | None = None
    sampled: tuple[tuple[int, int], ...] = ()

    def cut(self, values: Tensor) -> Tensor:
        """Return these rows and columns of a tensor [B, T]."""
        if self.whole:
            return values
        return values.index_select(0, self.at)[:, slice(*self.columns)]


@dataclass(frozen=True)
class Layout(_Movable):
    """The labelled positions of a micro-batch [B, T], in row-major order, and its kinds.

    Attributes:
        every: all rows.
        kinds: kind number -> its rows.
        targets: [n] the token that each labelled position predicts.
        columns: [n] the column of each labelled position.
        places: the same of each row, as Python numbers.
        spans: the first column of each row that holds a token, and the one after the last.
        index: each row's number in the data set; empty if the batch has none.
        width: T.
        tokens: real tokens.
        masked: whether padding stands before a token. Behind the last token it needs no mask, as
            causal attention does not see it.
    """

    every: Part
    kinds: Mapping[int, Part]
    targets: Tensor
    columns: Tensor
    places: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int], ...]
    index: tuple[int, ...]
    width: int
    tokens: int
    masked: bool

    @property
    def labelled(self) -> int:
        """The number of labelled positions."""
        return sum(self.every.sizes)

    def part(self, rows: Sequence[int]) -> Part:
        """Return some rows of the batch, on the device of the rest."""
        made = _part(rows, self.places, self.spans, self.width, self.index)
        if self.every.packing is not None:
            made = _packed(made, self.spans)
        return made.to(self.targets.device)


def layout_of(
    batch: Mapping[str, Tensor], *, packing: bool = False, sampled: Collection[int] = ()
) -> Layout:
    """Work out the layout of a micro-batch; it is on the batch's device.

    Args:
        batch: `input_ids`, `attention_mask` and `labels` [B, T], `kind` [B], and `index` [B] if the
            rows have one. On a device every number here would be waited for.
        packing: whether the models run on the rows without padding.
        sampled: the places of rows whose answers were sampled.
    """
    device = batch["labels"].device
    labels, keys = batch["labels"].cpu(), batch["attention_mask"].cpu()
    # Padding predicts nothing, not even a labelled first token.
    rows, columns = (labelled_positions(labels) & keys.bool()).nonzero(as_tuple=True)
    found: list[list[int]] = [[] for _ in labels]
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        found[row].append(column)
    places = tuple(map(tuple, found))
    spans = tuple(map(_span, keys))
    index = tuple(batch["index"].tolist()) if "index" in batch else ()
    width = labels.shape[1]
    kinds: dict[int, list[int]] = {}
    for row, kind in enumerate(batch["kind"].tolist()):
        kinds.setdefault(kind, []).append(row)
    make = partial(
        _part, places=places, spans=spans, width=width, index=index, sampled=frozenset(sampled)
    )
    every = make(range(len(places)))
    parts = {kind: make(chosen) for kind, chosen in kinds.items()}
    if packing:
        every = _packed(every, spans)
        parts = {kind: _packed(part, spans) for kind, part in parts.items()}
    return Layout(
        every,
        parts,
        labels[rows, columns + 1],
        columns,
        places,
        spans,
        index,
        width,
        int(keys.sum()),
        bool((keys[:, 1:] > keys[:, :-1]).any()),
    ).to(device)


def _span(keys: Tensor) -> tuple[int, int]:
    used = keys.nonzero().squeeze(-1).tolist()
    return (used[0], used[-1] + 1) if used else (0, 1)


def _part(
    rows: Sequence[int],
    places: Sequence[Sequence[int]],
    spans: Sequence[tuple[int, int]],
    width: int,
    index: Sequence[int],
    sampled: Collection[int] = frozenset(),
) -> Part:
    whole = len(rows) == len(places)
    start, end = 0, width
    if not whole and rows:
        start = min(spans[row][0] for row in rows)
        end = max(spans[row][1] for row in rows)
    offsets = list(accumulate(map(len, places), initial=0))
    # Sorting is stable: only the rows with sampled answers move, to the end.
    ranked = sorted(enumerate(rows), key=lambda pair: pair[1] in sampled)
    return Part(
        tuple(rows),
        torch.tensor(rows, dtype=torch.long),
        (start, end),
        _flat([(place, places[row]) for place, row in ranked], end - start, -start),
        _flat([(row, places[row]) for _, row in ranked], width, 0),
        torch.tensor([n for _, r in ranked for n in range(offsets[r], offsets[r + 1])]).long(),
        tuple(len(places[row]) for row in rows),
        tuple(index[row] for row in rows) if index else (),
        whole,
        sampled=tuple((row, len(places[row])) for row in rows if row in sampled),
    )


def _packed(part: Part, spans: Sequence[tuple[int, int]]) -> Part:
    """Return a part with its rows' packing."""
    first, last = part.columns
    mine = [spans[row] for row in part.rows]
    lengths = [end - start for start, end in mine]
    packing = Packing(
        torch.tensor(
            [
                place * (last - first) + column - first
                for place, span in enumerate(mine)
                for column in range(*span)
            ]
        ),
        torch.tensor([[column for length in lengths for column in range(length)]]),
        torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32),
        max(lengths),
        (len(mine), last - first),
    )
    return replace(part, packing=packing)


def _flat(rows: Sequence[tuple[int, Sequence[int]]], width: int, shift: int) -> Tensor:
    return torch.tensor(
        [row * width + column + shift for row, columns in rows for column in columns],
        dtype=torch.long,
    )
