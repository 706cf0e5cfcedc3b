"""The store's checkpoints, and the digests of their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from kdharness.harness.store.base import StoreBase
from kdharness.harness.store.rows import encode, unanswered_id
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, digest
from kdharness.harness.util.filesystem import exists

BEST = "@best"
"""Ends the name of the best checkpoint of a run."""
REMOVED = " (removed)"
"""Ends the name of a checkpoint that was removed, and stays as the parent of others."""


class CheckpointRows(StoreBase):
    """Statements on checkpoints."""

    def add_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Store a checkpoint, or return the stored one with the same content.

        A number is appended to a taken name: users type names, so they are unique.
        """
        known = self.checkpoint(checkpoint.id)
        if known is not None and known.id == checkpoint.id:
            # The best and the last weights of a run may be the same: its own folder stays.
            twice = bool(known.run) and known.run == checkpoint.run
            kept = twice and exists(Path(known.path), folder=True)
            if checkpoint.path and known.path != checkpoint.path and not kept:
                self.set_checkpoint_path(checkpoint.id, checkpoint.path)
            if checkpoint.path and REMOVED in known.name:
                self.rename_checkpoint(known, self.free_name(checkpoint.name), path=checkpoint.path)
            return self.checkpoint(checkpoint.id) or known
        row = {**self._encoded(checkpoint), "name": self.free_name(checkpoint.name)}
        self._insert("checkpoints", [row], "IGNORE")
        return cast(Checkpoint, self.checkpoint(checkpoint.id))

    def free_name(self, wanted: str) -> str:
        """Return the name, with the first free number appended if it is taken."""
        taken = {row["name"] for row in self.db.query("SELECT name FROM checkpoints")}
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted}-{number}", number + 1
        return name

    def rename_checkpoint(self, old: Checkpoint, name: str, *, path: str) -> None:
        """Give a checkpoint another name and path; judgments against it follow its name."""
        with self.db.atomic():
            self.db.execute(
                "UPDATE checkpoints SET name = ?, path = ? WHERE id = ?",
                [name, self.places.stored(path), old.id],
            )
            if name != old.name:
                self._rename_baseline(old, name)

    def _rename_baseline(self, old: Checkpoint, name: str) -> None:
        """Rename the baseline of judgments, whose ids depend on its name."""
        for judgment in self.judgments_against(old.name):
            self._move_judgment(judgment, replace(judgment, baseline=name))
        self.db.execute("UPDATE labels SET baseline = ? WHERE baseline = ?", [name, old.name])
        # Agreement with a teacher stores its id: touch the rows, so that scores are recomputed.
        self.db.execute("UPDATE judgments SET baseline = baseline WHERE baseline = ?", [old.id])

    def judgments_against(self, baseline: str, schema: str = "main") -> list[Judgment]:
        """Return judgments whose other side has this name, here or in an attached store."""
        return self._rows(
            Judgment, f"SELECT * FROM {schema}.judgments WHERE baseline = ?", [baseline]
        )

    def _move_judgment(self, old: Judgment, new: Judgment) -> None:
        """Change what a judgment depends on, and the other side of its pair with it.

        If a judgment of that id already exists, the one with a verdict is kept, then the older
        one.
        """
        new = replace(new, id=moved_id(old, new))
        if new.id != old.id and self._is_stored("judgments", new.id):
            rival = self._rows(Judgment, "SELECT * FROM judgments WHERE id = ?", [new.id])[0]
            dropped = old.id if _priority(rival) <= _priority(new) else rival.id
            self.db.conn.execute("DELETE FROM judgments WHERE id = ?", [dropped])
            if dropped == old.id:
                mirror = digest("mirror", old.id)
                self.db.conn.execute("DELETE FROM judgments WHERE id = ?", [mirror])
                return
        self.db.conn.execute(
            "UPDATE judgments SET id = ?, checkpoint = ?, answer = ?, baseline = ? WHERE id = ?",
            [new.id, new.checkpoint, new.answer, new.baseline, old.id],
        )
        self._move_mirror(old.id, new.id)

    def _is_stored(self, table: str, key: str) -> bool:
        row = self.db.conn.execute(f"SELECT 1 FROM {table} WHERE id = ?", [key]).fetchone()
        return row is not None

    def _move_mirror(self, old: str, new: str) -> None:
        """Move the other side of a pair's judgment with it."""
        mirror = digest("mirror", old)
        if old == new or not self._is_stored("judgments", mirror):
            return
        row = self._rows(Judgment, "SELECT * FROM judgments WHERE id = ?", [mirror])[0]
        self.db.conn.execute("DELETE FROM judgments WHERE id = ?", [mirror])
        moved = replace(row, id=digest("mirror", new), info={**row.info, "mirrored": new})
        self._insert("judgments", [encode(moved)], "REPLACE")

    def swap_checkpoints(self, one: Checkpoint, other: Checkpoint) -> None:
        """Exchange the names of two checkpoints; the path goes with the name."""
        with self.db.atomic():
            self.rename_checkpoint(one, f"{one.name}\0", path="")
            self.rename_checkpoint(other, one.name, path=one.path)
            aside = replace(one, name=f"{one.name}\0")
            self.rename_checkpoint(aside, other.name, path=other.path)

    def set_checkpoint_path(self, checkpoint: str, path: str) -> None:
        """Update the path of a checkpoint's weights."""
        stored = self.places.stored(path)
        self._write("UPDATE checkpoints SET path = ? WHERE id = ?", [stored, checkpoint])

    def checkpoint(self, key: str) -> Checkpoint | None:
        """Return a checkpoint by id, name, path, or the name of a run with the same weights.

        `RUN@best` is `RUN` if its last weights are the best.
        """
        rows = self._rows(
            Checkpoint,
            "SELECT * FROM checkpoints WHERE id = ?1 OR name = ?1 OR (path = ?2 AND path != '') "
            "OR name = (SELECT checkpoint FROM runs WHERE id = ?1) "
            "ORDER BY id = ?1 DESC, name = ?1 DESC, path = ?2 DESC, created DESC LIMIT 1",
            [key, self.places.stored(self.places.here(key))],
        )
        if not rows and key.endswith(BEST):
            last = self.checkpoint(key.removesuffix(BEST))
            return last if last is not None and last.is_best else None
        return rows[0] if rows else None

    def checkpoints(self, run: str | None = None) -> list[Checkpoint]:
        """Return all checkpoints, or those of one run, oldest first."""
        where = "WHERE run = ?" if run else ""
        return self._rows(
            Checkpoint,
            f"SELECT * FROM checkpoints {where} ORDER BY created, step, name",
            [run] if run else [],
        )

    def answered_by(self, engine: str, identity: str = "") -> list[str]:
        """Return the ids of the checkpoints that an engine has answered for.

        Args:
            engine: its name.
            identity: the hash of its model, by which it is found instead if there is one.
        """
        key, value = ("engine_identity", identity) if identity else ("engine", engine)
        rows = self.db.query(
            "SELECT DISTINCT checkpoint FROM answers WHERE json_extract(info, ?) = ? "
            "ORDER BY checkpoint",
            [f"$.{key}", value],
        )
        return [row["checkpoint"] for row in rows]

    def file_digest(self, path: str, stamp: str) -> str | None:
        """Return the stored digests of a file with this size and these times, or None."""
        rows = list(self.db.query("SELECT stamp, digests FROM file_digests WHERE path = ?", [path]))
        return str(rows[0]["digests"]) if rows and rows[0]["stamp"] == stamp else None

    def keep_file_digest(self, path: str, stamp: str, digests: str) -> None:
        """Store a file's digests; does nothing in a read-only store."""
        if not self.read_only:
            self._insert(
                "file_digests", [{"path": path, "stamp": stamp, "digests": digests}], "REPLACE"
            )


def _priority(judgment: Judgment) -> tuple[bool, float]:
    """Return a sort key: of two judgments of the same thing, the smaller is kept."""
    return judgment.status is not JudgmentStatus.OK, judgment.created


def moved_id(old: Judgment, new: Judgment) -> str:
    """Return the id a judgment has once what it depends on has another id or name.

    A judgment whose id does not depend on them (imports, mirrors) keeps it.
    """

    def ids(j: Judgment) -> list[str]:
        place = (j.bench, j.revision, j.item, j.turn)
        return [
            digest("exact", j.metric, j.checkpoint, j.bench, j.revision, j.item, j.answer),
            digest("judgment", j.info.get("call"), j.answer, *place, j.order, j.baseline),
            unanswered_id(j.judge, j.checkpoint, place),
            unanswered_id(j.judge, j.checkpoint, place, j.metric, j.baseline),
        ]

    for before, after in zip(ids(old), ids(new), strict=True):
        if before == old.id:
            return after
    if old.checkpoint != new.checkpoint and old.judge == "exact" and old.answer is None:
        # A held-out row's id is a hash of the row's text, which is not stored.
        return digest("adopted", new.checkpoint, old.id)
    return old.id
