"""A key-value cache and a mask with room to grow.

transformers' dynamic cache concatenates on every token, which copies the whole cache each time:
after a thousand tokens that costs more than the model. These write into buffers that are
reallocated only when they are full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from kdharness.harness.errors import ModelError

ROOM = 256


class RoomyLayer(DynamicLayer):
    """A dynamic layer whose tensors are views into larger buffers."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states to the existing ones, and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.get_seq_length()
        total = used + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < total:
            self.room = self._grown(key_states, value_states, used, total)
        keys, values = self.room
        keys[:, :, used:total] = key_states
        values[:, :, used:total] = value_states
        self.keys, self.values = keys[:, :, :total], values[:, :, :total]
        return self.keys, self.values

    def _grown(
        self, keys: torch.Tensor, values: torch.Tensor, used: int, total: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return larger buffers with the contents of the old ones."""
        length = total + max(ROOM, total // 4)
        buffers = []
        for new, old in ((keys, self.keys), (values, self.values)):
            buffer = new.new_empty((*new.shape[:-2], length, new.shape[-1]))
            if used and old is not None:
                buffer[:, :, :used] = old
            buffers.append(buffer)
        return buffers[0], buffers[1]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows, and the buffers' room with them."""
        if self.room is None:
            super().batch_select_indices(indices)
            return
        used = self.get_seq_length()
        keys, values = (buffer[indices] for buffer in self.room)
        self.room = keys, values
        self.keys, self.values = keys[:, :, :used], values[:, :, :used]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row; the buffers are made anew when the next states come."""
        super().batch_repeat_interleave(repeats)
        self.room = None

    def cut(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :length], self.values[:, :, :length]

    def reset(self) -> None:
        """Clear the cache."""
        super().reset()
        self.room = None


def roomy_cache(config: Any) -> Cache:
    """Return the cache of a model with this config, with its dynamic layers replaced."""
    cache = DynamicCache(config=config)
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def cache_of(output: Any, model: Any, source: str) -> Any:
    """Return the key-value cache of a model's output.

    Raises:
        ModelError: there is none: Mamba, for one, has states of another kind.
    """
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise _no_cache(model, source)
    return cache


def check_cache(model: Any, source: str) -> None:
    """Raise ModelError for a model that takes no dynamic cache, such as MiniMax-01 or xLSTM."""
    supports = getattr(model, "_supports_default_dynamic_cache", None)
    if supports is not None and not supports():
        raise _no_cache(model, source)


def _no_cache(model: Any, source: str) -> ModelError:
    kind = getattr(model.config, "model_type", type(model).__name__)
    return ModelError(
        f"{source} is a model of type {kind}, which has no ordinary key-value cache "
        "(past_key_values): local: cannot generate with it",
        hint="use vllm:PATH, or openai:MODEL@URL with a server that supports it",
    )


def keep_rows(cache: object, indices: torch.Tensor) -> bool:
    """Keep some rows of a cache; return False and change nothing if it cannot select them."""
    if type(cache) is not DynamicCache:  # a model's own class may keep states beside its layers
        return False
    selects = [_row_selector(layer) for layer in cache.layers]
    known = [select for select in selects if select is not None]
    if len(known) < len(selects):
        return False
    for select in known:
        select(indices)
    return True


def _row_selector(layer: object) -> Callable[[torch.Tensor], object] | None:
    """Return the method of a layer that keeps the rows of given indices, in their order."""
    # `batch_select_indices` of a hybrid layer forgets the states of its linear attention.
    has_states = hasattr(layer, "conv_states") or hasattr(layer, "recurrent_states")
    names = ("reorder_cache",) if has_states else ("batch_select_indices", "reorder_cache")
    found = (getattr(layer, name, None) for name in names)
    return next((method for method in found if method is not None), None)


class PaddingMask:
    """Which positions of a left-padded batch are tokens.

    A batch without padding has no mask: transformers would otherwise check at every token, on the
    host, that nothing is masked.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        """Create the mask of prompts of these lengths."""
        self._lengths = list(lengths)
        self._width = max(lengths)
        starts = torch.tensor([[self._width - length] for length in lengths], device=device)
        places = torch.arange(self._width, device=device)
        self.positions = (places - starts).clamp(min=0)
        self._buffer = (places >= starts).long()

    def of(self, length: int) -> torch.Tensor | None:
        """Return the mask of the first `length` positions: everything after a prompt is a token."""
        if all(known == self._width for known in self._lengths):
            return None
        missing = length - self._buffer.shape[-1]
        if missing > 0:
            rest = self._buffer.new_ones(len(self._buffer), max(missing, ROOM))
            self._buffer = torch.cat([self._buffer, rest], -1)
        return self._buffer[:, :length]

    def keep(self, rows: Sequence[int], indices: torch.Tensor) -> None:
        """Keep some rows; `indices` are `rows` on the device."""
        self._lengths = [self._lengths[row] for row in rows]
        self._buffer = self._buffer[indices]
