"""MT-Bench, single grading: 80 questions of two turns, each answer rated 1-10.

The prompt, fields and temperature of each category follow FastChat's `llm_judge`; its questions,
prompts and references are read from the pulled asset.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from kdharness.harness.assets import asset_file
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import AssetError
from kdharness.harness.paths import Paths
from kdharness.harness.stats.metric_specs import EXPECTED_RATING
from kdharness.harness.types import Answer, Item, JudgeCall, Reply, Verdict, digest
from kdharness.harness.util.thoughts import spoken
from kdharness.judges.benchmarks.base import (
    Benchmark,
    by_item,
    fill,
    is_cut_off,
    rating_verdict,
    read_jsonl,
    revision_flags,
    subset,
)
from kdharness.judges.scoring.endings import RATING
from kdharness.judges.scoring.expected import OPENING, as_expected, read_expected
from kdharness.judges.scoring.verdicts import read_rating

ASSET = "mt-bench"
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
REFERENCES = {
    "corrected": "reference_answer/gpt-4-0125-preview.jsonl",
    "classic": "reference_answer/gpt-4.jsonl",
}
JUDGE_TOKENS = 2048
ANSWER_TOKENS = 1024


def prompt_name(kind: str, category: str, turn: int) -> str:
    """Return the judge prompt's name for `single` or `pair` grading of a category's turn (1, 2)."""
    if category in WITH_REFERENCE:
        name = f"{kind}-math-v1"
    else:
        name = "pair-v2" if kind == "pair" else "single-v1"
    return f"{name}-multi-turn" if turn == 2 else name


class MTBenchFiles:
    """The asset's questions, judge prompts and references, read once."""

    def __init__(self, paths: Paths, references: str) -> None:
        self.questions = read_jsonl(asset_file(paths, ASSET, "question.jsonl"))
        prompts = read_jsonl(asset_file(paths, ASSET, "judge_prompts.jsonl"))
        self.prompts = {row["name"]: row for _, row in prompts}
        self.prompts_digest = digest(json.dumps(self.prompts, sort_keys=True))
        self.flags = [] if references == "corrected" else [f"references:{references}"]
        self.references = self._read_references(asset_file(paths, ASSET, REFERENCES[references]))

    @staticmethod
    def _read_references(path: Path) -> dict[int, list[str]]:
        return {
            int(row["question_id"]): [str(turn) for turn in row["choices"][0]["turns"]]
            for _, row in read_jsonl(path)
        }

    def items(self, config: EvalConfig) -> list[Item]:
        """Return the 80 questions with the temperature and references of their category."""
        items = []
        for number, row in self.questions:
            try:
                items.append(self._item(row, config))
            except (KeyError, TypeError, ValueError) as error:
                raise AssetError(
                    f"not an MT-Bench question: {error!r}",
                    where=f"question.jsonl, line {number}",
                    hint="kdharness data check mt-bench",
                ) from error
        return items

    def _item(self, row: dict[str, Any], config: EvalConfig) -> Item:
        category = str(row["category"])
        temperature = row.get("required_temperature", TEMPERATURES.get(category, 0.7))
        needs = category in WITH_REFERENCE
        return Item(
            id=str(row["question_id"]),
            category=category,
            turns=tuple(str(turn) for turn in row["turns"]),
            references=tuple(self.references.get(int(row["question_id"]), ())) if needs else (),
            temperature=float(temperature),
            max_new_tokens=config.max_new_tokens or ANSWER_TOKENS,
        )


def judge_fields(item: Item, turn: int) -> dict[str, str]:
    """Return the template fields that do not depend on an answer."""
    fields = {"question": item.turns[0], "question_1": item.turns[0]}
    if len(item.turns) > 1:
        fields["question_2"] = item.turns[1]
    for index, reference in enumerate(item.references[:turn], start=1):
        fields[f"ref_answer_{index}"] = reference
    return fields


def chat(prompt: dict[str, Any], fields: dict[str, str]) -> tuple[dict[str, str], ...]:
    """Return a judge prompt's system and user messages."""
    return (
        {"role": "system", "content": str(prompt["system_prompt"])},
        {"role": "user", "content": fill(str(prompt["prompt_template"]), fields)},
    )


class MTBench(Benchmark):
    """Single grading: 160 calls per model."""

    name: ClassVar[str] = "mt-bench"
    answers_as: ClassVar[str] = "mt-bench"
    needs_judge: bool = True
    judge_metric: ClassVar[str] = "rating"

    def __init__(
        self,
        items: Sequence[Item],
        prompts: dict[str, Any],
        *,
        expected: bool = False,
        **rest: Any,
    ) -> None:
        """Create the benchmark; `expected` reads distributions instead of texts."""
        super().__init__(items, **rest)
        self.prompts = prompts
        self.needs_logprobs = self.needs_opening = expected

    def judged_metrics(self, item: Item) -> tuple[str, ...]:
        """Return the metric of its ratings."""
        return (EXPECTED_RATING,) if self.needs_opening else (self.judge_metric,)

    @classmethod
    def load(cls, paths: Paths, config: EvalConfig, source: str = "") -> MTBench:
        """Load from the pulled asset; references other than the corrected ones are flagged."""
        files = MTBenchFiles(paths, config.references)
        all_items = files.items(config)
        items = subset(all_items, config.limit)
        expected = config.rating == "expected"
        flags = revision_flags(
            config, items, len(all_items), judged=not expected, expected=expected
        )
        protocol = [EXPECTED_RATING, OPENING] if expected else []
        return cls(
            items,
            files.prompts,
            expected=expected,
            fixed=[cls.name, files.prompts_digest, config.seed, *protocol],
            flags=[*flags, *files.flags],
            total=len(all_items),
        )

    def judge_calls(
        self, answers: Sequence[Answer], baseline: Sequence[Answer] = ()
    ) -> list[JudgeCall]:
        """Return one call per turn; the second one shows the whole conversation."""
        calls = []
        for item_id, turns in by_item(answers).items():
            item = self.item(item_id)
            for turn in sorted(turns):
                if turn > 2 or any(step not in turns for step in range(1, turn + 1)):
                    continue
                calls.append(self._call(item, turn, turns))
        return calls

    def _call(self, item: Item, turn: int, turns: dict[int, Answer]) -> JudgeCall:
        name = prompt_name("single", item.category, turn)
        fields = judge_fields(item, turn)
        fields["answer"] = fields["answer_1"] = spoken(turns[1].text)
        if turn == 2:
            fields["answer_2"] = spoken(turns[2].text)
        answer = turns[turn]
        info: dict[str, Any] = {"prompt": name}
        if is_cut_off(answer):
            info["truncated"] = True
        call = JudgeCall(
            item=item.id,
            turn=turn,
            category=item.category,
            metric="rating",
            messages=chat(self.prompts[name], fields),
            answer=answer.id,
            max_tokens=JUDGE_TOKENS,
            verdict=RATING,
            info=info,
        )
        return as_expected(call) if self.needs_opening else call

    def read(self, call: JudgeCall, reply: Reply) -> Verdict:
        """Read a rating from 1 to 10, or the mean of its distribution."""
        if call.opening:
            return read_expected(reply)
        return rating_verdict(read_rating(reply.text), reply)
