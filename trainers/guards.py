"""What goes wrong when a student learns from its own answers, seen in time: pure functions.

Answers that grow without end or repeat themselves make the next ones worse, since the student is
trained on them. The last steps' answers are compared with the limits in `trainer.on_policy`.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.harness.errors import RunError
from kdharness.harness.runs.rollouts import Rollout

GRAM = 3
"""Tokens of the sequences whose variety is measured."""


def distinct_share(tokens: Sequence[int]) -> float | None:
    """Return the share of different sequences of `GRAM` tokens; None if there is none."""
    grams = [tuple(tokens[start : start + GRAM]) for start in range(len(tokens) - GRAM + 1)]
    return len(set(grams)) / len(grams) if grams else None


def curves_of(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Return the curves of some sampled answers: means over answers, `kl` over their tokens."""
    if not rollouts:
        return {}
    curves = {
        "rollout_length": sum(rollout.tokens for rollout in rollouts) / len(rollouts),
        "rollout_ended": sum(rollout.ended for rollout in rollouts) / len(rollouts),
        "rollout_kl": sum(rollout.score * rollout.tokens for rollout in rollouts)
        / sum(rollout.tokens for rollout in rollouts),
    }
    varied = [rollout.distinct for rollout in rollouts if rollout.distinct is not None]
    if varied:
        curves["rollout_distinct"] = sum(varied) / len(varied)
    return curves


class Guard:
    """Looks at the answers of the last steps that had any."""

    def __init__(self, spec: OnPolicySpec) -> None:
        self.spec = spec
        self.steps: list[list[Rollout]] = []

    def see(self, rollouts: Sequence[Rollout]) -> RunError | None:
        """Add a step's answers; return the error that ends the run if a limit is broken."""
        if not self.spec.stop_window or not rollouts:
            return None
        self.steps = [*self.steps, list(rollouts)][-self.spec.stop_window :]
        if len(self.steps) < self.spec.stop_window:
            return None
        return self._broken(curves_of([one for step in self.steps for one in step]))

    def _broken(self, seen: dict[str, float]) -> RunError | None:
        spec = self.spec
        longest = f"the mean length is {seen['rollout_length']:.0f} of at most " + str(
            spec.max_new_tokens
        )
        if seen["rollout_ended"] < spec.min_ended:
            return self._error(
                f"only {seen['rollout_ended']:.1%} of the sampled answers ended by themselves "
                f"({longest})",
                "min_ended",
                "does the student know its end of turn? Train it with sft first (a base model "
                "does not end as its instruct teacher does), or allow longer answers: "
                "trainer.on_policy.max_new_tokens, data.max_length",
            )
        if seen.get("rollout_distinct", 1.0) < spec.min_distinct:
            return self._error(
                f"the sampled answers repeat themselves: {seen['rollout_distinct']:.1%} of their "
                f"three-token sequences are different ({longest})",
                "min_distinct",
                "lower trainer.learning_rate or trainer.on_policy.share, or train with sft first",
            )
        if spec.max_kl is not None and seen["rollout_kl"] > spec.max_kl:
            return self._error(
                f"the sampled answers are {seen['rollout_kl']:.3g} nats per token from the teacher",
                "max_kl",
                "lower trainer.learning_rate or trainer.on_policy.temperature, or train with sft "
                "first",
            )
        return None

    def _error(self, seen: str, field: str, advice: str) -> RunError:
        limit = getattr(self.spec, field)
        return RunError(
            f"stopped: in the last {len(self.steps)} steps {seen}; the limit is {limit:g}",
            where=f"trainer.on_policy.{field}",
            hint=f"read them: kdharness rollouts RUN. {advice}. A checkpoint was saved; kdharness "
            "resume RUN continues from it, with a new window of answers",
        )
