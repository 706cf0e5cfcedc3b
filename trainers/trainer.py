"""The Trainer subclass that SFT, KD and DAE share: planned batches, logs, checkpoints."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from kdharness.harness.errors import RunError
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.protocols import Reporter
from kdharness.harness.util.atomic import is_sealed, seal
from kdharness.harness.util.os_errors import remove_on_failure
from kdharness.trainers.data.batches import BatchPlan, Collator
from kdharness.trainers.data.dataset import Dataset
from kdharness.trainers.data.layout import Layout
from kdharness.trainers.finite import HINT, refuse_not_finite
from kdharness.trainers.l2_start import StartAnchor
from kdharness.trainers.losses.router import RouterCounts, router_weight
from kdharness.trainers.losses.token_weights import batch_temperature
from kdharness.trainers.precision import sharding_policy
from kdharness.trainers.rollouts import SampledRows
from kdharness.trainers.saving import save_beside, step_folders
from kdharness.trainers.step import LossInputs, Objective, attach_loss, loss_inputs
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher
from kdharness.trainers.waiting import wait_for_all

if TYPE_CHECKING:
    from transformers import TrainerControl


class _Watched(NamedTuple):
    """A micro-batch's values on the device: its loss, the terms of it, sampled answers' scores."""

    layout: Layout
    loss: Tensor
    parts: dict[str, Tensor]
    scores: dict[int, Tensor]


class _BeforeTheUpdate(TrainerCallback):
    """Looks at a step's losses and gradient before it is applied, and pulls to the start."""

    def __init__(self, trainer: DistillTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, *args: object, **kwargs: object) -> None:
        """Raise RunError if one of them is no number or has diverged."""
        self.trainer.check_step()
        self.trainer.pull_to_start()

    def on_step_end(
        self, args: object, state: object, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        """Save a checkpoint and stop if the sampled answers broke a limit."""
        sampled = self.trainer.sampled
        if sampled is not None and sampled.problem is not None:
            control.should_save = control.should_training_stop = True
        return control


class DistillTrainer(Trainer):
    """transformers' loop with planned batches, routed teachers and the fused loss."""

    processing_class: Any
    grad_norm: Tensor | float | None = None

    def __init__(
        self,
        *,
        method: Objective,
        plan: BatchPlan,
        dataset: Dataset,
        collator: Collator,
        max_loss: float = 1e4,
        keep: int = 1,
        l2_start: float = 0.0,
        reporter: Reporter,
        rank: int = 0,
        world: int = 1,
        sampled: SampledRows | None = None,
        **kwargs: Any,
    ) -> None:
        self.method = method
        self.plan = plan
        self.keep = keep
        self.reporter = reporter
        self.max_loss = max_loss
        self.anchor = StartAnchor(l2_start)
        self.shard = (rank, world)
        self.begun = False
        self.routing: RouterCounts | None = None
        self.temperature: Tensor | None = None
        self.step_batches: list[Any] = []
        self.watched: list[_Watched] = []
        self.sampled = sampled
        self.sums: dict[str, float] = {}
        self.tokens_since, self.clock = 0, time.monotonic()
        super().__init__(train_dataset=dataset, data_collator=collator, **kwargs)
        self.add_callback(_BeforeTheUpdate(self))
        attach_loss(self.model)
        self.routed = router_weight(causal_model(self.model)) > 0
        # The loss arrives normalised over the whole step (num_items_in_batch); Trainer must
        # neither divide it again nor count items itself in another way.
        self.model_accepts_loss_kwargs = True

    def _prepare_for_training(self, *args: object, **kwargs: object) -> object:
        """Shard the teachers too under FSDP2: a large teacher is a reason to use several GPUs."""
        plugin: Any = getattr(self.accelerator.state, "fsdp_plugin", None)
        sharded = self.is_fsdp_enabled and getattr(plugin, "fsdp_version", 1) == 2
        if sharded:
            plugin.mixed_precision_policy = sharding_policy(bf16=self.args.bf16)
            if isinstance(cast(Any, self.model), FSDPModule):
                # Loaded in shards: accelerate would look for classes that have other names by now.
                plugin.auto_wrap_policy = None
        prepared = super()._prepare_for_training(*args, **kwargs)  # type: ignore[no-untyped-call]
        if sharded:
            for teacher in self.method.frozen:
                if isinstance(teacher, AdapterTeacher):
                    teacher.sharded = True
                elif isinstance(teacher, OnlineTeacher) and not teacher.sharded:
                    teacher.shard(self.accelerator.torch_device_mesh)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Keep the weights that the run started from before those of a checkpoint replace them."""
        self.anchor.keep(cast(Any, self.model))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def pull_to_start(self) -> None:
        """Move the weights towards those that the run started from, by `trainer.l2_start`."""
        self.anchor.keep(cast(Any, self.model))  # at the first step of a run that is not resumed
        self.anchor.pull(cast(Any, self.optimizer))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this process's part of the plan, in order."""
        return DataLoader(
            cast(Any, self.train_dataset),
            batch_sampler=self.plan.for_rank(*self.shard),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _prepare_input(self, data: Any) -> Any:
        """Move a micro-batch to the device, its layout too, without waiting for the copies.

        transformers would move tensors alone, and wait for each.
        """
        if isinstance(data, Mapping):
            return {name: self._prepare_input(value) for name, value in data.items()}
        return data.to(self.args.device, non_blocking=True) if hasattr(data, "to") else data

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
        if self.routed and self.routing is None:
            self.routing = self._count_routing(model)
        step.routing = self.routing
        if self.method.mix.token_weights and self.temperature is None:
            self.temperature = self._token_temperature(model)
        step.temperature = self.temperature
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], step=step
        )
        self._watch(step, outputs["loss"])
        loss = outputs["loss"]
        if self.args.world_size > 1:
            # DDP and FSDP average gradients over processes; the norm already counts them all.
            loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> Any:
        """Sample a step's on-policy answers, before its labelled positions are counted.

        Keep its micro-batches: a mixture's router loss and token weights need them all.
        """
        if self.sampled is not None:
            read = list(islice(epoch_iterator, num_batches))
            step = self.state.global_step + 1
            epoch_iterator = iter(self.sampled.replace(cast(Any, self.model), read, step))
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.routed or self.method.mix.token_weights:
            self.step_batches, self.routing, self.temperature = batches, None, None
        return batches, items

    @torch.no_grad()
    def _token_temperature(self, model: Any) -> Tensor | None:
        """Run the student on the whole step once, for the temperature of its token weights.

        Returns None if the step is one micro-batch of one process, which has all rows. What the
        run draws later, such as dropout, does not depend on this pass.
        """
        if len(self.step_batches) == 1 and self.args.world_size == 1:
            return None
        found = []
        device = self.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for batch in self.step_batches:
                inputs = self._prepare_inputs(batch)
                outputs = model(
                    input_ids=inputs["input_ids"],
                    attention_mask=inputs["attention_mask"],
                    losses=inputs["layout"],
                )
                found.append(outputs["means"])
        means = torch.cat(found)
        if self.args.world_size > 1:
            # Micro-batches by tokens have different numbers of rows.
            padded = self.accelerator.pad_across_processes(means, pad_index=cast(int, math.nan))
            means = cast(Tensor, self.accelerator.gather(padded))
        return batch_temperature(means)

    @torch.no_grad()
    def _count_routing(self, model: Any) -> RouterCounts | None:
        """Run the student on the whole step once, to count what its routers assign.

        Returns None if the step is one micro-batch of one process, which counts its own.
        """
        if len(self.step_batches) == 1 and self.args.world_size == 1:
            return None
        total: Tensor | None = None
        for batch in self.step_batches:
            inputs = self._prepare_inputs(batch)
            found = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                packing=cast(Layout, inputs["layout"]).every.packing,
                counts=True,
            )
            part = torch.cat([found["assignments"].float(), found["rows"].float().reshape(1)])
            total = part if total is None else total + part
        assert total is not None
        if self.args.world_size > 1:
            total = cast(Tensor, self.accelerator.reduce(total, "sum"))
        return RouterCounts(total[:-1], total[-1])

    def _watch(self, step: LossInputs, loss: Tensor) -> None:
        """Keep a micro-batch's values on the device until the step is complete."""
        share = step.norm / max(step.layout.labelled, 1)
        scores = dict(step.scores) if self.sampled is not None else {}
        self.watched.append(_Watched(step.layout, loss.detach() * share, step.parts, scores))
        self.tokens_since += step.layout.tokens

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Keep the gradient's norm, which is that of all processes, for `check_step`."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        # A scaler makes gradients infinite on purpose, and leaves such a step out by itself.
        scaled = getattr(self.accelerator, "scaler", None) is not None
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.grad_norm = None if scaled else whole
        return whole

    def check_step(self) -> None:
        """Collect the step's values for the log, the one time that a device is waited for.

        Raises:
            RunError: a loss is NaN or has diverged, or the gradient is not finite; the weights are
                those before the step.
        """
        watched, self.watched = self.watched, []
        norm, self.grad_norm = self.grad_norm, None
        if not watched:
            return
        names = sorted({name for seen in watched for name in seen.parts})
        losses = [seen.loss for seen in watched]
        sums = [
            torch.stack([seen.parts[name] for seen in watched if name in seen.parts]).sum()
            for name in names
        ]
        scored = {
            (number, place): score
            for number, seen in enumerate(watched)
            for place, score in seen.scores.items()
        }
        last = [] if norm is None else [torch.as_tensor(norm, device=losses[0].device)]
        read = [v.float() for v in (*losses, *sums, *scored.values(), *last)]
        values = torch.stack(read).tolist()
        for seen, value in zip(watched, values, strict=False):
            if not value < self.max_loss:
                raise self._diverged(f"the loss is {value:.4g}", [seen.layout])
        if last and not math.isfinite(length := values.pop()):
            text = f"the gradient's norm is {length:.4g} although the loss is finite,"
            raise self._diverged(text, [seen.layout for seen in watched])
        for name, value in zip(names, values[len(watched) :], strict=False):
            self.sums[name] = self.sums.get(name, 0.0) + value
        if self.sampled is not None:
            own = values[len(watched) + len(names) :]
            self.sampled.keep(dict(zip(scored, own, strict=True)))

    def _diverged(self, what: str, layouts: list[Layout]) -> RunError:
        data = cast(Dataset, self.train_dataset)
        rows = [data.rows[index].where for layout in layouts for index in layout.index]
        more = [f"and {len(rows) - 8} more"] if len(rows) > 8 else []
        return RunError(
            f"{what} at step {self.state.global_step + 1}",
            where="; ".join(rows[:8] + more),
            hint=f"check these rows; {HINT}",
        )

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
        refuse_not_finite(cast(Any, self.model), self.state.global_step)
        step = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if not self.is_world_process_zero():
            super()._save_checkpoint(model, trial)
            wait_for_all()
            return
        with remove_on_failure(step):
            super()._save_checkpoint(model, trial)
            wait_for_all()
            if self.processing_class is not None:
                tokenizer = partial(self.processing_class.save_pretrained, step)
                if warning := save_beside("tokenizer", tokenizer, step):
                    self.reporter.say(warning, kind="warning")
            self._seal(step)

    def _seal(self, step: Path) -> None:
        """Seal a step's folder, then delete older ones."""
        # Curves up to here must be in the store before a resume can start after them.
        self.reporter.say(f"saving step {self.state.global_step}")
        if self.sampled is not None:
            self.sampled.file.sync()
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
            if self.sampled is not None:
                logs |= self.sampled.curves
            self.sums, self.tokens_since, self.clock = {}, 0, now
        super().log(logs, start_time)
