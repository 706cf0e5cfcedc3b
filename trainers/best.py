"""The best checkpoint of a run by `trainer.best`, and when to stop early."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdharness.harness.config.points import BestRule, no_such_curve, parse_best
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError, RunError
from kdharness.harness.stats.metric_specs import metric_spec
from kdharness.harness.types import MetricValue
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.untrusted import read_json_object
from kdharness.trainers.context import TrainContext
from kdharness.trainers.points import as_curves, shown
from kdharness.trainers.resuming import newest_checkpoint

NOTE = "best.json"
"""In `best/`: the step, its value and what was measured there."""
START = "start-scores.json"
"""In the run's folder: what was measured before the first step, for conditions relative to it."""


def rule_value(rule: str, curves: Mapping[str, float]) -> float:
    """Evaluate a rule such as `general_loss + 0.5 * domain_loss` over named curves.

    Raises:
        ConfigError: anything but names of curves, numbers and + - * /.
    """

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return float(node.value)
        if isinstance(node, ast.Name):
            if node.id not in curves:
                raise no_such_curve(node.id, curves)
            return curves[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            if isinstance(node.op, ast.Mult):
                return left * right
            if isinstance(node.op, ast.Div) and right:
                return left / right
        raise ConfigError(
            f"invalid rule {rule!r}",
            where="trainer.best",
            hint="use names of held-out curves, numbers and + - * /",
        )

    try:
        return value(ast.parse(rule, mode="eval").body)
    except SyntaxError as error:
        raise ConfigError(f"invalid rule {rule!r}", where="trainer.best") from error


@dataclass(frozen=True)
class Measured:
    """What one evaluation point measured: held-out losses, and scores of generated answers."""

    losses: Mapping[str, float]
    scores: Mapping[str, MetricValue]

    def value(self, rule: BestRule, metric: str) -> float | None:
        """Return a metric of the rule; None at a point where nothing could be scored.

        Raises:
            ConfigError: there is no such metric.
        """
        if not rule.is_scored(metric):
            return rule_value(metric, self.losses)
        return self.score(metric).value if self.scores else None

    def score(self, metric: str) -> MetricValue:
        """Return the score of a benchmark.

        Raises:
            ConfigError: there is no such metric.
        """
        if metric not in self.scores:
            raise ConfigError(
                f"no metric named {metric!r}",
                where="trainer.best",
                hint=f"available: {', '.join(sorted(self.scores))}",
            )
        return self.scores[metric]

    def text(self, rule: BestRule, metric: str) -> str:
        """Return a metric with its interval, as text."""
        if rule.is_scored(metric):
            return shown(metric, self.score(metric))
        return f"{metric} {rule_value(metric, self.losses):.4g}"

    def stored(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {
            "losses": dict(self.losses),
            "scores": {n: s._asdict() for n, s in self.scores.items()},
        }

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Measured:
        """Read what `stored` wrote."""
        scores = {n: MetricValue(**values) for n, values in stored["scores"].items()}
        return cls(stored["losses"], scores)


class BestPoint:
    """Which point of a run is the best so far; a resumed run continues where it was."""

    def __init__(self, setting: TrainContext) -> None:
        """Read the state of a resumed run.

        Raises:
            RunError: its record is damaged.
        """
        spec: TrainerSpec = setting.config.trainer
        labels = [point.label for point in spec.eval_benches]
        self.rule = parse_best(spec.best, labels) if spec.best else None
        self.folder, self.spec = setting.job.folder, spec
        self.value: float | None = None
        self.step, self.said = 0, ""
        self.curves: dict[str, float] = {}
        self.start: Measured | None = None
        note = self.folder / "best" / NOTE
        if setting.job.resume and note.exists() and newest_checkpoint(self.folder):
            stored = read_json_object(note, "the best checkpoint's record", RunError)
            value, step = stored.get("value"), stored.get("step")
            self.value = float(value) if isinstance(value, (int, float)) else None
            self.step = step if isinstance(step, int) else 0
            self.said = str(stored.get("measured", ""))
            curves = stored.get("curves")  # absent in runs of older versions
            self.curves = dict(curves) if isinstance(curves, Mapping) else {}

    @property
    def is_relative(self) -> bool:
        """Whether a condition compares with the start."""
        return self.rule is not None and any(bound.relative for bound in self.rule.bounds)

    def begin(self, measured: Measured, *, is_main: bool) -> None:
        """Keep what was measured before the first step; check the rule's names.

        Raises:
            ConfigError: a rule about something that is not measured.
        """
        if self.rule is None:
            return
        for metric in self.rule.metrics:
            measured.value(self.rule, metric)
        self.start = measured
        if self.is_relative and is_main:
            atomic_write_text(self.folder / START, json.dumps(measured.stored(), indent=1))

    def is_new(self, step: int, measured: Measured) -> bool:
        """Take a point into account; return whether it is the best so far."""
        if self.rule is None:
            return False
        value = measured.value(self.rule, self.rule.objective)
        if value is None or not math.isfinite(value) or not self._holds(measured):
            return False
        if self.value is not None and not self._better(value, measured):
            return False
        self.value, self.step, self.said = value, step, self._text(measured)
        self.curves = {**measured.losses, **as_curves(measured.scores)}
        return True

    def note(self) -> str:
        """Return the record that is saved beside the best weights."""
        assert self.rule is not None
        record = {"value": self.value, "step": self.step, "rule": self.rule.text}
        curves = {name: value for name, value in self.curves.items() if math.isfinite(value)}
        return json.dumps({**record, "measured": self.said, "curves": curves})

    def is_stale(self, step: int) -> bool:
        """Return whether `trainer.early_stop` points in a row brought no new best."""
        spec = self.spec
        if spec.early_stop is None or step == 0:
            return False
        return (step - self.step) // spec.eval_every >= spec.early_stop

    def summary(self) -> str:
        """Return which point was chosen, or that none meets the conditions."""
        assert self.rule is not None
        if self.value is None:
            return f"no evaluation point satisfies {self.rule.text}: only the last weights are kept"
        return f"best by {self.rule.text}: step {self.step}, {self.said}"

    def _better(self, value: float, measured: Measured) -> bool:
        """Return whether a value beats the best so far; the earlier of two equal ones stays."""
        assert self.rule is not None and self.value is not None
        objective = self.rule.objective
        if not self.rule.is_scored(objective):
            return value < self.value
        lower = metric_spec(measured.score(objective).metric).lower_is_better
        return value < self.value if lower else value > self.value

    def _holds(self, measured: Measured) -> bool:
        assert self.rule is not None
        for bound in self.rule.bounds:
            value = measured.value(self.rule, bound.metric)
            reference = self._reference(bound.metric) if bound.relative else None
            if value is None or not bound.holds(value, reference):
                return False
        return True

    def _reference(self, metric: str) -> float:
        """Return a metric's value before the first step.

        Raises:
            RunError: it could not be measured, or its record is gone.
        """
        assert self.rule is not None
        if self.start is None:
            path = self.folder / START
            self.start = Measured.read(
                read_json_object(path, "the record of the scores at the start", RunError)
            )
        value = self.start.value(self.rule, metric)
        if value is None:
            raise RunError(f"{metric} could not be scored at the start", where="trainer.best")
        return value

    def _text(self, measured: Measured) -> str:
        assert self.rule is not None
        parts = [measured.text(self.rule, self.rule.objective)]
        for bound in self.rule.bounds:
            sign = ">=" if bound.at_least else "<="
            reference = self._reference(bound.metric) if bound.relative else None
            how = "" if reference is None else f" ({bound.factor:g} x {reference:.4g} at the start)"
            limit = f"{sign} {bound.limit(reference):.4g}{how}"
            parts.append(f"{measured.text(self.rule, bound.metric)} {limit}")
        return "; ".join(parts)
