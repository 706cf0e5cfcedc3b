"""Training callbacks: progress, held-out loss, the best checkpoint, stop and pause."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from transformers import TrainerCallback

from kdharness.harness.errors import ConfigError, Interrupted, RunError
from kdharness.harness.util.untrusted import read_json_object
from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset
from kdharness.trainers.data.layout import Batch, Layout
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.saving import save_whole
from kdharness.trainers.step import LossInputs
from kdharness.trainers.teachers.online import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments


def rule_value(rule: str, curves: Mapping[str, float]) -> float:
    """Evaluate a rule such as `general_loss + 0.5 * domain_loss` over named curves.

    Raises:
        ConfigError: anything but names of curves, numbers and + - * /.
    """

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return float(node.value)
        if isinstance(node, ast.Name):
            if node.id not in curves:
                raise ConfigError(
                    f"no held-out curve named {node.id!r}",
                    where="trainer.best",
                    hint=f"available: {', '.join(sorted(curves)) or 'none; set data.heldout'}",
                )
            return curves[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            if isinstance(node.op, ast.Mult):
                return left * right
            if isinstance(node.op, ast.Div) and right:
                return left / right
        raise ConfigError(
            f"invalid rule {rule!r}",
            where="trainer.best",
            hint="use names of held-out curves, numbers and + - * /",
        )

    try:
        return value(ast.parse(rule, mode="eval").body)
    except SyntaxError as error:
        raise ConfigError(f"invalid rule {rule!r}", where="trainer.best") from error


class HeldoutCallback(TrainerCallback):
    """Report steps, measure held-out loss, handle stop and pause requests."""

    def __init__(self, setting: TrainContext) -> None:
        self.setting = setting
        self.stopped = False
        self.final: dict[str, object] = {}
        self.trainer: Any = None
        self.curves: dict[str, float] = {}
        note = setting.job.folder / "best" / "best.json"
        resuming = setting.job.resume and note.exists()
        stored = (
            read_json_object(note, "the best checkpoint's record", RunError) if resuming else {}
        )
        value = stored.get("value", math.inf)
        self.best = float(value) if isinstance(value, (int, float)) else math.inf

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure held-out loss before the first step; an invalid rule fails the run here."""
        if state.global_step == 0:
            self._heldout(kwargs["model"], 0)
        rule = self.setting.config.trainer.best
        if rule and not self.setting.heldout.rows:
            rule_value(rule, {})

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
            "router",
            "tokens_per_second",
        }
        values = {name: float(value) for name, value in (logs or {}).items() if name in names}
        if "loss" in values:
            values["memory_gb"] = memory_gb(self.setting.device)
            self.setting.job.reporter.advance(state.global_step, **values)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Measure held-out loss when due; on a stop request, save a checkpoint and stop."""
        every = self.setting.config.trainer.eval_every
        if every and state.global_step % every == 0 and state.global_step < state.max_steps:
            self._heldout(kwargs["model"], state.global_step)
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
        """Measure held-out loss after the last step."""
        if state.global_step == state.max_steps:
            self._heldout(kwargs["model"], state.global_step)
            self.final = dict(self.curves)

    def _heldout(self, model: PreTrainedModel, step: int) -> None:
        if not self.setting.heldout.rows:
            return
        self.curves = heldout_losses(model, self.setting)
        self.setting.job.reporter.advance(step, **self.curves)
        rule = self.setting.config.trainer.best
        if rule:
            self._keep_best(rule, step)

    def _keep_best(self, rule: str, step: int) -> None:
        """Save to `best/`, all or nothing, when the rule has a new lowest value."""
        value = rule_value(rule, self.curves)
        if step == 0 or not value < self.best:
            return
        self.best = value
        note = {"value": value, "step": step, "rule": rule}
        target = self.setting.job.folder / "best"
        save_whole(self.trainer, self.setting, target, {"best.json": json.dumps(note)})


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
