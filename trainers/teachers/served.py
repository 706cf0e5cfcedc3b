"""A teacher on a vLLM server, which returns log-probabilities of every prompt token.

vLLM's completions accept `prompt_logprobs: k` in addition to OpenAI's fields and return, for each
prompt token, the k most likely tokens at its position. Rows are sent as token ids, so that both
sides use the same tokens. The results go into the teacher cache, like those of a local teacher;
the mass outside the k tokens is one bucket (`TopK`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.config.endpoints import (
    DIRECT,
    Endpoint,
    endpoint_of,
    explain_connection_error,
    goes_direct,
)
from kdharness.harness.errors import ModelError
from kdharness.harness.util.redact import find_key, redact
from kdharness.trainers.data.layout import Batch
from kdharness.trainers.losses.top_k import TopK

if TYPE_CHECKING:
    import openai

AT_ONCE = 16
"""Concurrent requests: a server batches what arrives at the same time."""


def client_of(url: str, timeout: float = 300) -> tuple[Endpoint, openai.OpenAI]:
    """Return a server's endpoint and a client of it, with the key of the environment."""
    import openai

    endpoint, key = endpoint_of(url), find_key()
    client = openai.OpenAI(
        api_key=key or "none",
        base_url=endpoint.base,
        timeout=timeout,
        max_retries=5,
        default_query=dict(endpoint.query),
        default_headers=endpoint.headers(key),
        http_client=openai.DefaultHttpxClient(
            timeout=timeout, mounts=DIRECT if goes_direct(endpoint.base) else None
        ),
    )
    return endpoint, client


class ServedTeacher:
    """Queries a server for distributions."""

    def __init__(self, model: str, url: str, k: int, vocab: int = 0, timeout: float = 300) -> None:
        """Connect to a server; ids from `vocab` on are dropped (0: none), see `shared_vocab`."""
        self.model, self.url, self.k, self.vocab = model, url, k, vocab
        self.endpoint, self.client = client_of(url, timeout)

    def distributions(self, batch: Batch, rows: Sequence[int]) -> list[TopK]:
        """Return one `TopK` [labelled positions, k] for each of some rows of a batch.

        Args:
            batch: `input_ids` [B, T] and the layout.
            rows: their places in the batch.

        Raises:
            ModelError: the server is unreachable, refuses, or returns no prompt log-probabilities.
        """
        layout = batch["layout"]
        requests: list[tuple[list[int], list[int]]] = []
        for row in rows:
            start, end = layout.spans[row]
            positions = [place - start for place in layout.places[row]]
            requests.append((batch["input_ids"][row, start:end].tolist(), positions))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda request: self._ask(*request), requests))

    def _ask(self, tokens: Sequence[int], positions: Sequence[int]) -> TopK:
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
            why = explain_connection_error(error, self.endpoint.base)
            raise ModelError(
                f"the served teacher did not respond: {why.message}", where=self.url, hint=why.hint
            ) from error
        except openai.OpenAIError as error:
            words = " ".join(redact(str(error), shapes=True).split())[:400]
            raise ModelError(
                f"the served teacher did not respond: {words}",
                where=self.url,
                hint=f"is it running, does it serve this model, and does it allow {self.k} "
                f"log-probabilities? vllm serve MODEL --max-logprobs {self.k}",
            ) from error
        logprobs = getattr(reply.choices[0], "prompt_logprobs", None) if reply.choices else None
        if not isinstance(logprobs, list) or len(logprobs) != len(tokens):
            raise ModelError(
                "this server does not return prompt log-probabilities",
                where=self.url,
                hint="use vLLM (prompt_logprobs), or load the teacher locally",
            )
        # The entry at a position is about the token there: the next token's is one further on.
        likeliest = [self._likeliest(logprobs[position + 1]) for position in positions]
        return TopK(
            torch.tensor([ids for ids, _ in likeliest], dtype=torch.int64).reshape(-1, self.k),
            torch.tensor([logp for _, logp in likeliest], dtype=torch.float32).reshape(-1, self.k),
        )

    def _likeliest(self, entry: Any) -> tuple[list[int], list[float]]:
        """Return (ids, log-probabilities) of the top-k tokens, from `{id: {logprob: …}}`."""
        try:
            pairs = sorted((-float(value["logprob"]), int(token)) for token, value in entry.items())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the server's log-probabilities cannot be parsed: {str(entry)[:120]!r}",
                where=self.url,
            ) from error
        # The prompt's own token is included even if it is not among the top k.
        pairs = [pair for pair in pairs if not self.vocab or pair[1] < self.vocab][: self.k]
        if len(pairs) < self.k:
            raise ModelError(
                f"the server returned {len(pairs)} log-probabilities per position, but the cache "
                f"keeps {self.k}",
                where=self.url,
                hint=f"vllm serve MODEL --max-logprobs {self.k}, or lower teacher.cache.k",
            )
        return [token for _, token in pairs], [-negative for negative, _ in pairs]
