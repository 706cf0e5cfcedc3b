"""Models that samples of their files cannot tell apart, scored, and stores of older versions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation import pipeline
from kdharness.harness.models.adoption import sampled_fingerprint
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store

SHAPE = {"hidden_size": 128, "intermediate_size": 2048, "tie_word_embeddings": True}
UNSAMPLED = "model.layers.2.self_attn.o_proj.weight"


class Listener(NullReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        self.said.append(message)


def twin(folder: Path, target: Path, scale: float = 30.0) -> Path:
    """A copy that differs in one projection only, where no sample of the file lies."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    noise = torch.randn(tensors[UNSAMPLED].shape, generator=torch.Generator().manual_seed(1))
    tensors[UNSAMPLED] += scale * noise
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def score(
    paths: Paths, store: Store, *sources: Path | str, **changes: Any
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate on a few shop items and held-out rows: (what was done, what was said)."""
    reporter = Listener()
    config = EvalConfig(
        checkpoints=[str(source) for source in sources],
        **{"benches": ["shop", "heldout"], "limit": 2, "max_new_tokens": 4, **changes},
    )
    return pipeline.run(config, paths, store, reporter), reporter.said


def losses(store: Store, paths: Paths) -> dict[str, float]:
    return {
        s.checkpoint: s.value
        for s in leaderboard(store, paths)
        if s.metric == "general_loss" and s.value is not None
    }


def age(store: Store, name: str) -> str:
    """Turn a checkpoint into what older versions stored; returns its old id."""
    known = store.checkpoint(name)
    assert known is not None
    old = sampled_fingerprint(known.path)
    store.adopt_checkpoint(known, old, "", "", path=known.path)
    store.db.execute("DELETE FROM former_ids")
    # The ids of held-out rows were made of the old identity too.
    store.db.execute("UPDATE judgments SET id = 'aged-' || id WHERE answer IS NULL")
    return old
