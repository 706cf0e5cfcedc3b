"""Load test of a 5 GB store, with commands and screens: `tests/soak/soak_load.py [--home DIR]`.

2,000 runs, 5 million points, 1 million judgments. Times every listing command as a process, cold
and warm; the app may take twice the limits of `make bench`. The store is kept in --home for reuse.
`--minutes N` then runs four workers and two apps on it and fails on any "database is locked".
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import random
import select
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "bench")]

import bench_app

from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import process_started
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Finish, Judgment, Run, RunStatus
from support.terminal import Terminal, app_command

bench_app.RUNS, bench_app.STEPS, bench_app.CHECKPOINTS = 2000, 313, 250
JUDGE_REPLY = (
    "The answer keeps to the question, gives its reasons in order and does not ramble. " * 29
)
ANSWERS = 600
"""Answers per checkpoint, each as long as a judge's reply."""

COMMANDS: list[tuple[list[str], float]] = [
    # Seconds on an idle machine with 2 cores; twice that is accepted.
    (["runs"], 1.0),
    (["show", "run-1999"], 1.0),
    (["leaderboard"], 12.0),
    (["compare", "run-0001", "run-0002"], 3.0),
    (["tradeoff"], 6.0),
    (["judge", "list"], 1.0),
    (["export", "model-card", "run-0001"], 2.0),
    (["store", "prune"], 2.0),
    (["doctor"], 15.0),
]
SECOND_CALL = {"leaderboard": 2.5, "tradeoff": 3.0}
"""Seconds of the second call, for commands with cached scores."""

WORKER = """
import random, sys, time
from kdharness.harness.store import Store
from kdharness.harness.types import Judgment, JudgmentStatus, Request
path, run, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
store, other, end, step = Store(path), Store(path), time.time() + seconds, 0
while time.time() < end:
    step += 1
    now = time.time()
    store.add_progress(run, points=[(name, step, random.random(), now) for name in
                       ("loss", "kl", "general_loss")], step=step, heartbeat=now,
                       events=[(now, "note", f"step {step}", {})] if step % 20 == 0 else [])
    other.update_run(run, heartbeat=time.time())
    store.take_requests(run)
    store.add_judgments([Judgment(id=f"{run}-{step}-{n}", checkpoint="id-run-0001", bench="shop",
        revision="r2", item=f"{run}-{n}", turn=1, category="math", judge="exact", metric="accuracy",
        status=JudgmentStatus.OK, created=now, value=1.0, raw="word " * 300) for n in range(4)])
    time.sleep(0.2)
print("steps", step)
"""


def fill_big_store(paths: Paths) -> None:
    """Fill the benchmark store at this size, with judge replies and answers."""
    original = bench_app.skill_judgments

    def with_judge_reply(checkpoint: str, skill: float, now: float) -> list[Judgment]:
        return [
            dataclasses.replace(row, raw=JUDGE_REPLY) for row in original(checkpoint, skill, now)
        ]

    bench_app.skill_judgments = with_judge_reply
    bench_app.build(paths)
    with Store(paths.store) as store:
        for checkpoint in store.checkpoints():
            store.add_answers(
                Answer(
                    id=f"{checkpoint.id}-{n}",
                    checkpoint=checkpoint.id,
                    bench="mt-bench",
                    revision="r",
                    item=f"q{n // 2}",
                    turn=1 + n % 2,
                    text=JUDGE_REPLY,
                    finish=Finish.STOP,
                    prompt_hash="",
                    settings="",
                    created=1.0,
                )
                for n in range(ANSWERS)
            )


def time_commands(paths: Paths) -> bool:
    """Print the seconds of each command; return whether all are within twice their limits."""
    good = True
    with Store(paths.store) as store, store.db.atomic():
        store.db.execute("DELETE FROM score_cache")
    for args, first_limit in COMMANDS:
        for turn in ("first", "again"):
            limit = SECOND_CALL.get(args[0], first_limit) if turn == "again" else first_limit
            began = time.perf_counter()
            done = subprocess.run([*app_command(paths.home), *args], capture_output=True, text=True)
            wall = time.perf_counter() - began
            ok = wall <= 2 * limit and done.returncode == 0
            good &= ok
            name = " ".join(args)
            print(
                f"{'ok  ' if ok else 'MISS'} {name:<32} {turn}  {wall:6.2f} s (figure {limit:g} s)",
                flush=True,
            )
            if done.returncode:
                print(done.stderr[-500:])
    return good


def time_screens(paths: Paths) -> bool:
    """Measure the app; return whether all values are within twice the limits of `make bench`."""
    screen_seconds = asyncio.run(bench_app.screens(paths))
    bare, _, big = bench_app.first_paints(paths.home, 3)
    p95, share = bench_app.under_load(paths, 10)
    rows = [
        ("first paint / bare app", big / bare, 1.3, "×"),
        ("leaderboard opens (scores cached)", screen_seconds["leaderboard warm"] * 1e3, 300, "ms"),
        ("leaderboard sorts", screen_seconds["sort warm"] * 1e3, 100, "ms"),
        ("trade-off opens", screen_seconds["tradeoff warm"] * 1e3, 500, "ms"),
        ("key to paint, p95, four runs writing", p95 * 1e3, 50, "ms"),
        ("CPU at rest, four runs writing", share * 100, 3, "%"),
    ]
    print(f"leaderboard without cached scores {screen_seconds['leaderboard cold']:.2f} s")
    for name, value, limit, unit in rows:
        mark = "ok  " if value <= 2 * limit else "MISS"
        print(f"{mark} {name:<38} {value:8.2f} {unit} (figure {limit})", flush=True)
    return all(value <= 2 * limit for _, value, limit, _ in rows)


def run_concurrently(paths: Paths, seconds: float) -> bool:
    """Run four workers, two apps and commands on one store; return whether none was locked out."""
    failures: list[str] = []
    names = [f"soak-{n}" for n in range(4)]
    with Store(paths.store) as store:
        for name in names:
            if store.run(name) is None:
                store.add_run(
                    Run(
                        id=name,
                        method="kd",
                        status=RunStatus.RUNNING,
                        config={},
                        config_hash="",
                        folder="",
                        created=time.time(),
                    )
                )
    end = time.time() + seconds
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(paths.store), name, str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    with Store(paths.store) as store:
        for name, worker in zip(names, workers, strict=True):
            store.update_run(name, pid=worker.pid, pid_started=process_started(worker.pid))

    def app() -> None:
        terminal = Terminal(app_command(paths.home))
        terminal.wait_for(b"soak-", 60)
        while time.time() < end:
            seen = b""
            for key in (random.choice([b"2", b"3", b"1", b"j", b"k", b"s", b"5"]),):
                os.write(terminal.fd, key)
            limit = time.time() + 0.7
            while time.time() < limit:
                if select.select([terminal.fd], [], [], 0.05)[0]:
                    seen += os.read(terminal.fd, 65536)
            if b"locked" in seen or b"Traceback" in seen:
                failures.append(f"app: {seen[-300:]!r}")
        terminal.close()

    calls = 0

    def commands() -> None:
        nonlocal calls
        while time.time() < end:
            for args in (
                ["runs"],
                ["leaderboard"],
                ["show", "soak-0"],
                ["stop", "soak-1", "--no-wait"],
                ["compare", "run-0001", "run-0002"],
            ):
                done = subprocess.run(
                    [*app_command(paths.home), *args], capture_output=True, text=True
                )
                calls += 1
                if "locked" in done.stderr or done.returncode:
                    failures.append(f"{args}: {done.stderr[-300:]}")
                time.sleep(2)

    threads = [threading.Thread(target=work) for work in (app, app, commands)]
    for thread in threads:
        thread.start()
    steps = 0
    for worker in workers:
        out, err = worker.communicate()
        steps += int(out.split()[-1]) if "steps" in out else 0
        if err or worker.returncode:
            failures.append(f"worker: {err[-500:]}")
    for thread in threads:
        thread.join()
    with Store(paths.store) as store:
        for name in names:
            store.update_run(name, status=RunStatus.FINISHED.value)
        stored = sum(len(store.curve(name, "loss")) for name in names)
        integrity = store.db.execute("PRAGMA quick_check(1)").fetchone()[0]
    print(
        f"{seconds / 60:.0f} minutes: {steps} steps of four workers, {calls} commands, "
        f"{len(failures)} complaints; the store: {integrity}"
    )
    for failure in failures[:10]:
        print(failure)
    return not failures and integrity == "ok" and stored >= steps


def main(argv: list[str] | None = None) -> int:
    """Fill the store, then run all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="keep the store here")
    parser.add_argument("--minutes", type=float, default=60.0, help="of workers and apps together")
    parser.add_argument("--only", choices=["commands", "screens", "together"])
    args = parser.parse_args(argv)
    os.environ.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory(prefix="kdharness-load-") as scratch:
        paths = Paths((args.home or Path(scratch)).resolve())
        if not paths.store.exists():
            began = time.perf_counter()
            fill_big_store(paths)
            print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
        print(f"the store has {paths.store.stat().st_size / 2**30:.2f} GiB", flush=True)
        good = True
        if args.only in (None, "commands"):
            good &= time_commands(paths)
        if args.only in (None, "screens"):
            good &= time_screens(paths)
        if args.only in (None, "together") and args.minutes:
            good &= run_concurrently(paths, args.minutes * 60)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
