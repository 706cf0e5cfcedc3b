"""The forward pass for held-out loss: log-probabilities at labelled positions only.

The teacher's last hidden states at those positions are kept between checkpoints (they are small:
positions x hidden size), so that scoring several checkpoints runs the teacher's layers once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

from kdharness.harness.chat.template import IGNORE_INDEX, encode_chat
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ModelError
from kdharness.harness.models.gguf_models import is_gguf
from kdharness.harness.models.limits import ModelLimits, limits_of, refuse_beyond
from kdharness.harness.models.lm_head import backbone, head_logits
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.judges.benchmarks.heldout_rows import HeldoutRow
from kdharness.judges.engines.llama_forward import GgufForward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 2048


LOGIT_CELLS = 64_000_000


@dataclass(frozen=True)
class EncodedRow:
    """A row as tokens; `positions` are those whose next token is labelled."""

    row: HeldoutRow
    ids: list[int]
    positions: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, row: HeldoutRow, longest: int) -> EncodedRow:
    """Return token ids and the positions that predict a labelled token."""
    limit = min(longest, row.max_length or longest)
    chat = encode_chat(
        tokenizer,
        row.messages,
        max_length=limit,
        truncated=row.truncated,
        tools=row.tools,
        variables=row.variables,
    )
    positions = [i - 1 for i in range(1, len(chat.labels)) if chat.labels[i] != IGNORE_INDEX]
    return EncodedRow(row, chat.input_ids, positions)


def check_vocabularies(student: Any, teacher: Any) -> None:
    """Refuse a teacher with another vocabulary: agreement needs the same one.

    Raises:
        ModelError: the tokenizers differ.
    """
    if student.get_vocab() != teacher.get_vocab():
        raise ModelError(
            "the teacher's tokenizer differs from the checkpoint's, so their token "
            "distributions cannot be compared",
            hint="remove heldout.teacher, or use a teacher of the same family",
        )


class Forward(Protocol):
    """A model that gives logits at labelled positions, in two steps: the second needs memory."""

    @property
    def limits(self) -> ModelLimits:
        """Which tokens and lengths it supports."""
        ...

    def states(self, batch: Sequence[EncodedRow]) -> torch.Tensor:
        """Return what `logits` needs of each labelled position, rows in order."""
        ...

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits of some positions, fp32 [n, V]."""
        ...


class Loaded:
    """A model of transformers."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @cached_property
    def limits(self) -> ModelLimits:
        """The sizes of its tables."""
        return limits_of(self.model)

    def states(self, batch: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the last hidden states [n, h]."""
        width = max(len(row.ids) for row in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(batch):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
        where = torch.tensor([(i, p) for i, row in enumerate(batch) for p in row.positions])
        device = next(self.model.parameters()).device
        hidden = backbone(self.model)(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        ).last_hidden_state
        found: torch.Tensor = hidden[where[:, 0].to(device), where[:, 1].to(device)]
        return found

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Run the output head."""
        found: torch.Tensor = head_logits(self.model, states)
        return found


class Scorer:
    """A model (and a teacher, if any) ready to score rows."""

    def __init__(
        self,
        source: str,
        words: str,
        paths: Paths,
        config: EvalConfig,
        teacher: str | None,
        teacher_states: dict[str, Any],
    ) -> None:
        """Load the models and the tokenizer.

        Args:
            source: the model.
            words: the model whose tokenizer it has: another one for a GGUF file.
            paths: the home.
            config: the evaluation's config.
            teacher: the model to compare its distributions with.
            teacher_states: row key -> states [n, h], filled and used.
        """
        trust = config.trust_remote_code
        options: dict[str, Any] = {
            "dtype": config.dtype,
            "device": config.device,
            "trust_remote_code": trust,
        }
        self.tokenizer = load_tokenizer(words, paths, trust_remote_code=trust)
        if teacher:
            check_vocabularies(
                self.tokenizer, load_tokenizer(teacher, paths, trust_remote_code=trust)
            )
        self.max_length = config.heldout.max_length
        self.model: Forward = (
            GgufForward(source, config.device, self.max_length)
            if is_gguf(source)
            else Loaded(load_model(source, paths, **options))
        )
        self.teacher = Loaded(load_model(teacher, paths, **options)) if teacher else None
        self.teacher_states = teacher_states
        self.names = (source, teacher or "")

    def close(self) -> None:
        """Free the memory."""
        del self.model, self.teacher

    def batches(self, rows: Sequence[EncodedRow]) -> Iterator[list[EncodedRow]]:
        """Yield batches of rows of similar length, bounded by padded tokens.

        Raises:
            DataError: a row with a token or length that the model or the teacher does not support.
        """
        for model, name in zip((self.model, self.teacher), self.names, strict=True):
            if model is not None:
                pairs = ((row.row.item, row.ids) for row in rows)
                refuse_beyond(
                    pairs,
                    model.limits,
                    self.tokenizer,
                    name,
                    max_length=self.max_length,
                    field="heldout.max_length",
                )
        batch: list[EncodedRow] = []
        for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
            if batch and len(batch[0].ids) * (len(batch) + 1) > BATCH_TOKENS:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    @torch.inference_mode()
    def measure(self, batch: Sequence[EncodedRow]) -> list[dict[str, float]]:
        """Return sums over each row's labelled tokens: loss and kl in nats, agreement counted."""
        ours = self.model.states(batch)
        theirs = self._teacher_states(batch)
        targets = torch.tensor([row.ids[p + 1] for row in batch for p in row.positions])
        owner = [i for i, row in enumerate(batch) for _ in row.positions]
        names = ["loss"] if theirs is None else ["loss", "kl", "agreement"]
        sums = [dict.fromkeys(names, 0.0) for _ in batch]
        chunk = max(1, LOGIT_CELLS // self.model.limits.vocabulary // 4)
        for start in range(0, len(owner), chunk):
            part = slice(start, start + chunk)
            logs = self.model.logits(ours[part]).log_softmax(-1)
            values = {"loss": -logs.gather(1, targets[part, None].to(logs.device))[:, 0].double()}
            if self.teacher is not None:
                teacher = self.teacher.logits(theirs[part]).log_softmax(-1).to(logs.device)
                size = min(teacher.shape[-1], logs.shape[-1])
                # Vocabularies padded to different sizes share the tokenizer's ids.
                agreed = teacher.argmax(-1) == logs.argmax(-1)
                teacher, logs = teacher[:, :size], logs[:, :size]
                values["kl"] = (teacher.exp() * (teacher - logs)).sum(-1).double()
                values["agreement"] = agreed.double()
            for name, column in values.items():
                for row, value in zip(owner[part], column.tolist(), strict=True):
                    sums[row][name] += value
        return sums

    def _teacher_states(self, batch: Sequence[EncodedRow]) -> Any:
        """Return the teacher's states of a batch; its layers run only for rows not seen before."""
        if self.teacher is None:
            return None
        unseen = [row for row in batch if row.row.key not in self.teacher_states]
        if unseen:
            hidden = self.teacher.states(unseen)
            sizes = [len(row.positions) for row in unseen]
            for row, states in zip(unseen, hidden.split(sizes), strict=True):
                self.teacher_states[row.row.key] = states.clone()
        return torch.cat([self.teacher_states[row.row.key] for row in batch])
