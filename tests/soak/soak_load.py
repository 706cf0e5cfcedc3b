"""A store of 5 GB under its commands and screens: `python tests/soak/soak_load.py [--home DIR]`.

2,000 runs, 5 million points, 1 million judgments. Every listing command is timed as a process,
cold and again; the app's figures may be twice those of `make bench`. The store is kept in --home
for the next time. `--minutes N` then lets four workers and two apps at it and looks for a single
"database is locked".
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import random
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
WORDS = "The answer keeps to the question, gives its reasons in order and does not ramble. " * 29
ANSWERS = 600
"""Answers of each checkpoint, as long as a judge's words."""

COMMANDS: list[tuple[list[str], float]] = [
    # What a person waits for, in seconds on an idle machine of 2 cores; may be twice that.
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
AGAIN = {"leaderboard": 2.5, "tradeoff": 3.0}
"""Seconds of the second call, where figures that were worked out once are read again."""

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


def fill(paths: Paths) -> None:
    """The bench's store at this size, with judges' words and answers."""
    plain = bench_app.judgments

    def with_words(checkpoint: str, skill: float, now: float) -> list[Judgment]:
        return [dataclasses.replace(row, raw=WORDS) for row in plain(checkpoint, skill, now)]

    bench_app.judgments = with_words
    bench_app.build(paths)
    with Store(paths.store) as store:
        for made in store.checkpoints():
            store.add_answers(
                Answer(
                    id=f"{made.id}-{n}",
                    checkpoint=made.id,
                    bench="mt-bench",
                    revision="r",
                    item=f"q{n // 2}",
                    turn=1 + n % 2,
                    text=WORDS,
                    finish=Finish.STOP,
                    prompt_hash="",
                    settings="",
                    created=1.0,
                )
                for n in range(ANSWERS)
            )


def time_commands(paths: Paths) -> bool:
    """Print seconds and peak memory of each command; whether all keep to twice their figures."""
    good = True
    with Store(paths.store) as store, store.db.atomic():
        store.db.execute("DELETE FROM score_cache")
    for args, figure in COMMANDS:
        for turn in ("first", "again"):
            limit = AGAIN.get(args[0], figure) if turn == "again" else figure
            began = time.perf_counter()
            done = subprocess.run([*app_command(paths.home), *args], capture_output=True, text=True)
            took = time.perf_counter() - began
            ok = took <= 2 * limit and done.returncode == 0
            good &= ok
            name = " ".join(args)
            print(
                f"{'ok  ' if ok else 'MISS'} {name:<32} {turn}  {took:6.2f} s (figure {limit:g} s)",
                flush=True,
            )
            if done.returncode:
                print(done.stderr[-500:])
    return good


def screens(paths: Paths) -> bool:
    """The app's figures on this store, each at most twice that of `make bench`."""
    found = asyncio.run(bench_app.screens(paths))
    bare, _, big = bench_app.first_paints(paths.home, 3)
    p95, share = bench_app.under_load(paths, 10)
    rows = [
        ("first paint / bare app", big / bare, 1.3, "×"),
        ("leaderboard opens (scores cached)", found["leaderboard warm"] * 1e3, 300, "ms"),
        ("leaderboard sorts", found["sort warm"] * 1e3, 100, "ms"),
        ("trade-off opens", found["tradeoff warm"] * 1e3, 500, "ms"),
        ("key to paint, p95, four runs writing", p95 * 1e3, 50, "ms"),
        ("CPU at rest, four runs writing", share * 100, 3, "%"),
    ]
    print(f"leaderboard without cached scores {found['leaderboard cold']:.2f} s")
    for name, value, figure, unit in rows:
        mark = "ok  " if value <= 2 * figure else "MISS"
        print(f"{mark} {name:<38} {value:8.2f} {unit} (figure {figure})", flush=True)
    return all(value <= 2 * figure for _, value, figure, _ in rows)


def together(paths: Paths, seconds: float) -> bool:
    """Four workers, two apps and the commands at one store; whether nobody was locked out."""
    complaints: list[str] = []
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
                if bench_app.select.select([terminal.fd], [], [], 0.05)[0]:
                    seen += os.read(terminal.fd, 65536)
            if b"locked" in seen or b"Traceback" in seen:
                complaints.append(f"app: {seen[-300:]!r}")
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
                    complaints.append(f"{args}: {done.stderr[-300:]}")
                time.sleep(2)

    threads = [threading.Thread(target=work) for work in (app, app, commands)]
    for thread in threads:
        thread.start()
    steps = 0
    for worker in workers:
        out, err = worker.communicate()
        steps += int(out.split()[-1]) if "steps" in out else 0
        if err or worker.returncode:
            complaints.append(f"worker: {err[-500:]}")
    for thread in threads:
        thread.join()
    with Store(paths.store) as store:
        for name in names:
            store.update_run(name, status=RunStatus.FINISHED.value)
        stored = sum(len(store.curve(name, "loss")) for name in names)
        whole = store.db.execute("PRAGMA quick_check(1)").fetchone()[0]
    print(
        f"{seconds / 60:.0f} minutes: {steps} steps of four workers, {calls} commands, "
        f"{len(complaints)} complaints; the store: {whole}"
    )
    for complaint in complaints[:10]:
        print(complaint)
    return not complaints and whole == "ok" and stored >= steps


def main(words: list[str] | None = None) -> int:
    """Fill, measure, let them at it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="keep the store here")
    parser.add_argument("--minutes", type=float, default=60.0, help="of workers and apps together")
    parser.add_argument("--only", choices=["commands", "screens", "together"])
    args = parser.parse_args(words)
    os.environ.pop("NO_COLOR", None)
    with tempfile.TemporaryDirectory(prefix="kdharness-load-") as scratch:
        paths = Paths((args.home or Path(scratch)).resolve())
        if not paths.store.exists():
            began = time.perf_counter()
            fill(paths)
            print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
        print(f"the store has {paths.store.stat().st_size / 2**30:.2f} GiB", flush=True)
        good = True
        if args.only in (None, "commands"):
            good &= time_commands(paths)
        if args.only in (None, "screens"):
            good &= screens(paths)
        if args.only in (None, "together") and args.minutes:
            good &= together(paths, args.minutes * 60)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
