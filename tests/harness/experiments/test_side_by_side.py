"""Runs of an experiment side by side: order, shares of the machine, stop, pause, failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.errors import Interrupted
from kdharness.harness.experiments import run as running
from kdharness.harness.experiments.demo import MEMORY_OF_TWO, demo_jobs
from kdharness.harness.experiments.detached import start_sweep
from kdharness.harness.experiments.expand import PlannedRun, load_sweep
from kdharness.harness.experiments.run import Result, by_longest_chain, run_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.status import runs_at_work
from kdharness.harness.store import Store
from kdharness.harness.types import Request, RunStatus
from kdharness.harness.util.process import machine_share
from kdharness.harness.worker import work
from support.commands import CommandLine
from support.experiments import STEPS, sweep_file
from support.waiting import wait_until
from support.workers import Workers, in_thread, stored_run

ANY_CONFIG: Any = None
EVALUATION = {"method": "eval", "checkpoints": ["base"], "benches": ["shop"]}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight cores and no GPU, that is looked at often."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(running, "usable_cores", lambda: 8)
    monkeypatch.setattr(running, "count_gpus", lambda: 0)
    monkeypatch.setattr(running, "POLL_SECONDS", 0.01)


def planned_of(folder: Path, **values: Any) -> list[PlannedRun]:
    return load_sweep(sweep_file(folder, **{"steps": STEPS, **values}))[1]


def executed(paths: Paths, planned: list[PlannedRun], jobs: int, **more: Any) -> list[Result]:
    return run_sweep(paths, planned, lambda _: None, lambda _: None, jobs=jobs, **more)


# ---------------------------------------------------------------- order and shares


def test_independent_runs_are_live_at_once_and_others_wait_for_what_they_need(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds = 0.3
    live: list[set[str]] = []

    def tick(text: str) -> None:
        live.append({part.split()[0] for part in text.split("; ")})

    said: list[str] = []
    results = run_sweep(paths, planned_of(tmp_path), said.append, tick, jobs=2)
    assert [r.name for r in results] == ["x-kd", "x-other", "x-expert", "x-more"]
    assert {r.status for r in results} == {"finished"}
    assert {"x-kd", "x-other"} in live
    assert not any({"x-kd", "x-expert"} <= names for names in live)
    assert len(said) == 4 and said[3].startswith("[4/4] x-more finished in")


def test_with_one_job_runs_take_turns(workers: Workers, paths: Paths, tmp_path: Path) -> None:
    live: list[str] = []
    run_sweep(paths, planned_of(tmp_path), lambda _: None, live.append)
    assert workers.spawned == ["x-kd", "x-other", "x-expert", "x-more"]
    assert not any(";" in text for text in live)
    assert not any(workers.variables.values())


def test_cores_are_shared_by_those_that_run_at_once(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds_of["x-kd"] = 0.5
    executed(paths, planned_of(tmp_path), 3)
    # Two can start at first, of three that were allowed; later there is one at a time.
    assert workers.variables == {
        "x-kd": {"OMP_NUM_THREADS": "4"},
        "x-other": {"OMP_NUM_THREADS": "4"},
        "x-expert": {},
        "x-more": {},
    }


def test_runs_done_before_take_no_share(workers: Workers, paths: Paths, tmp_path: Path) -> None:
    planned = planned_of(tmp_path)
    executed(paths, [one for one in planned if one.name == "x-other"], 1)
    results = executed(paths, planned, 2)
    assert [r.status for r in results] == ["finished", "done before", "finished", "finished"]
    assert workers.variables["x-kd"] == {}


def test_each_gets_a_gpu_of_its_own_that_another_has_left(
    workers: Workers, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    auto = {"learning_rate": 0.01, "max_steps": 2, "batch_size": 4}
    named = {**auto, "device": "cuda:1"}
    steps = {
        "a": {**STEPS["other"], "trainer": auto},
        "b": {**STEPS["other"], "trainer": {**auto, "learning_rate": 0.02}},
        "c": {**STEPS["other"], "trainer": {**named}},
        "d": EVALUATION,
    }
    executed(paths, planned_of(tmp_path, steps=steps), 2)
    given = {name: share.get("CUDA_VISIBLE_DEVICES") for name, share in workers.variables.items()}
    assert {given["x-a"], given["x-b"]} == {"2", "5"}
    # A config that names its GPU has it.
    assert given["x-c"] is None and given["x-d"] in ("2", "5")


def test_a_vllm_that_needs_several_gpus_has_all_of_them(
    workers: Workers, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    paths.home.mkdir(parents=True)
    paths.settings.write_text("vllm: {tensor_parallel_size: 2}\n")
    steps = {"a": {**EVALUATION, "answer_engine": "vllm"}, "b": EVALUATION}
    executed(paths, planned_of(tmp_path, steps=steps), 2)
    assert workers.variables["x-a"] == {}
    assert workers.variables["x-b"]["CUDA_VISIBLE_DEVICES"] in ("2", "5")


def test_a_run_that_is_removed_meanwhile_has_failed_and_the_others_go_on(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds = 0.5
    removed: list[str] = []

    def tick(text: str) -> None:
        if ";" in text and not removed:
            removed.append("x-kd")
            with Store(paths.store) as store:
                store.db.execute("DELETE FROM runs WHERE id = 'x-kd'")

    results = run_sweep(paths, planned_of(tmp_path), lambda _: None, tick, jobs=2)
    assert [r.status for r in results] == ["failed", "finished", "skipped", "skipped"]


@pytest.mark.parametrize(
    ("slot", "abreast", "device", "environ", "cores", "gpus", "want"),
    [
        (0, 2, "auto", {}, 8, [], {"OMP_NUM_THREADS": "4"}),
        (1, 3, "cpu", {}, 8, ["0", "1"], {"OMP_NUM_THREADS": "2"}),
        (1, 5, "auto", {}, 2, [], {"OMP_NUM_THREADS": "1"}),
        (0, 1, "auto", {}, 8, [], {}),
        (0, 2, "auto", {"OMP_NUM_THREADS": "7"}, 8, [], {}),
        (1, 2, "auto", {}, 8, ["0"], {}),
        (3, 4, "cuda", {}, 8, ["0", "GPU-b"], {"CUDA_VISIBLE_DEVICES": "GPU-b"}),
        (0, 2, "cuda:1", {}, 8, ["0", "1"], {"OMP_NUM_THREADS": "4"}),
    ],
)
def test_share_of_the_machine(
    slot: int,
    abreast: int,
    device: str,
    environ: dict[str, str],
    cores: int,
    gpus: list[str],
    want: dict[str, str],
) -> None:
    assert machine_share(slot, abreast, device, environ, cores, gpus) == want


def a_run(name: str, *needs: str) -> PlannedRun:
    return PlannedRun(name, "s", ANY_CONFIG, needs, {})


def runs_needing(needs: list[set[int]]) -> list[PlannedRun]:
    """Return a run for each set of the numbers of earlier runs that it needs."""
    return [a_run(f"r{n}", *(f"r{m}" for m in sorted(who) if m < n)) for n, who in enumerate(needs)]


def test_the_longest_chain_starts_first() -> None:
    """The demo's evaluations of what is trained already would hold up its alignment."""
    planned = [
        a_run("kd"),
        a_run("score-kd", "kd"),
        a_run("expert", "kd"),
        a_run("rate-kd", "kd", "published"),
        a_run("dae", "kd", "expert"),
        a_run("score-dae", "dae"),
    ]
    order = [one.name for one in by_longest_chain(planned)]
    assert order == ["kd", "expert", "dae", "score-kd", "rate-kd", "score-dae"]
    assert by_longest_chain([]) == []


@given(st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=6))
def test_chains_keep_needs_first(needs: list[set[int]]) -> None:
    planned = runs_needing(needs)
    order = by_longest_chain(planned)
    place = {one.name: index for index, one in enumerate(order)}
    assert sorted(place) == sorted(one.name for one in planned)
    assert all(place[need] < place[one.name] for one in planned for need in one.needs)


@given(
    needs=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=6),
    jobs=st.integers(1, 4),
    broken=st.sets(st.integers(0, 5)),
)
def test_any_order_keeps_to_needs_and_room(
    needs: list[set[int]], jobs: int, broken: set[int]
) -> None:
    """Whatever depends on what, by a crew whose runs end one by one, the longest first."""
    planned = runs_needing(needs)
    ended: list[str] = []
    most = 0

    class Crew(running._Crew):
        def _start(self, one: PlannedRun) -> None:
            assert all(self.results[need].status == "finished" for need in one.needs)
            self.live[one.name] = running._Live(one, 0.0, 0)

        def _look(self, tick: running.Tick) -> None:
            nonlocal most
            most = max(most, len(self.live))
            if self.live:
                name, live = self.live.popitem()
                failed = int(name[1:]) in broken
                self._ended(live.planned, "failed" if failed else "finished", 0.0)
                ended.append(name)

    crew = Crew(None, None, planned, jobs, lambda _: None, None, None)  # type: ignore[arg-type]
    crew.work(lambda _: None)
    assert most <= jobs and set(crew.results) == {one.name for one in planned}
    for one in planned:
        waits = any(crew.results[need].status != "finished" for need in one.needs)
        failed = int(one.name[1:]) in broken
        want = "skipped" if waits else "failed" if failed else "finished"
        assert crew.results[one.name].status == want


# ---------------------------------------------------------------- failures, stop, pause


def test_what_fails_leaves_the_others_running(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.broken = {"x-kd"}
    results = executed(paths, planned_of(tmp_path), 2)
    assert [r.status for r in results] == ["failed", "finished", "skipped", "skipped"]
    assert results[3].note == "needs x-expert, which was skipped"


@pytest.mark.parametrize("error", [Interrupted("enough"), KeyboardInterrupt()])
def test_a_stop_reaches_all_that_run_and_is_waited_for(
    workers: Workers, paths: Paths, tmp_path: Path, error: BaseException
) -> None:
    workers.seconds = 60
    raised: list[int] = []

    def tick(text: str) -> None:
        if ";" in text and not raised:
            raised.append(1)
            raise error

    planned = planned_of(tmp_path)
    with pytest.raises(Interrupted, match="x-kd, x-other were stopped") as caught:
        run_sweep(paths, planned, lambda _: None, tick, jobs=2)
    assert caught.value.hint == "run the same command again to continue"
    assert {stored_run(paths, n).status for n in ("x-kd", "x-other")} == {RunStatus.STOPPED}
    workers.seconds = 0.02
    assert {r.status for r in executed(paths, planned, 2)} == {"finished"}


def test_a_second_ctrl_c_kills_all(
    workers: Workers, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.seconds = 2
    # These workers do not listen.
    monkeypatch.setattr(Store, "take_requests", lambda *_: [])
    killed: list[str] = []
    monkeypatch.setattr(running, "kill_worker", lambda store, name: killed.append(name))

    def tick(text: str) -> None:
        if ";" in text:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="x-kd, x-other were killed; what they had stored"):
        run_sweep(paths, planned_of(tmp_path), lambda _: None, tick, jobs=2)
    assert killed == ["x-kd", "x-other"]


def test_stopping_one_stops_those_beside_it(workers: Workers, paths: Paths, tmp_path: Path) -> None:
    workers.seconds = 60
    stopping = in_thread(
        lambda: (wait_until(lambda: len(workers.spawned) == 2), ask_stop(paths))[1]
    )
    with pytest.raises(Interrupted, match="x-kd, x-other were stopped"):
        executed(paths, planned_of(tmp_path), 2)
    stopping.join()


def ask_stop(paths: Paths) -> None:
    launch.ask(paths, "x-other", Request.STOP)


def test_a_stop_between_runs_says_so_and_stops_those_that_run(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds = 60

    def begin(one: PlannedRun) -> None:
        if one.name == "x-other":
            raise Interrupted("enough")

    with pytest.raises(Interrupted, match="x-kd was stopped"):
        executed(paths, planned_of(tmp_path), 2, begin=begin)
    assert workers.spawned == ["x-kd"]


@pytest.mark.slow
def test_detached_experiment_shows_pauses_and_resumes_all_that_run(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds = 0.8
    steps = {name: STEPS[name] for name in ("kd", "other")}
    start_sweep(paths, sweep_file(tmp_path, steps=steps), jobs=2)
    both = ("x-kd", "x-other")
    seen: list[object] = []

    def all_are(status: RunStatus) -> bool:
        return all(stored_run(paths, name).status is status for name in both)

    def pause() -> None:
        wait_until(lambda: set(both) <= set(workers.spawned))
        seen.append(runs_at_work(stored_run(paths, "sweep-x")))
        launch.ask(paths, "sweep-x", Request.PAUSE)
        wait_until(lambda: all_are(RunStatus.PAUSED))
        launch.resume(paths, "sweep-x")
        wait_until(lambda: all_are(RunStatus.RUNNING))
        seen.append("resumed")

    pausing = in_thread(pause)
    assert work(paths, "sweep-x", resume=False) == 0
    pausing.join()
    assert seen == [list(both), "resumed"]
    assert stored_run(paths, "sweep-x").config["jobs"] == 2


# ---------------------------------------------------------------- the commands


def test_jobs_of_the_command_and_of_the_file(
    workers: Workers, paths: Paths, tmp_path: Path, kd: CommandLine
) -> None:
    workers.seconds = 0.2
    file = sweep_file(tmp_path, steps=STEPS, jobs=2)
    assert kd("sweep", str(file))[0] == 0
    assert workers.variables["x-kd"] == {"OMP_NUM_THREADS": "4"}
    for run in ("x-kd", "x-other"):
        workers.variables.pop(run)
    file.write_text(yaml.safe_dump({"name": "y", "steps": STEPS, "jobs": 2}, sort_keys=False))
    assert kd("sweep", str(file), "--jobs", "1")[0] == 0
    assert workers.variables["y-kd"] == {}


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5"])
def test_jobs_that_are_no_number_are_refused(tmp_path: Path, kd: CommandLine, jobs: str) -> None:
    file = sweep_file(tmp_path, steps=STEPS)
    code, _, err = kd("sweep", str(file), "--jobs", jobs)
    assert code == 2 and "--jobs" in err
    bad = sweep_file(tmp_path, steps=STEPS, jobs=yaml.safe_load(jobs))
    code, _, err = kd("sweep", str(bad), "--dry-run")
    assert code != 0 and "jobs" in err


def test_the_demo_takes_turns_where_two_do_not_fit() -> None:
    assert demo_jobs(2, MEMORY_OF_TWO) == 2
    assert demo_jobs(1, MEMORY_OF_TWO) == 1
    assert demo_jobs(8, MEMORY_OF_TWO - 1) == 1
