"""Removing and renaming rows, and people's tags and notes on runs and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdharness.harness.store.adoption import AdoptionRows
from kdharness.harness.store.checkpoints import REMOVED
from kdharness.harness.store.rows import stored_text
from kdharness.harness.types import Checkpoint

RESULTS = ("answers", "judgments", "labels", "bench_notes", "judgment_groups")
"""Tables of a checkpoint's results. Deleting judgments counts as a change of their group, so
groups come last."""
Subject = tuple[str, str]
"""(`run` or `checkpoint`, its id)"""


@dataclass(frozen=True)
class Annotation:
    """What a person wrote about a run or a checkpoint."""

    tags: tuple[str, ...] = ()
    note: str = ""


class RemovalRows(AdoptionRows):
    """Statements that remove, rename and annotate."""

    def forget_runs(self, runs: Sequence[str], checkpoints: Iterable[str] = ()) -> list[str]:
        """Remove runs, their checkpoints and some others, and all answers and judgments of those.

        Return the checkpoints that are kept, without results, because others descend from them.
        """
        with self.db.atomic():
            marks = ", ".join("?" for _ in runs)
            rows = self.db.query(f"SELECT id FROM checkpoints WHERE run IN ({marks})", list(runs))
            made = [row["id"] for row in rows]
            for run in runs:
                for table in ("events", "points", "controls"):
                    self.db.execute(f"DELETE FROM {table} WHERE run = ?", [run])
                self.db.execute("DELETE FROM annotations WHERE kind = 'run' AND id = ?", [run])
                self.db.execute("DELETE FROM runs WHERE id = ?", [run])
            return self.forget_checkpoints({*made, *checkpoints})

    def forget_checkpoints(self, checkpoints: Collection[str]) -> list[str]:
        """Remove checkpoints by id, with their results.

        Return those that are kept, without results, because others descend from them.
        """
        with self.db.atomic():
            for key in checkpoints:
                self.forget_results(key)
            kept = sorted(self.parents_among(checkpoints))
            for key in set(checkpoints) - set(kept):
                kind = "DELETE FROM annotations WHERE kind = 'checkpoint' AND id = ?"
                self.db.execute(kind, [key])
                self.db.execute("DELETE FROM checkpoints WHERE id = ?", [key])
        return kept

    def free_names_of(self, removed: Iterable[str]) -> None:
        """Free the names of checkpoints that are kept for those that descend from them.

        Another checkpoint of the name would get a number, and steps of experiments, which name
        their parents, would find the one without weights.
        """
        for key in removed:
            old = self.checkpoint(key)
            if old is not None and REMOVED not in old.name:
                self.rename_model(old, self.free_name(f"{old.name}{REMOVED}"))

    def parents_among(self, checkpoints: Collection[str]) -> set[str]:
        """Return which of some checkpoints are parents of others, by id."""
        rows = self.db.query(
            "SELECT c.id AS child, parent.value AS parent "
            "FROM checkpoints AS c, json_each(c.parents) AS parent"
        )
        listed = set(checkpoints)
        return {r["parent"] for r in rows if r["parent"] in listed and r["child"] not in listed}

    def forget_results(self, checkpoint: str, benches: Iterable[str] = ()) -> None:
        """Remove a checkpoint's answers, judgments, labels and notes, of some benchmarks or all."""
        listed = list(benches)
        where = f" AND bench IN ({', '.join('?' for _ in listed)})" if listed else ""
        with self.db.atomic():
            for table in RESULTS:
                sql = f"DELETE FROM {table} WHERE checkpoint = ?{where}"
                self.db.execute(sql, [checkpoint, *listed])
            # The number of writes, which tells whether a cached score is current, starts again.
            self.db.execute(
                "DELETE FROM score_cache WHERE key >= ? AND key < ?",
                [f"{checkpoint}|", f"{checkpoint}}}"],
            )

    def result_counts(self, checkpoint: str) -> dict[str, dict[str, int]]:
        """Return benchmark -> numbers of answers, judgments and labels of a checkpoint."""
        counts: dict[str, dict[str, int]] = {}
        for table in RESULTS[:3]:
            for row in self.db.query(
                f"SELECT bench, COUNT(*) AS n FROM {table} WHERE checkpoint = ? GROUP BY bench",
                [checkpoint],
            ):
                counts.setdefault(row["bench"], {})[table] = row["n"]
        return counts

    def baseline_of(self, name: str) -> int:
        """Return how many judgments of others are against a checkpoint of this name."""
        row = self.db.conn.execute(
            "SELECT COUNT(*) FROM judgments WHERE baseline = ?", [name]
        ).fetchone()
        return int(row[0])

    # ------------------------------------------------------------ renaming

    def rename_model(self, old: Checkpoint, name: str) -> None:
        """Give a checkpoint another name; runs and judgments that name it follow.

        Raises:
            sqlite3.IntegrityError: the name is taken.
        """
        with self.db.atomic():
            self.rename_checkpoint(old, name, path=old.path)
            self.db.execute("UPDATE runs SET checkpoint = ? WHERE checkpoint = ?", [name, old.name])

    def rename_run(self, old: str, new: str, source: Path, folder: Path | None) -> None:
        """Give a run another id, with its curves, events and the checkpoints named after it.

        Args:
            old: its id.
            new: a free id.
            source: where its files are.
            folder: where its files are to be: they are moved, as the last step. None leaves them.

        Raises:
            sqlite3.IntegrityError: the id, or the name of a checkpoint, is taken.
            OSError: the folder cannot be moved; nothing was changed.
        """
        with self.db.atomic():
            self.db.execute("UPDATE runs SET id = ? WHERE id = ?", [new, old])
            for table in ("events", "points", "controls", "checkpoints"):
                self.db.execute(f"UPDATE {table} SET run = ? WHERE run = ?", [new, old])
            self.db.execute(
                "UPDATE annotations SET id = ? WHERE kind = 'run' AND id = ?", [new, old]
            )
            for made in self.checkpoints():
                # Equal weights of another run, and evaluated steps, have their path here too.
                if folder is not None and Path(made.path).is_relative_to(source):
                    inside = Path(made.path).relative_to(source)
                    self.set_checkpoint_path(made.id, str(folder / inside))
                named = (f"{old}-", f"{old}@", f"{old}/")
                if made.run == new and (made.name == old or made.name.startswith(named)):
                    current = self.checkpoint(made.id) or made
                    self.rename_model(current, new + made.name.removeprefix(old))
            if folder is not None:
                self.db.execute(
                    "UPDATE runs SET folder = ? WHERE id = ?",
                    [self.places.stored(str(folder)), new],
                )
                if source.is_dir():
                    source.rename(folder)

    # ------------------------------------------------------------ tags and notes

    def annotations(self) -> dict[Subject, Annotation]:
        """Return all tags and notes."""
        return {
            (row["kind"], row["id"]): Annotation(
                tuple(self._json(row["tags"], "a tag")), row["note"]
            )
            for row in self.db.query("SELECT kind, id, tags, note FROM annotations")
        }

    def annotate(self, subject: Subject, annotation: Annotation) -> None:
        """Replace the tags and the note of a run or checkpoint."""
        kind, key = subject
        if annotation == Annotation():
            self._write("DELETE FROM annotations WHERE kind = ? AND id = ?", [kind, key])
            return
        values = {
            "kind": kind,
            "id": key,
            "tags": json.dumps(sorted(set(annotation.tags))),
            "note": stored_text(annotation.note),
        }
        self._insert("annotations", [values], "REPLACE")
