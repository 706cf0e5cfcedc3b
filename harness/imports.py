"""Results made elsewhere: FastChat's and alpaca_eval's files, on the same leaderboard.

Every imported row has an identity made of its content, so that importing twice changes nothing.
A re-run that was appended to one file, as FastChat does it, is kept whole: the newest verdict
counts, and `--as-published` counts all of them, as FastChat's own script does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdharness.harness.errors import DataError
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
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"not a FastChat row: {error!r}", where=where) from error
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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(path)) from error
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except ValueError as error:
            raise DataError(f"not JSON: {error}", where=str(path)) from error
        pairs = [(f"{path}, entry {n}", row) for n, row in enumerate(listed, start=1)]
    else:
        pairs = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                pairs.append((f"{path}, line {number}", json.loads(line)))
            except ValueError as error:
                raise DataError(f"not JSON: {error}", where=f"{path}, line {number}") from error
    for where, row in pairs:
        if not isinstance(row, dict):
            raise DataError("not a JSON object", where=where)
    return pairs


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
    model = imported_model(store, str(row["model_id"]))
    found.models.add(model.name)
    found.benches.add(MT_BENCH)
    item = str(int(row["question_id"]))
    when = float(row.get("tstamp") or time.time())
    return [
        Answer(
            id=digest("imported", model.id, MT_BENCH, item, turn, str(text)),
            checkpoint=model.id, bench=MT_BENCH, revision="imported", item=item, turn=turn,
            text=str(text), finish=Finish.ERROR if text == FAILED_ANSWER else Finish.STOP,
            prompt_hash="", settings="imported", created=when,
        )
        for turn, text in enumerate(row["choices"][0]["turns"], start=1)
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
    return f"imported:{judge[0] if isinstance(judge, list) and judge else judge}"


def _singles(store: Store, row: dict[str, Any], found: Imported) -> list[Judgment]:
    model = imported_model(store, str(row["model"]))
    found.models.add(model.name)
    found.benches.add(MT_BENCH)
    question, turn, score = int(row["question_id"]), int(row["turn"]), float(row["score"])
    text, judge = str(row.get("judgment", "")), _judge_name(row)
    when = float(row.get("tstamp") or 0.0)
    good = 1 <= score <= 10
    # Out of range is no score here, but FastChat's own script averages it.
    info = {} if good or score == -1 else {"published": score}
    return [
        Judgment(
            id=digest("imported", model.id, judge, question, turn, when, score, text),
            checkpoint=model.id, bench=MT_BENCH,
            revision=imported_revision(store, MT_BENCH, ["imported"]), item=str(question),
            turn=turn,
            category=category_of(question), judge=judge, metric="rating",
            status=JudgmentStatus.OK if good else JudgmentStatus.UNREADABLE, created=when,
            value=score if good else None, raw=text, info=info,
        )
    ]  # fmt: skip


def _pairs(store: Store, row: dict[str, Any], found: Imported) -> list[Judgment]:
    """Both orders of one match, seen from both sides."""
    sides = [imported_model(store, str(row[key])) for key in ("model_1", "model_2")]
    found.models |= {side.name for side in sides}
    found.benches.add(PAIRS)
    question, turn = int(row["question_id"]), int(row["turn"])
    when, judge = float(row.get("tstamp") or 0.0), _judge_name(row)
    revision = imported_revision(store, PAIRS, ["imported"])
    made = []
    for order, game in enumerate(("g1", "g2")):
        winner, text = str(row[f"{game}_winner"]), str(row.get(f"{game}_judgment", ""))
        for place, side in enumerate(sides):
            other = sides[1 - place]
            value = {"tie": 0.5, f"model_{place + 1}": 1.0, f"model_{2 - place}": 0.0}.get(winner)
            made.append(
                Judgment(
                    id=digest("imported", side.id, other.id, judge, question, turn, when, game,
                              winner, text),
                    checkpoint=side.id, bench=PAIRS, revision=revision, item=str(question),
                    turn=turn, category=category_of(question), judge=judge, metric="pair",
                    status=JudgmentStatus.UNREADABLE if value is None else JudgmentStatus.OK,
                    created=when, value=value, baseline=other.name,
                    # The first side is A in the first game; seen from the second it is reversed.
                    order=order if place == 0 else 1 - order, raw=text,
                )
            )  # fmt: skip
    return made
