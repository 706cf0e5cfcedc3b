"""Migration of older versions' rows to the full identity of their folders' content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kdharness.harness.store.checkpoints import moved_id
from kdharness.harness.store.labels import LabelRows
from kdharness.harness.store.rows import stored_json, stored_text
from kdharness.harness.types import Answer, Checkpoint, Finish, Judgment, digest


class AdoptionRows(LabelRows):
    """Statements that give checkpoints another identity."""

    def newest_result(self, checkpoint: str) -> float | None:
        """Return when the newest answer or judgment of a checkpoint was made, or None."""
        row = self.db.conn.execute(
            "SELECT MAX(created) FROM (SELECT created FROM answers WHERE checkpoint = ?1 "
            "UNION ALL SELECT created FROM judgments WHERE checkpoint = ?1)",
            [checkpoint],
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def former_ids(self) -> dict[str, str]:
        """Return former ids -> the ids that took over their answers and judgments."""
        return {row["old"]: row["new"] for row in self.db.query("SELECT old, new FROM former_ids")}

    def adopt_checkpoint(
        self, old: Checkpoint, new: str, weights: str, interface: str, *, path: str
    ) -> None:
        """Give a checkpoint another identity, with its answers, judgments and descendants.

        Ids are hashes of what a row depends on, so those of its answers and of their judgments
        are recomputed. If a checkpoint of that identity is already stored, the two are merged,
        under the name of the one that a run made.
        """
        with self.db.atomic():
            rival = self.checkpoint(new)
            rival = rival if rival is not None and rival.id == new else None
            if rival is None:
                self.db.execute(
                    "UPDATE checkpoints SET id = ?, weights = ?, interface = ?, path = ? "
                    "WHERE id = ?",
                    [new, weights, interface, self.places.stored(path), old.id],
                )
            self._move_parents(old.id, new)
            self._move_results(old.id, new)
            if rival is not None:
                self._unite(old, rival)
            self._insert("former_ids", [{"old": old.id, "new": new}], "REPLACE")
            self._move_annotation(old.id, new)
            self.db.execute("UPDATE former_ids SET new = ? WHERE new = ?", [new, old.id])

    def add_annotation(self, kind: str, key: str, tags: Iterable[str], note: str) -> None:
        """Add tags and a note to those that a run or checkpoint has, in an order of their own."""
        with self.db.atomic():
            notes, united = {note} - {""}, {*tags}
            sql = "SELECT tags, note FROM annotations WHERE kind = ? AND id = ?"
            for row in self.db.query(sql, [kind, key]):
                united.update(self._json(row["tags"], "a tag"))
                notes |= {row["note"]} - {""}
            whole = sorted(text for text in notes if not any(text in n for n in notes - {text}))
            values = {"kind": kind, "id": key, "tags": json.dumps(sorted(united))}
            text = stored_text("\n".join(whole))
            self._insert("annotations", [{**values, "note": text}], "REPLACE")

    def _move_annotation(self, old: str, new: str) -> None:
        where = "FROM annotations WHERE kind = 'checkpoint' AND id = ?"
        for row in self.db.query(f"SELECT tags, note {where}", [old]):
            if old != new:
                self.db.execute(f"DELETE {where}", [old])
                self.add_annotation(
                    "checkpoint", new, self._json(row["tags"], "a tag"), row["note"]
                )

    def _unite(self, old: Checkpoint, rival: Checkpoint) -> None:
        """Unite two rows of one checkpoint: the row that knows its run keeps its name."""
        self.db.execute("DELETE FROM checkpoints WHERE id = ?", [old.id])
        kept = old if old.run and not rival.run else rival
        dropped = rival if kept is old else old
        united = replace(
            kept,
            id=rival.id,
            path=rival.path,
            weights=rival.weights,
            interface=rival.interface,
            parents=self._parents_of(rival.id, kept),
        )
        self._insert("checkpoints", [self._encoded(united)], "REPLACE")
        self.db.execute(
            "UPDATE runs SET checkpoint = ? WHERE checkpoint = ?", [kept.name, dropped.name]
        )
        self._rename_baseline(replace(dropped, id=rival.id), kept.name)

    def _parents_of(self, new: str, kept: Checkpoint) -> dict[str, str]:
        """Return a row's parents under their current ids, without the row itself."""
        former = self.former_ids()
        return {role: former.get(key, key) for role, key in kept.parents.items() if key != new}

    def _move_parents(self, old: str, new: str) -> None:
        rows = self.db.execute(
            "SELECT id, parents FROM checkpoints WHERE instr(parents, ?)", [old]
        ).fetchall()
        for key, text in rows:
            parents = {r: new if p == old else p for r, p in self._json(text, "lineage").items()}
            self.db.execute(
                "UPDATE checkpoints SET parents = ? WHERE id = ?", [stored_json(parents), key]
            )

    def _move_results(self, old: str, new: str) -> None:
        moved = self._move_answers(old, new)
        self._move_labels(old, new, moved)
        for judgment in self._rows(Judgment, "SELECT * FROM judgments WHERE checkpoint = ?", [old]):
            self._move_judgment(judgment, _under(judgment, new, moved))
        self.db.execute("UPDATE judgments SET baseline = ? WHERE baseline = ?", [new, old])
        self.db.execute(
            "UPDATE OR IGNORE bench_notes SET checkpoint = ? WHERE checkpoint = ?", [new, old]
        )
        for table in ("bench_notes", "judgment_groups"):
            self.db.execute(f"DELETE FROM {table} WHERE checkpoint = ?", [old])
        self.db.execute(
            "DELETE FROM score_cache WHERE substr(key, 1, ?) = ?", [len(old) + 1, f"{old}|"]
        )

    def _move_answers(self, old: str, new: str) -> dict[str, str]:
        """Move answers; return old id -> new id."""
        new_ids: dict[str, str] = {}
        for answer in self._rows(Answer, "SELECT * FROM answers WHERE checkpoint = ?", [old]):
            moved = replace(answer, id=_answer_id(answer, new), checkpoint=new)
            new_ids[answer.id] = moved.id
            if moved.id != answer.id and self._is_stored("answers", moved.id):
                rival = self._rows(Answer, "SELECT * FROM answers WHERE id = ?", [moved.id])[0]
                dropped = answer.id if _priority(rival) <= _priority(moved) else rival.id
                self.db.conn.execute("DELETE FROM answers WHERE id = ?", [dropped])
                if dropped == answer.id:
                    continue
            self.db.conn.execute(
                "UPDATE answers SET id = ?, checkpoint = ? WHERE id = ?",
                [moved.id, new, answer.id],
            )
        return new_ids

    def is_moved(self, old: str, going: Mapping[str, str]) -> bool:
        """Return whether everything that depends on an old id is stored under the new one already.

        Args:
            old: the former id.
            going: old id -> new id of everything that would move with it: pairwise judgments
                refer to each other.
        """
        new = going[old]
        answers = self._rows(Answer, "SELECT * FROM answers WHERE checkpoint = ?", [old])
        judgments = self._rows(Judgment, "SELECT * FROM judgments WHERE checkpoint = ?", [old])
        new_ids = {answer.id: _answer_id(answer, new) for answer in answers}
        wanted = [("answers", new_ids[answer.id], answer.created) for answer in answers]
        for judgment in judgments:
            if "mirrored" in judgment.info:
                continue  # moves with the other side's judgment
            moved = replace(
                _under(judgment, new, new_ids), baseline=self._after(judgment.baseline, going)
            )
            wanted.append(("judgments", moved_id(judgment, moved), judgment.created))
        return all(
            self.db.execute(
                f"SELECT 1 FROM {table} WHERE id = ? AND checkpoint = ? AND created = ?",
                [key, new, created],
            ).fetchone()
            for table, key, created in wanted
        )

    def _after(self, baseline: str, going: Mapping[str, str]) -> str:
        """Return the name of a judgment's other side once all of these have moved."""
        other = self.checkpoint(baseline) if baseline else None
        moved = self.checkpoint(going[other.id]) if other and other.id in going else None
        if other is None or moved is None:
            return baseline
        return moved.name if baseline == other.name else moved.id


def _priority(answer: Answer) -> tuple[bool, float]:
    """Return a sort key: of two answers to one request, the smaller is kept."""
    return answer.finish is Finish.ERROR, answer.created


def _answer_id(answer: Answer, new: str) -> str:
    """Return the id of an answer under another checkpoint."""

    def made_of(checkpoint: str) -> str:
        return digest(
            "answer",
            checkpoint,
            answer.bench,
            answer.item,
            answer.turn,
            answer.prompt_hash,
            answer.settings,
        )

    # Imported answers have another kind of id, which does not depend on the weights.
    return made_of(new) if answer.id == made_of(answer.checkpoint) else answer.id


def _under(judgment: Judgment, new: str, answers: dict[str, str]) -> Judgment:
    """Return the judgment with another checkpoint and that checkpoint's answers."""
    answer = answers.get(judgment.answer or "", judgment.answer)
    return replace(judgment, checkpoint=new, answer=answer)
