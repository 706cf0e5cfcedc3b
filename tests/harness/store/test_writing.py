"""Changes that depend on what was read before, while others write."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.tui_home import add_past_run


def count_up(paths: Paths) -> None:
    """Add one to a number in a run's info."""
    with Store(paths.store) as store:
        for _ in range(10):
            with store.writing():
                run = store.run("kd")
                assert run is not None
                store.update_run("kd", step=run.step + 1)


def test_nobody_writes_between_reading_and_writing(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "kd", "kd", 9)
        store.update_run("kd", step=0)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(count_up, [paths] * 4))
        run = store.run("kd")
        assert run is not None and run.step == 40


def test_an_error_undoes_everything_and_others_may_write_again(paths: Paths) -> None:
    with Store(paths.store) as store, Store(paths.store, timeout=0.0) as other:
        add_past_run(store, "kd", "kd", 9)
        store.update_run("kd", step=1)

        def change() -> None:
            with store.writing(), store.writing():
                store.update_run("kd", step=2)
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    other.update_run("kd", step=3)
                raise KeyError("kd")

        with pytest.raises(KeyError):
            change()
        run = other.run("kd")
        assert run is not None and run.step == 1
        other.update_run("kd", step=4)
