"""Models that file samples cannot distinguish, their scores, and stores of older versions."""

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
from kdharness.harness.store import Store
from support.reporters import Listener

SHAPE = {"hidden_size": 128, "intermediate_size": 2048, "tie_word_embeddings": True}
UNSAMPLED = "model.layers.2.self_attn.o_proj.weight"


def twin(folder: Path, target: Path, scale: float = 30.0) -> Path:
    """Copy a model with a change in one projection only, outside the sampled bytes."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    noise = torch.randn(tensors[UNSAMPLED].shape, generator=torch.Generator().manual_seed(1))
    tensors[UNSAMPLED] += scale * noise
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def evaluate_briefly(
    paths: Paths, store: Store, *sources: Path | str, **changes: Any
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate on a few shop items and held-out rows; return (result, messages)."""
    reporter = Listener()
    config = EvalConfig(
        checkpoints=[str(source) for source in sources],
        **{"benches": ["shop", "heldout"], "limit": 2, "max_new_tokens": 4, **changes},
    )
    done = pipeline.run(config, paths, store, reporter)
    return done, [message for _, message in reporter.said]


def losses(store: Store, paths: Paths) -> dict[str, float]:
    """Return the general loss of each checkpoint."""
    return {
        s.checkpoint: s.value
        for s in leaderboard(store, paths)
        if s.metric == "general_loss" and s.value is not None
    }


def age(store: Store, name: str) -> str:
    """Rewrite a checkpoint as older versions stored it; return its old id."""
    known = store.checkpoint(name)
    assert known is not None
    old = sampled_fingerprint(known.path)
    store.adopt_checkpoint(known, old, "", "", path=known.path)
    store.db.execute("DELETE FROM former_ids")
    # The ids of held-out rows were derived from the old identity too.
    store.db.execute("UPDATE judgments SET id = 'aged-' || id WHERE answer IS NULL")
    return old
