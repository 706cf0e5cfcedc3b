"""Import results of lm-evaluation-harness: tasks become benchmarks, for axes, profiles and tables.

A task's samples (`--log_samples`) give one judgment per document, which other checkpoints can be
paired with. Without them, and for metrics that are no mean over documents, the reported value and
its standard error are kept. A row's identity is a hash of its content: importing twice changes
nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.interop.fastchat import ImportSummary, imported_model, imported_revision
from kdharness.harness.interop.lm_eval_changes import changes_of
from kdharness.harness.interop.lm_eval_model import model_name
from kdharness.harness.interop.lm_eval_samples import (
    Sample,
    is_number,
    read_sample,
    sample_answers,
    sample_texts,
)
from kdharness.harness.interop.rows import (
    describe_error,
    files_below,
    inside,
    number,
    read_integer,
    read_name,
    read_object,
    shown,
)
from kdharness.harness.registry import LM_EVAL
from kdharness.harness.stats.metric_specs import HIGHER, LOWER, metric_spec
from kdharness.harness.stats.rows import WHOLE
from kdharness.harness.store import Store
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Judgment,
    JudgmentInfo,
    JudgmentStatus,
    digest,
)
from kdharness.harness.util.untrusted import parse_json, read_text

JUDGE = "imported:lm-eval"
SCORER = "lm-eval"
_STAMP = re.compile(r"[^/]*?_(\d{4}-\d\d-\d\dT[\d.-]+)\.json")
"""lm_eval ends the names of its results with the time, whatever they begin with."""
_UNUSUAL = re.compile(r"[^\w.+-]")
"""Characters that names of benchmarks cannot have: spaces, and `:` `/` `|` of some tasks."""
LONGEST_NAME = 120
_CLOSE = 1e-6
LONGEST_FILE = 255
"""Characters of a file's name that file systems allow."""


@dataclass(frozen=True)
class Reported:
    """One figure of a results file: its value, standard error, and the documents behind it."""

    metric: str
    filter: str
    value: float
    error: float | None
    higher_is_better: bool | None = None

    @property
    def name(self) -> str:
        """The metric's name here: with its direction, if that is not the name's own, and filter."""
        name = self.metric if self.filter in ("", "none") else f"{self.metric}/{self.filter}"
        lower = metric_spec(self.metric).lower_is_better
        if self.higher_is_better is None or self.higher_is_better is not lower:
            return name
        return f"{HIGHER if lower else LOWER}{name}"


def import_lm_eval(
    store: Store, path: Path, checkpoint: Checkpoint | None = None
) -> list[ImportSummary]:
    """Import a results file, or every one below a folder.

    Args:
        store: where to.
        path: `results_*.json`, or a folder with such files and their samples.
        checkpoint: the model that was evaluated; by default the one the file names.

    Raises:
        DataError: not such a file; the place and what is wrong.
    """
    files = [path]
    if path.is_dir():
        every = files_below(path, "*.json")
        files = [f for f in every if _STAMP.fullmatch(f.name) or f.name == "results.json"]
    if not files:
        raise DataError(
            "no results_*.json below this folder",
            where=str(path),
            hint="lm_eval writes it with --output_path",
        )
    return [_import_file(store, file, checkpoint) for file in files]


def _import_file(store: Store, path: Path, checkpoint: Checkpoint | None) -> ImportSummary:
    raw = _read(path)
    summary = ImportSummary(kind="lm-eval")
    answers: list[Answer] = []
    try:
        model = checkpoint or imported_model(store, read_name(model_name(raw), "model_name"))
        summary.models = {model.name}
        judgments = [
            judgment
            for task, figures in _tasks(raw, summary.notes)
            for judgment in _task(store, raw, path, task, figures, model, summary, answers)
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"not a results file of lm-evaluation-harness: {describe_error(error)}",
            where=str(path),
        ) from error
    fresh = changes_of(store, model, judgments)
    summary.rows, summary.new = len(judgments), len(fresh)
    store.add_answers(answers)
    store.add_judgments(fresh)
    return summary


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = parse_json(read_text(path, "the results", error=DataError))
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("results"), dict):
        hint = "pass the results_*.json, or its folder" if "samples" in path.name else ""
        raise DataError(
            "not a results file of lm-evaluation-harness: `results` is missing",
            where=str(path),
            hint=hint,
        )
    return raw


def _tasks(raw: Mapping[str, Any], notes: list[str]) -> Iterator[tuple[str, list[Reported]]]:
    """Yield each task or group with its figures; add to the notes what is left out."""
    names: set[str] = set()
    for task, values in raw["results"].items():
        name = _bench_name(task)
        if not isinstance(values, dict):
            raise ValueError(f"{shown(task)} is not a task with its figures")
        if not name or len(name) > LONGEST_NAME or name in names:
            notes.append(f"{shown(task)} cannot be the name of a benchmark here: left out")
            continue
        names.add(name)
        figures = []
        directions = read_object(read_object(raw, "higher_is_better"), task)
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if metric.endswith("_stderr") or isinstance(value, (str, list, dict, type(None))):
                continue
            if metric in ("alias", "sample_len", "name"):
                continue
            if not is_number(value):
                notes.append(f"{task}: {key} is {shown(value)}: left out")
                continue
            direction = directions.get(metric)
            suffix = f",{filtered}" if filtered else ""
            error = values.get(f"{metric}_stderr{suffix}")
            figures.append(
                Reported(
                    metric,
                    filtered,
                    float(value),
                    float(error) if is_number(error) else None,
                    direction if isinstance(direction, bool) else None,
                )
            )
        if figures:
            yield task, figures


def _bench_name(task: str) -> str:
    return _UNUSUAL.sub("-", task.strip()).strip("-")


def _task(
    store: Store,
    raw: Mapping[str, Any],
    path: Path,
    task: str,
    figures: Sequence[Reported],
    model: Checkpoint,
    summary: ImportSummary,
    found: list[Answer],
) -> list[Judgment]:
    """Return one task's judgments: of its documents where they are known, else of its figures.

    The documents' answers are added to `found`.
    """
    bench = LM_EVAL + _bench_name(task)
    revision = imported_revision(store, bench, _flags(raw, task), scorer=SCORER)
    # Versions before 0.4.2 note no date.
    created = number(raw.get("date") or path.stat().st_mtime, "date")
    samples = _samples(raw, path, task, summary.notes)
    filters = list(dict.fromkeys(figure.filter for figure in figures))
    count = _documents(raw, task) or len({sample.item for sample in samples}) or 1
    answers = sample_answers(samples, model.id, bench, revision, created)
    made: list[Judgment] = []
    for figure in figures:
        rows = [
            (sample.item, sample.values[figure.metric])
            for sample in samples
            if figure.metric in sample.values and _is_of(sample, figure.filter, filters)
        ]
        mean = math.fsum(value for _, value in rows) / len(rows) if rows else math.nan
        if abs(mean - figure.value) <= _CLOSE * max(1.0, abs(figure.value)):
            made += [
                replace(
                    _judgment(model, bench, revision, item, figure.name, value, 1.0, {}, created),
                    answer=answers[item].id if item in answers else None,
                )
                for item, value in rows
            ]
            found += answers.values()
            continue
        if rows:
            summary.notes.append(
                f"{task}: {figure.name} is {figure.value:.4g} but its samples' mean {mean:.4g}: "
                "imported without samples"
            )
        info: JudgmentInfo = {} if figure.error is None else {"stderr": figure.error}
        total = figure.value * count
        made.append(
            _judgment(model, bench, revision, WHOLE, figure.name, total, count, info, created)
        )
    summary.benches.add(bench)
    return made


def _flags(raw: Mapping[str, Any], task: str) -> list[str]:
    """Return what distinguishes this run of a task from others of the same name."""
    flags = []
    version = read_object(raw, "versions").get(task)
    if version is not None:
        flags.append(f"version:{version}")
    shots = read_object(raw, "n-shot").get(task)
    if shots:
        flags.append(f"shots:{shots}")
    config = read_object(raw, "config")
    counts = read_object(raw, "n-samples").get(task)
    if isinstance(counts, dict):
        if counts.get("effective") != counts.get("original"):
            flags.append(f"subset:{counts.get('effective')}")
    elif limit := config.get("limit"):
        # Groups, and versions before 0.4.3, have no counts; a limit below 1 is a share.
        flags.append(f"subset:{limit}")
    if generation := config.get("gen_kwargs"):
        flags.append(f"gen_kwargs:{digest(generation)[:8]}")
    if raw.get("chat_template"):
        flags.append("chat-template")
    if shots and raw.get("fewshot_as_multiturn"):
        flags.append("multiturn")
    if raw.get("system_instruction"):
        flags.append(f"system:{digest(raw['system_instruction'])[:8]}")
    return flags


def _documents(raw: Mapping[str, Any], task: str) -> int:
    """Return how many documents a task has, or all tasks of a group; 0 if the file is silent."""
    counts, parts = read_object(raw, "n-samples"), read_object(raw, "group_subtasks")
    seen, left, total = set(), [task], 0
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        own = counts.get(name)
        if isinstance(own, dict) and own.get("effective"):
            total += read_integer(own["effective"], f"n-samples: {name}")
        left += [part for part in parts.get(name) or () if isinstance(part, str)]
    return total


def _is_of(sample: Sample, filtered: str, filters: Sequence[str]) -> bool:
    """Return whether a sample belongs to a filter; one without filters belongs to `none`."""
    if sample.filter is None:
        return sample.turn == filters.index(filtered)
    return (sample.filter or "none") == (filtered or "none")


def _samples(raw: Mapping[str, Any], path: Path, task: str, notes: list[str]) -> list[Sample]:
    """Return the samples of a task's file beside the results."""
    file, rows = _samples_file(raw, path, task), []
    if file is None:
        return []
    if not inside(file, path.parent):
        notes.append(f"{task}: {file.name} is a link to outside of the folder: not read")
        return []
    turns: dict[str, int] = {}
    for where, text in sample_texts(file):
        try:
            row = parse_json(text) if isinstance(text, bytes) else text
            sample = read_sample(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"not a sample of lm-evaluation-harness: {describe_error(error)}"
            raise DataError(message, where=where) from error
        turn = turns[sample.item] = turns.get(sample.item, -1) + 1
        rows.append(sample._replace(turn=turn))
    return rows


def _samples_file(raw: Mapping[str, Any], path: Path, task: str) -> Path | None:
    """Return a task's samples file, by the names that the versions give it."""
    if "/" in task or "\\" in task:
        return None
    match = _STAMP.fullmatch(path.name)
    arguments = read_object(raw, "config").get("model_args")
    before = re.sub("[/=]", "__", arguments) if isinstance(arguments, str) else ""
    names = [f"samples_{task}.jsonl", f"{before}_{task}.jsonl"]
    for name in [f"samples_{task}_{match[1]}.jsonl"] if match else names:
        file = path.with_name(name)
        if len(name) <= LONGEST_FILE and file.is_file():
            return file
    return None


def _judgment(
    model: Checkpoint,
    bench: str,
    revision: str,
    item: str,
    metric: str,
    value: float,
    weight: float,
    info: JudgmentInfo,
    created: float,
) -> Judgment:
    error = info.get("stderr")
    return Judgment(
        id=digest("lm-eval", model.id, bench, revision, item, metric, value, weight, error),
        checkpoint=model.id,
        bench=bench,
        revision=revision,
        item=item,
        turn=1,
        category="",
        judge=JUDGE,
        metric=metric,
        status=JudgmentStatus.OK,
        created=created,
        value=value,
        weight=weight,
        info=info,
    )
