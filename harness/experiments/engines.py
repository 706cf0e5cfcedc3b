"""Answering engines that could not serve an experiment's own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.models import StudentSpec
from kdharness.harness.config.training import AnyConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.registry import BENCHMARKS, resolve


def refuse_served_adapters(runs: Mapping[str, tuple[str, AnyConfig]], where: str) -> None:
    """Refuse an evaluation that would serve an adapter, before the adapter is trained.

    Args:
        runs: name of each run -> (its step, its config).
        where: the experiment's file, for errors.

    Raises:
        ConfigError: the step, and the step that trains the adapter.
    """
    adapters = {name: step for name, (step, config) in runs.items() if _trains_adapter(config)}
    for step, config in runs.values():
        if not isinstance(config, EvalConfig) or config.answer_engine != "vllm":
            continue
        sides = [*config.checkpoints, config.baseline or ""]
        served = [adapters[name] for name in sides if name in adapters]
        if served and any(map(_is_answered, config.benches)):
            raise ConfigError(
                f"{served[0]} trains an adapter (student.lora), and vllm serves whole models",
                where=f"{where}: steps.{step}.answer_engine",
                hint="remove answer_engine from this step: adapters are answered in this process",
            )


def _trains_adapter(config: AnyConfig) -> bool:
    student = getattr(config, "student", None)
    return isinstance(student, StudentSpec) and student.lora is not None


def _is_answered(bench: str) -> bool:
    """Return whether a benchmark needs answers, rather than measures a model."""
    if BENCHMARKS.is_plugin(bench):
        return not hasattr(resolve(BENCHMARKS, bench, "benchmark"), "measure")
    return bench != "heldout"
