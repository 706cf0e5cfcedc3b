"""People's labels as JSON Lines: an export that can be imported again, and files made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypedDict

from kdharness.harness.analysis.labelling import (
    KIND_OF,
    PAIR,
    RATING,
    LabelTask,
    current_labels,
    label_tasks,
    labelable_benches,
)
from kdharness.harness.analysis.prompts import BenchTexts
from kdharness.harness.config.evaluation import bench_name
from kdharness.harness.errors import DataError, did_you_mean
from kdharness.harness.interop.rows import (
    describe_error,
    number,
    read_integer,
    read_name,
    read_rows,
    read_string,
)
from kdharness.harness.store import Store
from kdharness.harness.store.labels import Label, text_digest
from kdharness.harness.types import Answer, Checkpoint

FIELDS = (*(spec.name for spec in fields(Label)), "checkpoint_id", "seed", "design")
RANGES = {RATING: (1.0, 10.0), PAIR: (0.0, 1.0)}


@dataclass(frozen=True)
class LabelImport:
    """Rows of an imported file, how many labels were new, and chosen by unknown strata."""

    rows: int
    new: int
    unknown_strata: int = 0


def export_labels(store: Store) -> str:
    """Return every label as JSON Lines, superseded and withdrawn ones included."""
    names = {checkpoint.id: checkpoint.name for checkpoint in store.checkpoints()}
    lines = []
    for label in store.labels():
        row = {**asdict(label), "blind": bool(label.blind), "checkpoint_id": label.checkpoint}
        row["checkpoint"] = names.get(label.checkpoint, label.checkpoint)
        lines.append(json.dumps(row, ensure_ascii=False))
    return "".join(line + "\n" for line in lines)


def import_labels(
    store: Store, path: Path, labeller: str, now: float, texts: Mapping[str, BenchTexts]
) -> LabelImport:
    """Store the labels of a file; importing it again changes nothing.

    A row needs `checkpoint`, `bench`, `item` and `value`. A row without `created` that repeats
    the person's current label is not stored again.

    Args:
        labeller: who labelled, where a row does not say.
        now: the time of labels without one.
        texts: of benchmarks that come with a baseline, by name.

    Raises:
        DataError: a row that is not a label, or of an unknown checkpoint, item or answer; nothing
            of the file is stored then.
    """
    reader = _Reader(store, labeller, now, texts)
    labels: list[Label] = []
    rows = read_rows(path)
    current = {(x.labeller, x.subject): x for x in current_labels(store.labels())}
    undated: dict[tuple[str, tuple[str, str, str]], str] = {}
    for where, row in rows:
        try:
            label = reader.read(row)
        except (KeyError, ValueError) as error:
            raise DataError(describe_error(error), where=where) from error
        known = current.get((label.labeller, label.subject))
        if "created" not in row:
            place = label.labeller, label.subject
            if place in undated:
                raise DataError(
                    f"{label.labeller} has labelled this answer already in {undated[place]}",
                    where=where,
                    hint="keep one of both, or give created, the time, in each",
                )
            undated[place] = where
        same = known is not None and (known.text, known.value, known.note) == (
            label.text,
            label.value,
            label.note,
        )
        if "created" not in row and same:
            continue
        current[label.labeller, label.subject] = label
        labels.append(label)
    designs = [str(label.info["design"]) for label in labels if label.info.get("design")]
    unknown = {design for design in designs if not store.label_design(design)}
    strange = sum(design in unknown for design in designs)
    return LabelImport(len(rows), store.add_labels(labels), strange)


class _Said(TypedDict):
    created: float
    labeller: str
    value: float | None
    blind: bool
    note: str
    info: dict[str, object]


def _metric(value: object) -> str:
    """Return the metric of labels for a metric's name. Raises ValueError for an unknown one."""
    name = read_string(value, "metric")
    if name not in KIND_OF:
        raise ValueError(f"unknown metric {name!r}; use {RATING} or {PAIR}")
    return KIND_OF[name]


class _Reader:
    """Reads rows, and finds the answers that they are about."""

    def __init__(
        self, store: Store, labeller: str, now: float, texts: Mapping[str, BenchTexts]
    ) -> None:
        self._store, self._labeller, self._now, self._texts = store, labeller, now, texts
        self._tasks: dict[tuple[str, str], list[LabelTask]] = {}
        self._answers: dict[str, dict[str, Answer]] = {}
        self._stored = {label.id for label in store.labels()}

    def read(self, row: Mapping[str, object]) -> Label:
        """Return the label of a row. Raises KeyError or ValueError."""
        for name in row:
            if name not in FIELDS:
                raise ValueError(f"unknown field {name!r}{did_you_mean(name, FIELDS)}")
        label = self._exported(row) if row.get("text") else self._by_place(row)
        low, high = RANGES[label.metric]
        if label.value is not None and not low <= label.value <= high:
            raise ValueError(f"value of a {label.metric} must be in {low:g} to {high:g}")
        return label

    def _exported(self, row: Mapping[str, object]) -> Label:
        """Return the label of an exported row: its answer is found by its id and text."""
        checkpoint = self._checkpoint(row)
        texts = {
            name: read_string(row.get(name), name)
            for name in ("revision", "answer", "text", "baseline", "other", "other_text")
        }
        label = Label(
            checkpoint=checkpoint.id,
            bench=read_name(row["bench"], "bench"),
            item=read_name(row["item"], "item"),
            turn=read_integer(row["turn"], "turn"),
            metric=_metric(row["metric"]),
            **texts,
            **self._said(row),
        )
        if label.id in self._stored:
            return label
        if checkpoint.id not in self._answers:
            answers = self._store.answers(checkpoint.id)
            self._answers[checkpoint.id] = {answer.id: answer for answer in answers}
        answer = self._answers[checkpoint.id].get(label.answer)
        if answer is not None and (answer.item, answer.turn) != (label.item, label.turn):
            raise ValueError(
                f"answer {answer.id!r} is one to turn {answer.turn} of item {answer.item!r}"
            )
        stored = self._store.answer_texts(filter(None, [label.other]))
        stored[label.answer] = text_digest(answer.text) if answer is not None else ""
        for key, text in ((label.answer, label.text), (label.other, label.other_text)):
            if key and stored.get(key) != text:
                raise ValueError(
                    f"answer {key!r} is not stored with the text that was labelled: it was "
                    "generated again, or is in another home (kdharness store merge)"
                )
        return label

    def _by_place(self, row: Mapping[str, object]) -> Label:
        task = self._task(row)
        said = self._said(row)
        label = task.label(said["value"], said["labeller"], said["created"])
        return replace(label, blind=said["blind"], note=said["note"], info=said["info"])

    def _said(self, row: Mapping[str, object]) -> _Said:
        """Return the fields of a row that depend on the person alone."""
        created = number(row["created"], "created") if "created" in row else self._now
        if not 0 <= created <= 1e11:
            raise ValueError("created must be in seconds since 1970")
        info, blind = row.get("info", {}), row.get("blind", False)
        if not isinstance(info, dict) or not isinstance(blind, bool):
            raise ValueError("info must be an object, and blind true or false")
        if "seed" in row:
            info = {**info, "seed": read_integer(row["seed"], "seed")}
        if design := read_string(row.get("design"), "design"):
            info = {**info, "design": design}
        return {
            "created": created,
            "labeller": read_name(row.get("labeller", self._labeller), "labeller"),
            "value": None if row["value"] is None else number(row["value"], "value"),
            "blind": blind,
            "note": read_string(row.get("note"), "note"),
            "info": dict(info),
        }

    def _task(self, row: Mapping[str, object]) -> LabelTask:
        checkpoint = self._checkpoint(row)
        bench = bench_name(read_name(row["bench"], "bench"))
        item = row["item"]
        name = str(item) if isinstance(item, int) and not isinstance(item, bool) else item
        if not isinstance(name, str):
            raise ValueError("item must be an item's id")
        turn = read_integer(row.get("turn", 1), "turn")
        wanted = _metric(row["metric"]) if row.get("metric") else ""
        baseline = read_string(row.get("baseline"), "baseline")
        tasks = [
            task
            for task in self._tasks_of(checkpoint, bench)
            if (task.answer.item, task.answer.turn) == (name, turn)
            and (not wanted or task.metric == wanted)
            and (not baseline or task.baseline == baseline)
            and row.get("answer", "") in ("", task.answer.id)
        ]
        if not tasks:
            about = f"turn {turn} of item {name!r} of {bench}"
            raise ValueError(f"{checkpoint.name} has no judged answer to {about}")
        if len({(task.metric, task.baseline) for task in tasks}) > 1:
            raise ValueError("which label is it? give metric, and for a pair baseline")
        return tasks[0]

    def _checkpoint(self, row: Mapping[str, object]) -> Checkpoint:
        key = read_string(row.get("checkpoint_id"), "checkpoint_id")
        name = read_name(row["checkpoint"], "checkpoint")
        checkpoint = (self._store.checkpoint(key) if key else None) or self._store.checkpoint(name)
        if checkpoint is None:
            known = [c.name for c in self._store.checkpoints()]
            raise ValueError(f"no checkpoint named {name!r}{did_you_mean(name, known)}")
        return checkpoint

    def _tasks_of(self, checkpoint: Checkpoint, bench: str) -> Sequence[LabelTask]:
        key = checkpoint.id, bench
        if key not in self._tasks:
            known = labelable_benches(self._store, [checkpoint.id])
            if bench not in known:
                raise ValueError(
                    f"no judge has rated {checkpoint.name} on {bench!r}{did_you_mean(bench, known)}"
                )
            texts = self._texts.get(bench, BenchTexts())
            self._tasks[key] = label_tasks(self._store, bench, [checkpoint], texts)
        return self._tasks[key]
