"""A model served by `vllm serve`, started for an evaluation and stopped after it.

vLLM runs in a process, and if need be an environment, of its own; it is asked through the
OpenAI-compatible client. It is started when the first request comes, so that a judge does not hold
a GPU while answers are generated there, and this process has one server at a time.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from kdharness.harness.chat.end_tokens import end_of_turn, stopping_tokens
from kdharness.harness.chat.template import encode_prompt
from kdharness.harness.config.evaluation import EvalConfig, Spec
from kdharness.harness.config.settings import VLLMSettings, load_settings
from kdharness.harness.errors import DataError, JudgeError
from kdharness.harness.models.engine_files import check_engine, vllm_program
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.models.loading import load_tokenizer
from kdharness.harness.models.resolve import identity_of, last_written, resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Probe
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, GenerationRequest, Reply, digest
from kdharness.judges.engines.openai import OpenAIEngine
from kdharness.judges.engines.openings import IN_REASONING, OPENED_END
from kdharness.judges.engines.token_estimates import free_estimate
from kdharness.judges.engines.vllm_server import Launch, VLLMServer, lock_folder
from kdharness.judges.scoring.verdicts import is_unfinished

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_current: list[VLLMServer] = []
"""The server of this process, if there is one."""


class VLLMEngine:
    """A model of this machine behind a vLLM server of its own."""

    deterministic = False

    def __init__(self, source: str, config: EvalConfig, paths: Paths) -> None:
        """Create the engine; the server is started by the first request."""
        self.source = source
        self.config = config
        self.paths = paths
        self.settings = load_settings(paths).vllm
        self.name = f"vllm:{source}"
        self.idle: Callable[[], None] = lambda: None
        self._server: VLLMServer | None = None
        self._client: OpenAIEngine | None = None
        self._stopped = False

    @classmethod
    def open(cls, spec: Spec, config: EvalConfig, paths: Paths) -> VLLMEngine:
        """Create the engine from a SPEC and an evaluation's config.

        Raises:
            JudgeError: vLLM is not installed.
            ModelError, AssetError: no such model, or an adapter.
        """
        check_engine(spec, paths)
        return cls(spec.model, config, paths)

    @cached_property
    def _found(self) -> str:
        """The model's folder, or `org/name@commit`."""
        return resolve_model(self.source, self.paths)

    @cached_property
    def identity(self) -> str:
        """The hash of its weights and template, as for a local model."""
        with Store(self.paths.store) as store:
            return identity_of(self._found, self.paths, store).id

    @cached_property
    def unchanged_since(self) -> float:
        """When its files were last written, in seconds since the epoch; now for a Hub model."""
        return last_written(self._found, self.paths)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        trust = self.config.trust_remote_code
        return load_tokenizer(self.source, self.paths, trust_remote_code=trust)

    def probe(self, *, logprobs: bool = False) -> Probe:
        """Find the model without starting a server; log-probabilities are always available."""
        return Probe(
            True,
            True,
            True,
            note=f"vllm serve starts when needed; log: {self.log_file}",
            opens=True,
        )

    def estimate(self, requests: Sequence[GenerationRequest]) -> tuple[int, float | None]:
        """Return a rough number of tokens, and a cost of 0."""
        return free_estimate(requests)

    @property
    def log_file(self) -> str:
        """Where the server's output goes."""
        return str(self._launch.log)

    def stop_soon(self) -> None:
        """Start no further calls; wait for those in progress."""
        self._stopped = True
        if self._client is not None:
            self._client.stop_soon()

    def close(self) -> None:
        """Stop the server."""
        if self._server is not None and self._server in _current:
            _stop_current()
        self._server = self._client = None

    # ------------------------------------------------------------ the server

    @cached_property
    def _launch(self) -> Launch:
        hub = split_hub_name(self._found)
        model, revision = hub if hub else (self._found, None)
        devices = visible_devices(self.config.device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        name = re.sub(r"[^\w.-]+", "-", self.source).strip("-.")[-60:] or "model"
        # Machines that share a home have a log each.
        log = f"{name}-{digest(self._found, devices, platform.node())[:8]}.log"
        lock = f"{name}-{digest(self._found, devices)[:8]}.lock"
        return Launch(
            program=(
                vllm_program(self.paths),
                "serve",
                model,
                *(("--revision", revision, "--tokenizer-revision", revision) if revision else ()),
                *_options(self.settings, self.config),
            ),
            served=name,
            log=self.paths.home / "servers" / log,
            lock=lock_folder() / lock,
            timeout=self.settings.startup_timeout,
            settings=self.paths.settings,
            environment={} if devices is None else {"CUDA_VISIBLE_DEVICES": devices},
        )

    def _waiting(self) -> bool:
        """Look for a stop request; return whether there was one."""
        self.idle()
        return self._stopped

    def _watch(self) -> None:
        """Look for a stop request, and for a server that has ended."""
        self.idle()
        if self._server is not None and not self._server.is_running:
            raise self._server.failed("ended")

    def _ready(self) -> OpenAIEngine | None:
        """Return a client of the running server; None after a stop request."""
        if self._server is None or not self._server.is_running:
            self._server = self._client = None
            server = _started(self._launch, self._waiting)
            if server is None:
                return None
            self._server = server
        if self._client is None:
            self._client = self._made_client(self._server)
        return self._client

    def _made_client(self, server: VLLMServer) -> OpenAIEngine:
        config = self.config
        client = OpenAIEngine(
            server.launch.served,
            server.url,
            concurrency=config.concurrency,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
            timeout=config.call_timeout("vllm"),
            total_timeout=config.total_timeout,
            retries=config.retries,
        )
        client.key = server.key
        client.name = self.name
        ends = stopping_tokens(self._tokenizer) | {end_of_turn(self._tokenizer)}
        # vLLM stops at the model's own tokens; the template's end of turn may not be among them.
        client.dialect.extra = {"stop_token_ids": sorted(e for e in ends if e is not None)}
        client.idle = self._watch
        return client

    # ------------------------------------------------------------ generating

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        """Yield replies as they arrive.

        Raises:
            JudgeError: the server did not start, or ended, with the end of its log.
        """
        if not requests:
            return
        client = self._ready()
        if client is None or self._server is None:
            return
        fitting: list[tuple[int, GenerationRequest]] = []
        for index, request in enumerate(requests):
            fitted = self._fitted(request, self._server.context)
            if isinstance(fitted, Reply):
                yield index, fitted
            else:
                fitting.append((index, fitted))
        try:
            for place, reply in client.stream([request for _, request in fitting]):
                yield fitting[place][0], reply
        except JudgeError as error:
            if self._server.has_ended(2.0):
                raise self._server.failed("ended") from error
            raise

    def _fitted(self, request: GenerationRequest, context: int | None) -> GenerationRequest | Reply:
        """Return a request whose reply fits into the context, or an error reply."""
        try:
            ids = encode_prompt(self._tokenizer, request.messages, request.opening)
        except DataError as error:
            return Reply(error=str(error), finish=Finish.ERROR)
        prompt = len(ids)
        if request.opening and is_unfinished(str(self._tokenizer.decode(ids[-OPENED_END:]))):
            return Reply(error=IN_REASONING, finish=Finish.ERROR, prompt_tokens=prompt)
        if context is None:
            return request
        room = context - prompt
        if room < 1:
            message = f"the prompt has {prompt} tokens, but the context length is {context}"
            return Reply(error=message, finish=Finish.ERROR, prompt_tokens=prompt)
        limit = min(request.max_new_tokens, room)
        extra = min(request.thinking_room, room - limit)
        return replace(request, max_new_tokens=limit, thinking_room=extra)


def _options(settings: VLLMSettings, config: EvalConfig) -> Iterator[str]:
    """Yield the options of `vllm serve`."""
    # Otherwise the model's generation config would cut the distribution that is sampled.
    yield from ("--generation-config", "vllm")
    dtype = config.dtype if config.dtype != "auto" else settings.dtype
    given = {
        "--dtype": dtype,
        "--max-model-len": settings.max_model_len,
        "--gpu-memory-utilization": settings.gpu_memory_utilization,
        "--tensor-parallel-size": settings.tensor_parallel_size,
    }
    for name, value in given.items():
        if value is not None:
            yield from (name, str(value))
    if config.trust_remote_code:
        yield "--trust-remote-code"
    yield from settings.options


def visible_devices(device: str, visible: str | None) -> str | None:
    """Return CUDA_VISIBLE_DEVICES for a config's device; None where nothing restricts it."""
    if device == "cpu":
        return ""
    number = device.partition(":")[2]
    if not number.isdecimal():
        return visible
    if visible is None:
        return number
    known = _usable(visible)
    if int(number) >= len(known):
        raise JudgeError(
            f"there is no device {device}: CUDA_VISIBLE_DEVICES is {visible!r}",
            hint="devices are counted among the visible ones, from 0",
        )
    return known[int(number)]


def _usable(visible: str) -> list[str]:
    """Return the devices of a CUDA_VISIBLE_DEVICES: CUDA ignores all from an invalid one on."""
    names = [name.strip() for name in visible.split(",")]
    ends = [place for place, name in enumerate(names) if not name or name.startswith("-")]
    return names[: ends[0]] if ends else names


def _started(launch: Launch, idle: Callable[[], bool]) -> VLLMServer | None:
    """Return the server of this process if it is the one wanted, else stop it and start another."""
    for server in _current:
        if server.launch == launch and server.is_running:
            return server
    _stop_current()
    server = VLLMServer(launch)
    if not server.start(idle):
        return None
    _current.append(server)
    return server


def _stop_current() -> None:
    while _current:
        _current.pop().close()
