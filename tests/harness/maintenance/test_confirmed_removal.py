"""What changes between the plan of a removal and the yes to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from kdharness.harness.errors import KDHarnessError, RunError, StoreError
from kdharness.harness.maintenance.records import plan_removal, remove_records, rename_record
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.store_rows import contents, fill_store
from support.tui_home import add_past_run

USES = {"student": {"model": "kd-2"}}


@pytest.fixture
def home(paths: Paths) -> Paths:
    """Make a home with three runs, each a child of the one before, with files."""
    fill_store(paths.store, runs=3, items=2)
    for n in range(3):
        (paths.runs / f"kd-{n}" / "final").mkdir(parents=True)
    return paths


def add_user(store: Store, **more: object) -> None:
    add_past_run(store, "late", "kd", 9, config=USES, checkpoint=None, **more)


def start_user(store: Store) -> None:
    add_user(store, status="running", pid=os.getpid())


def stop_user(store: Store) -> None:
    add_user(store, status="stopped")


def add_child(store: Store) -> None:
    known = store.checkpoint("kd-2")
    assert known is not None
    parents = {"student": known.id}
    child = replace(known, id="new", name="new", path="/elsewhere", run=None, parents=parents)
    store.add_checkpoint(child)


def add_twin(store: Store) -> None:
    add_past_run(store, "again", "kd", 9, checkpoint="kd-2")


def add_step(store: Store) -> None:
    """Let the run itself make another checkpoint, as after a resume."""
    known = store.checkpoint("kd-2")
    assert known is not None
    step = replace(known, id="best", name="kd-2@best", path=f"{known.path}-best", parents={})
    store.add_checkpoint(step)


def resume(store: Store) -> None:
    store.update_run("kd-2", status="running", pid=os.getpid(), host="")


def remove(store: Store) -> None:
    store.forget_runs(["kd-2"], [])


CHANGES: dict[str, tuple[Callable[[Store], None], type[KDHarnessError], str]] = {
    "a run of it starts": (start_user, RunError, "late is running and needs it"),
    "a run of it waits": (stop_user, StoreError, "late: not there when"),
    "a child": (add_child, StoreError, "new: not there when"),
    "a twin": (add_twin, StoreError, "again: not there when"),
    "another checkpoint": (add_step, StoreError, "kd-2@best: not there when"),
    "it runs": (resume, RunError, "kd-2 is running"),
    "it is gone": (remove, StoreError, "kd-2 was removed or renamed"),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_came_after_the_plan_is_not_removed_or_left_without(
    home: Paths, change: str, force: bool
) -> None:
    act, kind, problem = CHANGES[change]
    with Store(home.store) as store:
        plan = plan_removal(home, store, ["kd-2"])
        with Store(home.store) as other:
            act(other)
        before = contents(home.store)
        with pytest.raises(kind, match=problem):
            remove_records(home, store, plan, force=force)
    assert contents(home.store) == before and (home.runs / "kd-2" / "final").exists()


def test_a_renamed_run_is_not_half_removed(home: Paths) -> None:
    with Store(home.store) as store:
        plan = plan_removal(home, store, ["kd-2"])
        rename_record(home, store, "kd-2", "other")
        with pytest.raises(StoreError, match="kd-2 was removed or renamed"):
            remove_records(home, store, plan)
        assert store.checkpoint("other") is not None


def test_results_in_use_by_now_stay(home: Paths) -> None:
    with Store(home.store) as store:
        plan = plan_removal(home, store, ["kd-2"], benches=["mt-bench"])
        start_user(store)
        with pytest.raises(RunError, match="late is running and needs it"):
            remove_records(home, store, plan)
        assert store.answers("id-here-2")
        store.update_run("late", status="stopped")
        remove_records(home, store, plan)
        assert not store.answers("id-here-2")


def test_what_the_plan_told_of_does_not_stop_a_forced_removal(home: Paths) -> None:
    with Store(home.store) as store:
        for act in (stop_user, add_child, add_twin):
            act(store)
        plan = plan_removal(home, store, ["kd-2"])
        remove_records(home, store, plan, force=True)
        assert store.run("kd-2") is None and not (home.runs / "kd-2").exists()
