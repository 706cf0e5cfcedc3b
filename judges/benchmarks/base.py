"""The base class of benchmarks, and helpers that all of them need.

A benchmark knows its items, what to ask a judge about an answer, and how to read the reply. Its
scores are computed from stored judgments by a plain function (see `registry.SCORERS`), so that a
leaderboard needs neither the benchmark's files nor its class.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from kdharness.harness import protocols
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import DataError
from kdharness.harness.paths import Paths
from kdharness.harness.types import (
    Answer,
    Finish,
    Item,
    JudgeCall,
    Judgment,
    JudgmentStatus,
    Reply,
    Verdict,
    digest,
)
from kdharness.harness.util.repeated_fields import RepeatedFieldError
from kdharness.harness.util.untrusted import parse_json, read_lines
from kdharness.judges.audit.gaming import never_ended
from kdharness.judges.scoring.verdicts import read_winner

_PLACE = re.compile(r"\{(\w+)\}")


class Benchmark:
    """A set of items with one way to judge the answers.

    Attributes:
        name: as outputs show it.
        answers_as: the family whose answers are shared (both AlpacaEvals have the same prompts).
        needs_judge: whether `judge_calls` returns any.
        judge_metric: the metric of its judgments, used to record failed ones; a benchmark whose
            rows differ overrides `judged_metrics`.
        headline: the metric that stands for an answer as a whole where several are stored; empty
            if the mean over all of them does.
        against: the baseline's name, if there is one.
        sources: the files it was read from, if they are a user's own.
        needs_logprobs: whether the judge must return log-probabilities.
        needs_opening: whether the judge must continue a reply that was begun for it.
        pairwise_with: the checkpoint whose answers are the other side, if one is needed.
        fixed: what else the scores depend on; part of the revision.
        flags: differences of this revision from a full, standard one.
    """

    name: ClassVar[str] = ""
    answers_as: ClassVar[str] = ""
    needs_judge: bool = False
    judge_metric: ClassVar[str] = ""
    headline: ClassVar[str] = ""
    needs_logprobs: bool = False
    needs_opening: bool = False
    against: str = ""

    def __init__(
        self,
        items: Sequence[Item],
        *,
        fixed: Sequence[object] = (),
        flags: Sequence[str] = (),
        total: int | None = None,
    ) -> None:
        self.items = tuple(items)
        self.flags = tuple(flags)
        self.total = len(items) if total is None else total
        self._by_id = {item.id: item for item in self.items}
        self.pairwise_with = ""
        self.sources: Mapping[str, str] = {}
        self.revision = digest([_identity(item) for item in self.items], list(fixed), self.label)

    @property
    def label(self) -> str:
        """The name in outputs; a user's benchmark overrides it with its file's stem."""
        return self.name

    @property
    def family(self) -> str:
        """The name under which answers are stored: benchmarks with the same prompts share them."""
        return self.answers_as or self.label

    def judged_metrics(self, item: Item) -> tuple[str, ...]:
        """Return the metrics that a judge is asked for about an answer to `item`."""
        return (self.judge_metric,) if self.judge_metric else ()

    @classmethod
    def load(cls, paths: Paths, config: EvalConfig, source: str = "") -> Benchmark:
        """Read the benchmark's files. `source` is the path of a user's own benchmark."""
        raise NotImplementedError

    def item(self, item_id: str) -> Item:
        """Return an item by its id."""
        return self._by_id[item_id]

    def exact(self, answers: Sequence[Answer]) -> list[Judgment]:
        """Return the judgments that need no judge."""
        return []

    def judge_calls(
        self, answers: Sequence[Answer], baseline: Sequence[Answer] = ()
    ) -> list[JudgeCall]:
        """Return the judge calls for these answers; `baseline` is the other side, if pairwise."""
        return []

    def for_judge(self, logprobs: bool, allow_discrete: bool) -> Benchmark:
        """Return the benchmark in a form that the judge supports, with or without logprobs."""
        return self

    def settled(self, call: JudgeCall) -> Verdict | None:
        """Return a verdict that needs no call, or None."""
        return None

    def read(self, call: JudgeCall, reply: Reply) -> Verdict:
        """Read the verdict from a reply to `call`."""
        raise NotImplementedError


def _identity(item: Item) -> list[object]:
    """Return the fields that define an item's identity."""
    return [
        item.id,
        item.category,
        list(item.turns),
        list(item.messages),
        list(item.references),
        item.temperature,
        item.max_new_tokens,
        item.metric,
    ]


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Replace `{names}` by fields in a single pass: braces inside a field are data.

    Replacing one field after the other would let an answer that contains `{output_2}` hijack the
    prompt, and `str.format` fails on literal braces in templates.
    """
    return _PLACE.sub(lambda match: fields.get(match.group(1), match.group(0)), template)


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Read (line number, object) of every non-empty line.

    Raises:
        DataError: unreadable, not UTF-8, or a line that is not a JSON object, with its number.
    """
    rows = []
    # Split at newlines only: str.splitlines would also split JSON strings at U+2028 and the like.
    for number, line in read_lines(path, DataError):
        try:
            row = parse_json(line, unique=True)
        except RepeatedFieldError as error:
            raise DataError(str(error), where=f"{path}, line {number}") from error
        except UnicodeDecodeError as error:
            raise DataError(
                "not UTF-8 text", where=f"{path}, line {number}", hint="save the file as UTF-8"
            ) from error
        except ValueError as error:
            raise DataError(f"not JSON: {error}", where=f"{path}, line {number}") from error
        if not isinstance(row, dict):
            raise DataError("not a JSON object", where=f"{path}, line {number}")
        rows.append((number, row))
    return rows


def subset(items: Sequence[Item], limit: int | None) -> list[Item]:
    """Return a fixed, category-balanced subset in the items' own order.

    Categories take turns, each in an order that depends only on its items' ids: a larger limit
    includes every smaller one, so no item is answered twice.
    """
    if limit is None or limit >= len(items):
        return list(items)
    pools: dict[str, list[Item]] = {}
    for item in items:
        pools.setdefault(item.category, []).append(item)
    for category, pool in pools.items():
        pool.sort(key=lambda item: random.Random(f"{category}/{item.id}").random())
    chosen: set[str] = set()
    while len(chosen) < limit:
        for pool in pools.values():
            if pool and len(chosen) < limit:
                chosen.add(pool.pop(0).id)
    return [item for item in items if item.id in chosen]


def revision_flags(
    config: EvalConfig,
    items: Sequence[Item],
    total: int,
    *,
    judged: bool = True,
    expected: bool = False,
) -> list[str]:
    """Return the flags of a revision that is not comparable with the standard one.

    Args:
        judged: whether a judge writes texts, whose length may be limited.
        expected: whether its ratings are expected ones.
    """
    flags = []
    if len(items) < total:
        flags.append(f"subset:{len(items)}")
    if config.max_new_tokens is not None:
        flags.append(f"max_new_tokens:{config.max_new_tokens}")
    if config.seed:
        flags.append(f"seed:{config.seed}")
    if expected:
        flags.append("rating:expected")
    if judged and config.judge_max_tokens is not None:
        flags.append(f"verdict_tokens:{config.judge_max_tokens}")
    return flags


def rating_verdict(verdict: Verdict, reply: Reply) -> Verdict:
    """Return the verdict, or an unreadable one if the judge was cut off: it may not be final.

    An engine that stops after a verdict has not cut anything off.
    """
    if reply.finish is not Finish.LENGTH:
        return verdict
    info = {"why": "the judge was cut off at its token limit", **verdict.info, "cut_off": True}
    return Verdict(JudgmentStatus.UNREADABLE, None, info)


def winner_verdict(call: JudgeCall, reply: Reply) -> Verdict:
    """Read 1 if the judged model won, 0 if the other did, 0.5 for a tie, in either order."""
    verdict = rating_verdict(read_winner(reply.text), reply)
    if verdict.value is not None and call.order == 1:
        return Verdict(verdict.status, 1 - verdict.value, verdict.info)
    return verdict


def is_cut_off(answer: Answer) -> bool:
    """Return whether an answer met its token limit, or is nothing but unfinished reasoning."""
    return answer.finish is Finish.LENGTH or never_ended(answer.text)


def by_item(answers: Sequence[Answer]) -> dict[str, dict[int, Answer]]:
    """Return answers as item -> turn -> answer."""
    table: dict[str, dict[int, Answer]] = {}
    for answer in answers:
        table.setdefault(answer.item, {})[answer.turn] = answer
    return table


def _as_the_harness_sees_it(bench: Benchmark) -> protocols.Benchmark:
    """Let the type checker compare the base class with the harness's protocol."""
    return bench
