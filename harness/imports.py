"""Results made elsewhere: FastChat's and alpaca_eval's files, on the same leaderboard.

Every imported row has an identity made of its content, so that importing twice changes nothing.
A re-run that was appended to one file, as FastChat does it, is kept whole: the newest verdict
counts, and `--as-published` counts all of them, as FastChat's own script does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
from kdharness.harness.reading import parse_json, read_text
from kdharness.harness.store import Store
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Finish,
    Judgment,
    JudgmentStatus,
    Method,
    digest,
)

MT_BENCH = "mt-bench"
PAIRS = "mt-bench-pair"
LONGEST_NAME = 200
FAILED_ANSWER = "$ERROR$"
"""What FastChat stores where an API gave no answer; its judges then rate that text."""
CATEGORIES = (
    "writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities",
)  # fmt: skip


@dataclass
class Imported:
    """What a file brought."""

    kind: str = ""
    rows: int = 0
    models: set[str] = field(default_factory=set)
    benches: set[str] = field(default_factory=set)
    new: int = 0

    def as_dict(self) -> dict[str, Any]:
        """A row of the command's listing."""
        return {
            "kind": self.kind, "rows": self.rows, "new": self.new,
            "models": sorted(self.models), "benches": sorted(self.benches),
        }  # fmt: skip


Reader = Callable[[Store, dict[str, Any], Imported], Sequence[Answer | Judgment]]


def import_fastchat(store: Store, path: Path) -> Imported:
    """Answers, single or pair judgments of FastChat's llm_judge, told apart by their fields.

    Raises:
        DataError: a line that is none of these, with its number.
    """
    rows = read_rows(path)
    kinds = {kind_of(row, where) for where, row in rows}
    if len(kinds) > 1:
        raise DataError(
            f"holds rows of different kinds: {', '.join(sorted(kinds))}", where=str(path)
        )
    if not kinds:
        raise DataError("holds no rows", where=str(path))
    found = Imported(kind=kinds.pop(), rows=len(rows))
    readers: dict[str, Reader] = {"answers": _answers, "single": _singles, "pair": _pairs}
    reader = readers[found.kind]
    answers: list[Answer] = []
    judgments: list[Judgment] = []
    for where, row in rows:
        try:
            made = reader(store, row, found)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise DataError(f"not a FastChat row: {told(error)}", where=where) from error
        for item in made:
            if isinstance(item, Answer):
                answers.append(item)
            else:
                judgments.append(item)
    keep(store, found, answers, judgments)
    return found


def kind_of(row: dict[str, Any], where: str) -> str:
    """Which of FastChat's files a row comes from."""
    if "choices" in row and "model_id" in row:
        return "answers"
    if "g1_winner" in row and "model_1" in row:
        return "pair"
    if "score" in row and "model" in row and "turn" in row:
        return "single"
    raise DataError(
        "neither an answer, a single nor a pair judgment of FastChat",
        where=where,
        hint="answers have model_id and choices, judgments model and score, or g1_winner",
    )


def read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(where, row) of a JSON list or of JSON lines.

    Raises:
        DataError: unreadable, with the line or entry.
    """
    text = read_text(path, "the file", error=DataError)
    if text.lstrip().startswith("["):
        try:
            listed = parse_json(text)
        except ValueError as error:
            raise DataError(f"not JSON: {error}", where=str(path)) from error
        pairs = [(f"{path}, entry {n}", row) for n, row in enumerate(listed, start=1)]
    else:
        pairs = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                pairs.append((f"{path}, line {number}", parse_json(line)))
            except ValueError as error:
                raise DataError(f"not JSON: {error}", where=f"{path}, line {number}") from error
    for where, row in pairs:
        if not isinstance(row, dict):
            raise DataError("not a JSON object", where=where)
    return pairs


def inside(path: Path, folder: Path) -> bool:
    """Whether a file found in a folder really lies there: a link may lead anywhere."""
    return path.resolve().is_relative_to(folder.resolve())


def files_below(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that came from somewhere.

    Raises:
        DataError: one is a link that leads out of the folder.
    """
    found = sorted(folder.rglob(pattern))
    for path in found:
        if not inside(path, folder):
            raise DataError(
                "is a link that leads out of the imported folder", where=str(path),
                hint="name the file itself if you mean it",
            )  # fmt: skip
    return found


def told(error: Exception) -> str:
    """What is wrong with a row, short enough to print."""
    text = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
    return text if len(text) <= 200 else text[:200] + "…"


def named(value: Any, field: str) -> str:
    """A name out of a file. Raises ValueError: it is not text, empty or a text of its own."""
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME:
        raise ValueError(f"{field} must be a name of at most {LONGEST_NAME} characters")
    return value


def said(value: Any, field: str) -> str:
    """A text out of a file; null is an empty one. Raises ValueError for anything else."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field} must be text")
    return value or ""


def whole(value: Any, field: str) -> int:
    """A small number out of a file, written as such or as text. Raises ValueError."""
    number = int(value)
    if number != float(value) or abs(number) > 1 << 40:
        raise ValueError(f"{field} must be a whole number")
    return number


def when(value: Any) -> float:
    """Seconds since the epoch; 0 where a file does not tell. Raises ValueError."""
    seconds = float(value or 0.0)
    if not 0 <= seconds <= 1e11:
        raise ValueError("tstamp must be seconds since 1970")
    return seconds


def imported_model(store: Store, name: str) -> Checkpoint:
    """The checkpoint that stands for a model whose weights are elsewhere."""
    identity = digest("import", name)
    known = store.checkpoint(identity)
    if known is not None:
        return known
    return store.add_checkpoint(
        Checkpoint(id=identity, name=name, method=Method.IMPORT.value, path="", created=time.time())
    )


def keep(
    store: Store, found: Imported, answers: Sequence[Answer], judgments: Sequence[Judgment]
) -> None:
    """Write what is new; rows that are there already are left as they are."""
    known: set[str] = set()
    for name in found.models:
        model = imported_model(store, name)
        known |= {answer.id for answer in store.answers(model.id)}
        known |= {judgment.id for judgment in store.judgments(model.id)}
    fresh_answers = {a.id: a for a in answers if a.id not in known}
    fresh = {j.id: j for j in judgments if j.id not in known}
    found.new = len(fresh_answers) + len(fresh)
    store.add_answers(fresh_answers.values())
    store.add_judgments(fresh.values())


# ---------------------------------------------------------------- FastChat


def category_of(question: int) -> str:
    """The category of MT-Bench's question ids 81-160, ten each; empty for others."""
    place = (question - 81) // 10
    return CATEGORIES[place] if 0 <= place < len(CATEGORIES) else ""


def _answers(store: Store, row: dict[str, Any], found: Imported) -> list[Answer]:
    turns = row["choices"][0]["turns"]
    if not isinstance(turns, list) or not all(isinstance(text, str) for text in turns):
        raise ValueError("turns must be a list of texts")
    model = imported_model(store, named(row["model_id"], "model_id"))
    found.models.add(model.name)
    found.benches.add(MT_BENCH)
    item = str(whole(row["question_id"], "question_id"))
    made = when(row.get("tstamp")) or time.time()
    return [
        Answer(
            id=digest("imported", model.id, MT_BENCH, item, turn, text),
            checkpoint=model.id, bench=MT_BENCH, revision="imported", item=item, turn=turn,
            text=text, finish=Finish.ERROR if text == FAILED_ANSWER else Finish.STOP,
            prompt_hash="", settings="imported", created=made,
        )
        for turn, text in enumerate(turns, start=1)
    ]  # fmt: skip


def imported_revision(store: Store, bench: str, flags: Sequence[str], **rest: Any) -> str:
    """The revision of an imported benchmark, with its note."""
    revision = digest("imported", bench, list(flags))
    note = {"flags": list(flags), "scorer": bench, "used": time.time(), **rest}
    if store.bench_notes().get(("", bench, revision)) is None:
        store.set_bench_note(bench, revision, note)
    return revision


def _judge_name(row: dict[str, Any]) -> str:
    judge = row.get("judge", "unknown")
    return f"imported:{named(judge[0] if isinstance(judge, list) and judge else judge, 'judge')}"


def _singles(store: Store, row: dict[str, Any], found: Imported) -> list[Judgment]:
    question, turn = whole(row["question_id"], "question_id"), whole(row["turn"], "turn")
    score = float(row["score"])
    if not math.isfinite(score):
        raise ValueError("score must be a number")
    text, judge = said(row.get("judgment"), "judgment"), _judge_name(row)
    made = when(row.get("tstamp"))
    model = imported_model(store, named(row["model"], "model"))
    found.models.add(model.name)
    found.benches.add(MT_BENCH)
    good = 1 <= score <= 10
    # Out of range is no score here, but FastChat's own script averages it.
    info = {} if good or score == -1 else {"published": score}
    return [
        Judgment(
            id=digest("imported", model.id, judge, question, turn, made, score, text),
            checkpoint=model.id, bench=MT_BENCH,
            revision=imported_revision(store, MT_BENCH, ["imported"]), item=str(question),
            turn=turn,
            category=category_of(question), judge=judge, metric="rating",
            status=JudgmentStatus.OK if good else JudgmentStatus.UNREADABLE, created=made,
            value=score if good else None, raw=text, info=info,
        )
    ]  # fmt: skip


def _pairs(store: Store, row: dict[str, Any], found: Imported) -> list[Judgment]:
    """Both orders of one match, seen from both sides."""
    question, turn = whole(row["question_id"], "question_id"), whole(row["turn"], "turn")
    played, judge = when(row.get("tstamp")), _judge_name(row)
    sides = [imported_model(store, named(row[key], key)) for key in ("model_1", "model_2")]
    found.models |= {side.name for side in sides}
    found.benches.add(PAIRS)
    revision = imported_revision(store, PAIRS, ["imported"])
    made = []
    for order, game in enumerate(("g1", "g2")):
        winner, text = str(row[f"{game}_winner"]), said(row.get(f"{game}_judgment"), "judgment")
        for place, side in enumerate(sides):
            other = sides[1 - place]
            value = {"tie": 0.5, f"model_{place + 1}": 1.0, f"model_{2 - place}": 0.0}.get(winner)
            made.append(
                Judgment(
                    id=digest("imported", side.id, other.id, judge, question, turn, played, game,
                              winner, text),
                    checkpoint=side.id, bench=PAIRS, revision=revision, item=str(question),
                    turn=turn, category=category_of(question), judge=judge, metric="pair",
                    status=JudgmentStatus.UNREADABLE if value is None else JudgmentStatus.OK,
                    created=played, value=value, baseline=other.name,
                    # The first side is A in the first game; seen from the second it is reversed.
                    order=order if place == 0 else 1 - order, raw=text,
                )
            )  # fmt: skip
    return made
