"""Arena-Hard v2: 750 prompts, each answer compared with a strong baseline's in both orders.

Prompts, both baselines' answers and the judge's prompts are read from the pulled asset. Hard
prompts (coding, mathematics) are compared with o3-mini, creative writing with Gemini 2.0 Flash.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

from kdharness.harness.assets import asset_file
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import AssetError
from kdharness.harness.paths import Paths
from kdharness.harness.types import Answer, Item, JudgeCall, Reply, Verdict, digest
from kdharness.harness.util.untrusted import read_text
from kdharness.judges.benchmarks.base import (
    Benchmark,
    is_cut_off,
    rating_verdict,
    read_jsonl,
    revision_flags,
    subset,
)
from kdharness.judges.scoring.arena import (
    METRICS,
    battle,
    read_step,
    style_difference,
    style_of,
)
from kdharness.judges.scoring.verdicts import cut_thinking

ASSET = "arena-hard-v2"
BASELINES = {"hard_prompt": "o3-mini-2025-01-31", "creative_writing": "gemini-2.0-flash-001"}
"""Category -> the model whose answers are the other side."""
PUBLISHED = "+".join(BASELINES.values())
ANSWER_TOKENS = 4096
JUDGE_TOKENS = 16_000
_PLACES = ("{QUESTION}", "{ANSWER_A}", "{ANSWER_B}")


class JudgePrompts(NamedTuple):
    """The judge's system prompt for each category, and the frame of its user message."""

    system: Mapping[str, str]
    frame: str


class ArenaHard(Benchmark):
    """Pairwise comparison in five steps: 1,500 calls for the whole benchmark."""

    name: ClassVar[str] = "arena-hard-v2"
    needs_judge: bool = True

    def __init__(
        self,
        items: Sequence[Item],
        prompts: JudgePrompts,
        metrics: Mapping[str, str],
        baseline: Mapping[str, str],
        against: str,
        **rest: Any,
    ) -> None:
        """Create the benchmark.

        Args:
            items: the prompts.
            prompts: the judge's prompts.
            metrics: item -> `hard_prompt` or `creative_writing`.
            baseline: item -> the published answer; empty to compare with a stored checkpoint.
            against: the baseline's name.
        """
        super().__init__(items, **rest)
        self.prompts, self.metrics, self.baseline = prompts, metrics, baseline
        self.baseline_names = {item: _baseline_of(metrics[item], against) for item in baseline}
        self.against = against
        self.pairwise_with = "" if baseline else against

    @classmethod
    def load(cls, paths: Paths, config: EvalConfig, source: str = "") -> ArenaHard:
        """Load prompts, baseline answers and judge prompts.

        Raises:
            AssetError: not pulled, or a file that is not what it should be.
        """
        rows = read_jsonl(asset_file(paths, ASSET, "question.jsonl"))
        metrics, every = {}, []
        for number, row in rows:
            where = f"question.jsonl, line {number}"
            name, prompt, uid = (row.get(key) for key in ("category", "prompt", "uid"))
            if name not in BASELINES or not isinstance(prompt, str) or not isinstance(uid, str):
                raise _damaged("not an Arena-Hard prompt", where)
            metrics[uid] = name
            every.append(
                Item(
                    id=uid,
                    category=str(row.get("subcategory") or name),
                    turns=(prompt,),
                    max_new_tokens=config.max_new_tokens or ANSWER_TOKENS,
                )
            )
        items = subset(every, config.limit)
        against = config.baseline or PUBLISHED
        baseline: dict[str, str] = {}
        if against in (PUBLISHED, *BASELINES.values()):
            baseline = _baseline_answers(paths, items, metrics, against)
            # Gemini's published answers leave out two of the hard prompts.
            items = [item for item in items if item.id in baseline]
        flags = revision_flags(config, items, len(every))
        if against != PUBLISHED:
            flags.append(f"baseline:{against}")
        prompts = read_prompts(asset_file(paths, ASSET, "arena_hard_task.py"))
        fixed = [
            cls.name,
            digest(json.dumps([dict(prompts.system), prompts.frame], sort_keys=True)),
            against,
            sorted((item, digest(text)) for item, text in baseline.items()),
            config.seed,
        ]
        return cls(
            items, prompts, metrics, baseline, against, fixed=fixed, flags=flags, total=len(every)
        )

    def judged_metrics(self, item: Item) -> tuple[str, ...]:
        """Return the prompt's own metric."""
        return (self.metrics[item.id],)

    def judge_calls(
        self, answers: Sequence[Answer], baseline: Sequence[Answer] = ()
    ) -> list[JudgeCall]:
        """Return two calls for each prompt that both sides have answered."""
        theirs = {a.item: a.text for a in baseline if a.turn == 1} or self.baseline
        return [
            call
            for answer in answers
            if answer.item in self._by_id and answer.item in theirs
            for call in self._calls(self.item(answer.item), answer, theirs[answer.item])
        ]

    def _calls(self, item: Item, answer: Answer, theirs: str) -> list[JudgeCall]:
        """Return the calls on one answer, in both orders."""
        # A judge sees what a reader would: not the model's reasoning.
        mine, theirs = cut_thinking(answer.text), cut_thinking(theirs)
        info: dict[str, object] = {
            "len_1": len(theirs),
            "len_2": len(mine),
            **style_difference(style_of(mine), style_of(theirs)),
        }
        if is_cut_off(answer):
            info["truncated"] = True
        metric = self.metrics[item.id]
        return [
            JudgeCall(
                item=item.id,
                turn=1,
                category=item.category,
                metric=metric,
                messages=(
                    {"role": "system", "content": self.prompts.system[metric]},
                    {"role": "user", "content": framed(self.prompts.frame, item.turns[0], *shown)},
                ),
                answer=answer.id,
                baseline=self.against,
                order=order,
                max_tokens=JUDGE_TOKENS,
                info=info,
            )
            for order, shown in enumerate(((mine, theirs), (theirs, mine)))
        ]

    def read(self, call: JudgeCall, reply: Reply) -> Verdict:
        """Read the weight that the judged model won, out of 3 for a clear verdict and 1 else."""
        verdict, step = read_step(reply.text)
        if step is None:
            return rating_verdict(verdict, reply)
        value, weight = battle(step, call.order)
        return rating_verdict(Verdict(verdict.status, value, verdict.info, weight), reply)


def framed(frame: str, question: str, first: str, second: str) -> str:
    """Fill the judge's user message in one pass: placeholders inside a text are left alone."""
    parts, rest = [], frame
    for place, text in zip(_PLACES, (question, first, second), strict=True):
        before, _, rest = rest.partition(place)
        parts += [before, text]
    return "".join([*parts, rest])


def _baseline_answers(
    paths: Paths, items: Sequence[Item], metrics: Mapping[str, str], against: str
) -> dict[str, str]:
    """Return item -> the published answer of its baseline, or of the one that was asked for."""
    tables = {
        name: _answers(asset_file(paths, ASSET, f"model_answer/{name}.jsonl"))
        for name in BASELINES.values()
        if against in (PUBLISHED, name)
    }
    found = {}
    for item in items:
        name = _baseline_of(metrics[item.id], against)
        if item.id in tables[name]:
            found[item.id] = tables[name][item.id]
    return found


def _baseline_of(metric: str, against: str) -> str:
    """Return the model whose answers a kind of prompt is compared with."""
    return BASELINES[metric] if against == PUBLISHED else against


def _answers(path: Path) -> dict[str, str]:
    """Return item -> answer of a published file."""
    table = {}
    for number, row in read_jsonl(path):
        try:
            table[str(row["uid"])] = str(row["messages"][-1]["content"]["answer"])
        except (KeyError, IndexError, TypeError) as error:
            raise _damaged("not an Arena-Hard answer", f"{path.name}, line {number}") from error
    return table


def read_prompts(path: Path) -> JudgePrompts:
    """Read the judge's prompts from constants of a Python file, which is never run.

    Raises:
        AssetError: they are not there.
    """
    try:
        tree = ast.parse(read_text(path, "Arena-Hard's judge prompts", error=AssetError))
        known: dict[str, object] = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                known[node.targets[0].id] = _constant(node.value, known)
        settings = cast(dict[str, dict[str, str]], known["JUDGE_SETTINGS"])
        system = {name: str(settings[name]["system_prompt"]) for name in METRICS}
        named = {name: settings[name]["baseline"] for name in METRICS}
        frame = str(known["DEFAULT_PROMPT_TEMPLATE"])
    except (SyntaxError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(f"no judge prompts: {error!r}", path.name) from error
    if named != BASELINES or any(frame.count(place) != 1 for place in _PLACES):
        raise _damaged("judge prompts of another form", path.name)
    return JudgePrompts(system, frame)


def _constant(node: ast.expr, known: Mapping[str, object]) -> object:
    """Return a literal's value, with names of earlier constants in it; None for anything else."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Dict):
        return {
            _constant(key, known): _constant(value, known)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    return node.value if isinstance(node, ast.Constant) else None


def _damaged(what: str, where: str) -> AssetError:
    return AssetError(what, where=where, hint=f"kdharness data check {ASSET}")
