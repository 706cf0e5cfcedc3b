"""Benchmarks that are scored during training, and the rule for the best checkpoint."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from kdharness.harness.config.base import Settings, listed
from kdharness.harness.config.evaluation import BENCH_ALIASES, SPECS, bench_name, parse_spec
from kdharness.harness.errors import ConfigError, did_you_mean


class BenchPoint(Settings):
    """A benchmark whose answers are generated and scored at every evaluation point."""

    bench: str = Field(
        ...,
        min_length=1,
        title="Benchmark",
        description="A name (ifeval, shop, …) or the path of your own .jsonl file.",
    )
    limit: int = Field(
        32,
        ge=1,
        title="Limit",
        description="Items: the same category-balanced subset at every point and in every run, and "
        "in kdharness eval with this limit.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=131_072,
        title="Max new tokens",
        description="Maximum tokens per answer. Default: each item's own limit.",
    )
    judge: str | None = Field(
        None,
        title="Judge",
        description=f"For benchmarks that need one: {SPECS}. Default: the default judge.",
    )
    budget: int | None = Field(
        None,
        ge=1,
        title="Judge calls",
        description="Maximum judge calls over all points. Required where a judge is needed.",
    )

    @field_validator("bench")
    @classmethod
    def _known_name(cls, value: str) -> str:
        """Replace an alias by the name that outputs use."""
        return BENCH_ALIASES.get(value.strip(), value.strip())

    @field_validator("judge")
    @classmethod
    def _judge_parses(cls, value: str | None) -> str | None:
        """Refuse an invalid SPEC before anything is loaded."""
        if value is not None:
            try:
                parse_spec(value)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value

    @property
    def label(self) -> str:
        """The benchmark's name in curves."""
        return bench_name(self.bench)


BenchPoints = Annotated[
    list[BenchPoint],
    BeforeValidator(
        partial(listed, key="bench"),
        json_schema_input_type=str | BenchPoint | list[str | BenchPoint],
    ),
]

# ---------------------------------------------------------------- the best checkpoint

_SUBJECT_TO = re.compile(r"\s+subject\s+to\s+")
_BOUND = re.compile(
    r"(?P<metric>[^<>=]+?)\s*(?P<sign>>=|<=)\s*"
    r"(?:(?P<number>[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*(?P<times>\*\s*reference)?|reference)"
)
EXAMPLE = "domain subject to general >= 0.98 * reference"


@dataclass(frozen=True)
class Bound:
    """A condition on a metric: at least (or at most) `factor`, or `factor` x its start."""

    metric: str
    at_least: bool
    factor: float
    relative: bool

    def limit(self, reference: float | None) -> float:
        """Return the number that the metric is compared with."""
        return self.factor if not self.relative or reference is None else self.factor * reference

    def holds(self, value: float, reference: float | None) -> bool:
        """Return whether a value meets the condition, given the value at the start."""
        limit = self.limit(reference)
        return value >= limit if self.at_least else value <= limit


@dataclass(frozen=True)
class BestRule:
    """What makes a checkpoint the best one.

    Attributes:
        text: as the config has it.
        objective: a benchmark (its main metric), `BENCHMARK/METRIC`, or an expression over
            held-out losses.
        bounds: conditions that a point must meet.
        labels: the benchmarks that are scored.
    """

    text: str
    objective: str
    bounds: tuple[Bound, ...]
    labels: frozenset[str]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What must be measured for it: the objective, then the conditions' metrics."""
        return (self.objective, *(bound.metric for bound in self.bounds))

    def is_scored(self, metric: str) -> bool:
        """Return whether a metric is that of a benchmark, and not of held-out losses."""
        return metric.partition("/")[0] in self.labels


def parse_best(text: str, labels: Collection[str]) -> BestRule:
    """Parse `trainer.best`.

    Args:
        text: `OBJECTIVE [subject to METRIC >= NUMBER [* reference] [and …]]`.
        labels: the names of the benchmarks in `trainer.eval_benches`.

    Raises:
        ValueError: another form.
    """
    objective, *rest = _SUBJECT_TO.split(text.strip())
    known = frozenset(labels)
    if len(rest) > 1 or not objective:
        raise ValueError(f"best: {text!r} is not OBJECTIVE subject to CONDITIONS, as in {EXAMPLE}")
    bounds = tuple(_bound(part) for part in re.split(r"\s+and\s+", rest[0])) if rest else ()
    return BestRule(text, objective, bounds, known)


def _bound(text: str) -> Bound:
    found = _BOUND.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"best: {text.strip()!r} is not a condition: METRIC >= NUMBER, METRIC <= NUMBER, or "
            f"NUMBER * reference, as in {EXAMPLE}"
        )
    number = found["number"]
    factor = 1.0 if number is None else float(number)
    relative = number is None or found["times"] is not None
    return Bound(found["metric"].strip(), found["sign"] == ">=", factor, relative)


def no_such_curve(name: str, known: Collection[str], near: str = "") -> ConfigError:
    """Return the error of a rule about a loss that is not measured."""
    return ConfigError(
        f"no held-out curve named {name!r}{near}",
        where="trainer.best",
        hint=f"available: {', '.join(sorted(known)) or 'none; set data.heldout'}",
    )


def check_losses(rule: BestRule, kinds: Collection[str]) -> None:
    """Refuse a rule about losses that a run does not measure.

    Args:
        rule: its parts that no benchmark scores are expressions over `<kind>_loss`.
        kinds: the kinds of the held-out rows.

    Raises:
        ConfigError: names what is not measured.
    """
    known = sorted(f"{kind}_loss" for kind in kinds)
    for metric in rule.metrics:
        if rule.is_scored(metric):
            continue
        for name in known:
            if name in metric and not name.isidentifier():
                raise ConfigError(
                    f"{name} cannot be named in a rule, which would read it as a calculation",
                    where="trainer.best",
                    hint=f"rename the kind {name.removesuffix('_loss')!r}: letters, digits and _",
                )
        try:
            tree = ast.parse(metric, mode="eval")
        except SyntaxError as error:
            raise ConfigError(f"invalid rule {metric!r}", where="trainer.best") from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id not in known:
                raise no_such_curve(node.id, known, did_you_mean(node.id, [*known, *rule.labels]))


def check_points(
    points: Sequence[BenchPoint], best: str | None, early_stop: int | None, every: int
) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ValueError: says which.
    """
    labels = [point.label for point in points]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"eval_benches: two benchmarks are named {label!r}: rename one file")
    if best is not None:
        parse_best(best, labels)
    if early_stop is not None and (best is None or not every):
        raise ValueError(
            "early_stop counts evaluation points without a new best: set best and eval_every too"
        )
