"""Reporters for runs in this process."""

from __future__ import annotations

from typing import Any

from kdharness.harness.errors import Interrupted
from kdharness.harness.protocols import NullReporter


class Listener(NullReporter):
    """Record messages and the last step; request a stop after given steps or checks."""

    def __init__(
        self, *, stop_at_step: int | None = None, stop_after_checks: int | None = None
    ) -> None:
        self.said: list[tuple[str, str]] = []
        self.points: list[tuple[int, dict[str, float]]] = []
        self.steps = 0
        self.checks = 0
        self.stop_at_step, self.stop_after_checks = stop_at_step, stop_after_checks

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        """Record the message with its kind."""
        self.said.append((kind, message))

    def advance(self, done: int, **values: float) -> None:
        """Record the point, and the training step: progress with a loss."""
        self.points.append((done, values))
        if "loss" in values:
            self.steps = done

    def check(self) -> None:
        """Raise Interrupted where a stop was requested."""
        self.checks += 1
        if self.stop_at_step is not None and self.steps >= self.stop_at_step:
            raise Interrupted("stopped")
        if self.stop_after_checks is not None and self.checks > self.stop_after_checks:
            raise Interrupted("stopped")
