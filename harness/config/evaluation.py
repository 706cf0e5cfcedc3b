"""Evaluation configs: checkpoints, benchmarks, judges, limits.

Every field has a title, a description and its bounds, from which the app generates its form.
A judge or an answering engine is given as a SPEC: `openai:MODEL`, `openai:MODEL@URL`,
`local:PATH_OR_ID`, `llama:FILE.gguf` or `vllm:PATH_OR_ID`. Keys are never part of a SPEC: they come
only from the environment.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from kdharness.harness.config.base import ADDED, Seed, Settings, formerly
from kdharness.harness.config.tracking import Trackers, trackers_field
from kdharness.harness.errors import ConfigError
from kdharness.harness.registry import ENGINES
from kdharness.harness.types import digest
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.redact import holds_secret, redact

SPECS = "openai:MODEL, openai:MODEL@URL, local:PATH, llama:FILE.gguf or vllm:PATH"
"""The forms of a SPEC, for help texts."""
WITHOUT_URL = frozenset({"local", "llama", "vllm"})
"""Engines whose model is a path or an id on this machine."""
CALL_TIMEOUT = 120.0
"""Seconds until a call is retried, unless the user set a limit."""
QUEUED_TIMEOUT = 3600.0
"""The same for a server of our own, in which a call may wait for its turn."""
FOR_EACH = frozenset({"local", "vllm"})
"""Engines that run each checkpoint itself where an answering engine names no model."""
LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
BENCH_ALIASES = {
    "alpaca-eval": "alpaca-eval-2",
    "alpacaeval": "alpaca-eval-2",
    "arena-hard": "arena-hard-v2",
}


_LOST_URL = re.compile(
    r"@(?:\w{1,10}:/|/{2}|localhost\b|\[[0-9a-f:]{2,40}\]|\d{1,3}(?:\.\d{1,3}){3}\b"
    r"|[\w.-]{1,200}:\d{2,5}(?:/|$)|[\w.:-]{1,200}/(?:api/)?v\d(?:/|$))",
    re.IGNORECASE,
)
"""A URL without its scheme after a model's name, which would be read as part of the name."""


@dataclass(frozen=True)
class Spec:
    """A parsed engine SPEC: its kind, the model, and for endpoints the URL."""

    kind: str
    model: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.model}" + (f"@{self.url}" if self.url else "")


def parse_spec(text: str, what: str = "judge spec", also: str = "") -> Spec:
    """Read a SPEC: `openai:MODEL`, `openai:MODEL@URL`, `local:PATH_OR_ID` and the like.

    A model's own name may contain `@` and `:`; the URL is what follows the last `@http`.

    Args:
        what: what the text should be, for errors.
        also: what may be used instead, for the hint.

    Raises:
        ConfigError: an unknown kind, no model, or a secret in the URL.
    """
    kind, separator, rest = text.strip().partition(":")
    if not separator or kind not in ENGINES or not rest.strip():
        raise ConfigError(
            f"{redact(text, shapes=True)[:200]!r} is not a valid {what}",
            hint=f"use {also}openai:MODEL, openai:MODEL@http://host:port/v1, "
            "local:PATH_OR_HUB_ID, llama:FILE.gguf or vllm:PATH_OR_HUB_ID",
        )
    model, url = rest.strip(), ""
    if kind not in WITHOUT_URL:
        at = re.search(r"@(?=https?://)", model, re.IGNORECASE)
        if at:
            model, url = model[: at.start()], _without_last_slash(model[at.end() :])
            scheme, separator, rest_of_url = url.partition("://")
            url = scheme.lower() + separator + rest_of_url
        elif _LOST_URL.search(model):
            # Read as a model's name, texts for a private server would go to the default endpoint.
            raise ConfigError(
                f"{redact(text, shapes=True)[:200]!r} has a URL without http:// or https://",
                hint="use openai:MODEL@http://host:port/v1",
            )
        if not model:
            shown = redact(text, shapes=True)[:200]
            raise ConfigError(f"{shown!r}: missing model name", hint="use openai:MODEL@URL")
        if holds_secret(url):
            raise ConfigError(
                "a judge's URL must not contain a user name or a key",
                hint="put the key into OPENAI_API_KEY or KDHARNESS_JUDGE_API_KEY",
            )
        if url and not _host(url):
            raise ConfigError("the judge's URL has no host", hint="use openai:MODEL@URL")
    return Spec(kind, model, url)


def _without_last_slash(url: str) -> str:
    """Strip trailing slashes from a URL's path; a query stays as it is."""
    path, separator, query = url.partition("?")
    return path.rstrip("/") + separator + query


def is_loopback_url(url: str) -> bool:
    """Return whether a URL refers to this machine."""
    host = _host(url).rstrip(".")
    if host in ("0.0.0.0", socket.gethostname().lower()) or host in LOCAL_NAMES:
        return True
    if host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def plain_http_warning(spec: str) -> str:
    """Return a warning for a SPEC that sends key and texts unencrypted, else an empty string."""
    try:
        url = parse_spec(spec).url
    except ConfigError:
        return ""
    if not url.startswith("http://") or is_loopback_url(url):
        return ""
    return (
        f"{spec}: the key and all texts are sent unencrypted to {_host(url)}; "
        "use https, or a tunnel to a local port"
    )


class HeldoutOptions(Settings):
    """Held-out loss: which rows, and which teacher to compare with."""

    general: str | None = Field(
        None,
        title="General rows",
        description="JSONL of chats that no method trained on. Default: the shipped general test "
        "split.",
    )
    domain: str | None = Field(
        None,
        title="Domain rows",
        description="JSONL of domain chats. Default: the shipped shop test split.",
    )
    extra: dict[str, str] = Field(
        default_factory=dict,
        title="More sets",
        description="Name: JSONL path; each adds the metric <name>_loss.",
    )
    teacher: str | None = Field(
        None,
        title="Teacher",
        description="Also measure KL and top-1 agreement with this checkpoint.",
    )
    max_length: int = Field(
        1024,
        ge=16,
        le=131_072,
        title="Max length",
        description="Maximum tokens per row; longer rows are truncated.",
    )


def in_shard(shard: str | None, item: str) -> bool:
    """Return whether an item belongs to part I of N; parts depend on item ids alone."""
    if shard is None:
        return True
    part, parts = map(int, shard.split("/"))
    return int(digest("shard", item)[:8], 16) % parts == part - 1


class EvalConfig(Settings):
    """The config of `kdharness eval`."""

    method: Literal["eval"] = Field("eval", title="Method", description="What this run does.")
    checkpoints: list[str] = Field(
        default_factory=list,
        title="Checkpoints",
        description="Names, folders or hub ids of the models to evaluate.",
    )
    benches: list[str] = Field(
        default_factory=lambda: ["shop", "heldout"],
        min_length=1,
        title="Benchmarks",
        description="Names (mt-bench, mt-bench-pair, alpaca-eval-1, alpaca-eval-2, "
        "arena-hard-v2, ifeval, shop, heldout) or paths to your own .jsonl files.",
    )
    judge: list[str] = Field(
        default_factory=list,
        title="Judges",
        description=f"{SPECS}. Several judges form a panel.",
    )
    imported: list[str] = Field(
        default_factory=list,
        title="Imported answers",
        description="Models whose answers were imported; judged without their weights.",
    )
    limit: int | None = Field(
        None,
        ge=1,
        title="Limit",
        description="Score a fixed, category-balanced subset of this many items.",
    )
    shard: str | None = Field(
        None,
        pattern=r"^[1-9]\d{0,3}/[1-9]\d{0,3}$",
        title="Shard",
        description="I/N: evaluate part I of N of the items. Each machine runs one part, into a "
        "shared home or into homes to be combined by `kdharness store merge`.",
    )
    references: Literal["corrected", "classic"] = Field(
        "corrected",
        title="Reference answers",
        description="MT-Bench's corrected GPT-4 references, or the original ones (13 are wrong).",
    )
    baseline: str | None = Field(
        None,
        title="Baseline",
        description="The opponent in pairwise judging: a checkpoint or an imported model. "
        "'all' compares every pair of this run's checkpoints.",
    )
    judge_config: str | None = Field(
        None,
        title="Judge template",
        description="AlpacaEval evaluator config: a name in the pulled asset, or a YAML file.",
    )
    judge_max_tokens: int | None = Field(
        None,
        ge=1,
        le=131_072,
        title="Max judge tokens",
        description="Maximum tokens of a judge's reply, if lower than the benchmark's limit; small "
        "local judges ramble. Flagged in the result.",
    )
    rating: Literal["parsed", "expected"] = Field(
        "parsed",
        title="Ratings",
        description="How a rating is read. parsed: from the judge's text. expected: the mean of "
        "its distribution over 1 to 10, for judges with log-probabilities; another protocol, "
        "under a metric of its own.",
        json_schema_extra=ADDED,
    )
    discrete_fallback: bool = Field(
        False,
        title="Discrete fallback",
        description="AlpacaEval 2 with a judge that returns no log-probabilities: use the sampled "
        "token and flag the result as discrete. Off: raise an error.",
    )
    heldout: HeldoutOptions = Field(
        default_factory=HeldoutOptions, title="Held-out loss", description="Rows and teacher."
    )
    answer_engine: str | None = Field(
        None,
        title="Answering engine",
        description="vllm starts a vLLM server for each checkpoint; openai:MODEL@URL, vllm:PATH "
        "or llama:FILE.gguf serves one checkpoint. Default: generate in this process.",
    )
    seed: Seed = Field(0, title="Seed", description="Seed of sampled answers.")
    batch_size: int = Field(
        16, ge=1, le=1024, title="Batch size", description="Chats generated in one batch."
    )
    cuda_graphs: bool = Field(
        False,
        title="CUDA graphs",
        description="Replay the pass of a token as a CUDA graph when this process generates on a "
        "GPU: fewer launches, which is most of a small model's time. Not for windowed attention.",
        json_schema_extra=ADDED,
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=131_072,
        title="Max new tokens",
        description="Maximum tokens per answer; overrides each benchmark's limit and is flagged in "
        "the result.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", title="Precision", description="Dtype of local weights."
    )
    device: str = Field("auto", title="Device", description="auto, cpu, cuda, cuda:1, mps.")
    trust_remote_code: bool = Field(
        False, title="Trust remote code", description="Run code from a model's repository."
    )
    track: Trackers = trackers_field()
    concurrency: int = Field(
        16, ge=1, le=1024, title="Concurrency", description="Concurrent calls to an endpoint."
    )
    requests_per_minute: float | None = Field(
        None, gt=0, title="Requests per minute", description="The endpoint's rate limit, if any."
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, title="Tokens per minute", description="The endpoint's rate limit, if any."
    )
    timeout: float | None = Field(
        None,
        gt=0,
        title="Timeout per call",
        description="Seconds until a call is retried. Default: 120; 3600 for vllm:, where calls "
        "queue in the server.",
        json_schema_extra=formerly(120.0),
    )
    total_timeout: float | None = Field(
        None, gt=0, title="Timeout of the run", description="Seconds; finished work is kept."
    )
    retries: int = Field(
        10, ge=0, le=100, title="Retries", description="Retries of a call with a transient error."
    )
    budget: float | None = Field(
        None, ge=0, title="Budget", description="US dollars; the run stops before exceeding it."
    )
    retry_failed: bool = Field(
        True,
        title="Retry failures",
        description="Retry judgments that failed or could not be parsed in earlier runs.",
    )

    def call_timeout(self, kind: str) -> float:
        """Return the seconds until a call of this kind of engine is retried."""
        if self.timeout is not None:
            return self.timeout
        return QUEUED_TIMEOUT if kind == "vllm" else CALL_TIMEOUT

    @field_validator("shard")
    @classmethod
    def _shard_exists(cls, value: str | None) -> str | None:
        """Refuse a part beyond N."""
        if value is not None:
            part, parts = map(int, value.split("/"))
            if part > parts:
                raise ValueError(f"part {part} of {parts} does not exist")
        return value

    @field_validator("benches")
    @classmethod
    def _known_names(cls, values: list[str]) -> list[str]:
        """Replace aliases by the names that outputs use, and drop duplicates."""
        names = [BENCH_ALIASES.get(value.strip(), value.strip()) for value in values]
        return list(dict.fromkeys(name for name in names if name))

    @field_validator("judge")
    @classmethod
    def _judges_parse(cls, values: list[str]) -> list[str]:
        """Refuse an invalid SPEC before anything is loaded."""
        for value in values:
            try:
                parse_spec(value)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return list(dict.fromkeys(values))

    @field_validator("answer_engine")
    @classmethod
    def _endpoint_parses(cls, value: str | None) -> str | None:
        """Parse the answering engine, which is a SPEC or the name of an engine alone."""
        value = (value or "").strip()
        if value and value not in FOR_EACH:
            kind = value.partition(":")[0].strip().lower()
            if kind in FOR_EACH and not value.partition(":")[2].strip():
                raise ValueError(f"{value!r} is not an answering engine; did you mean {kind!r}?")
            try:
                parse_spec(value, "answering engine", "vllm, ")
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value or None


def bench_name(bench: str) -> str:
    """Return a benchmark's name in outputs: for a user's file, its stem."""
    return Path(bench).stem if bench.endswith(".jsonl") else BENCH_ALIASES.get(bench, bench)


def absolute_source(name: str) -> str:
    """Make an existing path absolute: a run may be resumed from another folder."""
    kind, sign, rest = name.partition(":")
    if sign and kind in WITHOUT_URL:
        return f"{kind}:{absolute_source(rest)}" if rest else name
    path = local_path(name)
    return str(path.resolve()) if exists(path) else name
