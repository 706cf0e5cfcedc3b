"""Seconds and bytes of runs of the small model that the replication uses, on two cores.

The speeds are round figures for SmolLM2-135M-Instruct on two cores without a GPU. With them the
first edition, which took 65 minutes, comes out at 72. They say whether a part takes an hour or a
night; `kdharness plan` has the FLOPs of one run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.config.references import model_references
from kdharness.harness.config.trainer import DAESpec, DistillSpec
from kdharness.harness.config.training import (
    AnyConfig,
    TrainConfig,
    teacher_specs,
)
from kdharness.harness.experiments.expand import PlannedRun, outputs_of

MODEL = "smollm2-135m-instruct"
PARAMETERS = 134_515_008
TRAINED = 150.0
"""Tokens per second, forward and backward."""
READ = 400.0
"""Tokens per second of a forward pass alone."""
WRITTEN = 55.0
"""Tokens per second of generation, in batches."""
START = 10.0
"""Seconds to start a process and load a model."""
MERGED = 4.0
"""Seconds per merged checkpoint."""
ROW = 90.0
"""Tokens per row of the data that ships."""
ANSWER = 30.0
"""Tokens of an answer to the shop benchmark."""
ROWS = {"shop": 72, "heldout": 48, "ifeval": 541, "mt-bench": 80, "alpaca-eval-2": 805}
HELDOUT_SETS = 3
LORA = 0.75
"""Share of a full step's time that a LoRA step takes."""


def own_models(planned: Sequence[PlannedRun]) -> frozenset[str]:
    """Return the models whose speed is known: the small one, and what the runs make of it."""
    return frozenset([MODEL, *(name for run in planned for name in outputs_of(run))])


def total_seconds(planned: Sequence[PlannedRun], done: Collection[str]) -> float | None:
    """Return the seconds of the runs that are not done; None if one of them is not known.

    What one evaluation has measured of a model is not measured again by the next.
    """
    models = own_models(planned)
    seen: set[tuple[str, str, int | None]] = set()
    total = 0.0
    for run in planned:
        config, again = run.config, 0
        if isinstance(config, EvalConfig):
            parts = {(name, b, config.limit) for name in config.checkpoints for b in config.benches}
            again = len(parts & seen)
            seen |= parts
        seconds = 0.0 if run.name in done else modelled_seconds(config, models)
        if seconds is None:
            return None
        if isinstance(config, EvalConfig) and seconds:
            pieces = len(config.checkpoints) * len(config.benches)
            seconds = START + (seconds - START) * (1 - again / pieces)
        total += seconds
    return total


def modelled_seconds(config: AnyConfig, models: Collection[str]) -> float | None:
    """Return the seconds of a run on two cores; None for other models, or an unknown length."""
    if not _is_modelled(config, models):
        return None
    if isinstance(config, MergeConfig):
        return START + MERGED * len(config.checkpoints(""))
    if isinstance(config, EvalConfig):
        return START + sum(_answering(config, bench) for bench in config.benches)
    return _training(config) if isinstance(config, TrainConfig) else None


def checkpoint_bytes(config: AnyConfig, models: Collection[str]) -> float | None:
    """Return the bytes of each checkpoint that a run makes; None for other models."""
    if not _is_modelled(config, models):
        return None
    if isinstance(config, EvalConfig):
        return 0.0
    if isinstance(config, TrainConfig) and config.student.lora:
        return 0.02 * 4.0 * PARAMETERS
    return 4.0 * PARAMETERS


def _is_modelled(config: AnyConfig, models: Collection[str]) -> bool:
    """Return whether a run loads these models alone, and makes no mixture of several."""
    mixes = isinstance(config, TrainConfig) and bool(config.student.experts_from)
    return not mixes and {model for _, model in model_references(config)} <= set(models)


def _training(config: TrainConfig) -> float | None:
    trainer, data = config.trainer, config.data
    rows = float((trainer.max_steps or 0) * trainer.batch_size * trainer.accumulation)
    tokens = float(trainer.max_tokens or rows * ROW)
    if not tokens:
        return None
    seconds = START + tokens / TRAINED * (LORA if config.student.lora else 1.0)
    seconds += tokens / READ * _teacher_passes(config)
    if isinstance(trainer, DistillSpec) and trainer.on_policy is not None:
        own = trainer.on_policy
        seconds += own.share * rows * own.max_new_tokens / WRITTEN
    if data.self_written is not None:
        seconds += data.self_written.rows * data.self_written.max_new_tokens / WRITTEN
    # Held-out rows are measured at the start and at the end.
    return seconds + 2 * sum((source.limit or 32) * ROW for source in data.heldout) / READ


def _teacher_passes(config: TrainConfig) -> float:
    if not teacher_specs(config):
        return 0.0
    holds = isinstance(config.trainer, DAESpec) and config.trainer.non_target_weight > 0
    return 2.0 if holds else 1.0


def _answering(config: EvalConfig, bench: str) -> float:
    """Return the seconds of one benchmark for all checkpoints; judging takes as long again."""
    name = bench if bench in ROWS else "shop"
    rows = min(config.limit or ROWS[name], ROWS[name])
    if name == "heldout":
        passes = 2.0 if config.heldout.teacher else 1.0
        each = rows * HELDOUT_SETS * ROW * passes / READ
    else:
        length = ANSWER if name == "shop" else float(config.max_new_tokens or 256)
        each = rows * length / WRITTEN * (2.0 if config.judge else 1.0)
    return len(config.checkpoints) * each
