"""Import AlpacaEval results: model outputs and annotations."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.interop.fastchat import (
    ImportSummary,
    imported_model,
    imported_revision,
    keep,
)
from kdharness.harness.interop.rows import (
    describe_error,
    inside,
    read_name,
    read_rows,
    read_string,
    shown,
)
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.store import Store
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Finish,
    Judgment,
    JudgmentStatus,
    digest,
)

ALPACA_ITEMS = 805
BASELINES = {"text_davinci_003": "alpaca-eval-1", "gpt4_1106_preview": "alpaca-eval-2"}
WHOLE = 0.9
"""A file with at least this share of the items is a full run with rows left out."""


def import_alpaca_eval(store: Store, path: Path, name: str | None = None) -> ImportSummary:
    """Import model outputs or annotations in alpaca_eval's format.

    Args:
        name: name of the model; the `generator` in the file by default.

    Raises:
        DataError: a row that is neither, with its location.
    """
    if path.is_dir():
        path = next(
            (
                p
                for p in (path / "annotations.json", path / "model_outputs.json")
                if p.exists() and inside(p, path)
            ),
            path,
        )
    rows = read_rows(path)
    if not rows:
        raise DataError("the file has no rows", where=str(path))
    annotated = any("preference" in row for _, row in rows)
    summary = ImportSummary(kind="annotations" if annotated else "outputs", rows=len(rows))
    item_of: Any = resolve(TOOLS, "alpaca_item", "tool")
    try:
        if annotated:
            answers, judgments = _annotations(store, rows, name, summary, item_of)
        else:
            answers, judgments = _outputs(store, rows, name, summary, item_of), []
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        message = f"not an alpaca_eval file: {describe_error(error)}"
        raise DataError(message, where=str(path)) from error
    keep(store, summary, answers, judgments)
    return summary


def _output(model: Checkpoint, item: str, text: str) -> Answer:
    return Answer(
        id=digest("imported", model.id, "alpaca-eval", item, text),
        checkpoint=model.id,
        bench="alpaca-eval",
        revision="imported",
        item=item,
        turn=1,
        text=text,
        finish=Finish.STOP,
        prompt_hash="",
        settings="imported",
        created=time.time(),
    )


def _outputs(
    store: Store,
    rows: Sequence[tuple[str, dict[str, Any]]],
    name: str | None,
    summary: ImportSummary,
    item_of: Any,
) -> list[Answer]:
    answers = []
    for where, row in rows:
        missing = {"instruction", "output"} - set(row)
        if missing:
            raise DataError(
                f"missing fields in a row: {', '.join(sorted(missing))} "
                f"(fields: {', '.join(sorted(row))[:200]})",
                where=where,
                hint="model outputs have instruction and output; annotations have instruction, "
                "output_1, output_2 and preference",
            )
        _check(row, where, "generator", "instruction", "output")
        model = imported_model(store, name or str(row.get("generator") or Path(where).stem))
        summary.models.add(model.name)
        item = item_of(row["instruction"] or "")
        answers.append(_output(model, item, row["output"] or ""))
    summary.benches.add("alpaca-eval")
    return answers


def _check(row: dict[str, Any], where: str, *fields: str) -> None:
    """Reject names and texts of the wrong type; missing ones have defaults."""
    try:
        for field in fields:
            if field.startswith(("generator", "annotator")):
                read_name(row.get(field) or "unnamed", field)
            elif field == "preference":
                preference_of(row[field])
            elif not read_string(row.get(field), field) and field == "instruction":
                raise ValueError("instruction is empty")
    except ValueError as error:
        raise DataError(f"not an alpaca_eval row: {error}", where=where) from error


def _annotations(
    store: Store,
    rows: Sequence[tuple[str, dict[str, Any]]],
    name: str | None,
    summary: ImportSummary,
    item_of: Any,
) -> tuple[list[Answer], list[Judgment]]:
    answers: list[Answer] = []
    judgments: list[Judgment] = []
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for where, row in rows:
        missing = {"instruction", "output_1", "output_2", "preference"} - set(row)
        if missing:
            raise DataError(f"missing fields in a row: {', '.join(sorted(missing))}", where=where)
        _check(
            row,
            where,
            "generator",
            "generator_1",
            "generator_2",
            "annotator",
            "instruction",
            "output_1",
            "output_2",
            "preference",
        )
        baseline, model_name = generators(row)
        model = imported_model(store, name or model_name or "unnamed")
        groups.setdefault(
            (model.name, baseline, str(row.get("annotator") or "unknown")), []
        ).append(row)
    for (model_name, baseline, annotator), part in groups.items():
        model = imported_model(store, model_name)
        summary.models.add(model.name)
        bench = alpaca_bench(baseline, annotator)
        summary.benches.add(bench)
        items = [item_of(row["instruction"] or "") for row in part]
        flags = ["imported"] + ([] if baseline in BASELINES else [f"baseline:{baseline or '?'}"])
        whole = len(part) >= WHOLE * ALPACA_ITEMS
        if not whole:
            flags.append(f"subset:{len(part)}")
        foreign = any(not item.isdigit() for item in items)
        revision = imported_revision(store, bench, flags, own_items=foreign)
        for index, (item, row) in enumerate(zip(items, part, strict=True)):
            answer = _output(model, item, row["output_2"] or "")
            answers.append(answer)
            judgments.append(
                _annotation(model, bench, revision, item, row, annotator, answer, index, baseline)
            )
        if whole and not foreign:
            judgments += _absent(model, bench, revision, annotator, baseline, set(items))
    return answers, judgments


def alpaca_bench(baseline: str, annotator: str) -> str:
    """Return the benchmark version of a file, from its baseline, else from its annotator."""
    if baseline in BASELINES:
        return BASELINES[baseline]
    return "alpaca-eval-1" if annotator == "alpaca_eval_gpt4" else "alpaca-eval-2"


def generators(row: dict[str, object]) -> tuple[str, str]:
    """Return (baseline, model) of an annotation; empty where unknown.

    alpaca_eval numbers the two only if both sides have a `generator`; otherwise the unnumbered
    one is the side that has no other name.
    """
    first, second, plain = (
        str(row.get(key) or "") for key in ("generator_1", "generator_2", "generator")
    )
    if not plain or (first and second):
        return first, second
    if first:
        return first, plain
    return (plain, second) if second or plain in BASELINES else ("", plain)


def preference_of(value: Any) -> float | None:
    """Return a stored preference in 1-2; 0 is a draw, null, NaN and values out of range are None.

    Raises:
        ValueError: it is neither null nor a number.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        preference = math.inf if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        preference = math.inf
    except OverflowError:
        return None
    if math.isinf(preference):
        raise ValueError(f"preference must be a number from 1 to 2, not {shown(value)}")
    if math.isnan(preference) or (preference != 0 and not 1 <= preference <= 2):
        return None
    return 1.5 if preference == 0 else preference


def _annotation(
    model: Checkpoint,
    bench: str,
    revision: str,
    item: str,
    row: dict[str, Any],
    annotator: str,
    answer: Answer,
    index: int,
    baseline: str,
) -> Judgment:
    value = preference_of(row["preference"])
    # Older versions ignored this baseline: the row gets a new identity.
    unnumbered = [baseline] if baseline and not row.get("generator_1") else []
    completion = row.get("raw_completion")
    text = completion.get("text", "") if isinstance(completion, dict) else completion or ""
    return Judgment(
        id=digest(
            "imported",
            model.id,
            bench,
            annotator,
            item,
            row["output_1"],
            row["output_2"],
            row["preference"],
            *unnumbered,
        ),
        checkpoint=model.id,
        bench=bench,
        revision=revision,
        item=item,
        turn=1,
        category=str(row.get("dataset") or ""),
        judge=f"imported:{annotator}",
        metric="preference",
        status=JudgmentStatus.UNREADABLE if value is None else JudgmentStatus.OK,
        # Rows keep the order of the file: the last one counts.
        created=time.time() + index * 1e-6,
        value=value,
        answer=answer.id,
        baseline=baseline,
        raw=str(text),
        info={"len_1": len(row["output_1"] or ""), "len_2": len(row["output_2"] or "")},
    )


def _absent(
    model: Checkpoint, bench: str, revision: str, annotator: str, baseline: str, present: set[str]
) -> list[Judgment]:
    """Return failed judgments of items missing in a full file: alpaca_eval omits empty outputs."""
    return [
        Judgment(
            id=digest("imported", model.id, bench, annotator, str(item), "absent"),
            checkpoint=model.id,
            bench=bench,
            revision=revision,
            item=str(item),
            turn=1,
            category="",
            judge=f"imported:{annotator}",
            metric="preference",
            status=JudgmentStatus.FAILED,
            created=time.time(),
            baseline=baseline,
            error="no row in the imported file; alpaca_eval leaves empty outputs out",
            info={"len_2": 0, "absent": True},
        )
        for item in range(ALPACA_ITEMS)
        if str(item) not in present
    ]
