"""One token more for every row of a batch: how the model is called while answers grow.

`Growing` calls it with a cache that gets longer. `Fixed` calls it with buffers that keep their
addresses and shapes, so that a CUDA graph can replay the pass: on a GPU, a small model spends most
of a pass launching kernels, and a replay launches once. Both give the same logits but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from kdharness.harness.errors import ConfigError
from kdharness.harness.util.notices import notify
from kdharness.judges.engines.kv_cache import (
    ROOM,
    PaddingMask,
    RoomyLayer,
    cache_of,
    keep_rows,
    roomy_cache,
)
from kdharness.judges.engines.numbers import last_only

WARM_UP = 3
"""Passes before a graph is recorded: libraries choose their kernels and workspaces in them."""
ATTENTIONS = ("sdpa", "eager")
"""Implementations that take a mask of [rows, 1, queries, keys]; flash kernels do not."""


class Decoding(Protocol):
    """A batch whose rows grow by one token a pass."""

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Read the prompts, [rows, width]; return the logits after the last, [rows, tokens]."""
        ...

    def step(self, chosen: torch.Tensor) -> torch.Tensor:
        """Read one token per row, [rows]; return the logits after it, [rows, tokens]."""
        ...

    def keep(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Drop all rows but these; return their indices on the device.

        None if nothing was dropped: the rows that ended then stay, and are ignored.
        """
        ...


class Growing:
    """Decoding with a cache that grows: the reference, for every model with a key-value cache."""

    def __init__(self, model: Any, lengths: Sequence[int], source: str, context: int) -> None:
        """Prepare a batch.

        Args:
            model: a causal LM in eval mode.
            lengths: each prompt's tokens; prompts are padded on the left to the longest.
            source: the model's name in errors.
            context: the most positions.
        """
        self.model, self.source, self.context = model, source, context
        self.device = next(model.parameters()).device
        self.mask = PaddingMask(lengths, self.device)
        self.position = self.mask.positions
        self.width = max(lengths)
        self.cache: Any = roomy_cache(model.config)

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Read the prompts."""
        return self._pass(ids, **last_only(self.model))

    def step(self, chosen: torch.Tensor) -> torch.Tensor:
        """Read one token per row."""
        self.width += 1
        # Rows that ended but stay get any valid token and position.
        self.position = (self.position[:, -1:] + 1).clamp(max=self.context - 1)
        return self._pass(chosen.clamp(min=0)[:, None])

    def _pass(self, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self.mask.of(self.width),
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
            **options,
        )
        self.cache = cache_of(output, self.model, self.source)
        # A model spread over several devices ends on another one.
        logits: torch.Tensor = output.logits[:, -1].float().to(self.device)
        return logits

    def keep(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Drop all rows but these, if the cache can select rows."""
        indices = torch.tensor(rows, device=self.device)
        if not keep_rows(self.cache, indices):
            return None
        self.position = self.position[indices]
        self.mask.keep(rows, indices)
        return indices


class FixedLayer(DynamicLayer):
    """A cache layer whose buffers stay where they are; the next states go to a given place."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, place: torch.Tensor) -> None:
        """Create the layer.

        Args:
            keys, values: [rows, heads, length, size], the first positions filled.
            place: int64 [1], the position of the next states, shared by all layers.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.place = keys, values, place
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the states of one token, and return the whole buffers."""
        assert self.keys is not None and self.values is not None
        self.keys.index_copy_(2, self.place, key_states)
        self.values.index_copy_(2, self.place, value_states)
        return self.keys, self.values


class Fixed:
    """Decoding with buffers that keep their places, replayed as a CUDA graph where `record` is on.

    Buffers have room for `ROOM` tokens more than were read. Once they are full, or half of the
    rows have ended, they are laid out anew and the pass is recorded again.
    """

    def __init__(
        self,
        model: Any,
        lengths: Sequence[int],
        source: str,
        context: int,
        record: Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]] | None,
    ) -> None:
        """Prepare a batch.

        Args:
            model, lengths, source, context: as for `Growing`.
            record: turns a pass into one that replays it; None calls the model each time.
        """
        self._reader = Growing(model, lengths, source, context)
        self.model, self.record = model, record
        self.lengths = list(lengths)
        self.used = max(lengths)
        self._run: Callable[[], torch.Tensor] | None = None

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        """Read the prompts with a growing cache, and lay its contents out with room."""
        logits = self._reader.prefill(ids)
        reader = self._reader
        self.position = reader.position[:, -1:].clone()
        starts = torch.tensor([[reader.width - n] for n in self.lengths], device=reader.device)
        self._lay_out([(layer.keys, layer.values) for layer in reader.cache.layers], starts)
        reader.cache = None
        return logits

    def _lay_out(
        self, states: Sequence[tuple[torch.Tensor, torch.Tensor]], starts: torch.Tensor
    ) -> None:
        """Make the buffers of the rows that are left, filled with `used` positions."""
        rows, length = len(starts), self.used + ROOM
        device = starts.device
        self.starts = starts
        self.place = torch.tensor([self.used], device=device)
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=device)

        def with_room(old: torch.Tensor) -> torch.Tensor:
            # Zeros, and not what was in memory: a masked NaN is still a NaN.
            new = old.new_zeros(rows, old.shape[1], length, old.shape[-1])
            new[:, :, : self.used] = old[:, :, : self.used]
            return new

        self.states = [(with_room(keys), with_room(values)) for keys, values in states]
        self.cache = DynamicCache()
        self.cache.layers = [FixedLayer(*pair, self.place) for pair in self.states]
        self.places = torch.arange(length, device=device)
        self._run = None

    def _pass(self) -> torch.Tensor:
        """Read `ids` at `place`; everything that it reads and writes keeps its address."""
        seen = (self.places >= self.starts) & (self.places <= self.place)
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        mask = mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None, None]
        output = self.model(
            input_ids=self.ids,
            attention_mask=mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def step(self, chosen: torch.Tensor) -> torch.Tensor:
        """Read one token per row."""
        if self.used == len(self.places):
            self._lay_out(self.states, self.starts)
        self.position += 1
        self.position.clamp_(max=self._reader.context - 1)
        self.ids.copy_(chosen.clamp(min=0)[:, None])
        if self._run is None:
            self._run = self._pass if self.record is None else self.record(self._pass)
        logits = self._run()
        self.place += 1
        self.used += 1
        return logits

    def keep(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Drop all rows but these once they are half or less: a new layout has its price."""
        if 2 * len(rows) > len(self.starts):
            return None
        indices = torch.tensor(rows, device=self.starts.device)
        states = [(keys[indices], values[indices]) for keys, values in self.states]
        self.position = self.position[indices].clone()
        self._lay_out(states, self.starts[indices])
        return indices


def recorded(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Record a pass as a CUDA graph, and return its replay.

    A model that waits for the device in its pass cannot be recorded: the pass itself is returned
    then, and a notice tells so.
    """
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = run()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        notify(f"no CUDA graph for this model, its passes are launched one by one: {error}")
        return run

    def replay() -> torch.Tensor:
        graph.replay()
        # The next replay writes into the same memory.
        return logits.clone()

    return replay


def can_record(model: Any, source: str) -> bool:
    """Return whether a model's passes can be recorded; send a notice if they cannot.

    Raises:
        ConfigError: the model is not on a CUDA device.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ConfigError(
            f"needs a CUDA device, but {source} is on {device}",
            where="cuda_graphs",
            hint="leave it out, or choose a CUDA device with --device",
        )
    if not can_be_fixed(model):
        notify(
            f"{source}: no CUDA graphs, as its cache is not an ordinary one (windowed attention, "
            "flash attention or several devices); its tokens are generated without"
        )
        return False
    return True


def can_be_fixed(model: Any) -> bool:
    """Return whether every layer has an ordinary cache, and its attention takes a mask as it is."""
    # A cache without layers belongs to a model that makes its own in the first pass.
    layers = roomy_cache(model.config).layers
    ordinary = bool(layers) and all(type(layer) is RoomyLayer for layer in layers)
    devices = {parameter.device for parameter in model.parameters()}
    attention = getattr(model.config, "_attn_implementation", None)
    return ordinary and len(devices) == 1 and attention in ATTENTIONS
