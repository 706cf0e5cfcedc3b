"""Logits of a GGUF file at every position, for held-out loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch

from kdharness.harness.models.gguf_models import gguf_parents
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.models.limits import ModelLimits
from kdharness.harness.models.resolve import identity_of
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.filesystem import exists
from kdharness.judges.engines.llama_model import LlamaModel


class Row(Protocol):
    """A row as tokens; `positions` are those whose logits are wanted."""

    @property
    def ids(self) -> list[int]:
        """Its tokens."""
        ...

    @property
    def positions(self) -> list[int]:
        """Places in `ids`."""
        ...


class GgufForward:
    """A GGUF file that reads rows of tokens, one after the other."""

    def __init__(self, path: str, device: str, longest: int) -> None:
        """Prepare it; it is loaded when it is first used.

        Args:
            path: its first file.
            device: auto, cpu, cuda or cuda:1.
            longest: tokens of the longest row.
        """
        self.path, self.device, self.longest = path, device, longest

    @cached_property
    def _model(self) -> LlamaModel:
        name = Path(self.path).name
        return LlamaModel(self.path, name, self.device, self.longest, every=True)

    @cached_property
    def limits(self) -> ModelLimits:
        """Return which tokens it has; it reads rows of any length."""
        return ModelLimits(self._model.llama.n_vocab(), None, self._model.trained_on)

    def states(self, batch: Sequence[Row]) -> torch.Tensor:
        """Return the logits at the wanted positions, fp32 [n, V], rows in order."""
        return torch.cat([self._model.all_logits(row.ids)[row.positions] for row in batch])

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states, which are logits already."""
        return states


def source_of(path: str, paths: Paths) -> str:
    """Return the model that a GGUF file was made from, whose tokenizer it has; empty if not here.

    Raises:
        ModelError: the model is damaged.
    """
    with Store(paths.store) as store:
        key = gguf_parents(Path(path), store).get("source", "")
        known = store.checkpoint(key) if key else None
        found = known.path if known is not None else ""
        is_here = exists(Path(found), folder=True) or split_hub_name(found) is not None
        same = bool(found) and is_here and identity_of(found, paths, store).id == key
    return found if same else ""
