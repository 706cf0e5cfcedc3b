"""A Hugging Face model in this process as an engine, for answers and for offline judging.

The loop is our own and not `generate`, because a benchmark needs things that do not combine there:
one batch with different temperatures, seeds and lengths, each row's draws from its own seed (so
that an answer does not depend on the rest of its batch), rows that leave the batch as they finish,
and the first token's log-probabilities from the same pass. Tokens are chosen on the device, and the
host waits for it once per token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, count
from typing import Any

import torch

from kdharness.harness.chat.end_tokens import all_ends
from kdharness.harness.chat.template import encode_prompt
from kdharness.harness.config.evaluation import EvalConfig, Spec
from kdharness.harness.errors import DataError
from kdharness.harness.models.limits import (
    ModelLimits,
    first_beyond,
    limits_of,
    unknown_token,
    usable_pad,
)
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.models.resolve import identity_of, last_written, resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Probe
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.engines.batching import Limits, batches_of, generation_batches
from kdharness.judges.engines.decoding import Decoding, Fixed, Growing, can_record, recorded
from kdharness.judges.engines.kv_cache import check_cache
from kdharness.judges.engines.logprobs import Wanted, first_logprobs
from kdharness.judges.engines.numbers import NumberReader, numerals
from kdharness.judges.engines.openings import IN_REASONING, LONGEST, OPENED_END, instead
from kdharness.judges.engines.sampling import BROKEN, Sampler, temperature_of
from kdharness.judges.scoring.endings import ENDING, has_given
from kdharness.judges.scoring.verdicts import is_unfinished

# Padded prompt tokens per batch: bounds memory for long prompts.
PREFILL_TOKENS = 16_384
# What a pass costs beside its tokens, in tokens: reading the weights, and launching kernels.
BATCH_START = {"cpu": 32, "gpu": 1024}
# Tokens at a prompt's end that may open the reply's reasoning.
PROMPT_END = 8


@dataclass
class _Row:
    """One request in a batch."""

    index: int
    request: GenerationRequest
    prompt: list[int]
    limit: int
    done: bool = False
    tokens: list[int] = field(default_factory=list)
    logprobs: tuple[tuple[str, float], ...] | None = None

    def restarted(self) -> _Row:
        """Return the same row before its first token."""
        return _Row(self.index, self.request, self.prompt, self.limit)


class LocalEngine:
    """Batched generation, sorted by length; deterministic for a seed."""

    deterministic = True
    verdict_ending = ENDING

    def __init__(
        self,
        source: str,
        paths: Paths,
        *,
        batch_size: int = 16,
        cuda_graphs: bool = False,
        name: str = "",
        **options: Any,
    ) -> None:
        """Create the engine; nothing is loaded before the first request.

        Args:
            source: a folder, a stored checkpoint, an asset or a Hub id.
            batch_size: chats per batch.
            cuda_graphs: replay the pass of a token instead of launching its kernels one by one.
            options: `dtype`, `device` and `trust_remote_code` of `load_model`.
        """
        self.source = source
        self.paths = paths
        self.batch_size = batch_size
        self.cuda_graphs = cuda_graphs
        self.options = options
        self.name = name or f"local:{source}"
        self._model: Any = None
        self._tokenizer: Any = None
        self.end_tokens: frozenset[int] = frozenset()
        self._stopped = False
        self.idle: Callable[[], None] = lambda: None

    @classmethod
    def open(cls, spec: Spec, config: EvalConfig, paths: Paths) -> LocalEngine:
        """Create the engine from a SPEC and an evaluation's config."""
        return cls(
            spec.model,
            paths,
            batch_size=config.batch_size,
            cuda_graphs=config.cuda_graphs,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
        )

    @cached_property
    def identity(self) -> str:
        """The hash of its weights and template: a judge that changed is queried again."""
        with Store(self.paths.store) as store:
            return identity_of(resolve_model(self.source, self.paths), self.paths, store).id

    @cached_property
    def unchanged_since(self) -> float:
        """When its files were last written, in seconds since the epoch; now for a Hub model."""
        return last_written(resolve_model(self.source, self.paths), self.paths)

    def probe(self, *, logprobs: bool = False) -> Probe:
        """Find the model without loading it; log-probabilities are always available."""
        resolve_model(self.source, self.paths)
        return Probe(True, True, True, note="a local judge: see its report card", opens=True)

    def estimate(self, requests: Sequence[GenerationRequest]) -> tuple[int, float | None]:
        """Return a rough number of tokens, and a cost of 0."""
        characters = sum(len(m["content"]) for r in requests for m in r.messages)
        return characters // 4 + sum(r.max_new_tokens for r in requests), 0.0

    def stop_soon(self) -> None:
        """Stop after the current token."""
        self._stopped = True

    def close(self) -> None:
        """Release the model."""
        self._model = self._tokenizer = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ------------------------------------------------------------ loading

    @property
    def model(self) -> Any:
        """The model, loaded when first needed."""
        if self._model is None:
            model = load_model(self.source, self.paths, **self.options)
            check_cache(model, self.source)
            self.cuda_graphs = self.cuda_graphs and can_record(model, self.source)
            self._model = model
            self.end_tokens = frozenset(all_ends(self._model, self.tokenizer))
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded when first needed."""
        if self._tokenizer is None:
            trust = bool(self.options.get("trust_remote_code", False))
            self._tokenizer = load_tokenizer(self.source, self.paths, trust_remote_code=trust)
        return self._tokenizer

    @property
    def context(self) -> int:
        """The context length in tokens."""
        return self.limits.trained_on or 1 << 20

    @cached_property
    def limits(self) -> ModelLimits:
        """How many token ids and positions the model has."""
        return limits_of(self.model)

    # ------------------------------------------------------------ generating

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        """Yield replies as each row finishes; a batch has prompts of similar length."""
        rows: list[_Row] = []
        for index, request in enumerate(requests):
            row = self._row(index, request)
            if isinstance(row, Reply):
                yield index, row
            else:
                rows.append(row)
        opened = [row for row in rows if row.request.opening]
        plain = self._batches([row for row in rows if not row.request.opening])
        for batch in chain(plain, self._alike(opened)):
            if self._stopped:
                return
            yield from self._in_room(batch)

    def _in_room(self, rows: list[_Row]) -> Iterator[tuple[int, Reply]]:
        """Generate a batch; if memory runs out, retry its unfinished rows in two halves."""
        opened = bool(rows[0].request.opening)
        try:
            yield from self.read_numbers(rows) if opened else self.generate_batch(rows)
            return
        except torch.OutOfMemoryError as error:
            left = [row for row in rows if not row.done]
            message = str(error).splitlines()[0]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            yield left[0].index, Reply(error=f"out of memory: {message}", finish=Finish.ERROR)
            return
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            if half:
                yield from self._in_room([row.restarted() for row in half])

    def _row(self, index: int, request: GenerationRequest) -> _Row | Reply:
        """Return a request prepared for a batch, or an error reply if that is not possible."""
        try:
            prompt = encode_prompt(self.tokenizer, request.messages, request.opening)
        except DataError as error:
            return Reply(error=str(error), finish=Finish.ERROR)
        if request.opening and is_unfinished(self.tokenizer.decode(prompt[-OPENED_END:])):
            return Reply(error=IN_REASONING, finish=Finish.ERROR, prompt_tokens=len(prompt))
        if (beyond := first_beyond(prompt, self.limits)) is not None:
            message = unknown_token(beyond, self.tokenizer, self.limits, self.source)
            return Reply(error=message, finish=Finish.ERROR, prompt_tokens=len(prompt))
        room = self.context - len(prompt) - (LONGEST - 1 if request.opening else 0)
        if room < 1:
            return Reply(
                error=f"the prompt has {len(prompt)} tokens, but the context length is "
                f"{self.context}",
                finish=Finish.ERROR,
                prompt_tokens=len(prompt),
            )
        return _Row(index, request, prompt, min(room, request.max_new_tokens))

    def _batches(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Yield rows that are generated together, the longest first."""
        sizes = [(len(row.prompt), row.limit) for row in rows]
        for batch in generation_batches(sizes, self._batch_limits()):
            yield [rows[place] for place in batch]

    def _alike(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Yield rows whose prompts begin alike together: the beginning is read once."""
        for batch in batches_of([row.prompt for row in rows], self._batch_limits()):
            yield [rows[place] for place in batch]

    def _batch_limits(self) -> Limits:
        kind = next(self.model.parameters()).device.type
        start = BATCH_START["cpu" if kind == "cpu" else "gpu"]
        return Limits(self.batch_size, PREFILL_TOKENS, start)

    @torch.inference_mode()
    def generate_batch(self, rows: list[_Row]) -> Iterator[tuple[int, Reply]]:
        """Yield each row's reply as it ends; raise torch.OutOfMemoryError if memory runs out."""
        started = time.monotonic()
        decoding = self._decoding([len(row.prompt) for row in rows])
        width = max(len(row.prompt) for row in rows)
        pad = usable_pad(self.tokenizer.pad_token_id, self.limits)
        ids = torch.tensor([[pad] * (width - len(r.prompt)) + r.prompt for r in rows])
        device = next(self.model.parameters()).device
        logits = self._next_logits(decoding.prefill(ids.to(device)))
        self._note_logprobs(rows, logits)
        sampler = Sampler(
            [temperature_of(r.request) for r in rows], [r.request.seed for r in rows], device
        )
        for step in count():
            chosen = sampler.choose(logits, step)
            active = []
            # The one place where the host waits for the device.
            for index, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
                if row.done:
                    continue
                reason = self._ended(row, token)
                if reason is None:
                    active.append(index)
                else:
                    yield row.index, self._reply(row, reason, time.monotonic() - started)
            if not active or self._stopped:
                return
            if len(active) < len(rows):
                kept = decoding.keep(active)
                if kept is not None:
                    rows, chosen = [rows[index] for index in active], chosen[kept]
                    sampler.keep(active)
            logits = self._next_logits(decoding.step(chosen))

    def _decoding(self, lengths: Sequence[int]) -> Decoding:
        """Return how a batch of prompts of these lengths is continued."""
        if not self.cuda_graphs:
            return Growing(self.model, lengths, self.source, self.context)
        return Fixed(self.model, lengths, self.source, self.context, recorded)

    @torch.inference_mode()
    def read_numbers(self, rows: list[_Row]) -> Iterator[tuple[int, Reply]]:
        """Yield the numbers after each row's opening; raise torch.OutOfMemoryError as above."""
        started = time.monotonic()
        pad = usable_pad(self.tokenizer.pad_token_id, self.limits)
        reader = NumberReader(self.model, [row.prompt for row in rows], pad)
        found = list(reader.read(self._numerals))
        for row, (reading, (token, share)) in zip(rows, found, strict=True):
            row.logprobs = reading.logprobs if reading is not None else None
            reason = Finish.STOP if reading is not None else Finish.ERROR
            reply = self._reply(row, reason, (time.monotonic() - started) / len(rows))
            info = instead(self.tokenizer.decode([token]), share) if reading is not None else {}
            yield row.index, replace(reply, info=info)

    @cached_property
    def _numerals(self) -> dict[int, str]:
        return numerals(self.tokenizer)

    def _next_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits that the next tokens are chosen by: the model's own."""
        return logits

    def _ended(self, row: _Row, token: int) -> Finish | None:
        """Append a token to a row; return why the row ended, or None."""
        if token < 0:
            return Finish.ERROR
        if token in self.end_tokens:
            return Finish.STOP
        row.tokens.append(token)
        if row.request.stops:
            tail = self.tokenizer.decode(row.tokens[-6:])
            # A verdict inside the reasoning does not end the reply.
            if any(stop in tail for stop in row.request.stops) and not self._is_thinking(row):
                return Finish.STOP
        if row.request.verdict and "\n" in self.tokenizer.decode([token]):
            text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
            if has_given(text, row.request.verdict) and not self._is_thinking(row):
                return Finish.STOP
        return Finish.LENGTH if len(row.tokens) >= row.limit else None

    def _is_thinking(self, row: _Row) -> bool:
        """Return whether a row's text ends inside reasoning, which its prompt may have opened."""
        return is_unfinished(self.tokenizer.decode(row.prompt[-PROMPT_END:] + row.tokens))

    def _reply(self, row: _Row, reason: Finish, seconds: float) -> Reply:
        row.done = True
        broken = reason is Finish.ERROR
        return Reply(
            error=BROKEN if broken else "",
            text=self.tokenizer.decode(row.tokens, skip_special_tokens=True).strip(),
            finish=reason,
            prompt_tokens=len(row.prompt),
            tokens=len(row.tokens),
            seconds=seconds,
            top_logprobs=row.logprobs,
        )

    def _note_logprobs(self, rows: Sequence[_Row], logits: torch.Tensor) -> None:
        """Record the first token's log-probabilities: the top ones, and the requested choices."""
        wanted = {
            index: Wanted(row.request.top_logprobs, self._spelt(row.request.choices))
            for index, row in enumerate(rows)
            if row.request.top_logprobs > 0
        }
        found = first_logprobs(logits, wanted, lambda token: self.tokenizer.decode([token]))
        for index, logprobs in found.items():
            rows[index].logprobs = logprobs

    def _spelt(self, choices: Sequence[str]) -> dict[str, list[int]]:
        """Return the tokens of each choice."""
        return {c: self.tokenizer(c, add_special_tokens=False)["input_ids"] for c in choices}
