"""Our trainer settings in transformers' terms."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import TrainingArguments

from kdharness.harness.config.precision import Precision
from kdharness.harness.config.training import TrainConfig
from kdharness.trainers.data.batches import BatchPlan
from kdharness.trainers.engines import uses_fsdp

# The fused AdamW makes one pass over the weights: a fifth of the unfused one's time on a CPU.
_OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}


def training_arguments(
    config: TrainConfig, folder: Path, plan: BatchPlan, device: str, precision: Precision
) -> TrainingArguments:
    """Translate our trainer settings into transformers' TrainingArguments."""
    spec = config.trainer
    on_cpu = device == "cpu"
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        per_device_train_batch_size=spec.batch_size,
        gradient_accumulation_steps=spec.accumulation,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.schedule,
        warmup_steps=int(spec.warmup_ratio * plan.steps),
        weight_decay=spec.weight_decay,
        optim=_OPTIMIZERS[spec.optimizer],
        max_grad_norm=spec.max_grad_norm,
        activation_checkpointing=spec.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if spec.save_every else "no",
        save_steps=spec.save_every or 500,
        # `DistillTrainer` deletes older checkpoints, once the newer one is on disk.
        save_total_limit=None,
        seed=config.seed,
        use_cpu=on_cpu,
        bf16=precision.autocast,
        remove_unused_columns=False,
        dataloader_num_workers=spec.workers,
        dataloader_pin_memory=not on_cpu,
        disable_tqdm=True,
        report_to=[],
        average_tokens_across_devices=True,
        label_names=["labels"],
    )
    # More than one would make the Trainer wrap the model in nn.DataParallel.
    args._n_gpu = min(args.n_gpu, 1)
    return args


def allow_fsdp_on_cpu(args: TrainingArguments) -> None:
    """Allow FSDP2 with several CPU processes: it works over gloo.

    accelerate offers FSDP on accelerators only and silently falls back to DDP; it reads the kind
    of processes when the Trainer creates its Accelerator, after this call.
    """
    if uses_fsdp() and args.distributed_state.distributed_type is DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
