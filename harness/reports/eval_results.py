"""Scores for the leaderboards of benchmarks on the hub: a model's files in `.eval_results`.

A benchmark of the hub is a dataset repository with an `eval.yaml` that lists its tasks
(https://huggingface.co/docs/hub/eval-results).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, HfApi, eval_result_entries_to_yaml
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from kdharness.harness.errors import ConfigError, ModelError, did_you_mean
from kdharness.harness.models.hub import split_hub_name
from kdharness.harness.reports.hub_card import FEW
from kdharness.harness.types import Score
from kdharness.harness.util.redact import redact
from kdharness.harness.util.scrub import judge_without_places
from kdharness.harness.util.tables import cell
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text

FORM = "BENCH:METRIC=ORG/DATASET:TASK"
REGISTRATION = "eval.yaml"
OPTION = "--eval-result"


@dataclass(frozen=True)
class EvalResultSpec:
    """A metric of ours, and the task of a benchmark of the hub that it is a result of."""

    bench: str
    metric: str
    dataset: str
    task: str


def parse_spec(text: str) -> EvalResultSpec:
    """Read `BENCH:METRIC=ORG/DATASET:TASK`. Raises ConfigError if it has another form."""
    ours, found, theirs = text.partition("=")
    bench, _, metric = ours.strip().partition(":")
    dataset, _, task = theirs.strip().partition(":")
    named = split_hub_name(dataset)
    if not (found and bench and metric and task) or named is None or named[1] is not None:
        raise ConfigError(
            f"{text[:200]!r} does not name a result",
            where=OPTION,
            hint=f"write {FORM}, for example ifeval:prompt_strict=google/IFEval:ifeval",
        )
    return EvalResultSpec(bench, metric, dataset, task)


def result_files(
    specs: Sequence[EvalResultSpec], scores: Sequence[Score], repo: str, *, percent: bool
) -> dict[str, bytes]:
    """Return the files of `.eval_results`: one for each dataset, with an entry for each task.

    Args:
        specs: what is listed, and where.
        scores: those of the checkpoint.
        repo: the model's repository, which is the entries' source.
        percent: write shares of 0 to 1 as 0 to 100, as most of these leaderboards do.

    Raises:
        ConfigError: there is no such score, or not one only; it is on too few items, not finite,
            or from a judge that was found wanting; a share was expected; a task is given twice.
    """
    files: dict[str, list[EvalResultEntry]] = {}
    tasks: set[tuple[str, str]] = set()
    for spec in specs:
        if (spec.dataset, spec.task) in tasks:
            raise ConfigError(
                f"{spec.dataset}:{spec.task} is given twice", where=OPTION, hint="one score a task"
            )
        tasks.add((spec.dataset, spec.task))
        entry = _entry(spec, _score(spec, scores), repo, percent=percent)
        files.setdefault(_file_of(spec.dataset), []).append(entry)
    return {
        name: yaml.safe_dump(
            eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True
        ).encode()
        for name, entries in files.items()
    }


def with_other_tasks(ours: str, former: str) -> str:
    """Return a file of `.eval_results` with the entries of other tasks that it had.

    Args:
        ours: the new file.
        former: the file that it replaces; a damaged one is replaced as a whole.
    """
    try:
        theirs = parse_yaml(former, "the repository's file of results")
    except ConfigError:
        return ours
    entries = parse_yaml(ours, "the new file of results")
    given = {_task_of(entry) for entry in entries}
    others = [
        entry
        for entry in (theirs if isinstance(theirs, list) else ())
        if _task_of(entry) not in (None, *given)
    ]
    if not others:
        return ours
    return yaml.safe_dump([*others, *entries], sort_keys=False, allow_unicode=True)


def _task_of(entry: object) -> tuple[object, object] | None:
    """Return (dataset, task) of an entry; None if it has another form."""
    dataset = entry.get("dataset") if isinstance(entry, Mapping) else None
    return (dataset.get("id"), dataset.get("task_id")) if isinstance(dataset, Mapping) else None


def check_registered(api: HfApi, specs: Sequence[EvalResultSpec]) -> None:
    """Ask the hub whether each dataset is a benchmark that has the task.

    Raises:
        ConfigError: it is not; the message lists the tasks that there are.
        ModelError: the hub cannot be asked.
    """
    for spec in specs:
        tasks = _registered_tasks(api, spec.dataset)
        if spec.task not in tasks:
            raise ConfigError(
                f"{spec.dataset} has no task {spec.task!r}{did_you_mean(spec.task, tasks)}",
                where=OPTION,
                hint=f"its tasks: {', '.join(tasks[:12]) or 'none'}",
            )


def _score(spec: EvalResultSpec, scores: Sequence[Score]) -> Score:
    """Return the one score that a leaderboard of others may have. Raises as `result_files` does."""
    found = [s for s in scores if (s.bench, s.metric) == (spec.bench, spec.metric)]
    name = f"{spec.bench}:{spec.metric}"
    if not found:
        known = sorted({f"{s.bench}:{s.metric}" for s in scores})
        raise ConfigError(
            f"this checkpoint has no score {name}{did_you_mean(name, known)}",
            where=OPTION,
            hint=f"its scores: {', '.join(known[:12]) or 'none'}",
        )
    if len(found) > 1:
        judges = ", ".join(judge_without_places(score.judge) for score in found)
        raise ConfigError(
            f"{name} has several scores: {judges}",
            where=OPTION,
            hint="a leaderboard takes one: list a metric that one judge, or none, has given",
        )
    score = found[0]
    # `leaderboard` returns None for what could not be scored, never NaN.
    if score.value is None or score.n < FEW:
        raise ConfigError(
            f"{name} is a score of {score.n} items: too few for a leaderboard of others",
            where=OPTION,
            hint=f"evaluate the whole benchmark (at least {FEW} items)",
        )
    if wanting := [flag for flag in score.flags if flag.startswith("judge:")]:
        raise ConfigError(
            f"{name} has the flag {wanting[0]}: its judge is untested, or was found wanting",
            where=OPTION,
            hint=f"test it: kdharness judge check {judge_without_places(score.judge)}",
        )
    return score


def _entry(spec: EvalResultSpec, score: Score, repo: str, *, percent: bool) -> EvalResultEntry:
    value, unit = score.value or 0.0, 100.0 if percent else 1.0
    if percent and not 0.0 <= value <= 1.0:
        raise ConfigError(
            f"{spec.bench}:{spec.metric} is {cell(value)}, not a share of 0 to 1",
            where="--percent",
            hint="leave out --percent",
        )
    parts = ["kdharness", f"n = {score.n}"]
    if score.ci_low is not None and score.ci_high is not None:
        parts.append(f"95 % interval {cell(score.ci_low * unit)} to {cell(score.ci_high * unit)}")
    judge = judge_without_places(score.judge)
    parts.append("scored by a program" if judge == "exact" else f"judge {judge}")
    parts += score.flags
    return EvalResultEntry(
        dataset_id=spec.dataset,
        task_id=spec.task,
        value=float(f"{value * unit:.6g}"),
        source_url=f"https://huggingface.co/{repo}",
        source_name="Model card",
        notes=redact("; ".join(parts), shapes=True),
    )


def _file_of(dataset: str) -> str:
    """Return a file name that no other dataset has."""
    return f"{EVAL_RESULTS_FOLDER}/{re.sub(r'[^A-Za-z0-9.-]', '_', dataset)}.yaml"


def _registered_tasks(api: HfApi, dataset: str) -> list[str]:
    """Return the ids of the tasks in a dataset's `eval.yaml`. Raises as `check_registered` does."""
    try:
        path = api.hf_hub_download(dataset, REGISTRATION, repo_type="dataset")
    except LocalEntryNotFoundError as error:
        raise _unreachable(dataset, error) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"no dataset {dataset} on the hub", where=OPTION, hint=f"the form is {FORM}"
        ) from error
    except EntryNotFoundError as error:
        raise ConfigError(
            f"{dataset} is not a benchmark of the hub: it has no {REGISTRATION}",
            where=OPTION,
            hint="its score is in the model card; leave out this option",
        ) from error
    except Exception as error:  # the hub client has a family of errors per layer below it
        raise _unreachable(dataset, error) from error
    text = read_text(Path(path), f"{REGISTRATION} of {dataset}", limit=CONFIG_BYTES)
    values = parse_yaml(text, f"{REGISTRATION} of {dataset}")
    tasks = values.get("tasks") if isinstance(values, Mapping) else None
    listed = tasks if isinstance(tasks, list) else []
    return [str(task["id"]) for task in listed if isinstance(task, Mapping) and "id" in task]


def _unreachable(dataset: str, error: Exception) -> ModelError:
    first = redact((str(error).strip() or type(error).__name__).splitlines()[0], shapes=True)[:300]
    return ModelError(
        f"could not ask the hub for the tasks of {dataset}: {first}",
        hint=f"check the network and try again, or publish without {OPTION}",
    )
