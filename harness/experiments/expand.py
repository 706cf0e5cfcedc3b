"""An experiment of several runs: steps that depend on each other, over a grid or list of settings.

    name: shop
    question: Does DAE keep what domain SFT loses?
    steps:
      kd:     {preset: kd-laptop}
      expert: {method: sft, student: kd, data: …}
      dae:    {method: dae, student: kd, expert: expert, data: …}
      scores: {method: eval, checkpoints: [kd, expert, dae], benches: [shop, heldout]}
    vary: {dae.trainer.temperature: [1, 2], seed: [1, 2, 3]}

A step's name in place of a model refers to that step's checkpoint *with the same settings*, and is
a dependency. A step runs once per distinct combination of the settings that affect it (its own, or
those of a step it needs), so the KD above is trained three times, not six.

A varied field applies to the steps that set it; if none does, to every step that has such a field;
prefixed with a step's name, to that step only. `seed` does not apply to evaluations: the prompts
must not change with it.

The runs are the only state: a finished run with the same name and config hash is not repeated, so
a killed experiment continues where it was.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kdharness.harness.config.base import ADDED
from kdharness.harness.config.field_kinds import NAMED_MODELS, names_model
from kdharness.harness.config.files import (
    absolute_paths,
    describe_errors,
    parse_config,
    set_field,
)
from kdharness.harness.config.merging import MergeConfig
from kdharness.harness.config.training import AnyConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.budgets import check_budgets
from kdharness.harness.experiments.choose import ChooseSpec, check_choice
from kdharness.harness.experiments.claims import ClaimSpec
from kdharness.harness.experiments.engines import refuse_served_adapters
from kdharness.harness.experiments.frontiers import check_frontiers
from kdharness.harness.experiments.steps import ExperimentStep, in_order, read_step
from kdharness.harness.experiments.varied import combinations_of, steps_of
from kdharness.harness.paths import Paths
from kdharness.harness.types import Method, digest
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.untrusted import CONFIG_BYTES, dump_yaml, parse_yaml, read_text

Vary = dict[str, Any]


class SweepConfig(BaseModel):
    """An experiment file, as run by `kdharness sweep`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["sweep"] = "sweep"
    name: str = Field(
        ...,
        pattern=r"^\w[\w-]{0,31}$",
        title="Name",
        description=("Name of the experiment, and the prefix of the names of all runs."),
    )
    runs: str | None = Field(
        None,
        pattern=r"^\w[\w-]{0,31}$",
        title="Runs",
        description=(
            "Prefix of the runs' names instead of `name`. Experiments with the same prefix share "
            "the runs that they have in common: none is trained twice in a home."
        ),
        json_schema_extra=ADDED,
    )
    question: str = Field(
        "", title="Question", description="The question that the experiment answers."
    )
    steps: dict[str, Any] = Field(
        ...,
        min_length=1,
        title="Steps",
        description=(
            "Step name -> a run config, optionally based on `config: FILE` or `preset: NAME`; "
            "`needs` lists steps that must finish first (steps used as models are implied)."
        ),
    )
    vary: Vary | list[Vary] = Field(
        default_factory=dict,
        title="Vary",
        description=(
            "Field -> values, in every combination. A list of such mappings runs each in turn."
        ),
    )
    jobs: int = Field(
        1,
        ge=1,
        le=64,
        title="Jobs",
        description=(
            "How many runs at most are executed side by side: each on its share of the cores, or, "
            "with several GPUs, on one of its own."
        ),
        json_schema_extra=ADDED,
    )
    assets: list[str] = Field(
        default_factory=list,
        title="Assets",
        description=(
            "Models and benchmarks to download before the first run (`kdharness data list`)."
        ),
    )
    claims: list[ClaimSpec] = Field(
        default_factory=list,
        title="Claims",
        description=(
            "Claims that the experiment tests, stated in advance; checked when its runs are done."
        ),
    )
    choose: ChooseSpec | None = Field(
        None,
        title="Choose",
        description=(
            "Choose the best of the varied settings by validation rows, and test it once in "
            "another experiment (`kdharness replicate`)."
        ),
        json_schema_extra=ADDED,
    )

    @field_validator("steps")
    @classmethod
    def _plain_names(cls, steps: dict[str, object]) -> dict[str, object]:
        for name in steps:
            if not re.fullmatch(r"[A-Za-z][\w-]{0,23}", name):
                raise ValueError(f"invalid step name {name!r}: use letters, digits, - and _")
        return steps


@dataclass(frozen=True)
class PlannedRun:
    """One run of the experiment: its config, the settings that affect it, its dependencies.

    `combinations` are the numbers of the combinations of varied settings that it belongs to.
    """

    name: str
    step: str
    config: AnyConfig
    needs: tuple[str, ...]
    settings: dict[str, Any]
    combinations: frozenset[int] = frozenset()


def load_sweep(
    path: str | Path, overrides: Sequence[str] = ()
) -> tuple[SweepConfig, list[PlannedRun]]:
    """Read an experiment and expand it into its runs, in an order in which they can run.

    Args:
        overrides: `a.b=value`, applied to the file's values first.

    Raises:
        ConfigError: no such file, invalid YAML, an invalid step or field.
    """
    file = Path(path)
    raw = parse_yaml(read_text(file, "the experiment", limit=CONFIG_BYTES), str(path))
    if not isinstance(raw, dict):
        raise ConfigError("an experiment must be a mapping with name and steps", where=str(path))
    raw.setdefault("name", re.sub(r"[^\w-]", "-", file.stem)[:32])
    if overrides and isinstance(steps := raw.get("steps"), dict):
        # A step that is a file's name would be replaced by a field set in it.
        raw["steps"] = {k: {"config": v} if isinstance(v, str) else v for k, v in steps.items()}
    for override in overrides:
        set_field(raw, override)
    if "vary" in raw:
        raw["vary"] = absolute_paths(raw["vary"], file.resolve().parent)
    try:
        sweep = SweepConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(describe_errors(error, SweepConfig), where=str(path)) from error
    return sweep, plan_sweep(sweep, file.resolve().parent, str(path))


def inline_files(sweep: SweepConfig, base: Path, where: str = "sweep") -> SweepConfig:
    """Return the experiment with files and presets inlined, so that it needs no other file.

    Workers get this version: the files may change or disappear before they are needed.
    """
    steps: dict[str, object] = {}
    for name, raw in sweep.steps.items():
        step = read_step(name, raw, list(sweep.steps), base, where)
        steps[name] = {**step.values, "needs": list(step.needs)} if step.needs else step.values
    return sweep.model_copy(update={"steps": steps})


# ---------------------------------------------------------------- steps


def plan_sweep(sweep: SweepConfig, base: Path, where: str = "sweep") -> list[PlannedRun]:
    """Return every run once, dependencies first."""
    _check_claims(sweep, where)
    names = list(sweep.steps)
    steps = {name: read_step(name, raw, names, base, where) for name, raw in sweep.steps.items()}
    order = in_order(steps, where)
    combinations = list(combinations_of(sweep.vary, where))
    keys = list(dict.fromkeys(key for combination in combinations for key in combination))
    own = {key: steps_of(key, steps, combinations, where) for key in keys}
    planned: dict[str, PlannedRun] = {}
    belongs: dict[str, set[int]] = {}
    prefix = sweep.runs or sweep.name
    for number, combination in enumerate(combinations):
        made: dict[str, PlannedRun] = {}
        for step in order:
            run = _plan_run(prefix, step, steps[step], combination, own, made, where)
            made[step] = planned.setdefault(run.name, run)
            belongs.setdefault(run.name, set()).add(number)
    runs = [replace(run, combinations=frozenset(belongs[name])) for name, run in planned.items()]
    check_frontiers(sweep.claims, runs, where)
    check_budgets(sweep.claims, runs, where)
    check_choice(sweep.choose, runs, list(steps), where)
    refuse_served_adapters({run.name: (run.step, run.config) for run in runs}, where)
    return runs


def _check_claims(sweep: SweepConfig, where: str) -> None:
    """Check that a claim's steps exist; its other references may be models."""
    for number, claim in enumerate(sweep.claims, 1):
        fields = [(name, getattr(claim, name)) for name in ("of", "curve", "frontier")]
        for field, step in [*fields, *(("over", step) for step in claim.over)]:
            if step is not None and step not in sweep.steps:
                raise ConfigError(
                    f"unknown step {step!r}",
                    where=f"{where}: claims.{number}.{field}",
                    hint=f"steps: {', '.join(sweep.steps)}",
                )


# ---------------------------------------------------------------- runs


def _plan_run(
    prefix: str,
    step: str,
    what: ExperimentStep,
    combination: Mapping[str, object],
    own: Mapping[str, Mapping[str, str]],
    made: Mapping[str, PlannedRun],
    where: str,
) -> PlannedRun:
    """Plan one step under one combination of settings."""
    values = copy.deepcopy(what.values)
    settings: dict[str, Any] = {}
    for need in what.needs:
        settings |= made[need].settings
    for key, value in combination.items():
        if step in own[key]:
            set_field(values, f"{own[key][step]}={json.dumps(value)}")
            settings[key] = value
    settings = {key: value for key, value in combination.items() if key in settings}
    step_path = f"{where}: steps.{step}"
    outputs = {need: outputs_of(made[need]) for need in what.needs}
    name = run_name(prefix, step, settings, list(own))
    filled = _fill(values, outputs, step_path)
    if filled.get("method") != Method.EVAL:
        filled["name"] = name
    return PlannedRun(
        name,
        step,
        parse_config(filled, where=step_path),
        tuple(made[need].name for need in what.needs),
        settings,
    )


def outputs_of(planned: PlannedRun) -> list[str]:
    """Return the names of the checkpoints that a run makes."""
    if isinstance(planned.config, MergeConfig):
        return planned.config.checkpoints(planned.name)
    return [] if planned.config.method == "eval" else [planned.name]


def _fill(
    values: object, outputs: Mapping[str, list[str]], where: str, field: str = "", above: str = ""
) -> Any:
    """Replace step names in place of models with the names of those steps' checkpoints."""
    if isinstance(values, Mapping):
        return {k: _fill(v, outputs, where, str(k), field) for k, v in values.items()}
    model = names_model(field) or above in NAMED_MODELS
    if isinstance(values, list):
        filled: list[object] = []
        for value in values:
            if model and isinstance(value, str) and value in outputs:
                filled += outputs[value]
            else:
                filled.append(_fill(value, outputs, where, field, above))
        return filled
    if model and isinstance(values, str) and values in outputs:
        if len(outputs[values]) != 1:
            raise ConfigError(
                f"{field}: the step {values} makes {len(outputs[values])} checkpoints, not 1",
                where=where,
            )
        return outputs[values][0]
    return values


def run_name(prefix: str, step: str, settings: Mapping[str, object], keys: Sequence[str]) -> str:
    """Return a short unique name of the step and its settings: `shop-dae-temperature2-s1`.

    Varied fields that share their last part are written out in full.
    """
    leaves = [key.rsplit(".", 1)[-1] for key in keys]
    parts = [prefix, step]
    for key, value in settings.items():
        leaf = key.rsplit(".", 1)[-1]
        label = "s" if leaf == "seed" else leaf
        if leaves.count(leaf) > 1:
            label = key
        text = str(value) if not isinstance(value, (list, dict)) else digest(value)[:6]
        # Texts such as paths may share a suffix, or differ only in characters not allowed here.
        slug = re.sub(r"[^\w.]", "_", text)
        if isinstance(value, str) and (slug != text or len(slug) > 16):
            slug = f"{slug[-12:]}{digest(value)[:4]}"
        parts.append(f"{label}{slug}")
    name = "-".join(parts)
    return name if len(name) <= 64 else f"{name[:55]}-{digest(dict(settings))[:8]}"


def experiment_names() -> list[str]:
    """Return the names of the shipped experiments, such as `baselines`.

    Files that begin with an underscore are steps that several of them have in common.
    """
    folder = resources.files("kdharness.data.experiments")
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return sorted(name.removesuffix(".yaml") for name in names if not name.startswith("_"))


def find_experiment(text: str) -> Path:
    """Return an experiment's file, by path or by the name of a shipped experiment.

    Raises:
        ConfigError: neither exists; the hint lists the names.
    """
    if Path(text).is_file():
        return Path(text)
    if text in experiment_names():
        return Path(str(resources.files("kdharness.data.experiments").joinpath(f"{text}.yaml")))
    raise ConfigError(
        f"no such file or shipped experiment: {text!r}",
        hint=f"shipped experiments: {', '.join(experiment_names())}",
    )


def keep_copy(paths: Paths, path: str | Path, sweep: SweepConfig) -> None:
    """Save the experiment in the home, for the report: its question and how to repeat it.

    The text is copied verbatim, including comments; if it depends on other files or was changed
    by options, the expanded version is written instead.
    """
    target = paths.sweeps / f"{sweep.name}.yaml"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = Path(path).read_text("utf-8")
    base = Path(path).resolve().parent
    whole = inline_files(sweep, base, str(path))
    if sweep.choose is not None and (test := base / sweep.choose.test).is_file():
        choose = sweep.choose.model_copy(update={"test": str(test)})
        whole = whole.model_copy(update={"choose": choose})
    try:
        bare = SweepConfig.model_validate(parse_yaml(text, str(path)))
        self_contained = inline_files(bare, target.parent) == whole
    except (ConfigError, ValidationError):
        self_contained = False
    if not self_contained:
        values = whole.model_dump(mode="json", exclude={"method"}, exclude_unset=True)
        text = dump_yaml(values)
    atomic_write_text(target, text)
