"""The Trainer subclass that SFT, KD and DAE share.

The fused loss runs *inside* the student's forward (`attach_loss`), so that wrappers that gather
weights for a forward pass (DDP, FSDP) see one whole step. The loss is normalised over the labelled
positions of the whole optimiser step, across micro-batches and processes: how a step is split does
not change its gradient.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.utils.generic import ModelOutput

from kdharness.harness.errors import RunError
from kdharness.harness.models.lm_head import causal_model, head_of
from kdharness.harness.protocols import Reporter
from kdharness.harness.util.atomic import is_sealed, seal
from kdharness.harness.util.os_errors import remove_on_failure
from kdharness.trainers.attention_hook import set_tape
from kdharness.trainers.data.batches import BatchPlan, Collator
from kdharness.trainers.data.dataset import Dataset
from kdharness.trainers.losses.attention import AttentionTape
from kdharness.trainers.losses.fused import Mix, fused_loss, labelled_positions, next_tokens
from kdharness.trainers.saving import save_beside, step_folders
from kdharness.trainers.teachers.online import (
    AdapterTeacher,
    OnlineTeacher,
    Segment,
    Teacher,
    last_states,
    route,
)


@dataclass
class LossInputs:
    """Additional inputs of the student's forward, and the loss terms it reports back."""

    mask: Tensor
    segments: list[Segment]
    targets: Tensor | None
    mix: Mix
    norm: Tensor
    attention_weight: float = 0.0
    tape: AttentionTape | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)


def attach_loss(model: Any) -> None:
    """Make a causal LM's forward compute the loss of `LossInputs`, or return its last states.

    Other calls are unchanged.
    """
    causal = causal_model(model)
    plain = causal.forward

    def forward(
        self: Any, *args: Any, step: LossInputs | None = None, states: bool = False, **kwargs: Any
    ) -> Any:
        if states:
            return last_states(self, kwargs["input_ids"], kwargs["attention_mask"])
        if step is None:
            return plain(*args, **kwargs)
        return step_loss(self, kwargs["input_ids"], kwargs["attention_mask"], step)

    causal.forward = MethodType(forward, causal)


def step_loss(
    causal: Any, input_ids: Tensor, attention_mask: Tensor, step: LossInputs
) -> ModelOutput:
    """Return one micro-batch's share of the step's loss: the sum over its positions / `norm`."""
    extra = {}
    router_weight = float(getattr(causal.config, "router_aux_loss_coef", 0.0) or 0.0)
    if router_weight and getattr(causal.config, "output_router_logits", False):
        extra["output_router_logits"] = True
    set_tape(causal, step.tape)
    outputs = causal.base_model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **extra
    )
    hidden, mask = outputs.last_hidden_state, step.mask
    loss = hidden.new_zeros((), dtype=torch.float32)
    kl, ce = loss.clone(), loss.clone()
    order = torch.arange(mask.sum().item(), device=mask.device)
    index_of = torch.full(mask.shape, -1, device=mask.device).masked_scatter(mask, order)
    for segment in step.segments:
        chosen = mask & segment.rows[:, None]
        vocab, teacher = 0, segment.target
        if isinstance(teacher, tuple):
            vocab = teacher[0].vocab
            if teacher[0].weight is None:
                # The student's own head, which a wrapper may have gathered for this forward only.
                teacher = head_of(causal, vocab), teacher[1]
        targets = step.targets[index_of[chosen]] if step.targets is not None else None
        part, sums = fused_loss(
            hidden[chosen],
            head_of(causal, vocab),
            mix=step.mix,
            teacher=teacher,
            targets=targets,
        )
        loss = loss + part / step.norm
        kl += sums.kl
        ce += sums.ce
    step.parts["kl"] = kl / step.norm
    if step.targets is not None:
        step.parts["ce"] = ce / step.norm
    if step.tape is not None:
        attention = step.tape.total() / step.norm
        step.parts["attention"] = attention.detach()
        loss = loss + step.attention_weight * attention
    if extra:
        loss = loss + _router_loss(causal, outputs, attention_mask, step, router_weight)
    return ModelOutput(loss=loss)


def _router_loss(
    causal: Any, outputs: Any, attention_mask: Tensor, step: LossInputs, weight: float
) -> Tensor:
    """Return the student's load-balancing loss, weighted by the micro-batch's share of the step."""
    config = causal.config
    experts = getattr(config, "num_local_experts", None) or config.num_experts
    balance = torch.as_tensor(
        load_balancing_loss_func(
            outputs.router_logits, experts, config.num_experts_per_tok, attention_mask
        )
    )
    step.parts["router"] = balance.detach() * (step.mask.sum() / step.norm)
    return weight * balance * (step.mask.sum() / step.norm)


@dataclass(frozen=True)
class Objective:
    """A method's part in the shared loop.

    Attributes:
        mix: weights, temperature and divergence.
        teachers: kind number -> teacher; empty for SFT.
        layers: student layer -> teacher layer for the attention loss; empty for none.
        attention_weight: λ · γ.
        attention_block: number of attention score rows in memory at once.
    """

    mix: Mix
    teachers: Mapping[int, Teacher] = field(default_factory=dict)
    layers: Mapping[int, int] = field(default_factory=dict)
    attention_weight: float = 0.0
    attention_block: int = 64


def loss_inputs(
    method: Objective, batch: Mapping[str, Tensor], items: Tensor | int | None = None
) -> LossInputs:
    """Run the teachers on a batch; return what the student's forward needs for its loss.

    Args:
        method: the objective.
        batch: input_ids, attention_mask and labels [B, T], kind [B].
        items: number of labelled positions in the whole step; by default those of the batch.
    """
    mask = labelled_positions(batch["labels"])
    norm = torch.as_tensor(mask.sum() if items is None else items, dtype=torch.float32)
    tape = None
    if method.layers and method.attention_weight:
        rows = [row.nonzero().squeeze(-1) for row in mask]
        keys = batch["attention_mask"].bool()
        tape = AttentionTape(method.layers, rows, keys, method.attention_block)
    all_rows = torch.ones_like(batch["kind"], dtype=torch.bool)
    segments = (
        route(batch, mask, method.teachers, tape) if method.teachers else [Segment(all_rows, None)]
    )
    wants_ce = method.mix.ce_weight > 0
    return LossInputs(
        mask=mask,
        segments=segments,
        targets=next_tokens(batch["labels"], mask) if wants_ce else None,
        mix=method.mix,
        norm=norm.to(mask.device),
        attention_weight=method.attention_weight,
        tape=tape,
    )


class DistillTrainer(Trainer):
    """transformers' loop with planned batches, routed teachers and the fused loss."""

    processing_class: Any

    def __init__(
        self,
        *,
        method: Objective,
        plan: BatchPlan,
        dataset: Dataset,
        collator: Collator,
        max_loss: float = 1e4,
        keep: int = 1,
        reporter: Reporter,
        rank: int = 0,
        world: int = 1,
        **kwargs: Any,
    ) -> None:
        self.method = method
        self.plan = plan
        self.keep = keep
        self.reporter = reporter
        self.max_loss = max_loss
        self.shard = (rank, world)
        self.begun = False
        self.sums: dict[str, float] = {}
        self.tokens_since, self.clock = 0, time.monotonic()
        super().__init__(train_dataset=dataset, data_collator=collator, **kwargs)
        attach_loss(self.model)
        # The loss arrives normalised over the whole step (num_items_in_batch); Trainer must
        # neither divide it again nor count items itself in another way.
        self.model_accepts_loss_kwargs = True

    def _prepare_for_training(self, *args: object, **kwargs: object) -> object:
        """Shard the teachers too under FSDP2: a large teacher is a reason to use several GPUs."""
        plugin: Any = getattr(self.accelerator.state, "fsdp_plugin", None)
        sharded = self.is_fsdp_enabled and getattr(plugin, "fsdp_version", 1) == 2
        if sharded:
            # Gradients are summed in fp32. Inputs are not cast: the loss's own stay as they are.
            plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if self.args.bf16 else None,
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,
            )
        prepared = super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]
        if sharded:
            for teacher in self.method.teachers.values():
                if isinstance(teacher, AdapterTeacher):
                    teacher.sharded = True
                elif isinstance(teacher, OnlineTeacher) and not teacher.sharded:
                    teacher.shard(self.accelerator.torch_device_mesh)
        return prepared

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's part of the plan, in order."""
        return DataLoader(
            cast(Any, self.train_dataset),
            batch_sampler=self.plan.for_rank(*self.shard),
            collate_fn=self.data_collator,
            num_workers=0,
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Run the teachers, then the student with the loss inside its forward."""
        self.begun = True
        step = loss_inputs(self.method, inputs, num_items_in_batch)
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], step=step
        )
        self._watch(step, outputs["loss"], inputs)
        loss = outputs["loss"]
        if self.args.world_size > 1:
            # DDP and FSDP average gradients over processes; the norm already counts them all.
            loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def _watch(self, step: LossInputs, loss: Tensor, inputs: Mapping[str, Any]) -> None:
        """Collect values for the log; raise RunError if the loss is NaN or has diverged."""
        value = float(loss.detach())
        share = float(step.norm) / max(float(step.mask.sum()), 1.0)
        if not value * share < self.max_loss:
            data = cast(Dataset, self.train_dataset)
            locations = [data.rows[int(index)].where for index in inputs["index"]]
            raise RunError(
                f"the loss is {value * share:.4g} at step {self.state.global_step + 1}",
                where="; ".join(locations[:8]),
                hint="check these rows; a lower trainer.learning_rate, more warm-up or fp32 "
                "often helps. The last saved checkpoint is kept.",
            )
        for name, part in step.parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(part)
        self.tokens_since += int(inputs["attention_mask"].sum())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as transformers does, except for plain SGD under FSDP.

        torch cannot restore an empty optimizer state, and there is nothing to restore.
        """
        if checkpoint is None or not (self.is_fsdp_enabled and self.args.optim == "sgd"):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / "scheduler.pt", map_location="cpu", weights_only=True)
        assert self.lr_scheduler is not None and self.optimizer is not None
        self.lr_scheduler.load_state_dict(state)
        groups = self.optimizer.param_groups
        for group, rate in zip(groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save only the model; `save_whole` adds the tokenizer once the weights are safe."""
        tokenizer = self.processing_class
        self.processing_class = None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.processing_class = tokenizer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save and seal a checkpoint, then delete older ones.

        A process or machine may die at any point here: an unsealed folder is never loaded.
        """
        step = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if not self.is_world_process_zero():
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            return
        with remove_on_failure(step):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.processing_class is not None:
                tokenizer = partial(self.processing_class.save_pretrained, step)
                if warning := save_beside("tokenizer", tokenizer, step):
                    self.reporter.say(warning, kind="warning")
            self._seal(step)

    def _seal(self, step: Path) -> None:
        """Seal a step's folder, then delete older ones."""
        # Curves up to here must be in the store before a resume can start after them.
        self.reporter.say(f"saving step {self.state.global_step}")
        seal(step)
        steps = step_folders(step.parent)
        whole = [path for path in steps if is_sealed(path)]
        for path in set(steps) - set(whole[-self.keep :]):
            shutil.rmtree(path, ignore_errors=True)

    def _over_processes(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the sums of named values over all processes, which have the same names."""
        if self.args.world_size == 1:
            return dict(values)
        names = sorted(values)
        mine = torch.tensor([values[name] for name in names], device=self.args.device)
        total: Tensor = self.accelerator.reduce(mine, "sum")
        return dict(zip(names, total.tolist(), strict=True))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss terms and the speed since the last log, of all processes together."""
        if "loss" in logs:
            now = time.monotonic()
            sums = self._over_processes({**self.sums, "tokens": float(self.tokens_since)})
            logs["tokens_per_second"] = sums.pop("tokens") / max(now - self.clock, 1e-9)
            logs |= sums
            self.sums, self.tokens_since, self.clock = {}, 0, now
        super().log(logs, start_time)
