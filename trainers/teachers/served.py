"""A teacher that runs elsewhere: a vLLM server tells what it thinks of every token of a prompt.

vLLM's completions take `prompt_logprobs: k` beside OpenAI's fields and answer, for each token of
the prompt, with the k likeliest tokens at its place. Rows are sent as token ids, so that both
sides mean the same tokens. Answers go into the teacher cache, as those of a teacher here would;
what the k tokens leave is one bucket (`TopK`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from kdharness.harness.config.endpoints import DIRECT, endpoint_of, goes_direct, why_unreached
from kdharness.harness.errors import ModelError
from kdharness.harness.util.redact import find_key, redact
from kdharness.trainers.losses.fused import TopK

AT_ONCE = 16
"""Rows on their way together: a server batches what arrives at the same time."""


class ServedTeacher:
    """Asks a server for distributions."""

    def __init__(self, model: str, url: str, k: int, vocab: int = 0, timeout: float = 300) -> None:
        """`vocab` leaves out ids from there on (0: none), as `shared_vocab` gives it."""
        import openai

        self.model, self.url, self.k, self.vocab = model, url, k, vocab
        self.endpoint = endpoint_of(url)
        key = find_key()
        self.client = openai.OpenAI(
            api_key=key or "none",
            base_url=self.endpoint.base,
            timeout=timeout,
            max_retries=5,
            default_query=dict(self.endpoint.query),
            default_headers=self.endpoint.headers(key),
            http_client=openai.DefaultHttpxClient(
                timeout=timeout, mounts=DIRECT if goes_direct(self.endpoint.base) else None
            ),
        )

    def distributions(self, batch: Mapping[str, Tensor], rows: Tensor, mask: Tensor) -> list[TopK]:
        """One `TopK` [labelled positions, k] for each of the samples `rows` [B].

        Args:
            batch: `input_ids` and `attention_mask` [B, T].
            rows: which samples.
            mask: [B, T] the positions whose next token is learnt.

        Raises:
            ModelError: the server cannot be reached, refuses, or gives no such log-probabilities.
        """
        asked: list[tuple[list[int], list[int]]] = []
        for row in rows.nonzero().squeeze(-1).tolist():
            real = batch["attention_mask"][row].bool()
            places = mask[row][real].nonzero().squeeze(-1).tolist()
            asked.append((batch["input_ids"][row][real].tolist(), places))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda one: self._ask(*one), asked))

    def _ask(self, tokens: Sequence[int], places: Sequence[int]) -> TopK:
        import openai

        try:
            reply = self.client.completions.create(
                model=self.model,
                prompt=list(tokens),
                max_tokens=1,
                temperature=0.0,
                extra_body={"prompt_logprobs": self.k},
            )
        except openai.APIConnectionError as error:
            why = why_unreached(error, self.endpoint.base)
            raise ModelError(
                f"the served teacher did not answer: {why.message}", where=self.url, hint=why.hint
            ) from error
        except openai.OpenAIError as error:
            words = " ".join(redact(str(error), shapes=True).split())[:400]
            raise ModelError(
                f"the served teacher did not answer: {words}",
                where=self.url,
                hint="is it up, does it serve this model, and does it allow so many "
                f"log-probabilities? vllm serve MODEL --max-logprobs {self.k}",
            ) from error
        told = getattr(reply.choices[0], "prompt_logprobs", None) if reply.choices else None
        if not isinstance(told, list) or len(told) != len(tokens):
            raise ModelError(
                "this server gives no log-probabilities of a prompt's tokens",
                where=self.url,
                hint="vLLM does (prompt_logprobs); or load the teacher here",
            )
        # What is told at a place is about the token there: the next one's are one further on.
        found = [self._likeliest(told[place + 1]) for place in places]
        return TopK(
            torch.tensor([ids for ids, _ in found], dtype=torch.int64).reshape(-1, self.k),
            torch.tensor([logp for _, logp in found], dtype=torch.float32).reshape(-1, self.k),
        )

    def _likeliest(self, told: Any) -> tuple[list[int], list[float]]:
        """(ids, log-probabilities) of the k likeliest tokens, from `{id: {logprob: …}}`."""
        try:
            pairs = sorted((-float(one["logprob"]), int(token)) for token, one in told.items())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the server's log-probabilities cannot be read: {str(told)[:120]!r}",
                where=self.url,
            ) from error
        # The token that stands in the text is told too, be it likely or not.
        pairs = [pair for pair in pairs if not self.vocab or pair[1] < self.vocab][: self.k]
        if len(pairs) < self.k:
            raise ModelError(
                f"the server tells {len(pairs)} tokens a place, and the cache keeps {self.k}",
                where=self.url,
                hint=f"vllm serve MODEL --max-logprobs {self.k}, or lower teacher.cache.k",
            )
        return [token for _, token in pairs], [-negative for negative, _ in pairs]
