"""The FLOPs of a training run, computed from shapes (docs/method.md#flops).

Full fine-tuning 6 · P_s + 2 · P_t per position, LoRA 4 · P_s + 2 · P_t, another 2 · P_s with
gradient checkpointing; attention products; heads at labelled positions only. Padding counts: it is
computed. `selfcheck` and the tests compare the real steps with this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.runs.rollouts import sampling_work
from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.step import Objective
from kdharness.trainers.teachers.cached import CachedTeacher
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that determine its FLOPs.

    `body` is its number of parameters without embeddings, head and adapter.
    """

    body: int
    layers: int
    heads: int
    head_size: int
    hidden: int
    vocab: int
    adapter: int = 0


def shape_of(model: PreTrainedModel) -> Shape:
    """Return the shape of a causal LM; for a mixture, count a token's active parameters."""
    causal = causal_model(model)
    config = causal.config.get_text_config()
    embeddings = causal.get_input_embeddings().weight
    head = causal.get_output_embeddings().weight
    outside = {id(embeddings), id(head)}
    body = adapter = 0
    for name, value in causal.named_parameters():
        if id(value) in outside:
            continue
        if "lora_" in name:
            adapter += value.numel()
            continue
        share = 1.0
        if ".experts." in name:
            experts = getattr(config, "num_local_experts", None) or config.num_experts
            share = config.num_experts_per_tok / experts
        # Two 4-bit weights are packed into one element.
        packed = 2 if type(value).__name__ == "Params4bit" else 1
        body += int(value.numel() * packed * share)
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        body, config.num_hidden_layers, heads, size, config.hidden_size, head.shape[0], adapter
    )


def floor_flops(
    student: Shape,
    teacher: Shape | None,
    *,
    rows: int,
    width: int,
    labelled: int,
    lora: bool = False,
    checkpointing: bool = False,
) -> float:
    """Return the minimum FLOPs of one step of `rows` x `width` positions."""
    times = (2 if lora else 3) + bool(checkpointing)
    total = 2.0 * times * student.body * rows * width
    # An adapter's own weights do get gradients.
    total += 2.0 * (3 + bool(checkpointing)) * student.adapter * rows * width
    # The backward of attention multiplies five times where its forward multiplies twice.
    total += _scores(student, rows, width) * (3.5 + bool(checkpointing))
    total += 2.0 * (2 if lora else 3) * student.vocab * student.hidden * labelled
    if teacher is not None:
        total += forward_flops(teacher, rows=rows, width=width, labelled=labelled)
    return total


def forward_flops(shape: Shape, *, rows: int, width: int, labelled: int) -> float:
    """Return the FLOPs of a frozen model's forward pass, with its head at labelled positions."""
    body = 2.0 * shape.body * rows * width
    return body + _scores(shape, rows, width) + 2.0 * shape.vocab * shape.hidden * labelled


def _scores(shape: Shape, rows: int, width: int) -> float:
    return 4.0 * rows * width**2 * shape.layers * shape.heads * shape.head_size


def generation_flops(shape: Shape, prompt: int, tokens: int) -> float:
    """Return the FLOPs of sampling an answer with a cache of keys and values.

    Args:
        shape: the student's.
        prompt: tokens of the prompt.
        tokens: tokens of the answer.
    """
    work = sampling_work(prompt, tokens)
    total = 2.0 * (shape.body + shape.adapter) * work.read
    total += 2.0 * shape.vocab * shape.hidden * work.tokens
    return total + 4.0 * work.scores * shape.layers * shape.heads * shape.head_size


def attention_loss_flops(student: Shape, layers: int, keys: float) -> float:
    """Return the FLOPs of the attention loss: both sides' scores twice, two gradient products.

    Args:
        layers: mapped layers.
        keys: over all labelled positions, how many keys each of them sees.
    """
    return 2.0 * student.heads * student.head_size * 6 * keys * layers


def training_flops(setting: TrainContext, method: Objective) -> float:
    """Return the FLOPs of a whole training run over all processes."""
    return sum(batch_flops(setting, method))


def batch_flops(setting: TrainContext, method: Objective) -> list[float]:
    """Return the FLOPs of every micro-batch of a training run on the data's answers."""
    costs, rows = BatchCosts(setting, method), setting.train.rows
    return [costs.of([rows[index] for index in batch]) for batch in setting.plan.batches]


class BatchCosts:
    """The FLOPs of micro-batches, from the models' shapes as they are now: sharding hides them."""

    def __init__(self, setting: TrainContext, method: Objective) -> None:
        self.student = shape_of(setting.student)
        self._cost = _cost_of_rows(setting, method, self.student)
        self._packed = setting.config.trainer.packing

    def of(self, rows: Sequence[TrainRow]) -> float:
        """Return the FLOPs of a micro-batch; packed rows are computed one by one."""
        return sum(map(self._cost, ([row] for row in rows) if self._packed else [rows]))

    def sampling(self, prompt: int, tokens: int) -> float:
        """Return the FLOPs of sampling one answer."""
        return generation_flops(self.student, prompt, tokens)


def _cost_of_rows(
    setting: TrainContext, method: Objective, student: Shape
) -> Callable[[Sequence[TrainRow]], float]:
    """Return what computes the FLOPs of rows that are padded to the longest of them.

    Each row costs one forward pass of its own teacher, over the rows of its kind. A cached teacher
    costs none; cached hidden states cost the teacher's head.
    """
    shapes = {
        setting.kinds[number]: shape_of(teacher.model)
        for number, teacher in method.teachers.items()
        if isinstance(teacher, (OnlineTeacher, AdapterTeacher))
    }
    heads = {
        setting.kinds[number]: teacher.head_shape
        for number, teacher in method.teachers.items()
        if isinstance(teacher, CachedTeacher) and teacher.head_shape
    }
    anchors = {
        setting.kinds[number]: shape_of(teacher.model)
        for number, teacher in method.anchors.items()
        if isinstance(teacher, (OnlineTeacher, AdapterTeacher))
    }
    spec, lora = setting.config.trainer, setting.config.student.lora is not None
    shared = next(iter(shapes.values()), None) if len(method.teachers) == 1 else None

    def cost(rows: Sequence[TrainRow]) -> float:
        total = floor_flops(
            student,
            shared,
            rows=len(rows),
            width=max(map(len, rows)),
            labelled=sum(row.labelled for row in rows),
            lora=lora,
            checkpointing=spec.gradient_checkpointing,
        )
        for kind, shape in {} if shared else shapes.items():
            routed = [row for row in rows if row.kind == kind]
            if routed:
                total += forward_flops(
                    shape,
                    rows=len(routed),
                    width=max(map(len, routed)),
                    labelled=sum(row.labelled for row in routed),
                )
        for kind, (vocab, hidden) in heads.items():
            taught = rows if len(method.teachers) == 1 else [r for r in rows if r.kind == kind]
            total += 2.0 * vocab * hidden * sum(row.labelled for row in taught)
        for kind, shape in anchors.items():
            if taught := [row for row in rows if row.kind == kind]:
                labelled = sum(row.labelled for row in taught)
                width = max(map(len, taught))
                total += forward_flops(shape, rows=len(taught), width=width, labelled=labelled)
                # The student's head once more, with its gradients.
                total += 2.0 * (2 if lora else 3) * student.vocab * student.hidden * labelled
        if method.mix.token_weights:
            labelled = sum(row.labelled for row in rows)
            # The losses that the weights depend on; those of a split step, before it begins.
            total += 2.0 * student.vocab * student.hidden * labelled
            if setting.plan.per_step > 1:
                width = max(map(len, rows))
                total += forward_flops(student, rows=len(rows), width=width, labelled=labelled)
        if method.attention_weight and method.layers:
            keys = float(sum(sum(row.label_places) for row in rows))
            total += attention_loss_flops(student, len(method.layers), keys)
        return total

    return cost
