"""Training callbacks: progress, evaluation points, the best checkpoint, stop and pause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from transformers import TrainerCallback

from kdharness.harness.errors import Interrupted
from kdharness.trainers.best import NOTE, BestPoint, Measured
from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset
from kdharness.trainers.data.layout import Batch, Layout
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.points import GeneratedScores, as_curves, shown
from kdharness.trainers.saving import save_whole
from kdharness.trainers.step import LossInputs
from kdharness.trainers.teachers.online import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments


class HeldoutCallback(TrainerCallback):
    """Report steps, evaluate the student, handle stop and pause requests."""

    def __init__(self, setting: TrainContext) -> None:
        self.setting = setting
        self.stopped = self.ended_early = False
        self.final: dict[str, float] = {}
        self.trainer: Any = None
        self.curves: dict[str, float] = {}
        self.best = BestPoint(setting)
        self.generated = GeneratedScores(setting)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate before the first step; an invalid rule fails the run here."""
        if state.global_step == 0:
            self._evaluate(kwargs["model"], 0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: object,
    ) -> None:
        """Report one point per step for every curve."""
        names = {
            "grad_norm",
            "learning_rate",
            "loss",
            "kl",
            "ce",
            "attention",
            "non_target",
            "router",
            "tokens_per_second",
            "rollout_length",
            "rollout_ended",
            "rollout_distinct",
            "rollout_kl",
        }
        values = {name: float(value) for name, value in (logs or {}).items() if name in names}
        if "loss" in values:
            values["memory_gb"] = memory_gb(self.setting.device)
            self.setting.job.reporter.advance(state.global_step, **values)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Evaluate when due; on a stop request, save a checkpoint and stop.

        A point is finished before a stop is looked at: a resumed run would not repeat it.
        """
        every = self.setting.config.trainer.eval_every
        if every and state.global_step % every == 0 and state.global_step < state.max_steps:
            self._evaluate(kwargs["model"], state.global_step)
            if self.best.is_stale(state.global_step):
                # Without a checkpoint here: it would be resumed after this point.
                self.ended_early, control.should_save = True, False
                control.should_training_stop = True
                return control
        try:
            self.setting.job.reporter.check()
        except Interrupted:
            self.stopped = True
        if self.setting.job.world > 1:
            self.stopped = _any_process(self.stopped)
        if self.stopped:
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate after the last step; say which point is the best one."""
        if state.global_step == state.max_steps:
            self._evaluate(kwargs["model"], state.global_step)
        elif not self.ended_early:
            return
        self.generated.close()
        self.final = dict(self.curves)
        if not self.setting.job.is_main:
            return
        reporter = self.setting.job.reporter
        if self.best.rule is not None:
            kind = "note" if self.best.value is not None else "warning"
            reporter.say(self.best.summary(), kind=kind)
        if self.ended_early:
            reporter.say(
                f"stopped early at step {state.global_step}: no new best in "
                f"{self.setting.config.trainer.early_stop} evaluation points"
            )

    def _evaluate(self, model: PreTrainedModel, step: int) -> None:
        setting, rule = self.setting, self.best.rule
        losses = heldout_losses(model, setting) if setting.heldout.rows else {}
        scores = self.generated.measure(model, step)
        measured = Measured(losses, scores)
        self.curves = {**losses, **as_curves(scores)}
        if self.curves:
            setting.job.reporter.advance(step, **self.curves)
        if scores and setting.job.is_main:
            texts = [shown(name, score) for name, score in scores.items() if "/" in name]
            setting.job.reporter.say(f"step {step}: {', '.join(texts)}")
        if step == 0:
            self.best.begin(measured, is_main=setting.job.is_main)
        elif rule is not None and self.best.is_new(step, measured):
            # All or nothing: the record is inside the folder that replaces the former one.
            target = setting.job.folder / "best"
            save_whole(self.trainer, setting, target, {NOTE: self.best.note()})


def _any_process(flag: bool) -> bool:
    """Return whether any process has the flag set, so that all stop at the same step."""
    if not dist.is_initialized():
        return flag
    votes: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(votes, flag)
    return any(votes)


def memory_gb(device: str) -> float:
    """Return memory in GiB: the accelerator's peak so far, or the process's RSS on a CPU."""
    if device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated()) / 2**30

    return float(psutil.Process().memory_info().rss) / 2**30


@torch.no_grad()
def heldout_losses(
    model: PreTrainedModel, setting: TrainContext, batch_size: int = 8
) -> dict[str, float]:
    """Return `<kind>_loss`: mean next-token loss over labelled held-out positions, in nats.

    Several processes share the batches. All make equally many forward passes, which gather a
    sharded model; a process without a batch of its own repeats one that counts elsewhere.
    """
    training = model.training
    model.eval()
    rows = setting.heldout.rows
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    batches = [
        (kind, [i for i in order[start : start + batch_size] if rows[i].kind == kind])
        for start in range(0, len(order), batch_size)
        for kind in sorted({rows[i].kind for i in order[start : start + batch_size]})
    ]
    kinds = _kinds(setting.heldout)
    collator = Collator(setting.pad_id, kinds, packing=setting.config.trainer.packing)
    rank, world = setting.job.rank, setting.job.world
    sums = torch.zeros(len(kinds), 2, dtype=torch.float64)
    for start in range(0, len(batches), world):
        own = start + rank < len(batches)
        kind, chosen = batches[start + rank if own else start]
        loss, count = _next_token_sum(model, collator([setting.heldout[i] for i in chosen]))
        if own:
            sums[kinds.index(kind)] += torch.tensor([loss, count], dtype=torch.float64)
    if world > 1 and dist.is_initialized():
        device = next(model.parameters()).device
        shared = sums.to(device)
        dist.all_reduce(shared)
        sums = shared.cpu()
    model.train(training)
    return {
        f"{kind}_loss": float(total / max(count, 1))
        for kind, (total, count) in zip(kinds, sums.tolist(), strict=True)
    }


def _next_token_sum(model: PreTrainedModel, batch: Batch) -> tuple[float, int]:
    """Return the summed next-token loss and its number of positions.

    The student's own forward is called: a sharded model gathers its weights only then.
    """
    device = next(model.parameters()).device
    layout: Layout = batch["layout"].to(device)
    step = LossInputs(
        layout,
        [Segment(layout.every, None)],
        Mix(ce_weight=1.0, kl_weight=0.0),
        torch.ones((), device=device),
    )
    model(
        input_ids=batch["input_ids"].to(device),
        attention_mask=batch["attention_mask"].to(device),
        step=step,
    )
    return float(step.parts["ce"]), layout.labelled


def _kinds(data: Dataset) -> list[str]:
    return sorted({row.kind for row in data.rows})
