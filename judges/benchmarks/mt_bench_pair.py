"""MT-Bench, pairwise: each turn of two models compared in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.types import Answer, Item, JudgeCall, Reply, Verdict
from kdharness.harness.util.thoughts import spoken
from kdharness.judges.benchmarks.base import (
    Benchmark,
    by_item,
    is_cut_off,
    revision_flags,
    subset,
    winner_verdict,
)
from kdharness.judges.benchmarks.mt_bench import (
    JUDGE_TOKENS,
    MTBenchFiles,
    chat,
    judge_fields,
    prompt_name,
)
from kdharness.judges.scoring.endings import WINNER


class MTBenchPair(Benchmark):
    """Pairwise grading: 320 calls per pair of models (two turns, two orders)."""

    name: ClassVar[str] = "mt-bench-pair"
    answers_as: ClassVar[str] = "mt-bench"
    needs_judge: bool = True
    judge_metric: ClassVar[str] = "pair"

    def __init__(
        self, items: Sequence[Item], prompts: dict[str, Any], against: str, **rest: Any
    ) -> None:
        super().__init__(items, **rest)
        self.prompts = prompts
        self.against = against
        self.pairwise_with = against

    @classmethod
    def load(cls, paths: Paths, config: EvalConfig, source: str = "") -> MTBenchPair:
        """Load from the pulled asset.

        Raises:
            ConfigError: no baseline; no answers ship with the benchmark.
        """
        if not config.baseline:
            raise ConfigError(
                "mt-bench-pair needs a baseline",
                where="baseline",
                hint="--baseline MODEL (a checkpoint or imported answers), or --baseline all",
            )
        files = MTBenchFiles(paths, config.references)
        all_items = files.items(config)
        items = subset(all_items, config.limit)
        flags = [*revision_flags(config, items, len(all_items)), f"baseline:{config.baseline}"]
        return cls(
            items,
            files.prompts,
            config.baseline,
            fixed=[cls.name, files.prompts_digest, config.baseline, config.seed],
            flags=[*flags, *files.flags],
            total=len(all_items),
        )

    def judge_calls(
        self, answers: Sequence[Answer], baseline: Sequence[Answer] = ()
    ) -> list[JudgeCall]:
        """Return two calls for each turn that both sides have answered."""
        other = by_item(baseline)
        calls = []
        for item_id, turns in by_item(answers).items():
            theirs = other.get(item_id, {})
            for turn in (1, 2):
                if any(step not in turns or step not in theirs for step in range(1, turn + 1)):
                    continue
                calls += [
                    self._call(self.item(item_id), turn, turns, theirs, order) for order in (0, 1)
                ]
        return calls

    def _call(
        self, item: Item, turn: int, mine: dict[int, Answer], theirs: dict[int, Answer], order: int
    ) -> JudgeCall:
        name = prompt_name("pair", item.category, turn)
        fields = judge_fields(item, turn)
        for letter, side in zip(
            "ab", (mine, theirs) if order == 0 else (theirs, mine), strict=True
        ):
            fields[f"answer_{letter}"] = fields[f"answer_{letter}_1"] = spoken(side[1].text)
            if turn == 2:
                fields[f"answer_{letter}_2"] = spoken(side[2].text)
        info: dict[str, Any] = {"prompt": name}
        if is_cut_off(mine[turn]) or is_cut_off(theirs[turn]):
            info["truncated"] = True
        return JudgeCall(
            item=item.id,
            turn=turn,
            category=item.category,
            metric="pair",
            messages=chat(self.prompts[name], fields),
            answer=mine[turn].id,
            baseline=self.against,
            order=order,
            max_tokens=JUDGE_TOKENS,
            verdict=WINNER,
            info=info,
        )

    def read(self, call: JudgeCall, reply: Reply) -> Verdict:
        """Read 1 if the judged model won, 0 if the other did, 0.5 for a tie."""
        return winner_verdict(call, reply)
