"""Sampled answers in the place of the data's, step by step, and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.harness.errors import ConfigError, RunError
from kdharness.harness.models.limits import limits_of
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.protocols import TokenEngine, TokenPrompt
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.runs.rollouts import Rollout, RolloutFile, read_rollouts
from kdharness.harness.types import IGNORE_INDEX
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.untrusted import read_json_object
from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.layout import Batch, Layout
from kdharness.trainers.data.on_policy import answer_start, prompt_of, settings_of
from kdharness.trainers.guards import Guard, curves_of, distinct_share
from kdharness.trainers.points import generating, sharding_engine
from kdharness.trainers.teachers.online import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STOPPED = "rollouts-stopped.json"
"""In the run's folder: the step after which a limit ended the run."""
Collate = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


@dataclass(frozen=True)
class _Drawn:
    """A sampled answer that was not scored yet: its row, prompt and tokens."""

    row: int
    prompt: TokenPrompt
    tokens: Sequence[int]
    ended: bool


def check_on_policy(config: object, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse to sample from weights that no process has as a whole.

    Raises:
        ConfigError: FSDP or DeepSpeed, and the weights in training are to generate.
    """
    spec, engine = settings_of(config), sharding_engine(environ)
    if spec is not None and spec.is_local and engine:
        raise ConfigError(
            f"the student is sharded by {engine}: no process can sample from it alone",
            where="trainer.on_policy.engine",
            hint="use DDP or one process, or name a server that you keep up to date: "
            "engine: openai:MODEL@http://host:port/v1",
        )


def known_ids(setting: TrainContext, teachers: Mapping[int, Teacher]) -> int:
    """Return how many ids the tokenizer, the student and every teacher know: what is sampled."""
    widths = [len(setting.tokenizer), limits_of(causal_model(setting.student)).vocabulary]
    widths += [vocab for t in teachers.values() if (vocab := int(getattr(t, "vocab", 0)))]
    return min(widths)


def room_of(setting: TrainContext, teachers: Mapping[int, Teacher]) -> int:
    """Return the most tokens of prompt and answer: `max_length`, or the shortest context."""
    models = [causal_model(setting.student)]
    models += [causal_model(t.model) for t in teachers.values() if hasattr(t, "model")]
    lengths = [limits_of(model).trained_on for model in models]
    return min([setting.config.data.max_length, *(length for length in lengths if length)])


class SampledRows:
    """Samples the answers of a process's on-policy rows, and keeps what all processes sampled."""

    def __init__(
        self,
        setting: TrainContext,
        spec: OnPolicySpec,
        teachers: Mapping[int, Teacher],
        collate: Collate,
    ) -> None:
        """Prepare for the first step.

        Raises:
            KDHarnessError: a server that cannot be used.
        """
        self.setting, self.spec, self.collate = setting, spec, collate
        self.room, self.vocabulary = room_of(setting, teachers), known_ids(setting, teachers)
        self.guard = Guard(spec)
        self.file = RolloutFile(setting.job.folder)
        self.problem: RunError | None = None
        self.curves: dict[str, float] = {}
        self.drawn: dict[tuple[int, int], _Drawn] = {}
        self.step = 0
        self.engine: TokenEngine | None = None
        self._begin()

    def _begin(self) -> None:
        spec, job = self.spec, self.setting.job
        rows = self.setting.train.rows
        full = sum(answer_start(row.labels) >= self.room for row in rows)
        if full:
            job.reporter.say(
                f"{full} of {len(rows)} rows keep the data's answers: their prompts leave no room "
                f"for a sampled one in {self.room} tokens",
                kind="warning",
            )
        job.reporter.say(
            f"on-policy: {spec.share:.0%} of rows get answers of up to {spec.max_new_tokens} "
            f"tokens by the student ({spec.engine}), at temperature {spec.temperature:g}"
        )
        if not spec.is_local:
            self.engine = resolve(TOOLS, "served_rollouts", "tool")(spec, self.setting.tokenizer)
            if note := self.engine.check():
                job.reporter.say(note, kind="warning")

    def restart_after(self, step: int) -> None:
        """Continue after a step: forget later answers, and look at earlier ones again.

        After a run that a limit ended, only new answers count: resuming means to go on.
        """
        if not self.setting.job.is_main:
            kept = _read(self.file)
        else:
            kept = self.file.restart_after(step)
        note = self.file.folder / STOPPED
        ended = 0
        if note.exists():
            found = read_json_object(note, "the record of where this run was stopped", RunError)
            at = found.get("step")
            ended = at if isinstance(at, int) and at <= step else 0
        steps: dict[int, list[Rollout]] = {}
        for rollout in kept:
            if ended < rollout.step <= step:
                steps.setdefault(rollout.step, []).append(rollout)
        # What they would have broken they broke before.
        for number in sorted(steps):
            self.guard.see(steps[number])

    # ------------------------------------------------------------ sampling

    def replace(self, model: PreTrainedModel, batches: Sequence[Batch], step: int) -> list[Batch]:
        """Return a step's micro-batches of this process with the student's own answers."""
        self.step, self.drawn, self.curves = step, {}, {}
        data, seed = self.setting.train, self.setting.config.seed
        rows = {row for batch in batches for row in _layout(batch).index}
        # A row that stands twice in a step has one answer.
        found = {
            row: prompt_of(data.rows[row], row, step, seed, self.spec, self.room)
            for row in sorted(rows)
        }
        prompts = {row: prompt for row, prompt in found.items() if prompt is not None}
        if not prompts:
            return list(batches)
        replies = self._sample(model, list(prompts.values()))
        answers = {
            row: _Drawn(row, prompt, ids, ended)
            for (row, prompt), (ids, ended) in zip(prompts.items(), replies, strict=True)
        }
        self.drawn = {
            (number, place): answers[row]
            for number, batch in enumerate(batches)
            for place, row in enumerate(_layout(batch).index)
            if row in answers
        }
        changed = {number for number, _ in self.drawn}
        return [
            self._collated(number, batch) if number in changed else batch
            for number, batch in enumerate(batches)
        ]

    def _sample(
        self, model: PreTrainedModel, prompts: Sequence[TokenPrompt]
    ) -> list[tuple[Sequence[int], bool]]:
        """Return (tokens, whether they end the turn) for each prompt."""
        spec, setting = self.spec, self.setting
        with generating(model, setting) if spec.is_local else nullcontext() as causal:
            engine = self.engine or resolve(TOOLS, "rollouts_of", "tool")(
                causal,
                setting.tokenizer,
                setting.job.paths,
                batch_size=spec.batch_size,
                temperature=spec.temperature,
                vocabulary=self.vocabulary,
            )
            replies = engine.continuations(prompts)
        for prompt, reply in zip(prompts, replies, strict=True):
            if not 0 < len(reply.ids) <= prompt.limit or max(reply.ids) >= self.vocabulary:
                raise RunError(
                    f"the engine returned {len(reply.ids)} tokens for at most {prompt.limit}, or "
                    f"ids that the models do not share (from {self.vocabulary} on)",
                    where="trainer.on_policy.engine",
                    hint="does the server run the student that is trained, with its tokenizer?",
                )
        return [(reply.ids, reply.ended) for reply in replies]

    def _collated(self, number: int, batch: Batch) -> dict[str, Any]:
        rows = []
        for place, index in enumerate(_layout(batch).index):
            row = dict(self.setting.train[index])
            if (drawn := self.drawn.get((number, place))) is not None:
                blank = [IGNORE_INDEX] * len(drawn.prompt.ids)
                row |= {
                    "input_ids": [*drawn.prompt.ids, *drawn.tokens],
                    "labels": [*blank, *drawn.tokens],
                    "sampled": True,
                }
            rows.append(row)
        made = self.collate(rows)
        pinned = _layout(batch).targets.is_pinned()
        if not pinned:
            return made
        return {name: value.pin_memory() for name, value in made.items()}

    # ------------------------------------------------------------ what came of it

    def keep(self, scores: Mapping[tuple[int, int], float]) -> None:
        """Record a step's answers with the sums of their divergences, of all processes.

        Args:
            scores: (micro-batch, place in it) -> sum over the answer's tokens.
        """
        mine = [self._rollout(drawn, scores[key]) for key, drawn in self.drawn.items()]
        found = mine
        if self.setting.job.world > 1 and dist.is_initialized():
            shares: list[list[Rollout]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(shares, mine)
            found = [rollout for share in shares for rollout in share]
        self.drawn, self.curves = {}, curves_of(found)
        if self.setting.job.is_main:
            self.file.add(found)
        self.problem = self.guard.see(found)
        if self.problem is None or self.step < self.setting.plan.steps:
            return
        if self.setting.job.is_main:
            # The last step: there is nothing left to stop.
            self.setting.job.reporter.say(str(self.problem), kind="warning")
        self.problem = None

    def _rollout(self, drawn: _Drawn, score: float) -> Rollout:
        row = self.setting.train.rows[drawn.row]
        return Rollout(
            self.step,
            drawn.row,
            row.where,
            row.kind,
            len(drawn.prompt.ids),
            len(drawn.tokens),
            drawn.ended,
            distinct_share(drawn.tokens),
            score / len(drawn.tokens),
            self.setting.tokenizer.decode(list(drawn.tokens), skip_special_tokens=True),
        )

    def end(self) -> None:
        """Record that a limit ended the run here; raise the error that says which."""
        if self.problem is None:
            return
        if self.setting.job.is_main:
            atomic_write_text(self.file.folder / STOPPED, f'{{"step": {self.step}}}\n')
        raise self.problem

    def sizes(self, steps: int) -> dict[tuple[int, int], int]:
        """Return (step, row) -> tokens of each answer that was sampled, up to a step."""
        return {(r.step, r.row): r.tokens for r in _read(self.file) if r.step <= steps}


def _layout(batch: Batch) -> Layout:
    layout: Layout = batch["layout"]
    return layout


def _read(file: RolloutFile) -> list[Rollout]:
    return list(read_rollouts(file.folder)) if file.path.exists() else []
