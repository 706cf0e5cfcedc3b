"""Names of methods, benchmarks and engines, and where their code is.

Values are "module:attribute" strings, so that listing names imports nothing: `kdharness --help`
must not load torch. Other packages add names through entry points:

    [project.entry-points."kdharness.methods"]     name = "package.module:METHOD"  (a MethodPlugin)
    [project.entry-points."kdharness.benchmarks"]  name = "package.module:Class"   (with `score`)
    [project.entry-points."kdharness.engines"]     name = "package.module:Class"   (with `open`)

The built-in names cannot be replaced, and a name that two packages add is not used:
`plugin_problems` lists these, and plugins that cannot be used.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from functools import cache
from typing import Any

from kdharness.harness.errors import ConfigError, did_you_mean
from kdharness.harness.types import Method


@cache
def all_entry_points(group: str) -> dict[str, dict[str, str]]:
    """Map each name of an entry point group to {distribution: "module:attribute"}."""
    # Here, because the app's first paint would wait for the parser of metadata.
    from importlib.metadata import entry_points

    found: dict[str, dict[str, str]] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, {})[point.dist.name if point.dist else "?"] = point.value
    return found


def entry_points_of(group: str) -> dict[str, tuple[str, str]]:
    """Map each name of an entry point group to ("module:attribute", distributions)."""
    return {
        name: (next(iter(values.values())), ", ".join(sorted(values)))
        for name, values in all_entry_points(group).items()
    }


class Table(MutableMapping[str, str]):
    """Mapping of names to "module:attribute": built-in ones and those of installed packages.

    Installed packages are searched only for names that are not built in, or to list all names.

    Args:
        group: the entry points' group; empty for names that packages cannot add.
        own: the built-in names.
        needs: what an object of a package must have, each with what it is for.
        taken: names that are not entries, and that packages cannot add either.
    """

    def __init__(
        self,
        group: str,
        own: dict[str, str],
        needs: Mapping[str, str] | None = None,
        taken: frozenset[str] = frozenset(),
    ) -> None:
        self.group = group
        self.needs = needs or {}
        self._own = own
        self._taken = taken

    def plugins(self) -> dict[str, str]:
        """Return the names that other packages add."""
        points = entry_points_of(self.group) if self.group else {}
        return {name: value for name, (value, _) in points.items() if not self.is_ours(name)}

    def is_ours(self, name: str) -> bool:
        """Whether packages cannot add the name."""
        return name in self._own or name in self._taken

    def is_plugin(self, name: str) -> bool:
        """Whether another package adds the name; installed packages are not read for our own."""
        return not self.is_ours(name) and name in self.plugins()

    def __getitem__(self, name: str) -> str:
        return self._own[name] if name in self._own else self.plugins()[name]

    def __setitem__(self, name: str, value: str) -> None:
        self._own[name] = value

    def __delitem__(self, name: str) -> None:
        del self._own[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self.plugins()

    def __len__(self) -> int:
        return len(self._own) + len(self.plugins())


TRAINERS = Table(
    "kdharness.methods",
    {
        "sft": "kdharness.trainers.methods.sft:train",
        "kd": "kdharness.trainers.methods.kd:train",
        "dae": "kdharness.trainers.methods.dae:train",
        "merge": "kdharness.trainers.methods.merge:train",
    },
    needs={"config": "the class of its config", "train": "the function that trains"},
    taken=frozenset(Method),
)

BENCHMARKS = Table(
    "kdharness.benchmarks",
    {
        "mt-bench": "kdharness.judges.benchmarks.mt_bench:MTBench",
        "mt-bench-pair": "kdharness.judges.benchmarks.mt_bench_pair:MTBenchPair",
        "alpaca-eval-1": "kdharness.judges.benchmarks.alpaca_eval:AlpacaEval1",
        "alpaca-eval-2": "kdharness.judges.benchmarks.alpaca_eval:AlpacaEval2",
        "arena-hard-v2": "kdharness.judges.benchmarks.arena_hard:ArenaHard",
        "ifeval": "kdharness.judges.benchmarks.ifeval:IFEval",
        "shop": "kdharness.judges.benchmarks.domain:Shop",
        "heldout": "kdharness.judges.benchmarks.heldout:Heldout",
        "file": "kdharness.judges.benchmarks.domain:UserBench",
    },
    needs={"load": "the class method that reads its items", "score": "its scorer"},
    taken=frozenset({"alpaca-eval", "alpacaeval", "arena-hard"}),
)

SCORERS = Table(
    "",
    {
        "mt-bench": "kdharness.judges.scoring.scorers:score_mt_bench",
        "mt-bench-pair": "kdharness.judges.scoring.scorers:score_pairs",
        "alpaca-eval-1": "kdharness.judges.scoring.alpaca:score_preferences",
        "alpaca-eval-2": "kdharness.judges.scoring.alpaca:score_alpaca_eval_2",
        "arena-hard-v2": "kdharness.judges.scoring.arena:score_arena",
        "ifeval": "kdharness.judges.scoring.ifeval_scores:score_ifeval",
        "shop": "kdharness.judges.scoring.scorers:score_exact",
        "heldout": "kdharness.judges.scoring.scorers:score_heldout",
        "lm-eval": "kdharness.judges.scoring.reported:score_lm_eval",
        "file": "kdharness.judges.scoring.scorers:score_user_bench",
    },
)
"""Scorers by benchmark; "file" is for any benchmark file of the user."""
LM_EVAL = "lm-eval-"
"""Begins the names of benchmarks that are tasks of lm-evaluation-harness."""
FASTCHAT = "fastchat"
"""The benchmark of imported FastChat rows on other questions, and how such names begin."""


def is_reserved(bench: str) -> bool:
    """Return whether a name is a benchmark's, or one that answers or imported results have."""
    ours = bench in BENCHMARKS or BENCHMARKS.is_ours(bench)
    return ours or f"{bench}-".startswith((LM_EVAL, f"{FASTCHAT}-"))


ENGINES = Table(
    "kdharness.engines",
    {
        "openai": "kdharness.judges.engines.openai:OpenAIEngine",
        "local": "kdharness.judges.engines.local:LocalEngine",
        "llama": "kdharness.judges.engines.llama:LlamaEngine",
        "vllm": "kdharness.judges.engines.vllm:VLLMEngine",
    },
    needs={"open": "the class method that opens it"},
)

TOOLS = Table(
    "",
    {
        "app": "kdharness.tui.app:run_app",
        "describe_data": "kdharness.trainers.tools.describe:describe_data",
        "selfcheck": "kdharness.trainers.tools.selfcheck:selfcheck",
        "planned_rows": "kdharness.trainers.tools.plan:planned_rows",
        "load_points": "kdharness.harness.evaluation.points:load_points",
        "check_budgets": "kdharness.harness.evaluation.points:check_budgets",
        "point_scorer": "kdharness.harness.evaluation.points:PointScorer",
        "engine_over": "kdharness.judges.engines.in_training:InTraining",
        "rollouts_of": "kdharness.judges.engines.rollouts:LocalRollouts",
        "served_rollouts": "kdharness.trainers.students.served:ServedRollouts",
        "check_pair": "kdharness.trainers.pairs.check:check_pair",
        "preflight": "kdharness.trainers.preflight:preflight",
        "check_kernels": "kdharness.trainers.kernels:check_kernels",
        "track_scores": "kdharness.trainers.tracking:track_scores",
        "prepare_publication": "kdharness.harness.reports.publish:prepare",
        "publish": "kdharness.harness.reports.upload:publish",
        "merge_adapter": "kdharness.trainers.students.adapter:merge_adapter",
        "export_gguf": "kdharness.trainers.exports.export:export_gguf",
        "export_folder": "kdharness.trainers.exports.export:export_folder",
        "build_caches": "kdharness.trainers.tools.build_cache:build_caches",
        "gaming": "kdharness.judges.audit.gaming:gaming_flags",
        "alpaca_item": "kdharness.judges.benchmarks.alpaca_items:item_of",
        "read_source": "kdharness.trainers.data.sources:read_source",
        "gives_expected": "kdharness.judges.engines.opening_probe:gives_expected",
        "report_card": "kdharness.judges.audit.report_card:check",
        "agreement": "kdharness.judges.audit.published_votes:agreement",
        "behaviour": "kdharness.judges.audit.behaviour:behaviour_of",
        "contamination": "kdharness.judges.audit.contamination:overlaps",
        "known_chats": "kdharness.judges.audit.contamination:known_chats",
    },
)


def resolve(table: Table, name: str, kind: str) -> Any:
    """Import and return the object registered as `name`.

    Raises:
        ConfigError: an unknown name, or a plugin that cannot be imported.
    """
    if name not in table:
        # "file" is the entry for users' own benchmarks, which are given by their path.
        known = sorted(set(table) - {"file"})
        raise ConfigError(
            f"unknown {kind} {name!r}{did_you_mean(name, known)}",
            hint=f"available: {', '.join(known)}"
            + (", or the path of your own .jsonl file" if kind == "benchmark" else ""),
        )
    found = _load(table, name, kind)
    return found.train if table is TRAINERS and table.is_plugin(name) else found


def _load(table: Table, name: str, kind: str) -> Any:
    if table.is_plugin(name):
        return _load_plugin(table, name, kind)
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def _load_plugin(table: Table, name: str, kind: str) -> Any:
    from importlib.metadata import EntryPoint

    value, package = entry_points_of(table.group)[name]
    if problem := _ambiguous(table, name):
        raise ConfigError(f"{problem}: which one is meant?", hint="uninstall one, or rename it")
    try:
        found = EntryPoint(name, value, table.group).load()
    # Importing third-party code may raise anything, and may try to end the process.
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the {kind} {name!r} of the package {package} cannot be imported: "
            f"{type(error).__name__}: {error}",
            hint=f"update or remove it: pip uninstall {package}",
        ) from error
    for need, what in table.needs.items():
        if not hasattr(found, need):
            raise unusable(table, name, kind, f"{value} has no {need!r}, {what}")
    return found


def _ambiguous(table: Table, name: str) -> str:
    """Return what is wrong with a name that packages use for different objects, else nothing."""
    values = all_entry_points(table.group).get(name, {})
    if len(set(values.values())) < 2:
        return ""
    return f"{' and '.join(sorted(values))} both register {name!r} under {table.group}"


def unusable(table: Table, name: str, kind: str, reason: str) -> ConfigError:
    """Return the error for a plugin that is not what its entry point promises."""
    package = entry_points_of(table.group)[name][1]
    return ConfigError(
        f"the {kind} {name!r} of the package {package} cannot be used: {reason}",
        hint=f"update or remove it: pip uninstall {package}",
    )


def method_config(name: str) -> Any:
    """Return the config class of a plugin's method; None if no plugin provides it."""
    return _load(TRAINERS, name, "method").config if TRAINERS.is_plugin(name) else None


def scorer_of(name: str) -> Any:
    """Return the scorer of a benchmark; unknown names are the user's own files."""
    if name in SCORERS:
        return resolve(SCORERS, name, "scorer")
    if BENCHMARKS.is_plugin(name):
        return resolve(BENCHMARKS, name, "benchmark").score
    return resolve(SCORERS, "file", "scorer")


def headline_of(name: str) -> str:
    """Return a benchmark's headline metric; empty if it is the mean over all metrics."""
    if name not in BENCHMARKS:
        return ""
    try:
        return str(getattr(resolve(BENCHMARKS, name, "benchmark"), "headline", ""))
    except ConfigError:  # results of a plugin that cannot be imported are still shown
        return ""


def plugin_problems() -> list[str]:
    """Describe each entry point that uses a taken name, and each that cannot be used.

    It imports the plugins.
    """
    problems = []
    for table, kind in ((TRAINERS, "method"), (BENCHMARKS, "benchmark"), (ENGINES, "engine")):
        for name, (_, package) in entry_points_of(table.group).items():
            if not table.is_plugin(name):
                problems.append(
                    f"{package} registers {name!r} under {table.group}, which is built in"
                )
                continue
            try:
                _load_plugin(table, name, kind)
            except ConfigError as error:
                problems.append(error.message)
    return problems
