"""Curves of runs: points by step, their times, and outlines that cost the same at any length."""

from __future__ import annotations

from kdharness.harness.store.removal import RemovalRows

Point = tuple[int, float]
"""(step, value)"""


class CurveRows(RemovalRows):
    """Statements on the points of curves."""

    def curve(self, run_id: str, name: str, after: int = -1) -> list[Point]:
        """Return (step, value) of one curve, in step order, above step `after`."""
        rows = self.db.query(
            "SELECT step, value FROM points WHERE run = ? AND name = ? AND step > ? ORDER BY step",
            [run_id, name, after],
        )
        return [(row["step"], row["value"]) for row in rows]

    def curve_names(self, run_id: str) -> list[str]:
        """Return the names of a run's curves."""
        rows = self.db.query(
            "SELECT DISTINCT name FROM points WHERE run = ? ORDER BY name", [run_id]
        )
        return [row["name"] for row in rows]

    def curve_times(self, run_id: str, name: str, after: int = -1) -> list[Point]:
        """Return (step, time in seconds since 1970) of one curve, above step `after`."""
        rows = self.db.query(
            "SELECT step, time FROM points WHERE run = ? AND name = ? AND step > ? ORDER BY step",
            [run_id, name, after],
        )
        return [(row["step"], row["time"]) for row in rows]

    def curve_outline(self, run_id: str, name: str, buckets: int) -> list[Point]:
        """Return the lowest and the highest point of each of some equal ranges of steps.

        SQLite finds them, so that a long curve costs little more than a short one.
        """
        key = [run_id, name]
        ends = self.db.conn.execute(
            "SELECT MIN(step), MAX(step) FROM points WHERE run = ? AND name = ?", key
        ).fetchone()
        if ends[0] is None:
            return []
        rows = self.db.conn.execute(
            "SELECT MIN(step), MIN(value), MAX(value) FROM points "
            "WHERE run = ? AND name = ? AND value IS NOT NULL GROUP BY (step - ?) * ? / ?",
            [*key, ends[0], max(buckets, 1), ends[1] - ends[0] + 1],
        ).fetchall()
        points: list[Point] = []
        for step, low, high in rows:
            before = points[-1][1] if points else low
            near, far = (low, high) if abs(before - low) <= abs(before - high) else (high, low)
            points += [(step, near), (step, far)] if low != high else [(step, low)]
        return points

    def last_point(self, run_id: str, name: str) -> Point | None:
        """Return the newest (step, value) of a curve."""
        row = self.db.conn.execute(
            "SELECT step, value FROM points WHERE run = ? AND name = ? ORDER BY step DESC LIMIT 1",
            [run_id, name],
        ).fetchone()
        return None if row is None or row[1] is None else (row[0], row[1])

    def drop_points_after(self, run_id: str, step: int) -> None:
        """Delete curve points past a resumed step, so that curves don't show a dead branch."""
        self._write("DELETE FROM points WHERE run = ? AND step > ?", [run_id, step])
