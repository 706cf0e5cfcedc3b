"""The store's checkpoints, and what their files were found to hold."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from kdharness.harness.store_base import StoreBase
from kdharness.harness.store_rows import encode, stored_json
from kdharness.harness.types import Checkpoint, Judgment, digest


class CheckpointRows(StoreBase):
    """The statements on checkpoints."""

    def add_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Store a checkpoint, or return the stored one of the same content.

        A taken name gets a number: names are what people type, so they stay unique.
        """
        known = self.checkpoint(checkpoint.id)
        if known is not None and known.id == checkpoint.id:
            if checkpoint.path and known.path != checkpoint.path:
                self.set_checkpoint_path(checkpoint.id, checkpoint.path)
            return self.checkpoint(checkpoint.id) or known
        row = {**encode(checkpoint), "name": self.free_name(checkpoint.name)}
        self._insert("checkpoints", [row], "IGNORE")
        return cast(Checkpoint, self.checkpoint(checkpoint.id))

    def free_name(self, wanted: str) -> str:
        """The name itself, or with the first number that makes it unique."""
        taken = {row["name"] for row in self.db.query("SELECT name FROM checkpoints")}
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted}-{number}", number + 1
        return name

    def rename_checkpoint(self, old: Checkpoint, name: str, *, path: str) -> None:
        """Give a checkpoint another name and place; verdicts against it follow its name."""
        with self.db.atomic():
            self.db.execute(
                "UPDATE checkpoints SET name = ?, path = ? WHERE id = ?", [name, path, old.id]
            )
            if name != old.name:
                self.db.execute(
                    "UPDATE judgments SET baseline = ? WHERE baseline = ?", [name, old.name]
                )

    def swap_checkpoints(self, one: Checkpoint, other: Checkpoint) -> None:
        """Exchange the names of two checkpoints; the path goes with the name."""
        with self.db.atomic():
            self.rename_checkpoint(one, f"{one.name}\0", path="")
            self.rename_checkpoint(other, one.name, path=one.path)
            aside = replace(one, name=f"{one.name}\0")
            self.rename_checkpoint(aside, other.name, path=other.path)

    def set_checkpoint_path(self, checkpoint: str, path: str) -> None:
        """Say where a checkpoint's weights lie now."""
        self._write("UPDATE checkpoints SET path = ? WHERE id = ?", [path, checkpoint])

    def checkpoint(self, key: str) -> Checkpoint | None:
        """A checkpoint by id, name or path, or by a run that came out at the very same weights."""
        rows = self._rows(
            Checkpoint,
            "SELECT * FROM checkpoints WHERE id = ?1 OR name = ?1 OR (path = ?1 AND path != '') "
            "OR name = (SELECT checkpoint FROM runs WHERE id = ?1) "
            "ORDER BY id = ?1 DESC, name = ?1 DESC, path = ?1 DESC, created DESC LIMIT 1",
            [key],
        )
        return rows[0] if rows else None

    def checkpoints(self, run: str | None = None) -> list[Checkpoint]:
        """All checkpoints, or those of one run, oldest first."""
        where = "WHERE run = ?" if run else ""
        return self._rows(
            Checkpoint,
            f"SELECT * FROM checkpoints {where} ORDER BY created, step, name",
            [run] if run else [],
        )

    def same_weights(self, weights: str) -> list[Checkpoint]:
        """Checkpoints that hold these weights, oldest first."""
        return self._rows(
            Checkpoint,
            "SELECT * FROM checkpoints WHERE weights = ? AND weights != '' ORDER BY created, name",
            [weights],
        )

    def file_digest(self, path: str, stamp: str) -> str | None:
        """What a file of that size and those times was found to hold, if it was read before."""
        rows = list(self.db.query("SELECT stamp, digests FROM file_digests WHERE path = ?", [path]))
        return str(rows[0]["digests"]) if rows and rows[0]["stamp"] == stamp else None

    def keep_file_digest(self, path: str, stamp: str, digests: str) -> None:
        """Remember what a file holds; a store that can only be read goes without."""
        if not self.read_only:
            self._insert(
                "file_digests", [{"path": path, "stamp": stamp, "digests": digests}], "REPLACE"
            )

    # ------------------------------------------------------------ rows of older versions

    def newest_result(self, checkpoint: str) -> float | None:
        """When the newest answer or judgment of a checkpoint was made; None without any."""
        row = self.db.conn.execute(
            "SELECT MAX(created) FROM (SELECT created FROM answers WHERE checkpoint = ?1 "
            "UNION ALL SELECT created FROM judgments WHERE checkpoint = ?1)",
            [checkpoint],
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def adopt_checkpoint(self, old: str, new: str, weights: str, interface: str) -> bool:
        """Give a checkpoint another identity, with its answers, judgments and descendants.

        Ids are hashes of what a row depends on, so those of its answers and of the judgments on
        them are made anew. False, and nothing changed, where `new` is taken.
        """
        with self.db.atomic():
            changed = self.db.execute(
                "UPDATE checkpoints SET id = ?, weights = ?, interface = ? WHERE id = ? "
                "AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE id = ?)",
                [new, weights, interface, old, new],
            ).rowcount
            if not changed:
                return False
            self._adopt_parents(old, new)
            self._adopt_judgments(old, new, self._adopt_answers(old, new))
            self.db.execute(
                "UPDATE bench_notes SET checkpoint = ? WHERE checkpoint = ?", [new, old]
            )
            self.db.execute("DELETE FROM judgment_groups WHERE checkpoint = ?", [old])
            self.db.execute("DELETE FROM score_cache WHERE substr(key, 1, ?) = ?",
                            [len(old) + 1, f"{old}|"])  # fmt: skip
        return True

    def _adopt_parents(self, old: str, new: str) -> None:
        rows = self.db.execute(
            "SELECT id, parents FROM checkpoints WHERE instr(parents, ?)", [old]
        ).fetchall()
        for key, text in rows:
            parents = {r: new if p == old else p for r, p in self._json(text, "lineage").items()}
            self.db.execute(
                "UPDATE checkpoints SET parents = ? WHERE id = ?", [stored_json(parents), key]
            )

    def _adopt_answers(self, old: str, new: str) -> dict[str, str]:
        """Move answers; returns old id -> new id."""
        made: dict[str, str] = {}
        rows = self.db.execute(
            "SELECT id, bench, item, turn, prompt_hash, settings FROM answers WHERE checkpoint = ?",
            [old],
        ).fetchall()
        for key, bench, item, turn, prompt, settings in rows:
            expected = digest("answer", old, bench, item, turn, prompt, settings)
            # Imported answers have ids of another kind, which do not depend on the weights.
            fresh = digest("answer", new, bench, item, turn, prompt, settings)
            made[key] = fresh if key == expected else key
            self.db.execute(
                "UPDATE answers SET id = ?, checkpoint = ? WHERE id = ?", [made[key], new, key]
            )
        return made

    def _adopt_judgments(self, old: str, new: str, answers: dict[str, str]) -> None:
        for judgment in self._rows(Judgment, "SELECT * FROM judgments WHERE checkpoint = ?", [old]):
            moved = replace(
                judgment, checkpoint=new, answer=answers.get(judgment.answer or "", judgment.answer)
            )
            self.db.execute(
                "UPDATE judgments SET id = ?, checkpoint = ?, answer = ? WHERE id = ?",
                [_judgment_id(judgment, moved), new, moved.answer, judgment.id],
            )
            self._adopt_mirror(judgment.id, _judgment_id(judgment, moved))
        self.db.execute("UPDATE judgments SET baseline = ? WHERE baseline = ?", [new, old])

    def _adopt_mirror(self, old: str, new: str) -> None:
        """The other side of a pair's judgment follows it."""
        if old == new:
            return
        mirror = digest("mirror", old)
        for row in self._rows(Judgment, "SELECT * FROM judgments WHERE id = ?", [mirror]):
            self.db.execute(
                "UPDATE judgments SET id = ?, info = ? WHERE id = ?",
                [digest("mirror", new), stored_json({**row.info, "mirrored": new},
                                                    ascii_only=False), mirror],
            )  # fmt: skip


def _judgment_id(old: Judgment, new: Judgment) -> str:
    """The id a judgment has once its checkpoint and answer have other ids.

    One whose id is not made of those (held-out rows, imports, mirrors) keeps it.
    """

    def ids(j: Judgment) -> list[str]:
        place = (j.bench, j.revision, j.item, j.turn)
        return [
            digest("exact", j.metric, j.checkpoint, j.bench, j.revision, j.item, j.answer),
            digest("judgment", j.info.get("call"), j.answer, *place, j.order, j.baseline),
            digest("unanswered", j.judge, j.checkpoint, *place),
        ]

    for before, after in zip(ids(old), ids(new), strict=True):
        if before == old.id:
            return after
    return old.id
