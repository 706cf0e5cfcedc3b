"""What an evaluation is told to do: checkpoints, benchmarks, judges, limits.

Every field has a title, a description and its bounds, because the app makes its form from them.
A judge or an answering endpoint is named by a SPEC: `openai:MODEL`, `openai:MODEL@URL` or
`local:PATH_OR_ID`. Keys are never part of a SPEC: they come from the environment alone.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from kdharness.harness.config.base import Settings
from kdharness.harness.errors import ConfigError
from kdharness.harness.registry import ENGINES
from kdharness.harness.types import digest
from kdharness.harness.util.redact import holds_secret, redact

LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
BENCH_ALIASES = {"alpaca-eval": "alpaca-eval-2", "alpacaeval": "alpaca-eval-2"}


_LOST_URL = re.compile(
    r"@(?:\w{1,10}:/|/{2}|localhost\b|\[[0-9a-f:]{2,40}\]|\d{1,3}(?:\.\d{1,3}){3}\b"
    r"|[\w.-]{1,200}:\d{2,5}(?:/|$)|[\w.:-]{1,200}/(?:api/)?v\d(?:/|$))",
    re.IGNORECASE,
)
"""Behind a model's name: what is meant as a URL and would be taken for a part of the name."""


@dataclass(frozen=True)
class Spec:
    """A named engine: its kind, the model it serves, and where (for endpoints)."""

    kind: str
    model: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.model}" + (f"@{self.url}" if self.url else "")


def parse_spec(text: str) -> Spec:
    """Read `openai:MODEL`, `openai:MODEL@URL` or `local:PATH_OR_ID`.

    A model's own name may hold `@` and `:`; the URL is what follows the last `@http`.

    Raises:
        ConfigError: an unknown kind, no model, or a secret inside the URL.
    """
    kind, separator, rest = text.strip().partition(":")
    if not separator or kind not in ENGINES or not rest.strip():
        raise ConfigError(
            f"{redact(text, shapes=True)[:200]!r} names no judge",
            hint="use openai:MODEL, openai:MODEL@http://host:port/v1 or local:PATH_OR_HUB_ID",
        )
    model, url = rest.strip(), ""
    if kind != "local":
        found = re.search(r"@(?=https?://)", model, re.IGNORECASE)
        if found:
            model, url = model[: found.start()], _without_last_slash(model[found.end() :])
            scheme, mark, rest_of_url = url.partition("://")
            url = scheme.lower() + mark + rest_of_url
        elif _LOST_URL.search(model):
            # Asked as it stands, a private server's texts would go to the default endpoint.
            raise ConfigError(
                f"{redact(text, shapes=True)[:200]!r} names an address without http:// or https://",
                hint="use openai:MODEL@http://host:port/v1",
            )
        if not model:
            shown = redact(text, shapes=True)[:200]
            raise ConfigError(f"{shown!r} names no model", hint="use openai:MODEL@URL")
        if holds_secret(url):
            raise ConfigError(
                "a judge's URL must not hold a user name or a key",
                hint="put the key into OPENAI_API_KEY or KDHARNESS_JUDGE_API_KEY",
            )
        if url and not _host(url):
            raise ConfigError("a judge's URL names no host", hint="use openai:MODEL@URL")
    return Spec(kind, model, url)


def _without_last_slash(url: str) -> str:
    """A URL whose path ends without a slash; a query behind the path stays as it is."""
    path, mark, query = url.partition("?")
    return path.rstrip("/") + mark + query


def is_loopback_url(url: str) -> bool:
    """Tell whether a URL leads to this machine."""
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
    """What to say of a SPEC whose key and texts anyone on the way can read; else nothing."""
    try:
        url = parse_spec(spec).url
    except ConfigError:
        return ""
    if not url.startswith("http://") or is_loopback_url(url):
        return ""
    return (
        f"{spec}: the key and all texts travel unencrypted to {_host(url)}; "
        "use https, or a tunnel to a port of this machine"
    )


class HeldoutOptions(Settings):
    """Held-out loss: which rows, and which teacher to agree with."""

    general: str | None = Field(
        None,
        title="General rows",
        description="JSONL of chats no method trained on. Empty: the shipped general test split.",
    )
    domain: str | None = Field(
        None,
        title="Domain rows",
        description="JSONL of domain chats. Empty: the shipped shop test split.",
    )
    extra: dict[str, str] = Field(
        default_factory=dict,
        title="More sets",
        description="Name to JSONL path; each becomes <name>_loss.",
    )
    teacher: str | None = Field(
        None,
        title="Teacher",
        description="A checkpoint to agree with: adds KL to it and top-1 agreement.",
    )
    max_length: int = Field(
        1024, ge=16, le=131_072, title="Longest row", description="Tokens; longer rows are cut."
    )


def in_shard(shard: str | None, item: str) -> bool:
    """Whether an item belongs to part I of N; a part's items depend on their ids alone."""
    if shard is None:
        return True
    part, parts = map(int, shard.split("/"))
    return int(digest("shard", item)[:8], 16) % parts == part - 1


class EvalConfig(Settings):
    """`kdharness eval`, as data."""

    method: Literal["eval"] = Field("eval", title="Method", description="What this run does.")
    checkpoints: list[str] = Field(
        default_factory=list,
        title="Checkpoints",
        description="Names, folders or hub ids of the models to score.",
    )
    benches: list[str] = Field(
        default_factory=lambda: ["shop", "heldout"],
        min_length=1,
        title="Benchmarks",
        description="Names (mt-bench, mt-bench-pair, alpaca-eval-1, alpaca-eval-2, shop, heldout) "
        "or paths of your own .jsonl files.",
    )
    judge: list[str] = Field(
        default_factory=list,
        title="Judges",
        description="openai:MODEL, openai:MODEL@URL or local:PATH. Several make a panel.",
    )
    imported: list[str] = Field(
        default_factory=list,
        title="Imported answers",
        description="Models whose answers were imported: judged without their weights.",
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
        description="I/N: do the I-th of N parts of the items. Several machines each do one, into "
        "one home or into homes that `kdharness store merge` brings together.",
    )
    references: Literal["corrected", "classic"] = Field(
        "corrected",
        title="Reference answers",
        description="MT-Bench's corrected GPT-4 references, or the classic ones (13 are wrong).",
    )
    baseline: str | None = Field(
        None,
        title="Baseline",
        description="The other side of pairwise judging: a checkpoint or an imported model. "
        "'all' pairs every two checkpoints of this run.",
    )
    judge_config: str | None = Field(
        None,
        title="Judge template",
        description="AlpacaEval evaluator config: a name in the pulled asset or a YAML file.",
    )
    judge_max_tokens: int | None = Field(
        None,
        ge=1,
        le=131_072,
        title="Longest verdict",
        description="Tokens of a judge's reply, where less than the benchmark allows; small local "
        "judges ramble. Marked in the result.",
    )
    discrete_fallback: bool = Field(
        False,
        title="Discrete fallback",
        description="AlpacaEval 2 with a judge that gives no log-probabilities: read the token "
        "itself, and mark the result as discrete. Off: refuse.",
    )
    heldout: HeldoutOptions = Field(
        default_factory=HeldoutOptions, title="Held-out loss", description="Rows and teacher."
    )
    answer_engine: str | None = Field(
        None,
        title="Answering endpoint",
        description="openai:MODEL@URL that serves the one checkpoint. Empty: in this process.",
    )
    seed: int = Field(0, ge=0, title="Seed", description="Of sampled answers.")
    batch_size: int = Field(
        16, ge=1, le=1024, title="Batch size", description="Chats generated at once."
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=131_072,
        title="Longest answer",
        description="Tokens; replaces each benchmark's own limit and is marked in the result.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", title="Number format", description="Of local weights."
    )
    device: str = Field("auto", title="Device", description="auto, cpu, cuda, cuda:1, mps.")
    trust_remote_code: bool = Field(
        False, title="Trust remote code", description="Run code that a model's repository brings."
    )
    concurrency: int = Field(
        16, ge=1, le=1024, title="Concurrency", description="Calls to an endpoint at once."
    )
    requests_per_minute: float | None = Field(
        None, gt=0, title="Requests a minute", description="The endpoint's limit, if it has one."
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, title="Tokens a minute", description="The endpoint's limit, if it has one."
    )
    timeout: float = Field(
        120.0, gt=0, title="Time limit of a call", description="Seconds until a call is retried."
    )
    total_timeout: float | None = Field(
        None, gt=0, title="Time limit of the run", description="Seconds; what is done stays."
    )
    retries: int = Field(
        10, ge=0, le=100, title="Retries", description="Of a call that failed for the moment."
    )
    budget: float | None = Field(
        None, ge=0, title="Budget", description="US dollars; the run stops before it is passed."
    )
    retry_failed: bool = Field(
        True,
        title="Retry failures",
        description="Ask again for verdicts that failed or could not be read in earlier runs.",
    )

    @field_validator("shard")
    @classmethod
    def _shard_exists(cls, value: str | None) -> str | None:
        """Of N parts there are those from 1 to N."""
        if value is not None:
            part, parts = map(int, value.split("/"))
            if part > parts:
                raise ValueError(f"there is no part {part} of {parts}")
        return value

    @field_validator("benches")
    @classmethod
    def _known_names(cls, values: list[str]) -> list[str]:
        """Aliases become the names that outputs use; doubles are dropped."""
        names = [BENCH_ALIASES.get(value.strip(), value.strip()) for value in values]
        return list(dict.fromkeys(name for name in names if name))

    @field_validator("judge")
    @classmethod
    def _judges_parse(cls, values: list[str]) -> list[str]:
        """Refuse an unreadable SPEC before anything is loaded."""
        for value in values:
            try:
                parse_spec(value)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return list(dict.fromkeys(values))

    @field_validator("answer_engine")
    @classmethod
    def _endpoint_parses(cls, value: str | None) -> str | None:
        """An answering endpoint is a SPEC too."""
        if value:
            try:
                parse_spec(value)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value or None


def bench_name(bench: str) -> str:
    """How a benchmark is called in outputs: a user's file goes by its stem."""
    return Path(bench).stem if bench.endswith(".jsonl") else BENCH_ALIASES.get(bench, bench)


def make_eval_config(**fields: Any) -> EvalConfig:
    """An EvalConfig from options; those that are None or empty are left at their defaults.

    Raises:
        ConfigError: with the field that is wrong.
    """
    given = {name: value for name, value in fields.items() if value not in (None, [], {})}
    try:
        return EvalConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(message, where=where) from error


def absolute_source(name: str) -> str:
    """A path that exists, made absolute: a run may be resumed from another folder."""
    kind, sign, rest = name.partition(":")
    if sign and kind == "local":
        return f"local:{absolute_source(rest)}" if rest else name
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
