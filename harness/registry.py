"""Names of methods, benchmarks and engines, with where their code lies.

Values are "module:attribute" strings, so that listing names imports nothing: `kdharness --help`
must not load torch. Adding a method or a benchmark is one file and one line here.
"""

from __future__ import annotations

import importlib
from typing import Any

from kdharness.harness.errors import ConfigError, did_you_mean

TRAINERS: dict[str, str] = {
    "sft": "kdharness.trainers.methods.sft:train",
    "kd": "kdharness.trainers.methods.kd:train",
    "dae": "kdharness.trainers.methods.dae:train",
    "merge": "kdharness.trainers.methods.merge:train",
}

BENCHMARKS: dict[str, str] = {
    "mt-bench": "kdharness.judges.benchmarks.mt_bench:MTBench",
    "mt-bench-pair": "kdharness.judges.benchmarks.mt_bench_pair:MTBenchPair",
    "alpaca-eval-1": "kdharness.judges.benchmarks.alpaca_eval:AlpacaEval1",
    "alpaca-eval-2": "kdharness.judges.benchmarks.alpaca_eval:AlpacaEval2",
    "shop": "kdharness.judges.benchmarks.domain:Shop",
    "heldout": "kdharness.judges.benchmarks.heldout:Heldout",
    "file": "kdharness.judges.benchmarks.domain:UserBench",
}

SCORERS: dict[str, str] = {
    "mt-bench": "kdharness.judges.scoring.scorers:score_ratings",
    "mt-bench-pair": "kdharness.judges.scoring.scorers:score_pairs",
    "alpaca-eval-1": "kdharness.judges.scoring.alpaca:score_preferences",
    "alpaca-eval-2": "kdharness.judges.scoring.alpaca:score_alpaca_eval_2",
    "shop": "kdharness.judges.scoring.scorers:score_exact",
    "heldout": "kdharness.judges.scoring.scorers:score_heldout",
    "file": "kdharness.judges.scoring.scorers:score_user_bench",
}
"""Judgments -> figures, by benchmark; "file" is any benchmark of the user's own."""

ENGINES: dict[str, str] = {
    "openai": "kdharness.judges.engines.openai:OpenAIEngine",
    "local": "kdharness.judges.engines.local:LocalEngine",
}

TOOLS: dict[str, str] = {
    "app": "kdharness.tui.app:run_app",
    "describe_data": "kdharness.trainers.data.dataset:describe_data",
    "selfcheck": "kdharness.trainers.tools.selfcheck:selfcheck",
    "planned_rows": "kdharness.trainers.preflight:planned_rows",
    "preflight": "kdharness.trainers.preflight:preflight",
    "merge_adapter": "kdharness.trainers.students.adapter:merge_adapter",
    "build_caches": "kdharness.trainers.tools.build_cache:build_caches",
    "gaming": "kdharness.judges.audit.gaming:gaming_flags",
    "alpaca_item": "kdharness.judges.benchmarks.alpaca_items:item_of",
    "read_source": "kdharness.trainers.data.sources:read_source",
    "report_card": "kdharness.judges.audit.report_card:check",
    "contamination": "kdharness.judges.audit.contamination:overlaps",
    "known_chats": "kdharness.judges.audit.contamination:known_chats",
}


def resolve(table: dict[str, str], name: str, kind: str) -> Any:
    """Import and return what `name` stands for.

    Raises:
        ConfigError: no such name; the message lists those there are.
    """
    if name not in table:
        # "file" stands for a user's own benchmark, which goes by its path.
        known = sorted(set(table) - {"file"})
        raise ConfigError(
            f"unknown {kind} {name!r}{did_you_mean(name, known)}",
            hint=f"known: {', '.join(known)}"
            + (", or the path of your own .jsonl file" if kind == "benchmark" else ""),
        )
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)
