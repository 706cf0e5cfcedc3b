"""Rows of older versions, moved to the full identity of what their folders hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdharness.harness.store.checkpoints import CheckpointRows, moved_id
from kdharness.harness.store.rows import encode, stored_json
from kdharness.harness.types import Answer, Checkpoint, Finish, Judgment, digest


class AdoptionRows(CheckpointRows):
    """The statements that give checkpoints another identity."""

    def newest_result(self, checkpoint: str) -> float | None:
        """When the newest answer or judgment of a checkpoint was made; None without any."""
        row = self.db.conn.execute(
            "SELECT MAX(created) FROM (SELECT created FROM answers WHERE checkpoint = ?1 "
            "UNION ALL SELECT created FROM judgments WHERE checkpoint = ?1)",
            [checkpoint],
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def former_ids(self) -> dict[str, str]:
        """Ids that were given up -> the id that took over what hung on them."""
        return {row["old"]: row["new"] for row in self.db.query("SELECT old, new FROM former_ids")}

    def adopt_checkpoint(
        self, old: Checkpoint, new: str, weights: str, interface: str, *, path: str
    ) -> None:
        """Give a checkpoint another identity, with its answers, judgments and descendants.

        Ids are hashes of what a row depends on, so those of its answers and of the judgments on
        them are made anew. Where a checkpoint of that identity is stored already, the two become
        one; of their names the one of a run's own checkpoint stays.
        """
        with self.db.atomic():
            rival = self.checkpoint(new)
            rival = rival if rival is not None and rival.id == new else None
            if rival is None:
                self.db.execute(
                    "UPDATE checkpoints SET id = ?, weights = ?, interface = ?, path = ? "
                    "WHERE id = ?",
                    [new, weights, interface, path, old.id],
                )
            self._move_parents(old.id, new)
            self._move_results(old.id, new)
            if rival is not None:
                self._unite(old, rival)
            self._insert("former_ids", [{"old": old.id, "new": new}], "REPLACE")
            self.db.execute("UPDATE former_ids SET new = ? WHERE new = ?", [new, old.id])

    def _unite(self, old: Checkpoint, rival: Checkpoint) -> None:
        """Two rows of one checkpoint: the one that knows its run says what it is called."""
        self.db.execute("DELETE FROM checkpoints WHERE id = ?", [old.id])
        stays = old if old.run and not rival.run else rival
        goes = rival if stays is old else old
        united = replace(
            stays,
            id=rival.id,
            path=rival.path,
            weights=rival.weights,
            interface=rival.interface,
            parents=self._parents_of(rival.id, stays),
        )
        self._insert("checkpoints", [encode(united)], "REPLACE")
        self.db.execute(
            "UPDATE runs SET checkpoint = ? WHERE checkpoint = ?", [stays.name, goes.name]
        )
        self._rename_baseline(replace(goes, id=rival.id), stays.name)

    def _parents_of(self, new: str, stays: Checkpoint) -> dict[str, str]:
        """A row's parents, none of which is itself under its older identity."""
        former = self.former_ids()
        return {role: former.get(key, key) for role, key in stays.parents.items() if key != new}

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
        """Move answers; returns old id -> new id."""
        made: dict[str, str] = {}
        for answer in self._rows(Answer, "SELECT * FROM answers WHERE checkpoint = ?", [old]):
            moved = replace(answer, id=_answer_id(answer, new), checkpoint=new)
            made[answer.id] = moved.id
            if moved.id != answer.id and self._is_stored("answers", moved.id):
                rival = self._rows(Answer, "SELECT * FROM answers WHERE id = ?", [moved.id])[0]
                goes = answer.id if _stands(rival) <= _stands(moved) else rival.id
                self.db.conn.execute("DELETE FROM answers WHERE id = ?", [goes])
                if goes == answer.id:
                    continue
            self.db.conn.execute(
                "UPDATE answers SET id = ?, checkpoint = ? WHERE id = ?",
                [moved.id, new, answer.id],
            )
        return made

    def is_moved(self, old: str, going: Mapping[str, str]) -> bool:
        """Whether everything that hangs on an old identity hangs on the new one already.

        Args:
            old: the id that was given up.
            going: old id -> new id of all that would move with it: verdicts name each other.
        """
        new = going[old]
        answers = self._rows(Answer, "SELECT * FROM answers WHERE checkpoint = ?", [old])
        judgments = self._rows(Judgment, "SELECT * FROM judgments WHERE checkpoint = ?", [old])
        made = {answer.id: _answer_id(answer, new) for answer in answers}
        wanted = [("answers", made[answer.id], answer.created) for answer in answers]
        for judgment in judgments:
            if "mirrored" in judgment.info:
                continue  # comes and goes with the other side's own
            moved = replace(
                _under(judgment, new, made), baseline=self._after(judgment.baseline, going)
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
        """What a judgment's other side is called once all of these have moved."""
        other = self.checkpoint(baseline) if baseline else None
        moved = self.checkpoint(going[other.id]) if other and other.id in going else None
        if other is None or moved is None:
            return baseline
        return moved.name if baseline == other.name else moved.id


def _stands(answer: Answer) -> tuple[bool, float]:
    """The smaller of two answers to one request stands."""
    return answer.finish is Finish.ERROR, answer.created


def _answer_id(answer: Answer, new: str) -> str:
    """The id of an answer under another checkpoint."""

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

    # Imported answers have ids of another kind, which do not depend on the weights.
    return made_of(new) if answer.id == made_of(answer.checkpoint) else answer.id


def _under(judgment: Judgment, new: str, answers: dict[str, str]) -> Judgment:
    """A judgment that depends on another checkpoint and its answers."""
    answer = answers.get(judgment.answer or "", judgment.answer)
    return replace(judgment, checkpoint=new, answer=answer)
