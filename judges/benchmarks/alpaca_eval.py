"""AlpacaEval 1 and 2: 805 instructions, each answer against a baseline's.

Templates and their settings are read from the pulled asset (or a user's own config), in
alpaca_eval's format; its `model_name` is ignored, the judge is the one of the SPEC.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from kdharness.harness.assets import asset_file
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import DataError, JudgeError
from kdharness.harness.paths import Paths
from kdharness.harness.types import Answer, Item, JudgeCall, JudgmentStatus, Reply, Verdict
from kdharness.harness.util.thoughts import spoken
from kdharness.harness.util.untrusted import parse_json, read_text
from kdharness.judges.benchmarks.base import (
    Benchmark,
    fill,
    is_cut_off,
    rating_verdict,
    revision_flags,
    subset,
)
from kdharness.judges.benchmarks.evaluator_config import read_evaluator
from kdharness.judges.scoring.verdicts import (
    UNREADABLE,
    cut_thinking,
    is_unfinished,
    read_first_token,
    read_ranking,
    read_token,
    unswitch,
)

JUDGES_ASSET = "alpaca-eval-judges"
ANSWER_TOKENS = 2048
A_TOKEN = 8
"""Up to this many reply tokens, a judge is expected to stop at its limit."""
_ROLE = re.compile(r"<\|im_start\|>(\w+)\s*\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)


def is_switched(instruction: str) -> bool:
    """Return whether the baseline is shown second, seeded by the instruction as upstream."""
    seeded = random.Random(f"is_switched_outputs{instruction}0")
    return seeded.choices([False, True], k=1)[0]


@dataclass(frozen=True)
class JudgeTemplate:
    """One evaluator config: the template's messages and how its reply is parsed."""

    name: str
    messages: tuple[tuple[str, str], ...]
    parser: str
    first: str = "m"
    second: str = "M"
    binarize: bool = False
    patterns: tuple[tuple[float, str], ...] = ()
    max_tokens: int = 1
    temperature: float = 0.0
    top_logprobs: int = 0

    @property
    def needs_logprobs(self) -> bool:
        """Whether it requires an endpoint with log-probabilities."""
        return self.parser == "logprob_parser"

    def chat(self, fields: dict[str, str]) -> tuple[dict[str, str], ...]:
        """Return the messages with their fields filled in, in a single pass each."""
        return tuple(
            {"role": role, "content": fill(text, fields).strip()} for role, text in self.messages
        )

    def read(self, reply: Reply) -> Verdict:
        """Read the preference for the order that was shown."""
        if self.parser == "ranking_parser":
            return read_ranking(reply.text)
        if self.parser == "regex_parser":
            if is_unfinished(reply.text):
                return UNREADABLE
            return _first_pattern(cut_thinking(reply.text), self.patterns)
        if not self.top_logprobs:
            return read_token(reply.text, self.first, self.second)
        verdict = read_first_token(reply.top_logprobs, self.first, self.second)
        if self.binarize and verdict.value is not None:
            return Verdict(verdict.status, 1.0 if verdict.value < 1.5 else 2.0)
        return verdict


def _first_pattern(text: str, patterns: Sequence[tuple[float, str]]) -> Verdict:
    """Return the verdict of the pattern that matches earliest."""
    matches = [
        (match.start(), value) for value, p in patterns if (match := re.search(p, text)) is not None
    ]
    if not matches:
        return UNREADABLE
    value = min(matches)[1]
    return Verdict(JudgmentStatus.OK, 1.5 if value == 0 else value)


def load_template(paths: Paths, name: str) -> JudgeTemplate:
    """Load an evaluator config by its name in the pulled asset, or from a user's YAML file.

    Raises:
        ConfigError: no such config, or one with unsupported settings.
        AssetError: the asset has not been pulled.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
    else:
        path = asset_file(paths, JUDGES_ASSET, f"evaluators_configs/{name}/configs.yaml")
    config = read_evaluator(path, name)
    return JudgeTemplate(
        name=config.name,
        messages=tuple(_ROLE.findall(config.template)) or (("user", config.template),),
        parser=config.parser,
        first=config.first,
        second=config.second,
        binarize=config.binarize,
        patterns=config.patterns,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_logprobs=config.top_logprobs,
    )


class AlpacaEval(Benchmark):
    """The base of both versions."""

    answers_as: ClassVar[str] = "alpaca-eval"
    needs_judge: bool = True
    judge_metric: ClassVar[str] = "preference"
    judge_config: ClassVar[str] = ""
    baseline_name: ClassVar[str] = ""
    baseline_file: ClassVar[tuple[str, str]] = ("", "")

    def __init__(
        self,
        items: Sequence[Item],
        template: JudgeTemplate,
        baseline: dict[str, str],
        against: str,
        **rest: Any,
    ) -> None:
        super().__init__(items, **rest)
        self.template = template
        self.baseline = baseline
        self.baseline_names = dict.fromkeys(baseline, against)
        self.against = against
        self._rest = rest
        self.needs_logprobs = template.needs_logprobs and template.top_logprobs > 0
        self.pairwise_with = against if not baseline else ""

    @classmethod
    def load(cls, paths: Paths, config: EvalConfig, source: str = "") -> AlpacaEval:
        """Load instructions, baseline outputs and template from pulled assets."""
        instructions = read_outputs(
            asset_file(paths, "alpaca-eval", "alpaca_eval_gpt4_baseline.json")
        )
        all_items = [
            Item(
                id=str(index),
                category=str(row.get("dataset", "")),
                turns=(str(row["instruction"]),),
                max_new_tokens=config.max_new_tokens or ANSWER_TOKENS,
            )
            for index, row in enumerate(instructions)
        ]
        items = subset(all_items, config.limit)
        flags = revision_flags(config, items, len(all_items))
        template = load_template(paths, config.judge_config or cls.judge_config)
        if template.name != cls.judge_config:
            flags.append(f"template:{template.name}")
        baseline: dict[str, str] = {}
        against = cls.baseline_name
        if config.baseline and config.baseline != against:
            against = config.baseline
            flags.append(f"baseline:{against}")
        else:
            rows = read_outputs(asset_file(paths, *cls.baseline_file))
            outputs = {str(row["instruction"]): str(row["output"]) for row in rows}
            baseline = {i.id: outputs[i.turns[0]] for i in items if i.turns[0] in outputs}
        fixed = [cls.name, repr(template), against, sorted(baseline.items()), config.seed]
        return cls(
            items, template, baseline, against, fixed=fixed, flags=flags, total=len(all_items)
        )

    def for_judge(self, logprobs: bool, allow_discrete: bool) -> AlpacaEval:
        """Return the benchmark in a form that the judge supports, with or without logprobs.

        Raises:
            JudgeError: log-probabilities are needed, and `allow_discrete` is not set.
        """
        if logprobs or not self.template.needs_logprobs:
            return self
        if not allow_discrete:
            raise JudgeError(
                f"{self.name} needs log-probabilities, and this judge returns none",
                hint="use --discrete to read the token itself (flagged in the result)",
            )
        # Reasoning models need room to reason before the one token that counts.
        template = replace(self.template, top_logprobs=0, temperature=0.0, max_tokens=2048)
        rest = dict(self._rest)
        rest["fixed"] = [*rest.get("fixed", []), "discrete"]
        rest["flags"] = [*rest.get("flags", []), "discrete"]
        return type(self)(self.items, template, self.baseline, self.against, **rest)

    def judge_calls(
        self, answers: Sequence[Answer], baseline: Sequence[Answer] = ()
    ) -> list[JudgeCall]:
        """Return one call per instruction; which side comes first depends on the instruction."""
        outputs = {a.item: a.text for a in baseline if a.turn == 1} or self.baseline
        calls = []
        for answer in answers:
            if answer.item not in self._by_id or answer.item not in outputs:
                continue
            calls.append(self._call(self.item(answer.item), answer, outputs[answer.item]))
        return calls

    def _call(self, item: Item, answer: Answer, base: str) -> JudgeCall:
        instruction = item.turns[0]
        # Neither shown nor counted as length: a model's reasoning is no part of its answer.
        mine, base = spoken(answer.text), spoken(base)
        switched = is_switched(instruction)
        shown = (mine, base) if switched else (base, mine)
        fields = {"instruction": instruction, "output_1": shown[0], "output_2": shown[1]}
        info: dict[str, object] = {
            "len_1": len(base),
            "len_2": len(mine),
            "switched": switched,
        }
        if base == mine:
            info["equal"] = True
        if is_cut_off(answer):
            info["truncated"] = True
        tokens = (self.template.first, self.template.second)
        return JudgeCall(
            item=item.id,
            turn=1,
            category=item.category,
            metric="preference",
            messages=self.template.chat(fields),
            answer=answer.id,
            baseline=self.against,
            max_tokens=self.template.max_tokens,
            temperature=self.template.temperature,
            top_logprobs=self.template.top_logprobs,
            choices=tokens if self.template.top_logprobs else (),
            info=info,
        )

    def settled(self, call: JudgeCall) -> Verdict | None:
        """Return a draw for equal outputs, which need no call."""
        return Verdict(JudgmentStatus.OK, 1.5) if call.info.get("equal") else None

    def read(self, call: JudgeCall, reply: Reply) -> Verdict:
        """Read the preference for (baseline, model), whatever order was shown."""
        verdict = self.template.read(reply)
        # A reply of one token is expected to stop at its limit.
        if call.max_tokens > A_TOKEN:
            verdict = rating_verdict(verdict, reply)
        return unswitch(verdict, bool(call.info.get("switched")))


class AlpacaEval1(AlpacaEval):
    """Version 1: ranked lists, against text_davinci_003."""

    name: ClassVar[str] = "alpaca-eval-1"
    judge_config: ClassVar[str] = "alpaca_eval_gpt4"
    baseline_name: ClassVar[str] = "text_davinci_003"
    baseline_file: ClassVar[tuple[str, str]] = ("alpaca-eval-1", "alpaca_eval.json")


class AlpacaEval2(AlpacaEval):
    """Version 2: one token's log-probabilities, against gpt4_1106_preview."""

    name: ClassVar[str] = "alpaca-eval-2"
    judge_config: ClassVar[str] = "weighted_alpaca_eval_gpt4_turbo"
    baseline_name: ClassVar[str] = "gpt4_1106_preview"
    baseline_file: ClassVar[tuple[str, str]] = ("alpaca-eval", "alpaca_eval_gpt4_baseline.json")


def read_outputs(path: Path) -> list[dict[str, object]]:
    """Read a JSON list of model outputs in alpaca_eval's format.

    Raises:
        DataError: not a list of objects with an instruction and an output.
    """
    try:
        rows = parse_json(read_text(path, "a list of outputs", error=DataError))
    except ValueError as error:
        raise DataError(f"not a JSON list of outputs: {error}", where=str(path)) from error
    if not isinstance(rows, list):
        raise DataError("not a JSON list of outputs", where=str(path))
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or "instruction" not in row or "output" not in row:
            raise DataError("missing instruction or output", where=f"{path}, entry {number}")
    return rows
