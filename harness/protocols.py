"""Interfaces between the parts of kdharness: benchmarks, engines, reporters, jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kdharness.harness.paths import Paths
from kdharness.harness.types import (
    Answer,
    GenerationRequest,
    Item,
    JudgeCall,
    Judgment,
    Reply,
    Verdict,
)


class Engine(Protocol):
    """Generates replies to chats: a local model or an OpenAI-compatible endpoint."""

    idle: Callable[[], None]
    """Called while a call waits for a retry, so that stop requests are noticed."""

    @property
    def name(self) -> str:
        """The unique name for display and storage, such as `openai:gpt-x`."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether repeating a request at temperature 0 always gives the same reply."""
        ...

    @property
    def identity(self) -> str:
        """The hash of its weights and template; empty for an endpoint."""
        ...

    @property
    def unchanged_since(self) -> float:
        """Modification time of its files; 0 for an endpoint."""
        ...

    def probe(self, *, logprobs: bool = False) -> Probe:
        """Test what the engine supports; `logprobs` if log-probabilities will be needed.

        Raises:
            JudgeError: the engine cannot be used; the hint says what to do.
        """
        ...

    def estimate(self, requests: Sequence[GenerationRequest]) -> tuple[int, float | None]:
        """Estimate (tokens, US dollars) of requests; None if the price is unknown."""
        ...

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) in any order, each as soon as it is complete.

        Ends early if the budget or the total time is exhausted, or after `stop_soon`.
        """
        ...

    def stop_soon(self) -> None:
        """Start no new calls: `stream` yields the calls in flight and ends."""
        ...

    def close(self) -> None:
        """Release memory and connections."""
        ...


@dataclass(frozen=True)
class TokenPrompt:
    """Token ids to continue by up to `limit` tokens, drawn from a seed."""

    ids: Sequence[int]
    limit: int
    seed: int


@dataclass(frozen=True)
class TokenReply:
    """The tokens that follow a prompt; with `ended`, the last one ends the turn."""

    ids: Sequence[int]
    ended: bool


class TokenEngine(Protocol):
    """Continues token ids, for answers that are trained on as they were sampled."""

    def check(self) -> str:
        """Raise an error for an engine that cannot be used; return what to note of it, if any."""
        ...

    def continuations(self, prompts: Sequence[TokenPrompt]) -> list[TokenReply]:
        """Return one reply per prompt."""
        ...


class Reporter(Protocol):
    """Interface of long-running work for progress reports and stop requests.

    A worker's reporter writes to the store; one in tests may do nothing.
    """

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` units."""
        ...

    def advance(self, done: int, **values: float) -> None:
        """Report `done` finished units of the current stage; `values` become curve points."""
        ...

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        """Log a message."""
        ...

    def check(self) -> None:
        """Wait while paused; raise `Interrupted` if asked to stop. Cheap: call it often."""
        ...


@dataclass(frozen=True)
class Job:
    """One training: its folder and its reporter.

    With `resume` it continues from the newest checkpoint in `folder`. `rank` is the rank of this
    process; only rank 0 writes to the store.
    """

    paths: Paths
    run: str
    folder: Path
    reporter: Reporter
    resume: bool = False
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes to the store."""
        return self.rank == 0


@dataclass(frozen=True)
class Outcome:
    """The result of a training: the folder of weights, their parents by role, and statistics.

    `others` are further checkpoints of the run by name, such as `best`, each with its own step.
    """

    folder: Path
    step: int
    parents: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Outcome] = field(default_factory=dict)


class Benchmark(Protocol):
    """A set of items with one way of scoring the answers.

    Attributes:
        name: the name in the registry; `label` is the name in outputs.
        items: the items.
        total: number of items of the full benchmark.
        flags: how this revision differs from a full, standard one.
        revision: the hash of everything that its scores depend on.
        pairwise_with: the opponent checkpoint; `all` pairs every two subjects; empty for none.
        against: the baseline's name if its answers come with the benchmark.
        needs_logprobs: whether the judge must return log-probabilities.
        needs_opening: whether the judge must continue a reply that was begun for it.
        sources: the user's own files it was read from, if any.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def items(self) -> tuple[Item, ...]:
        """See above."""
        ...

    @property
    def total(self) -> int:
        """See above."""
        ...

    @property
    def flags(self) -> tuple[str, ...]:
        """See above."""
        ...

    @property
    def revision(self) -> str:
        """See above."""
        ...

    @property
    def pairwise_with(self) -> str:
        """See above."""
        ...

    @property
    def against(self) -> str:
        """See above."""
        ...

    @property
    def needs_logprobs(self) -> bool:
        """See above."""
        ...

    @property
    def needs_opening(self) -> bool:
        """See above."""
        ...

    @property
    def sources(self) -> Mapping[str, str]:
        """See above."""
        ...

    @property
    def label(self) -> str:
        """The name in outputs."""
        ...

    @property
    def family(self) -> str:
        """The name under which answers are stored; benchmarks with the same prompts share it."""
        ...

    @property
    def needs_judge(self) -> bool:
        """Whether `judge_calls` yields anything."""
        ...

    def judged_metrics(self, item: Item) -> tuple[str, ...]:
        """Return the metrics that a judge scores for an answer to `item`."""
        ...

    def exact(self, answers: Sequence[Answer]) -> list[Judgment]:
        """Return the judgments that need no judge."""
        ...

    def judge_calls(
        self, answers: Sequence[Answer], baseline: Sequence[Answer] = ()
    ) -> list[JudgeCall]:
        """Return the judge calls for these answers; `baseline` are the opponent's, if pairwise."""
        ...

    def for_judge(self, logprobs: bool, allow_discrete: bool) -> Benchmark:
        """Return the variant of the benchmark for a judge with or without log-probabilities.

        Raises:
            JudgeError: it needs log-probabilities, and the judge returns none.
        """
        ...

    def settled(self, call: JudgeCall) -> Verdict | None:
        """Return a verdict that needs no call, or None."""
        ...

    def read(self, call: JudgeCall, reply: Reply) -> Verdict:
        """Parse the verdict from a reply to `call`."""
        ...


@runtime_checkable
class MeasuredBenchmark(Protocol):
    """A benchmark without answers: measures a model's probabilities of given texts.

    Attributes:
        name, label, revision: as in Benchmark.
        rows: the texts, each with `set`, `id` and `messages`.
        teacher: the model with which agreement is measured, or None.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def label(self) -> str:
        """See above."""
        ...

    @property
    def revision(self) -> str:
        """See above."""
        ...

    @property
    def rows(self) -> Sequence[Any]:
        """See above."""
        ...

    @property
    def teacher(self) -> str | None:
        """See above."""
        ...

    def measured(self, checkpoint: str, stored: Iterable[Judgment], teacher: str) -> set[str]:
        """Return the identities of stored measurements."""
        ...

    def measure(
        self,
        checkpoint: str,
        source: str,
        paths: Paths,
        config: Any,
        reporter: Reporter,
        known: set[str],
        teacher: str = "",
    ) -> Iterator[list[Judgment]]:
        """Yield judgments of the model `source`, one batch at a time.

        Args:
            config: the EvalConfig.
            known: stored identities, whose rows are not measured again.
            teacher: the id of the teacher's checkpoint, if the config has one.
        """
        ...


class NullReporter:
    """A reporter that ignores everything."""

    def stage(self, name: str, total: int) -> None:
        """Do nothing."""

    def advance(self, done: int, **values: float) -> None:
        """Do nothing."""

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        """Do nothing."""

    def check(self) -> None:
        """Never stop the work."""


class MessageReporter(NullReporter):
    """A reporter that forwards messages only."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        """Forward the message."""
        self._say(message)


@dataclass(frozen=True)
class MethodPlugin:
    """A training method of another package, as referenced by its entry point.

    Attributes:
        config: a subclass of `kdharness.harness.config.RunConfig` with a literal `method`.
        train: runs a training from that config.
    """

    config: type[Any]
    train: Callable[[Any, Job], Outcome]


@dataclass(frozen=True)
class Probe:
    """Capabilities of an engine, probed before the first call.

    `models` are those an endpoint lists (empty where it lists none), `context` is in tokens
    (None if unknown), `note` says in a line what a user should know, `opens` whether it can
    continue a reply that was begun for it and return the log-probabilities there.
    """

    reachable: bool
    model_known: bool | None = None
    logprobs: bool = False
    context: int | None = None
    models: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""
    opens: bool = False
