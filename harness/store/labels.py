"""People's labels of answers: ratings, and comparisons of two answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kdharness.harness.store.checkpoints import CheckpointRows
from kdharness.harness.store.rows import encode, stored_json, stored_text
from kdharness.harness.types import digest


@dataclass(frozen=True)
class Label:
    """A person's rating of an answer, or comparison of it with another answer.

    Attributes:
        created: when, in seconds; of one person's labels of the same answer the newest counts.
        labeller: who.
        metric: `rating` (1 to 10), or `pair` (1 if the answer is better than the other, 0 if it
            is worse, 0.5 for a tie).
        answer: the id of the labelled answer.
        text: digest of its text: an answer that was generated again is unlabelled.
        baseline: the name of the other side of a pair, `other` the id of its answer (empty if it
            comes with the benchmark), `other_text` the digest of its text.
        value: None withdraws an earlier label.
        blind: whether names and verdicts were hidden.
        info: `seed` of the random order in which answers were shown (absent if the person chose
            them), `design`, the strata by which items were chosen (absent if all were equally
            likely), and `swapped`, whether the two sides of a pair were.
    """

    created: float
    labeller: str
    checkpoint: str
    bench: str
    revision: str
    item: str
    turn: int
    metric: str
    answer: str
    text: str
    value: float | None
    baseline: str = ""
    other: str = ""
    other_text: str = ""
    blind: bool = False
    note: str = ""
    info: dict[str, object] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The identity, by which merging and importing recognise a label."""
        place = (self.checkpoint, self.bench, self.item, self.turn, self.metric)
        about = (self.answer, self.text, self.other, self.other_text)
        value = None if self.value is None else float(self.value)
        said = (value, bool(self.blind), self.note)
        return digest("label", self.labeller, float(self.created), *place, *about, *said)

    @property
    def subject(self) -> tuple[str, str, str]:
        """What is labelled: equal for labels of which only the newest counts."""
        return self.metric, self.answer, self.baseline


Sides = tuple[str, frozenset[tuple[str, str]], str]


def sides_of_label(label: Label) -> Sides:
    """Return what was looked at, equal for a pair labelled from either side.

    The metric, the (id, digest) of each answer, and the baseline's name if it is not stored.
    """
    sides = {(label.answer, label.text), (label.other, label.other_text)}
    return label.metric, frozenset(sides), "" if label.other else label.baseline


_GROUPED = (
    "judgment_groups AS g CROSS JOIN judgments AS j ON j.checkpoint = g.checkpoint "
    "AND j.bench = g.bench AND j.revision = g.revision AND j.judge = g.judge"
)
"""Judgments by group: the index of scores answers, where a scan would read all replies."""


class LabelRows(CheckpointRows):
    """Statements on labels."""

    def add_labels(self, labels: Iterable[Label]) -> int:
        """Store labels, and return how many were not stored already."""
        before = self._count_labels()
        # Stored texts are without keys, and the id must be that of what is stored.
        clean = [
            replace(x, labeller=stored_text(x.labeller), note=stored_text(x.note)) for x in labels
        ]
        rows = [{"id": label.id, **encode(label)} for label in clean]
        self._insert("labels", rows, "IGNORE")
        return self._count_labels() - before

    def _count_labels(self) -> int:
        return int(self.db.execute("SELECT COUNT(*) FROM labels").fetchone()[0])

    def labels(self, checkpoint: str | None = None, bench: str | None = None) -> list[Label]:
        """Return every label, superseded and withdrawn ones included, oldest first."""
        sql = "SELECT * FROM labels WHERE checkpoint = COALESCE(?1, checkpoint) "
        sql += "AND bench = COALESCE(?2, bench) ORDER BY created, id"
        return self._rows(Label, sql, [checkpoint, bench])

    def labelled_benches(self) -> set[str]:
        """Return the benchmarks with labels."""
        return {row["bench"] for row in self.db.query("SELECT DISTINCT bench FROM labels")}

    def answer_texts(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the digests of stored answers' texts by the answers' ids."""
        texts: dict[str, str] = {}
        for key in set(ids):
            for row in self.db.query("SELECT text FROM answers WHERE id = ?", [key]):
                texts[key] = text_digest(row["text"])
        return texts

    def judged_rows(
        self, checkpoint: str, bench: str, revision: str, judge: str
    ) -> list[tuple[str, int, str, int, str, str | None, float | None]]:
        """Return (item, turn, metric, order, baseline, answer, value) of verdicts, oldest first."""
        return self.db.conn.execute(
            'SELECT item, turn, metric, "order", baseline, answer, value FROM judgments '
            "WHERE checkpoint = ? AND bench = ? AND revision = ? AND judge = ? "
            "AND status = 'ok' AND value IS NOT NULL ORDER BY created",
            [checkpoint, bench, revision, judge],
        ).fetchall()

    def set_label_design(
        self, design: str, bench: str, strata: Mapping[str, int], created: float
    ) -> None:
        """Store the strata of a benchmark's items. Only new items may be added later."""
        self._write(
            "INSERT OR REPLACE INTO label_designs (id, bench, created, strata) VALUES (?, ?, "
            "COALESCE((SELECT created FROM label_designs WHERE id = ?1), ?), ?)",
            [design, bench, created, stored_json(strata, ascii_only=False)],
        )

    def label_design(self, design: str) -> dict[str, int]:
        """Return the stratum of each item; nothing for an unknown design."""
        for row in self.db.query("SELECT strata FROM label_designs WHERE id = ?", [design]):
            strata: dict[str, int] = self._json(row["strata"], "a label design")
            return strata
        return {}

    def bench_verdicts(self, bench: str) -> list[tuple[str, str, float]]:
        """Return (item, metric, value) of a benchmark's verdicts by judges, of every revision."""
        return self.db.conn.execute(
            f"SELECT item, metric, value FROM {_GROUPED} "
            "WHERE g.bench = ? AND g.judge != 'exact' AND status = 'ok' AND value IS NOT NULL",
            [bench],
        ).fetchall()

    def benches_with(self, checkpoints: Iterable[str], metrics: Sequence[str]) -> list[str]:
        """Return the benchmarks on which judges gave checkpoints verdicts of these metrics."""
        ids = list(checkpoints)
        rows = self.db.query(
            f"SELECT DISTINCT g.bench, g.checkpoint FROM {_GROUPED} "
            f"WHERE g.judge != 'exact' AND metric IN ({', '.join('?' for _ in metrics)})",
            list(metrics),
        )
        return sorted({row["bench"] for row in rows if row["checkpoint"] in ids})

    def baselines(self, checkpoints: Sequence[str], bench: str) -> list[str]:
        """Return the names of what answers of some checkpoints were compared with, in order."""
        marks = ", ".join("?" for _ in checkpoints)
        rows = self.db.query(
            "SELECT DISTINCT baseline FROM judgments WHERE bench = ? AND baseline != '' "
            f"AND checkpoint IN ({marks}) ORDER BY baseline",
            [bench, *checkpoints],
        )
        return [row["baseline"] for row in rows]

    def verdict_distributions(self, bench: str, metric: str) -> list[tuple[str, dict[str, float]]]:
        """Return (item, probability of each value) of verdicts that have such a distribution."""
        return [
            (row["item"], self._json(row["distribution"], "a judgment"))
            for row in self.db.query(
                "SELECT item, json_extract(info, '$.distribution') AS distribution "
                f"FROM {_GROUPED} WHERE g.bench = ? AND metric = ? AND status = 'ok'",
                [bench, metric],
            )
            if row["distribution"]
        ]

    def _move_labels(self, old: str, new: str, answers: dict[str, str]) -> None:
        """Move labels to a checkpoint's new id, and to its answers' new ids."""
        labels = self._rows(Label, "SELECT * FROM labels WHERE checkpoint = ?", [old])
        for answer in answers:
            labels += self._rows(Label, "SELECT * FROM labels WHERE other = ?", [answer])
        self.db.conn.executemany("DELETE FROM labels WHERE id = ?", [[x.id] for x in labels])
        self.add_labels(
            replace(
                label,
                checkpoint=new if label.checkpoint == old else label.checkpoint,
                answer=answers.get(label.answer, label.answer),
                other=answers.get(label.other, label.other),
            )
            for label in labels
        )


def text_digest(text: str) -> str:
    """Return the digest of an answer's text, as labels store it."""
    return digest("text", text)
