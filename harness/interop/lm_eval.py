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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from kdharness.harness.errors import DataError
from kdharness.harness.interop.fastchat import ImportSummary, imported_model, imported_revision
from kdharness.harness.interop.rows import (
    describe_error,
    files_below,
    inside,
    number,
    read_integer,
    read_name,
    shown,
)
from kdharness.harness.registry import LM_EVAL
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentInfo, JudgmentStatus, digest
from kdharness.harness.util.untrusted import parse_json, read_lines, read_text

JUDGE = "imported:lm-eval"
SCORER = "lm-eval"
_STAMP = re.compile(r"[^/]*?_(\d{4}-\d\d-\d\dT[\d.-]+)\.json")
"""lm_eval ends the names of its results with the time, whatever they begin with."""
_TASK = re.compile(r"[\w.,+-]{1,120}")
_CLOSE = 1e-6


@dataclass(frozen=True)
class Reported:
    """One figure of a results file: its value, standard error, and the documents behind it."""

    metric: str
    filter: str
    value: float
    error: float | None

    @property
    def name(self) -> str:
        """The metric's name here: with its filter, unless that is `none`."""
        return self.metric if self.filter in ("", "none") else f"{self.metric}/{self.filter}"


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
    try:
        model = checkpoint or imported_model(store, read_name(_model_name(raw), "model_name"))
        summary.models = {model.name}
        judgments = [
            judgment
            for task, figures in _tasks(raw, summary.notes)
            for judgment in _task(store, raw, path, task, figures, model, summary)
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"not a results file of lm-evaluation-harness: {describe_error(error)}",
            where=str(path),
        ) from error
    known = store.result_ids(model.id)
    fresh = {judgment.id: judgment for judgment in judgments if judgment.id not in known}
    summary.rows, summary.new = len(judgments), len(fresh)
    store.add_judgments(fresh.values())
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


def _object(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object of a results file; empty if it is missing."""
    found = raw.get(name) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be an object, not {shown(found)}")
    return found


def _model_name(raw: Mapping[str, Any]) -> object:
    """Return the evaluated model's name or path."""
    config = _object(raw, "config")
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, (str, dict)):
        raise ValueError(f"model_args must be text or an object, not {shown(arguments)}")
    if isinstance(arguments, str):
        arguments = dict(part.partition("=")[::2] for part in arguments.split(","))
    # An adapter's base is not what was evaluated.
    for name in (arguments.get("peft"), raw.get("model_name"), arguments.get("pretrained")):
        if name:
            return name
    return arguments.get("model")


def _tasks(raw: Mapping[str, Any], notes: list[str]) -> Iterator[tuple[str, list[Reported]]]:
    """Yield each task or group with its figures; add to the notes what is no number."""
    for task, values in raw["results"].items():
        if not _TASK.fullmatch(task) or not isinstance(values, dict):
            raise ValueError(f"{shown(task)} is not a task with its figures")
        figures = []
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if metric.endswith("_stderr") or isinstance(value, (str, list, dict, type(None))):
                continue
            if metric in ("alias", "sample_len", "name"):
                continue
            if not _is_number(value):
                notes.append(f"{task}: {key} is {shown(value)}: left out")
                continue
            suffix = f",{filtered}" if filtered else ""
            error = values.get(f"{metric}_stderr{suffix}")
            figures.append(
                Reported(
                    metric,
                    filtered,
                    float(value),
                    float(error) if _is_number(error) else None,
                )
            )
        if figures:
            yield task, figures


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _task(
    store: Store,
    raw: Mapping[str, Any],
    path: Path,
    task: str,
    figures: Sequence[Reported],
    model: Checkpoint,
    summary: ImportSummary,
) -> list[Judgment]:
    """Return one task's judgments: of its documents where they are known, else of its figures."""
    bench = f"{LM_EVAL}{task.replace(',', '-')}"
    revision = imported_revision(store, bench, _flags(raw, task), scorer=SCORER)
    created = number(raw.get("date") or 0, "date")
    samples = _samples(path, task)
    count = _documents(raw, task) or (len(samples) if samples else 1)
    made: list[Judgment] = []
    for figure in figures:
        rows = [
            (item, value)
            for item, filtered, values in samples
            if filtered in (figure.filter, "") or (filtered == "none" and not figure.filter)
            for value in (values.get(figure.metric),)
            if value is not None
        ]
        mean = math.fsum(value for _, value in rows) / len(rows) if rows else math.nan
        if abs(mean - figure.value) <= _CLOSE * max(1.0, abs(figure.value)):
            made += [
                _judgment(model, bench, revision, item, figure.name, value, 1.0, {}, created)
                for item, value in rows
            ]
            continue
        if rows:
            summary.notes.append(
                f"{task}: {figure.name} is {figure.value:.4g} but its samples' mean {mean:.4g}: "
                "imported without samples"
            )
        info: JudgmentInfo = {} if figure.error is None else {"stderr": figure.error}
        total = figure.value * count
        made.append(
            _judgment(model, bench, revision, "all", figure.name, total, count, info, created)
        )
    summary.benches.add(bench)
    return made


def _flags(raw: Mapping[str, Any], task: str) -> list[str]:
    """Return what distinguishes this run of a task from others of the same name."""
    flags = []
    version = _object(raw, "versions").get(task)
    if version is not None:
        flags.append(f"version:{version}")
    shots = _object(raw, "n-shot").get(task)
    if shots:
        flags.append(f"shots:{shots}")
    counts = _object(raw, "n-samples").get(task)
    if isinstance(counts, dict) and counts.get("effective") != counts.get("original"):
        flags.append(f"subset:{counts.get('effective')}")
    if raw.get("chat_template"):
        flags.append("chat-template")
    if raw.get("system_instruction"):
        flags.append(f"system:{digest(raw['system_instruction'])[:8]}")
    return flags


def _documents(raw: Mapping[str, Any], task: str) -> int:
    counts = _object(raw, "n-samples").get(task)
    if isinstance(counts, dict) and counts.get("effective"):
        return read_integer(counts["effective"], f"n-samples: {task}")
    return 0


def _samples(path: Path, task: str) -> list[tuple[str, str, dict[str, float]]]:
    """Return (document, filter, metric -> value) of a task's samples file beside the results."""
    match = _STAMP.fullmatch(path.name)
    stamp = match[1] if match else ""
    file = path.with_name(f"samples_{task}_{stamp}.jsonl" if stamp else f"samples_{task}.jsonl")
    if not file.is_file() or not inside(file, path.parent):
        return []
    rows = []
    for line, text in read_lines(file, DataError):
        where = f"{file}, line {line}"
        if not text.strip():
            continue
        try:
            row = parse_json(text)
            rows.append(_sample(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"not a sample of lm-evaluation-harness: {describe_error(error)}"
            raise DataError(message, where=where) from error
    return rows


def _sample(row: Mapping[str, Any]) -> tuple[str, str, dict[str, float]]:
    """Return a sample's document, filter and numeric metrics."""
    item = str(read_integer(row["doc_id"], "doc_id"))
    # A document's number alone would pair other documents after a task has changed.
    if mark := row.get("doc_hash"):
        item = f"{item}/{str(mark)[:12]}"
    named = row.get("metrics")
    names = named if isinstance(named, list) else [key for key in row if key not in _KNOWN]
    values = {
        str(name): float(row[name])
        for name in names
        if _is_number(row.get(name)) or isinstance(row.get(name), bool)
    }
    return item, str(row.get("filter", "")), values


_KNOWN = frozenset(
    (
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter"),
        *("doc_hash", "prompt_hash", "target_hash", "metrics"),
    )
)
"""Fields of a sample that are no metrics, in versions that do not name these."""


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
