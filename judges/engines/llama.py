"""A GGUF file in this process through llama.cpp, for answers and judges on a CPU.

Prompts are rendered by the file's own template, which alone decides about a token that begins the
text, and tokens are chosen as for a local model: the likeliest one, or a draw that depends on the
request's seed and the position. llama.cpp's own samplers would cut the distribution (top-k, top-p,
min-p) and keep a state. A reply depends on its request alone: nothing is left of the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from kdharness.harness.config.evaluation import EvalConfig, Spec
from kdharness.harness.errors import DataError
from kdharness.harness.models.engine_files import need_llama
from kdharness.harness.models.gguf_models import find_gguf, gguf_hash
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Probe
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.engines.llama_model import CHUNK, LlamaModel
from kdharness.judges.engines.logprobs import Logprobs, Wanted, first_logprobs
from kdharness.judges.engines.numbers import read_one
from kdharness.judges.engines.openings import IN_REASONING, LONGEST, OPENED_END
from kdharness.judges.engines.sampling import BROKEN, Sampler, temperature_of
from kdharness.judges.engines.token_estimates import free_estimate
from kdharness.judges.scoring.endings import ENDING, has_given
from kdharness.judges.scoring.verdicts import is_unfinished

CPU = torch.device("cpu")
FIRST_CONTEXT = 4096
"""Tokens of the first context: a larger one is made when a request needs it."""
LOOK = 1.0
"""Seconds between looks for a stop request."""
PROMPT_END = 8
STOP_TOKENS = 6


@dataclass(frozen=True)
class _Job:
    """One request that fits into the model's context."""

    index: int
    request: GenerationRequest
    prompt: list[int]
    limit: int


class LlamaEngine:
    """One request after the other; deterministic for a seed."""

    deterministic = True
    verdict_ending = ENDING

    def __init__(self, source: str, paths: Paths, *, device: str = "auto", name: str = "") -> None:
        """Create the engine; nothing is loaded before the first request.

        Args:
            source: a GGUF file, or a pulled asset that is one.
            device: auto, cpu, cuda or cuda:1, as far as this llama.cpp was built for it.
        """
        need_llama()
        self.source = source
        self.paths = paths
        self.files = find_gguf(source, paths)
        self.device = device
        self.name = name or f"llama:{source}"
        self.idle: Callable[[], None] = lambda: None
        self._model: LlamaModel | None = None
        self._stopped = False
        self._looked = 0.0

    @classmethod
    def open(cls, spec: Spec, config: EvalConfig, paths: Paths) -> LlamaEngine:
        """Create the engine from a SPEC and an evaluation's config.

        Raises:
            JudgeError: llama-cpp-python is not installed.
            ModelError, AssetError: no such file, or a damaged one.
        """
        return cls(spec.model, paths, device=config.device)

    @cached_property
    def identity(self) -> str:
        """The hash of its bytes, which hold the template too."""
        with Store(self.paths.store) as store:
            return gguf_hash(self.files, store)

    @property
    def unchanged_since(self) -> float:
        """When its files were last written, in seconds since the epoch."""
        return max(path.stat().st_mtime for path in self.files)

    def probe(self, *, logprobs: bool = False) -> Probe:
        """Return what it supports, without loading it; log-probabilities are always available."""
        return Probe(True, True, True, note="a local judge: see its report card", opens=True)

    def estimate(self, requests: Sequence[GenerationRequest]) -> tuple[int, float | None]:
        """Return a rough number of tokens, and a cost of 0."""
        return free_estimate(requests)

    def stop_soon(self) -> None:
        """Stop after the current token."""
        self._stopped = True

    def close(self) -> None:
        """Release the model."""
        if self._model is not None:
            self._model.close()
        self._model = None

    # ------------------------------------------------------------ generating

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        """Yield replies in the order of the requests.

        Raises:
            ModelError: the file cannot be loaded, or has no chat template.
        """
        if not requests:
            return
        model = self._loaded(FIRST_CONTEXT)
        jobs = []
        for index, request in enumerate(requests):
            job = _prepared(model, index, request)
            if isinstance(job, Reply):
                yield index, job
            else:
                jobs.append(job)
        if jobs:
            model = self._loaded(max(len(job.prompt) + job.limit + LONGEST for job in jobs))
        for job in jobs:
            opened = bool(job.request.opening)
            reply = self._opened(model, job) if opened else self._answered(model, job)
            if reply is None:
                return
            yield job.index, reply

    def _loaded(self, tokens: int) -> LlamaModel:
        """Return the model, with a context of at least `tokens` tokens."""
        if self._model is not None and self._model.room < min(tokens, self._model.trained_on):
            self.close()
        if self._model is None:
            self._model = LlamaModel(str(self.files[0]), self.name, self.device, tokens)
        return self._model

    def _answered(self, model: LlamaModel, job: _Job) -> Reply | None:
        """Return the reply to one request; None after a stop request."""
        request, started = job.request, time.monotonic()
        sampler = Sampler([temperature_of(request)], [request.seed], CPU)
        tokens: list[int] = []
        logprobs: Logprobs | None = None
        reason, error = None, ""
        waiting = job.prompt
        while reason is None:
            try:
                logits = self._read(model, waiting, fresh=not tokens)
            except RuntimeError as failed:
                reason, error = Finish.ERROR, f"llama.cpp could not read the prompt: {failed}"
                break
            if logits is None:
                return None
            if request.top_logprobs > 0 and not tokens:
                wanted = Wanted(request.top_logprobs, model.spelt(request.choices))
                logprobs = first_logprobs(
                    logits, {0: wanted}, lambda t: model.text([t], special=True)
                )[0]
            token = int(sampler.choose(logits, len(tokens)))
            if token < 0:
                reason, error = Finish.ERROR, BROKEN
            elif model.ends(token):
                reason = Finish.STOP
            else:
                tokens.append(token)
                waiting = [token]
                reason = _reason(model, job, tokens)
        return Reply(
            text=model.text(tokens).strip(),
            finish=reason,
            prompt_tokens=len(job.prompt),
            tokens=len(tokens),
            seconds=time.monotonic() - started,
            top_logprobs=logprobs,
            error=error,
        )

    def _opened(self, model: LlamaModel, job: _Job) -> Reply | None:
        """Return the numbers after the opening of one reply; None after a stop request."""
        started = time.monotonic()

        def after(tokens: tuple[int, ...]) -> torch.Tensor | None:
            if tokens and model.forget_after(len(job.prompt)):
                return self._read(model, list(tokens), fresh=False)
            return self._read(model, [*job.prompt, *tokens], fresh=True)

        reply = read_one(after, model.numerals, lambda t: model.text([t], special=True))
        if reply is None:
            return None
        seconds = time.monotonic() - started
        return replace(reply, prompt_tokens=len(job.prompt), seconds=seconds)

    def _read(self, model: LlamaModel, tokens: list[int], *, fresh: bool) -> torch.Tensor | None:
        """Return the logits after further tokens; None after a stop request."""
        if fresh:
            model.forget()
        for start in range(0, len(tokens), CHUNK):
            if time.monotonic() - self._looked > LOOK:
                self._looked = time.monotonic()
                self.idle()
            if self._stopped:
                return None
            model.read(tokens[start : start + CHUNK])
        return model.logits()


def _prepared(model: LlamaModel, index: int, request: GenerationRequest) -> _Job | Reply:
    """Return a request as tokens, or an error reply if that is not possible."""
    try:
        prompt = model.prompt(request)
    except DataError as error:
        return Reply(error=str(error), finish=Finish.ERROR)
    if request.opening and is_unfinished(model.text(prompt[-OPENED_END:], special=True)):
        return Reply(error=IN_REASONING, finish=Finish.ERROR, prompt_tokens=len(prompt))
    room = model.trained_on - len(prompt) - (LONGEST if request.opening else 0)
    if room < 1:
        message = (
            f"the prompt has {len(prompt)} tokens, but the context length is {model.trained_on}"
        )
        return Reply(error=message, finish=Finish.ERROR, prompt_tokens=len(prompt))
    return _Job(index, request, prompt, min(room, request.max_new_tokens))


def _reason(model: LlamaModel, job: _Job, tokens: list[int]) -> Finish | None:
    """Return why a reply ends after its newest token, or None."""
    if job.request.stops:
        tail = model.text(tokens[-STOP_TOKENS:])
        if any(stop in tail for stop in job.request.stops):
            # A verdict inside the reasoning does not end the reply.
            whole = model.text(job.prompt[-PROMPT_END:] + tokens, special=True)
            if not is_unfinished(whole):
                return Finish.STOP
    if job.request.verdict and "\n" in model.text(tokens[-1:]):
        whole = model.text(job.prompt[-PROMPT_END:] + tokens, special=True)
        if has_given(model.text(tokens), job.request.verdict) and not is_unfinished(whole):
            return Finish.STOP
    return Finish.LENGTH if len(tokens) >= job.limit else None
