"""Names of methods, benchmarks and engines, with where their code lies.

Values are "module:attribute" strings, so that listing names imports nothing: `kdharness --help`
must not load torch. Adding a method or a benchmark is one file and one line here.
"""

from __future__ import annotations

import importlib
from typing import Any

from kdharness.harness.errors import ConfigError, did_you_mean

TRAINERS: dict[str, str] = {
    "sft": "kdharness.trainers.sft:train",
    "kd": "kdharness.trainers.kd:train",
    "dae": "kdharness.trainers.dae:train",
    "merge": "kdharness.trainers.merge:train",
}

BENCHMARKS: dict[str, str] = {
    "mt-bench": "kdharness.judges.mt_bench:MTBench",
    "mt-bench-pair": "kdharness.judges.mt_bench_pair:MTBenchPair",
    "alpaca-eval-1": "kdharness.judges.alpaca_eval:AlpacaEval1",
    "alpaca-eval-2": "kdharness.judges.alpaca_eval:AlpacaEval2",
    "shop": "kdharness.judges.domain:Shop",
    "heldout": "kdharness.judges.heldout:Heldout",
    "file": "kdharness.judges.domain:UserBench",
}

SCORERS: dict[str, str] = {
    "mt-bench": "kdharness.judges.scorers:score_ratings",
    "mt-bench-pair": "kdharness.judges.scorers:score_pairs",
    "alpaca-eval-1": "kdharness.judges.preferences:score_preferences",
    "alpaca-eval-2": "kdharness.judges.preferences:score_alpaca_eval_2",
    "shop": "kdharness.judges.scorers:score_exact",
    "heldout": "kdharness.judges.scorers:score_heldout",
    "file": "kdharness.judges.scorers:score_user_bench",
}
"""Judgments -> figures, by benchmark; "file" is any benchmark of the user's own."""

ENGINES: dict[str, str] = {
    "openai": "kdharness.judges.client:OpenAIEngine",
    "local": "kdharness.judges.local:LocalEngine",
}

TOOLS: dict[str, str] = {
    "app": "kdharness.tui.app:run_app",
    "describe_data": "kdharness.trainers.chat:describe_data",
    "selfcheck": "kdharness.trainers.selfcheck:selfcheck",
    "planned_rows": "kdharness.trainers.preflight:planned_rows",
    "preflight": "kdharness.trainers.preflight:preflight",
    "merge_adapter": "kdharness.trainers.student:merge_adapter",
    "build_caches": "kdharness.trainers.cache:build_caches",
    "gaming": "kdharness.judges.gaming:oddities",
    "alpaca_item": "kdharness.judges.alpaca_items:item_of",
    "read_source": "kdharness.trainers.rows:read_source",
    "report_card": "kdharness.judges.report_card:check",
    "contamination": "kdharness.judges.contamination:overlaps",
    "known_chats": "kdharness.judges.contamination:known_chats",
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
