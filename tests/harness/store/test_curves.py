"""Outlines of curves: what SQLite reduces keeps every spike."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus


def store_with(folder: Path, values: list[float | None]) -> Store:
    store = Store(folder / "kdharness.db")
    store.add_run(Run("r", "kd", RunStatus.FINISHED, {}, "", "", 0.0))
    fill(store, values)
    return store


def fill(store: Store, values: list[float | None]) -> None:
    """Replace the points of the curve."""
    store.drop_points_after("r", -1)
    points = [("loss", step, value, float(step)) for step, value in enumerate(values)]
    store.add_progress("r", points=points)


def test_an_outline_keeps_the_spike_and_the_ends(tmp_path: Path) -> None:
    values: list[float | None] = [1.0 + step / 1e6 for step in range(5000)]
    values[3141] = 99.0
    with store_with(tmp_path, values) as store:
        outline = store.curve_outline("r", "loss", 50)
        assert len(outline) <= 100 and max(y for _, y in outline) == 99.0
        assert outline[0] == (0, 1.0) and outline[-1][1] == values[-1]
        assert store.last_point("r", "loss") == (4999, values[-1])
        assert store.curve_outline("r", "none", 50) == []
        assert store.last_point("r", "none") is None
        assert store.curve_times("r", "loss", 4997) == [(4998, 4998.0), (4999, 4999.0)]


def test_an_outline_has_the_extremes_in_order_of_steps(tmp_path: Path) -> None:
    with store_with(tmp_path, []) as store:

        @settings(max_examples=25, deadline=None)
        @given(
            values=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=60),
            buckets=st.integers(1, 20),
        )
        def check(values: list[float | None], buckets: int) -> None:
            fill(store, values)
            outline = store.curve_outline("r", "loss", buckets)
            steps = [step for step, _ in outline]
            known = [value for value in values if value is not None]
            assert steps == sorted(steps) and len(outline) <= 2 * buckets
            assert bool(outline) == bool(known)
            if known:
                assert max(y for _, y in outline) == max(known)
                assert min(y for _, y in outline) == min(known)

        check()
