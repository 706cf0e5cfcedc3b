"""Checks of encoded rows: what is labelled, what was cut, how answers end."""

from __future__ import annotations

from collections.abc import Iterator

from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.data.reports import Report, Template
from kdharness.trainers.pairs.result import PairCheck, note, ok

FEW_LABELLED = 0.05
"""A share of labelled tokens below which most of the work computes what no loss sees."""

MANY_REPEATED = 0.05
"""A share of repeated rows that is more than the few that most data sets have."""


def labelled(report: Report) -> PairCheck:
    """Return the share of labelled tokens in a source, and the rows that are left out."""
    share = report.labelled / max(report.tokens, 1)
    values: dict[str, object] = {
        "rows": report.rows,
        "dropped": report.dropped,
        "tokens": report.tokens,
        "labelled": report.labelled,
        "share": round(share, 4),
    }
    detail = f"{share:.1%} of {report.tokens:,} tokens in {report.rows:,} rows"
    if report.dropped > report.lost:
        count = report.dropped - report.lost
        return note(
            "labelled",
            report.path,
            f"{detail}; {_rows(count)} without a labelled token {_are(count)} dropped",
            "check them with kdharness data show: an empty answer, or turns with train: false",
            **values,
        )
    if share < FEW_LABELLED:
        advice = "shorten the prompts, or expect most of the time to be spent on them"
        return note("labelled", report.path, detail, advice, **values)
    return ok("labelled", report.path, detail, **values)


def cut(report: Report, max_length: int) -> PairCheck:
    """Return how many rows of a source max_length truncated."""
    values = {"cut": report.cut, "answer_lost": report.lost, "longest": report.longest}
    if not report.cut and not report.lost:
        detail = f"none at {max_length:,} tokens, the longest has {report.longest:,}"
        return ok("cut rows", report.path, detail, **values)
    count = report.cut + report.lost
    detail = f"{_rows(count)} of {report.rows + report.dropped:,} at {max_length:,} tokens"
    if report.lost:
        detail += f", {report.lost:,} of them before the answer begins, which drops the row"
    if report.cut == report.rows:
        detail += "; no row is left that teaches where an answer ends"
    advice = "raise data.max_length, or shorten these rows"
    return note("cut rows", report.path, detail, advice, **values)


def repeated(data: Dataset) -> Iterator[PairCheck]:
    """Yield, for each source, how many of its rows stand above them with the same tokens."""
    first: dict[int, TrainRow] = {}
    again: dict[int, list[tuple[TrainRow, TrainRow]]] = {}
    for row in data.rows:
        same = first.setdefault(hash((tuple(row.input_ids), tuple(row.labels))), row)
        if same is not row:
            again.setdefault(row.source, []).append((row, same))
    for number, report in enumerate(data.reports):
        pairs = again.get(number, [])
        clashes = [pair for pair in pairs if pair[0].kind != pair[1].kind]
        values = {"rows": report.rows, "repeated": len(pairs), "other_kind": len(clashes)}
        if not pairs:
            yield ok("repeated rows", report.path, "none", **values)
            continue
        row, same = (clashes or pairs)[0]
        detail = f"{_rows(len(pairs))} of {report.rows:,} repeat a row above them"
        if clashes:
            detail += f", {len(clashes):,} of them with another kind: two teachers for one row"
        detail += f"; first {row.where}, as {same.where}"
        if clashes or len(pairs) >= MANY_REPEATED * report.rows:
            advice = "list each row once; a source's weight decides how often its rows are drawn"
            yield note("repeated rows", report.path, detail, advice, **values)
        else:
            yield ok("repeated rows", report.path, detail, **values)


def answer_ends(template: Template, report: Report) -> Iterator[PairCheck]:
    """Yield whether a source's answers end with a labelled end token, and what else is odd."""
    values = {"endless": report.endless, "rows": report.rows}
    if ending := template.ending(report):
        advice = (
            "use a template that ends every answer with a token of the tokenizer"
            if report.endless
            else "add that token to eos_token_id in the student's generation_config.json"
        )
        yield note("end labelled", report.path, ending, advice, **values)
    else:
        name = template.traits.end_token or "the end of sequence"
        detail = f"every answer that is not cut ends with {name!r}, which is labelled"
        yield ok("end labelled", report.path, detail, **values)
    for text in template.shapes(report):
        yield note("answers", report.path, text, "check with kdharness data show")
    for text in template.texts(report):
        yield note("texts", report.path, text, "check with kdharness data show")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
