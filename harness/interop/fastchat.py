"""Import FastChat results; imported models appear on the same leaderboard.

The identity of an imported row is a hash of its content, so that importing twice has no effect.
If a re-run was appended to the same file, as FastChat does, all rows are kept: the newest judgment
counts, and `--as-published` counts all of them, as FastChat's own script does.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.interop.rows import (
    describe_error,
    number,
    read_integer,
    read_name,
    read_rows,
    read_string,
    read_time,
    shown,
)
from kdharness.harness.registry import FASTCHAT
from kdharness.harness.store import Store
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Finish,
    Judgment,
    JudgmentInfo,
    JudgmentStatus,
    Method,
    digest,
)

MT_BENCH = "mt-bench"
PAIRS = "mt-bench-pair"
FAILED_ANSWER = "$ERROR$"
"""What FastChat stores if an API returned no answer; its judges then rate this text."""
MT_BENCH_IDS = range(81, 161)
_FOLDERS = ("model_answer", "model_judgment", "reference_answer")
CATEGORIES = (
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
)


@dataclass
class ImportSummary:
    """What was imported from a file; `notes` describe rows that were handled specially."""

    kind: str = ""
    bench: str = MT_BENCH
    rows: int = 0
    models: set[str] = field(default_factory=set)
    benches: set[str] = field(default_factory=set)
    new: int = 0
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a row."""
        return {
            "kind": self.kind,
            "rows": self.rows,
            "new": self.new,
            "models": sorted(self.models),
            "benches": sorted(self.benches),
            "notes": self.notes,
        }


Reader = Callable[[Store, dict[str, Any], ImportSummary], Sequence[Answer | Judgment]]


def import_fastchat(store: Store, path: Path) -> ImportSummary:
    """Import answers, single or pair judgments of FastChat's llm_judge, detected by their fields.

    Raises:
        DataError: a line that is none of these, with its number.
    """
    rows = read_rows(path)
    kinds = {kind_of(row, where) for where, row in rows}
    if len(kinds) > 1:
        raise DataError(
            f"the file mixes rows of different kinds: {', '.join(sorted(kinds))}", where=str(path)
        )
    if not kinds:
        raise DataError("the file has no rows", where=str(path))
    summary = ImportSummary(kind=kinds.pop(), rows=len(rows))
    _name_bench(summary, path, rows)
    readers: dict[str, Reader] = {"answers": _answers, "single": _singles, "pair": _pairs}
    reader = readers[summary.kind]
    answers: list[Answer] = []
    judgments: list[Judgment] = []
    for where, row in rows:
        try:
            made = reader(store, row, summary)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise DataError(f"not a FastChat row: {describe_error(error)}", where=where) from error
        for item in made:
            if isinstance(item, Answer):
                answers.append(item)
            else:
                judgments.append(item)
    keep(store, summary, answers, judgments)
    return summary


def kind_of(row: dict[str, object], where: str) -> str:
    """Return the kind of a FastChat row: answers, single or pair."""
    if "choices" in row and "model_id" in row:
        return "answers"
    if "g1_winner" in row and "model_1" in row:
        return "pair"
    if "score" in row and "model" in row and "turn" in row:
        return "single"
    hint = "answers have model_id and choices, judgments model, turn and score, or g1_winner"
    if {"question_id", "turns"} <= set(row):
        hint = "this is a file of questions; import model_answer or model_judgment files"
    elif {"model_a", "model_b", "winner"} <= set(row):
        hint = "votes with model_a, model_b and winner are not supported; " + hint
    elif {"instruction", "output"} <= set(row) or "preference" in row:
        hint = "this looks like an alpaca_eval file: kdharness import alpaca-eval FILE"
    raise DataError(
        "not a FastChat answer, single judgment or pair judgment "
        f"(fields: {', '.join(sorted(row))[:200]})",
        where=where,
        hint=hint,
    )


def imported_model(store: Store, name: str) -> Checkpoint:
    """Return the checkpoint of an imported model, without weights; create it if needed."""
    identity = digest("import", name)
    known = store.checkpoint(identity)
    if known is not None:
        return known
    return store.add_checkpoint(
        Checkpoint(id=identity, name=name, method=Method.IMPORT.value, path="", created=time.time())
    )


def keep(
    store: Store, found: ImportSummary, answers: Sequence[Answer], judgments: Sequence[Judgment]
) -> None:
    """Store new rows; existing rows are left unchanged."""
    known: set[str] = set()
    for name in found.models:
        known |= store.result_ids(imported_model(store, name).id)
    fresh_answers = {a.id: a for a in answers if a.id not in known}
    fresh = {j.id: j for j in judgments if j.id not in known}
    found.new = len(fresh_answers) + len(fresh)
    store.add_answers(fresh_answers.values())
    store.add_judgments(fresh.values())


# ---------------------------------------------------------------- FastChat


def _name_bench(
    summary: ImportSummary, path: Path, rows: Sequence[tuple[str, dict[str, object]]]
) -> None:
    """Assign the rows to MT-Bench only if every question is one of its own.

    FastChat rows do not name their benchmark, and its judge runs on any questions: others are
    named after their folder (`data/BENCH/model_answer/…`).
    """
    for where, row in rows:
        try:
            if read_integer(row["question_id"], "question_id") in MT_BENCH_IDS:
                continue
        except KeyError:
            raise DataError("question_id is missing", where=where) from None
        except ValueError as error:
            raise DataError(
                str(error),
                where=where,
                hint="MT-Bench questions have ids 81 to 160; your own questions need integer ids "
                "as well",
            ) from error
        folder = path.resolve().parent
        inside_bench = folder.name in _FOLDERS and re.fullmatch(r"[\w.-]{1,60}", folder.parent.name)
        summary.bench = f"{FASTCHAT}-{folder.parent.name}" if inside_bench else FASTCHAT
        summary.notes.append(
            f"question {row['question_id']} is not one of MT-Bench's (81-160): imported as "
            f"{summary.bench}, not as {MT_BENCH}"
        )
        return


def _identity(summary: ImportSummary, *parts: object) -> str:
    """Return the id of an imported row; for MT-Bench it does not include the benchmark."""
    return digest("imported", *parts, *([] if summary.bench == MT_BENCH else [summary.bench]))


def category_of(question: int, bench: str = MT_BENCH) -> str:
    """Return the category of an MT-Bench question id (81-160, ten each); empty for others."""
    if bench != MT_BENCH or question not in MT_BENCH_IDS:
        return ""
    return CATEGORIES[(question - MT_BENCH_IDS.start) // 10]


def _turns(row: dict[str, object], summary: ImportSummary) -> list[str]:
    """Return the turns of an answer's first choice, the one that FastChat judges."""
    choices = row["choices"]
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError(f"choices must be a list of objects with turns, not {shown(choices)}")
    if len(choices) > 1:
        note = "rows with several choices: only the first was imported, as in FastChat's judging"
        summary.notes += [] if note in summary.notes else [note]
    turns = choices[0].get("turns")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) for t in turns):
        raise ValueError("turns must be a list of strings")
    return turns


def _answers(store: Store, row: dict[str, object], summary: ImportSummary) -> list[Answer]:
    turns = _turns(row, summary)
    model = imported_model(store, read_name(row["model_id"], "model_id"))
    summary.models.add(model.name)
    summary.benches.add(summary.bench)
    item = str(read_integer(row["question_id"], "question_id"))
    made = read_time(row.get("tstamp")) or time.time()
    return [
        Answer(
            id=digest("imported", model.id, summary.bench, item, turn, text),
            checkpoint=model.id,
            bench=summary.bench,
            revision="imported",
            item=item,
            turn=turn,
            text=text,
            finish=Finish.ERROR if text == FAILED_ANSWER else Finish.STOP,
            prompt_hash="",
            settings="imported",
            created=made,
        )
        for turn, text in enumerate(turns, start=1)
    ]


def imported_revision(store: Store, bench: str, flags: Sequence[str], **rest: object) -> str:
    """Return the revision of an imported benchmark, and store its note."""
    revision = digest("imported", bench, list(flags))
    note = {"flags": list(flags), "scorer": bench, "used": time.time(), **rest}
    if not store.bench_note(bench, revision):
        store.set_bench_note(bench, revision, note)
    return revision


def _judge_name(row: dict[str, object]) -> str:
    judge = row.get("judge") or "unknown"
    first = judge[0] if isinstance(judge, list) and judge else judge
    return f"imported:{read_name(first, 'judge')}"


def _place(row: dict[str, object]) -> tuple[int, int]:
    """Return (question, turn) of a judgment."""
    question = read_integer(row["question_id"], "question_id")
    turn = read_integer(row["turn"], "turn")
    if turn < 1:
        raise ValueError(f"turn must be 1 or more, not {turn}")
    return question, turn


def _rating(value: object) -> float | None:
    """Return a stored score, None for null and NaN (FastChat writes -1). Raises ValueError."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return number(value, "score")


def _singles(store: Store, row: dict[str, object], summary: ImportSummary) -> list[Judgment]:
    question, turn = _place(row)
    score = _rating(row["score"])
    text, judge = read_string(row.get("judgment"), "judgment"), _judge_name(row)
    made = read_time(row.get("tstamp"))
    model = imported_model(store, read_name(row["model"], "model"))
    summary.models.add(model.name)
    summary.benches.add(summary.bench)
    good = score is not None and 1 <= score <= 10
    # Scores out of range are ignored here, but FastChat's own script averages them.
    info: JudgmentInfo = {} if good or score in (None, -1) else {"published": score}
    return [
        Judgment(
            id=_identity(summary, model.id, judge, question, turn, made, score, text),
            checkpoint=model.id,
            bench=summary.bench,
            revision=imported_revision(store, summary.bench, ["imported"], scorer=MT_BENCH),
            item=str(question),
            turn=turn,
            category=category_of(question, summary.bench),
            judge=judge,
            metric="rating",
            status=JudgmentStatus.OK if good else JudgmentStatus.UNREADABLE,
            created=made,
            value=score if good else None,
            raw=text,
            info=info,
        )
    ]


_WINNERS = ("model_1", "model_2", "tie")


def _winner(value: object, field: str) -> str:
    """Return the winner of a game; null and "error" mean no verdict. Raises ValueError."""
    winner = value.strip().lower() if isinstance(value, str) else value
    if winner in (None, "", "error"):
        return "error" if winner else str(value)
    if winner not in _WINNERS:
        raise ValueError(f"{field} must be model_1, model_2, tie or error, not {shown(value)}")
    return str(winner)


def _pairs(store: Store, row: dict[str, object], summary: ImportSummary) -> list[Judgment]:
    """Return both orders of one match, from the perspective of both sides."""
    question, turn = _place(row)
    played, judge = read_time(row.get("tstamp")), _judge_name(row)
    sides = [imported_model(store, read_name(row[key], key)) for key in ("model_1", "model_2")]
    if sides[0].id == sides[1].id:
        raise ValueError(f"model_1 and model_2 are the same: {sides[0].name}")
    summary.models |= {side.name for side in sides}
    bench = f"{summary.bench}-pair"
    summary.benches.add(bench)
    revision = imported_revision(store, bench, ["imported"], scorer=PAIRS)
    made = []
    for order, game in enumerate(("g1", "g2")):
        winner = _winner(row[f"{game}_winner"], f"{game}_winner")
        text = read_string(row.get(f"{game}_judgment"), "judgment")
        for index, side in enumerate(sides):
            other = sides[1 - index]
            value = {"tie": 0.5, f"model_{index + 1}": 1.0, f"model_{2 - index}": 0.0}.get(winner)
            made.append(
                Judgment(
                    id=_identity(
                        summary,
                        side.id,
                        other.id,
                        judge,
                        question,
                        turn,
                        played,
                        game,
                        winner,
                        text,
                    ),
                    checkpoint=side.id,
                    bench=bench,
                    revision=revision,
                    item=str(question),
                    turn=turn,
                    category=category_of(question, summary.bench),
                    judge=judge,
                    metric="pair",
                    status=JudgmentStatus.UNREADABLE if value is None else JudgmentStatus.OK,
                    created=played,
                    value=value,
                    baseline=other.name,
                    # The first side is A in the first game; for the second side it is reversed.
                    order=order if index == 0 else 1 - order,
                    raw=text,
                )
            )
    return made
