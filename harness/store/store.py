"""The store: runs, events, curves, answers, judgments, labels and report cards of a home.

One SQLite file, normally in WAL mode. Only a run's worker writes its progress; screens read, and
write only control requests. Each method is one statement or one transaction, so a process killed
at any point leaves no partial rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from kdharness.harness.store.curves import CurveRows
from kdharness.harness.store.rows import JSON_FIELDS, encode, stored_json, stored_text
from kdharness.harness.types import Answer, Judgment, Request, Run

BenchNotes = dict[tuple[str, str, str], dict[str, Any]]
"""(checkpoint or "", bench, revision) -> what was noted."""


def note_of(notes: BenchNotes, bench: str, revision: str) -> dict[str, Any]:
    """Return what was noted about a benchmark's revision itself, or an empty mapping."""
    return notes.get(("", bench, revision), {})


FEW_CHECKPOINTS = 32
"""Up to this many, querying each checkpoint is cheaper than reading all rows."""


class Store(CurveRows):
    """One open connection. Open one per thread: a connection must not cross threads."""

    def data_version(self) -> int:
        """Return a number that changes when another connection commits: cheap to poll."""
        return int(next(self.db.query("PRAGMA data_version"))["data_version"])

    # ------------------------------------------------------------ runs

    def add_run(self, run: Run) -> None:
        """Store a new run. Raises sqlite3.IntegrityError when its id is taken."""
        self._insert("runs", [self._encoded(run)], "ABORT")

    def update_run(self, run_id: str, **changes: object) -> None:
        """Change columns of one run; mappings are stored as JSON."""
        values = {
            name: stored_json(value) if name in JSON_FIELDS else value
            for name, value in changes.items()
        }
        values = {k: stored_text(v) if isinstance(v, str) else v for k, v in values.items()}
        if "folder" in values:
            values["folder"] = self.places.stored(str(values["folder"]))
        assignments = ", ".join(f'"{name}" = ?' for name in values)
        self._write(f"UPDATE runs SET {assignments} WHERE id = ?", [*values.values(), run_id])

    def claim_run(self, run: Run, **changes: object) -> bool:
        """Change columns of a run if it is unchanged since it was read; return whether it was.

        Of two processes that would start a worker for the same run, only one succeeds.
        """
        assignments = ", ".join(f'"{name}" = ?' for name in changes)
        return (
            self._write(
                f"UPDATE runs SET {assignments} "
                "WHERE id = ? AND status = ? AND pid IS ? AND heartbeat IS ?",
                [*changes.values(), run.id, run.status.value, run.pid, run.heartbeat],
            )
            == 1
        )

    def run(self, run_id: str) -> Run | None:
        """Return a run by its id, or None."""
        rows = self._rows(Run, "SELECT * FROM runs WHERE id = ?", [run_id])
        return rows[0] if rows else None

    def runs(self, method: str | None = None) -> list[Run]:
        """Return all runs, newest first."""
        where = "WHERE method = ?" if method else ""
        return self._rows(
            Run,
            f"SELECT * FROM runs {where} ORDER BY created DESC, id",
            [method] if method else [],
        )

    def runs_noting(self, key: str) -> list[Run]:
        """Return the runs whose info has a key (or that word elsewhere); reads no others."""
        return self._rows(Run, "SELECT * FROM runs WHERE instr(info, ?)", [json.dumps(key)])

    def recent_runs(self, limit: int) -> list[Run]:
        """Return the newest runs, for a screen to show before it reads the rest."""
        return self._rows(Run, "SELECT * FROM runs ORDER BY created DESC, id LIMIT ?", [limit])

    def live_runs(self, also: Iterable[str] = ()) -> list[Run]:
        """Return the runs that are starting, running or paused, and those named."""
        names = list(also)
        marks = ", ".join("?" for _ in names)
        return self._rows(
            Run,
            "SELECT * FROM runs WHERE status IN ('starting', 'running', 'paused') "
            f"OR id IN ({marks})",
            names,
        )

    def runs_state(self) -> tuple[int, int]:
        """Return two hashes, which change when a run is added, removed, renamed or annotated.

        They are of the names: after a removal, the next run takes the newest one's row.
        """
        names = "SELECT id FROM runs ORDER BY rowid"
        notes = "SELECT kind, id, tags, note FROM annotations"
        ids, found = (hash(tuple(map(tuple, self.db.conn.execute(s)))) for s in (names, notes))
        return ids, found

    def run_ids(self) -> set[str]:
        """Return the ids that are taken."""
        return {row["id"] for row in self.db.query("SELECT id FROM runs")}

    def news(self, after: int, since: float) -> list[tuple[int, str, str, str]]:
        """Return (id, run, kind, message) of ends of runs and alerts, oldest first.

        Args:
            after: only above this id.
            since: only from this time on: a merged home brings old events with new ids.
        """
        rows = self.db.query(
            "SELECT id, run, kind, message FROM events "
            "WHERE id > ? AND kind IN ('ended', 'alert') AND time >= ? ORDER BY id",
            [after, since],
        )
        return [(row["id"], row["run"], row["kind"], row["message"]) for row in rows]

    def newest_event(self, run_id: str = "") -> int:
        """Return the id of the newest event, of a run or of any; 0 if there is none."""
        where, values = ("WHERE run = ?", [run_id]) if run_id else ("", [])
        found = self.db.conn.execute(f"SELECT COALESCE(MAX(id), 0) FROM events {where}", values)
        return int(found.fetchone()[0])

    def training_order(self) -> list[str]:
        """Return the ids of all runs that train something, oldest first."""
        rows = self.db.query(
            "SELECT id FROM runs WHERE method NOT IN ('eval', 'sweep') ORDER BY created, id"
        )
        return [row["id"] for row in rows]

    # ------------------------------------------------------------ events and curves

    def add_event(self, run_id: str, kind: str, message: str = "", **info: object) -> None:
        """Record an event of a run."""
        self.add_progress(run_id, events=[(time.time(), kind, message, info)])

    def add_progress(
        self,
        run_id: str,
        *,
        events: Sequence[tuple[float, str, str, dict[str, Any]]] = (),
        points: Sequence[tuple[str, int, float, float]] = (),
        **changes: object,
    ) -> None:
        """Commit a worker's progress in one transaction.

        Args:
            run_id: the run.
            events: (time, kind, message, info).
            points: (name, step, value, time); a later value of the same step replaces it.
            changes: columns of the run, such as `step`, `loss`, `heartbeat`.
        """
        with self.db.atomic():
            self.db.conn.executemany(
                "INSERT INTO events (run, time, kind, message, info) VALUES (?, ?, ?, ?, ?)",
                [
                    (run_id, when, kind, stored_text(text), stored_text(json.dumps(info)))
                    for when, kind, text, info in events
                ],
            )
            self.db.conn.executemany(
                "INSERT OR REPLACE INTO points (run, name, step, value, time) "
                "VALUES (?, ?, ?, ?, ?)",
                [(run_id, name, step, value, when) for name, step, value, when in points],
            )
            if changes:
                changes = {
                    k: stored_text(v) if isinstance(v, str) else v for k, v in changes.items()
                }
                assignments = ", ".join(f'"{name}" = ?' for name in changes)
                self.db.execute(
                    f"UPDATE runs SET {assignments} WHERE id = ?", [*changes.values(), run_id]
                )

    def events(self, run_id: str, after: int = 0, limit: int = 10_000) -> list[dict[str, Any]]:
        """Return events of a run with an id above `after`, oldest first, and at most `limit`."""
        return self._events("id > ? ORDER BY id LIMIT ?", run_id, after, limit)

    def events_of(self, run_id: str, kinds: Sequence[str]) -> list[dict[str, Any]]:
        """Return a run's events of some kinds, oldest first."""
        marks = ", ".join("?" for _ in kinds)
        return self._events(f"kind IN ({marks}) ORDER BY id", run_id, *kinds)

    def last_events(self, run_id: str, count: int) -> list[dict[str, Any]]:
        """Return the newest events of a run, oldest first."""
        return self._events("TRUE ORDER BY id DESC LIMIT ?", run_id, count)[::-1]

    def _events(self, condition: str, *values: object) -> list[dict[str, Any]]:
        rows = self.db.query(f"SELECT * FROM events WHERE run = ? AND {condition}", values)
        return [{**row, "info": self._json(row["info"], "an event")} for row in rows]

    # ------------------------------------------------------------ control requests

    def request(self, run_id: str, request: Request) -> None:
        """Store a request for a worker, which polls between steps."""
        self._write(
            "INSERT INTO controls (run, request, time) VALUES (?, ?, ?)",
            [run_id, request.value, time.time()],
        )

    def take_requests(self, run_id: str) -> list[Request]:
        """Return the pending requests, oldest first, and mark them as taken."""
        waiting = list(
            self.db.query(
                "SELECT id, request FROM controls WHERE run = ? AND taken IS NULL ORDER BY id",
                [run_id],
            )
        )
        if waiting:
            self._write(
                "UPDATE controls SET taken = ? WHERE run = ? AND taken IS NULL AND id <= ?",
                [time.time(), run_id, waiting[-1]["id"]],
            )
        return [Request(row["request"]) for row in waiting]

    # ------------------------------------------------------------ answers and judgments

    def add_answers(self, answers: Iterable[Answer]) -> None:
        """Store answers, replacing stored ones with the same id."""
        self._insert("answers", (encode(answer) for answer in answers), "REPLACE")

    def answers(self, checkpoint: str, bench: str | None = None) -> list[Answer]:
        """Return the answers of one checkpoint, failures included."""
        sql, args = "SELECT * FROM answers WHERE checkpoint = ?", [checkpoint]
        if bench is not None:
            sql, args = sql + " AND bench = ?", [*args, bench]
        return self._rows(Answer, sql + " ORDER BY created, item, turn", args)

    def add_judgments(self, judgments: Iterable[Judgment]) -> None:
        """Store judgments, replacing stored ones with the same id."""
        self._insert("judgments", (encode(judgment) for judgment in judgments), "REPLACE")

    def judgments(
        self,
        checkpoint: str | None = None,
        bench: str | None = None,
        judge: str | None = None,
        revision: str | None = None,
    ) -> list[Judgment]:
        """Return judgments, failures included, filtered by the given columns."""
        sql, args = "SELECT * FROM judgments", list[Any]()
        wanted = {"checkpoint": checkpoint, "bench": bench, "judge": judge, "revision": revision}
        for name, value in wanted.items():
            if value is not None:
                sql += f" {'AND' if args else 'WHERE'} {name} = ?"
                args.append(value)
        return self._rows(Judgment, sql + " ORDER BY created, item, turn", args)

    def result_ids(self, checkpoint: str) -> set[str]:
        """Return the ids of a checkpoint's answers and judgments."""
        tables = ("answers", "judgments")
        sql = " UNION ".join(f"SELECT id FROM {table} WHERE checkpoint = ?" for table in tables)
        return {row["id"] for row in self.db.query(sql, [checkpoint, checkpoint])}

    def judgment_groups(self, checkpoints: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield checkpoint, bench, revision, judge and a count of writes, one row per group.

        Args:
            checkpoints: only groups of these ids.
        """
        columns = "SELECT checkpoint, bench, revision, judge, changes FROM judgment_groups"
        order = "ORDER BY checkpoint, bench, revision, judge"
        if checkpoints is None:
            yield from self.db.query(f"{columns} {order}")
        for key in sorted(checkpoints or ()):
            yield from self.db.query(f"{columns} WHERE checkpoint = ? {order}", [key])

    def judgment_rows(
        self, checkpoint: str, bench: str, revision: str, judge: str
    ) -> list[tuple[Any, ...]]:
        """Return what scoring needs of one group, oldest first, from a covering index.

        Columns: those of `stats.rows.Row`.
        """
        return self.db.conn.execute(
            'SELECT item, turn, category, metric, status, value, weight, "order", baseline, len_1, '
            "len_2, published, absent, created, headers, lists, bold, stderr "
            "FROM judgments INDEXED BY judgments_scored "
            "WHERE checkpoint = ? AND bench = ? AND revision = ? AND judge = ? ORDER BY created",
            [checkpoint, bench, revision, judge],
        ).fetchall()

    def judge_spending(self, checkpoint: str | None = None) -> list[dict[str, Any]]:
        """Return judge, calls, prompt_tokens, tokens and usd of judge calls.

        Only calls made in this home count: not exact metrics, imported judgments, the other side
        of a pair's one call, a reply that was paid for under another revision, or an item that
        was decided without a call.
        """
        where = "AND checkpoint = ?" if checkpoint is not None else ""
        return list(
            self.db.query(
                "SELECT judge, COUNT(*) AS calls, SUM(prompt_tokens) AS prompt_tokens, "
                "SUM(tokens) AS tokens, SUM(usd) AS usd FROM judgments "
                f"WHERE judge != 'exact' AND judge NOT LIKE 'imported:%' {where} "
                "AND json_extract(info, '$.mirrored') IS NULL "
                "AND json_extract(info, '$.copied') IS NULL "
                "AND (raw != '' OR error != '' OR prompt_tokens + tokens > 0) "
                "GROUP BY judge ORDER BY judge",
                [checkpoint] if checkpoint is not None else [],
            )
        )

    def set_bench_note(
        self, bench: str, revision: str, info: dict[str, Any], checkpoint: str = ""
    ) -> None:
        """Store a note on a benchmark revision, or on a checkpoint's answers to it."""
        row = {
            "checkpoint": checkpoint,
            "bench": bench,
            "revision": revision,
            "info": stored_json(info),
        }
        self._insert("bench_notes", [row], "REPLACE")

    def bench_note(self, bench: str, revision: str) -> dict[str, Any]:
        """Return what was noted about a benchmark's revision, or an empty mapping."""
        rows = self.db.query(
            "SELECT info FROM bench_notes WHERE checkpoint = '' AND bench = ? AND revision = ?",
            [bench, revision],
        )
        note: dict[str, Any] = {}
        for row in rows:
            note = self._json(row["info"], "a note on a benchmark")
        return note

    def bench_notes(self) -> BenchNotes:
        """Return all notes on benchmarks and on the answers of checkpoints."""
        return {
            (row["checkpoint"], row["bench"], row["revision"]): self._json(
                row["info"], "a note on a benchmark"
            )
            for row in self.db.query("SELECT checkpoint, bench, revision, info FROM bench_notes")
        }

    # ------------------------------------------------------------ derived, and safe to lose

    def cached_scores(self, checkpoints: Collection[str]) -> dict[str, tuple[str, str]]:
        """Return key -> (state, JSON) of the cached score lists of checkpoints, by id."""
        columns = "SELECT key, state, scores FROM score_cache"
        if len(checkpoints) > FEW_CHECKPOINTS:
            rows = self.db.query(columns)
        else:
            # Keys begin with the checkpoint's id and a bar.
            rows = (
                row
                for key in checkpoints
                for row in self.db.query(
                    f"{columns} WHERE key >= ? AND key < ?", [f"{key}|", f"{key}}}"]
                )
            )
        return {row["key"]: (row["state"], row["scores"]) for row in rows}

    def cache_scores(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Cache derived scores: (key, state they were derived from, JSON).

        Does nothing in a read-only store: the scores are derived again.
        """
        if self.read_only:
            return
        self._insert(
            "score_cache",
            ({"key": key, "state": state, "scores": text} for key, state, text in rows),
            "REPLACE",
        )

    # ------------------------------------------------------------ judge cards

    def add_card(self, judge: str, card: dict[str, Any]) -> None:
        """Store a judge's report card; the newest counts."""
        self._insert(
            "cards",
            [{"judge": judge, "created": time.time(), "card": stored_text(json.dumps(card))}],
            "REPLACE",
        )

    def cards(self) -> dict[str, dict[str, Any]]:
        """Return the newest report card of each judge."""
        rows = self.db.query("SELECT judge, card FROM cards ORDER BY created")
        return {row["judge"]: self._json(row["card"], "a judge's card") for row in rows}
