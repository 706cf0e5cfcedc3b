"""The forward pass behind held-out loss: log-probabilities on labelled positions only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from kdharness.harness.config_eval import EvalConfig
from kdharness.harness.models import load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.judges.heldout import BATCH_TOKENS, LOGIT_CELLS, Encoded, check_vocabularies


class Scorer:
    """A model (and a teacher, if any) ready to score rows."""

    def __init__(self, source: str, paths: Paths, config: EvalConfig, teacher: str | None) -> None:
        trust = config.trust_remote_code
        options: dict[str, Any] = {
            "dtype": config.dtype, "device": config.device, "trust_remote_code": trust,
        }  # fmt: skip
        self.tokenizer = load_tokenizer(source, paths, trust_remote_code=trust)
        if teacher:
            check_vocabularies(
                self.tokenizer, load_tokenizer(teacher, paths, trust_remote_code=trust)
            )
        self.model = load_model(source, paths, **options)
        self.teacher = load_model(teacher, paths, **options) if teacher else None

    def close(self) -> None:
        """Give the memory back."""
        del self.model, self.teacher

    def batches(self, rows: Sequence[Encoded]) -> Iterator[list[Encoded]]:
        """Rows of like length together, bounded by padded tokens and by logit cells."""
        vocabulary = int(self.model.get_output_embeddings().weight.shape[0])
        budget = max(1, min(BATCH_TOKENS, 4 * LOGIT_CELLS // vocabulary))
        batch: list[Encoded] = []
        for row in sorted(rows, key=lambda row: len(row.ids), reverse=True):
            if batch and len(batch[0].ids) * (len(batch) + 1) > budget:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def measure(self, batch: Sequence[Encoded]) -> list[dict[str, float]]:
        """Sums over each row's labelled tokens, in nats: loss, and kl and agreement (a count)."""
        first = min(min(row.positions) for row in batch)
        width = max(len(row.ids) for row in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(batch):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
        where = torch.tensor([(i, p) for i, row in enumerate(batch) for p in row.positions])
        targets = ids[where[:, 0], where[:, 1] + 1]
        logits = self._logits(self.model, ids, mask, first)
        other = self._logits(self.teacher, ids, mask, first) if self.teacher is not None else None
        rows, places = where[:, 0], where[:, 1] - first
        sums = [
            {"loss": 0.0} | ({"kl": 0.0, "agreement": 0.0} if other is not None else {})
            for _ in batch
        ]
        chunk = max(1, LOGIT_CELLS // logits.shape[-1] // 4)
        for start in range(0, len(where), chunk):
            part = slice(start, start + chunk)
            logs = logits[rows[part], places[part]].float().log_softmax(-1)
            values = {"loss": -logs.gather(1, targets[part, None].to(logs.device))[:, 0].double()}
            if other is not None:
                theirs = other[rows[part], places[part]].float().log_softmax(-1)
                size = min(theirs.shape[-1], logs.shape[-1])
                # Vocabularies padded to different sizes share what their tokenizers can say.
                here, there = logs[:, :size], theirs[:, :size]
                values["kl"] = (there.exp() * (there - here)).sum(-1).double()
                values["agreement"] = (theirs.argmax(-1) == logs.argmax(-1)).double()
            for name, column in values.items():
                for row, value in zip(rows[part].tolist(), column.tolist(), strict=True):
                    sums[row][name] += value
        return sums

    @staticmethod
    def _logits(model: Any, ids: Any, mask: Any, first: int) -> Any:
        """Logits from position `first` on; a model that cannot leave the rest out gives all."""
        device = next(model.parameters()).device
        keep = ids.shape[1] - first
        options: dict[str, Any] = {"use_cache": False}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            options["logits_to_keep"] = keep
        output = model(input_ids=ids.to(device), attention_mask=mask.to(device), **options)
        return output.logits[:, -keep:]
