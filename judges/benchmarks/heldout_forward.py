"""The forward pass for held-out loss: log-probabilities at labelled positions only.

The teacher's last hidden states at those positions are kept between checkpoints (they are small:
positions x hidden size), so that scoring several checkpoints runs the teacher's layers once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.chat.template import IGNORE_INDEX, encode_chat
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ModelError
from kdharness.harness.models.limits import limits_of, refuse_beyond
from kdharness.harness.models.lm_head import backbone, head_logits
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.judges.benchmarks.heldout_rows import HeldoutRow

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


class Scorer:
    """A model (and a teacher, if any) ready to score rows."""

    def __init__(
        self,
        source: str,
        paths: Paths,
        config: EvalConfig,
        teacher: str | None,
        teacher_states: dict[str, Any],
    ) -> None:
        """Load the models; `teacher_states` (row key -> states [n, h]) is filled and used."""
        trust = config.trust_remote_code
        options: dict[str, Any] = {
            "dtype": config.dtype,
            "device": config.device,
            "trust_remote_code": trust,
        }
        self.tokenizer = load_tokenizer(source, paths, trust_remote_code=trust)
        if teacher:
            check_vocabularies(
                self.tokenizer, load_tokenizer(teacher, paths, trust_remote_code=trust)
            )
        self.max_length = config.heldout.max_length
        self.model = load_model(source, paths, **options)
        self.teacher = load_model(teacher, paths, **options) if teacher else None
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
                    limits_of(model),
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
        ours = self._states(self.model, batch)
        theirs = self._teacher_states(batch)
        targets = torch.tensor([row.ids[p + 1] for row in batch for p in row.positions])
        owner = [i for i, row in enumerate(batch) for _ in row.positions]
        names = ["loss"] if theirs is None else ["loss", "kl", "agreement"]
        sums = [dict.fromkeys(names, 0.0) for _ in batch]
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        chunk = max(1, LOGIT_CELLS // vocabulary // 4)
        for start in range(0, len(owner), chunk):
            part = slice(start, start + chunk)
            logs = head_logits(self.model, ours[part]).log_softmax(-1)
            values = {"loss": -logs.gather(1, targets[part, None].to(logs.device))[:, 0].double()}
            if theirs is not None:
                teacher = head_logits(self.teacher, theirs[part]).log_softmax(-1)
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
            hidden = self._states(self.teacher, unseen)
            sizes = [len(row.positions) for row in unseen]
            for row, states in zip(unseen, hidden.split(sizes), strict=True):
                self.teacher_states[row.row.key] = states.clone()
        return torch.cat([self.teacher_states[row.row.key] for row in batch])

    @staticmethod
    def _states(model: PreTrainedModel, batch: Sequence[EncodedRow]) -> Any:
        """Return the last hidden states [n, h] at labelled positions, rows in order."""
        width = max(len(row.ids) for row in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(batch):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
        where = torch.tensor([(i, p) for i, row in enumerate(batch) for p in row.positions])
        device = next(model.parameters()).device
        hidden = backbone(model)(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        ).last_hidden_state
        return hidden[where[:, 0].to(device), where[:, 1].to(device)]
