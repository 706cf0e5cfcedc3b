"""What the parts of kdharness ask of each other: benchmarks, engines, reporters, jobs."""

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
    """Something that continues chats: a local model or an OpenAI-compatible endpoint."""

    idle: Callable[[], None]
    """Called while a call waits to be tried again, so that requests to stop are heard."""

    @property
    def name(self) -> str:
        """How the engine is shown, stored and told from others, such as `openai:gpt-x`."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether asking the same again at temperature 0 cannot help."""
        ...

    @property
    def identity(self) -> str:
        """What its weights and template are; empty for an endpoint, which does not tell."""
        ...

    @property
    def unchanged_since(self) -> float:
        """When its files were last written; 0 for an endpoint."""
        ...

    def probe(self, *, logprobs: bool = False) -> Probe:
        """What it can do; `logprobs` says whether they will be needed.

        Raises:
            JudgeError: it cannot be used at all, with what to do.
        """
        ...

    def estimate(self, requests: Sequence[GenerationRequest]) -> tuple[int, float | None]:
        """(tokens, US dollars) that requests may cost; None where no price is known."""
        ...

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) in any order, each as soon as it is finished.

        Ends early when the budget or the total time is used up, or after `stop_soon`.
        """
        ...

    def stop_soon(self) -> None:
        """Start nothing new: `stream` yields what is on its way, and ends."""
        ...

    def close(self) -> None:
        """Give back memory and connections."""
        ...


class Reporter(Protocol):
    """How long work tells what it does, and learns that it should stop.

    A worker's reporter writes to the store; a test's may do nothing.
    """

    def stage(self, name: str, total: int) -> None:
        """A long step of `total` units begins."""
        ...

    def advance(self, done: int, **values: float) -> None:
        """`done` units of the current stage are finished; `values` become curve points."""
        ...

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        """Something worth a line in the log."""
        ...

    def check(self) -> None:
        """Wait while paused; raise `Interrupted` when asked to stop. Cheap: call it often."""
        ...


@dataclass(frozen=True)
class Job:
    """One training: where it lives and whom it tells.

    `resume` asks to go on from the newest checkpoint of `folder`. `rank` is the process's place
    among several; only rank 0 writes to the store.
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
        """Whether this process writes."""
        return self.rank == 0


@dataclass(frozen=True)
class Outcome:
    """What came of a training: the folder of weights, their parents by role, and figures.

    `others` are more checkpoints of the run by name, such as `best`.
    """

    folder: Path
    step: int
    parents: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Path] = field(default_factory=dict)


class Benchmark(Protocol):
    """A set of items with one way of judging the answers to them.

    Attributes:
        name: the registry's name; `label` is what outputs show.
        items: what is asked.
        total: how many items the full benchmark has.
        flags: what sets this revision apart from a full, standard one.
        revision: the hash of all that its scores depend on.
        pairwise_with: the checkpoint whose answers are the other side; `all` pairs every two
            subjects; empty for none.
        against: the baseline's name where its answers come with the benchmark.
        needs_logprobs: whether the judge must return log-probabilities.
        sources: the files it was read from, where they are a user's own.
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
    def sources(self) -> Mapping[str, str]:
        """See above."""
        ...

    @property
    def label(self) -> str:
        """The name in outputs."""
        ...

    @property
    def family(self) -> str:
        """Under which name answers are kept: benchmarks with the same prompts share them."""
        ...

    @property
    def needs_judge(self) -> bool:
        """Whether `judge_calls` yields anything."""
        ...

    def judged_metrics(self, item: Item) -> tuple[str, ...]:
        """The metrics under which a judge is asked about an answer to `item`."""
        ...

    def exact(self, answers: Sequence[Answer]) -> list[Judgment]:
        """Judgments that need no judge."""
        ...

    def judge_calls(
        self, answers: Sequence[Answer], baseline: Sequence[Answer] = ()
    ) -> list[JudgeCall]:
        """What to ask about these answers; `baseline` are the other side's, when pairwise."""
        ...

    def for_judge(self, logprobs: bool, allow_discrete: bool) -> Benchmark:
        """The benchmark as a judge with or without log-probabilities can serve it.

        Raises:
            JudgeError: it needs log-probabilities, and the judge gives none.
        """
        ...

    def settled(self, call: JudgeCall) -> Verdict | None:
        """A verdict that needs no call, or None."""
        ...

    def read(self, call: JudgeCall, reply: Reply) -> Verdict:
        """What a reply to `call` says."""
        ...


@runtime_checkable
class MeasuredBenchmark(Protocol):
    """A benchmark without answers: a model's own probabilities of given texts are measured.

    Attributes:
        name, label, revision: as a Benchmark's.
        rows: the texts, each with `set`, `id` and `messages`.
        teacher: the model whose agreement is measured too; None for none.
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
        """The identities of what is stored already."""
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
        """Judgments of the model `source`, a batch at a time.

        Args:
            config: the EvalConfig.
            known: identities that are stored already; their rows are not measured again.
            teacher: the id of the teacher's checkpoint, when the config names one.
        """
        ...


class NullReporter:
    """A reporter for work that nobody watches."""

    def stage(self, name: str, total: int) -> None:
        """Say nothing."""

    def advance(self, done: int, **values: float) -> None:
        """Say nothing."""

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        """Say nothing."""

    def check(self) -> None:
        """Let nothing stop the work."""


class MessageReporter(NullReporter):
    """A reporter that passes its messages on and tells nothing else."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        """Pass it on."""
        self._say(message)


@dataclass(frozen=True)
class MethodPlugin:
    """A training method of another package: what its entry point names.

    Attributes:
        config: a pydantic model on `kdharness.harness.config.RunConfig` with a literal `method`.
        train: carries out a training of that config.
    """

    config: type[Any]
    train: Callable[[Any, Job], Outcome]


@dataclass(frozen=True)
class Probe:
    """What an engine was found to be able to do, before anything is asked of it.

    `models` are those an endpoint lists (empty where it lists none), `context` is in tokens
    (None where it is not told), `note` says in a line what a user should know.
    """

    reachable: bool
    model_known: bool | None = None
    logprobs: bool = False
    context: int | None = None
    models: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""
