"""Benchmarks of judging: `python tests/bench/bench_judges.py [client] [scores] [local] [ifeval]`.

client  1,600 stored verdicts from a server with 250 ms latency, 32 concurrent: wall time against
        the ideal 12.5 s, CPU time per call against a bare loop over the openai client, memory
scores  200 checkpoints x 5,215 judgments of four benchmarks with intervals, cold and cached
local   SmolLM2's tokens per second, batched against one prompt at a time
ifeval  541 answers checked, once with the models of languages and sentences still to be read
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.store import Store
from kdharness.harness.types import (
    Checkpoint,
    GenerationRequest,
    Judgment,
    JudgmentStatus,
)

CALLS, DELAY, CONCURRENCY = 1600, 0.25, 32
CHECKPOINTS = 200
SERVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from support.loopback import Loopback, completion
with Loopback(delay=float(sys.argv[2]), keep_bodies=False,
              answer=lambda body: completion("A fair answer. Rating: [[7]]")) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def start_server() -> tuple[subprocess.Popen[str], str]:
    """Start a server in a separate process, so that its CPU time is not counted."""
    folder = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, folder, str(DELAY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def cpu_seconds() -> float:
    """Return the user and system CPU seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mb() -> float:
    """Return the current resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def prompts(count: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            (
                {"role": "system", "content": "You grade."},
                {"role": "user", "content": f"Question {n}. " + "words " * 300},
            )
        )
        for n in range(count)
    ]


async def bare_loop(url: str, count: int) -> None:
    """Run a minimal loop over the same client."""
    import openai

    semaphore = asyncio.Semaphore(CONCURRENCY)
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:

        async def call(request: GenerationRequest) -> None:
            async with semaphore:
                await client.chat.completions.create(
                    model="judge-1",
                    messages=list(request.messages),
                    max_tokens=2048,
                    temperature=0,
                )

        await asyncio.gather(*(call(request) for request in prompts(count)))


def bench_client() -> dict[str, Any]:
    """Measure the whole path: benchmark, client, verdicts, store."""
    from kdharness.harness.config.evaluation import EvalConfig
    from kdharness.harness.evaluation import pipeline
    from kdharness.harness.protocols import NullReporter
    from support.benchmark_files import write_mt_bench
    from support.store_rows import add_mt_bench_answers

    process, url = start_server()
    try:
        asyncio.run(bare_loop(url, 64))
        before = cpu_seconds()
        asyncio.run(bare_loop(url, CALLS // 4))
        bare_ms = 1000 * (cpu_seconds() - before) / (CALLS // 4)
        with tempfile.TemporaryDirectory() as folder:
            paths = Paths(Path(folder))
            write_mt_bench(paths.assets / "mt-bench", per_category=CALLS // 8)
            with Store(paths.store) as store:
                add_mt_bench_answers(store, CALLS // 2, lambda *_: "An answer. " * 60)
                config = EvalConfig(
                    imported=["a"],
                    benches=["mt-bench"],
                    limit=32,
                    concurrency=CONCURRENCY,
                    judge=[f"openai:judge-1@{url}"],
                )
                pipeline.run(config, paths, store, NullReporter())
                start_mb, before, started = resident_mb(), cpu_seconds(), time.perf_counter()
                full_config = config.model_copy(update={"limit": None, "seed": 1})
                pipeline.run(full_config, paths, store, NullReporter())
                wall, used = time.perf_counter() - started, cpu_seconds() - before
                grown = resident_mb() - start_mb
                stored = sum(1 for j in store.judgments() if j.status is JudgmentStatus.OK)
    finally:
        process.terminate()
    calls = CALLS - 64
    ideal = calls * DELAY / CONCURRENCY
    return {
        "calls": calls,
        "stored": stored,
        "seconds": round(wall, 2),
        "of ideal": round(wall / ideal, 3),
        "processor ms a call": round(1000 * used / calls, 2),
        "bare loop ms a call": round(bare_ms, 2),
        "of bare": round(1000 * used / calls / bare_ms, 2),
        "grown MB": round(grown, 1),
    }


def bench_scores() -> dict[str, Any]:
    """Measure a cold and a cached leaderboard."""
    from kdharness.harness.analysis.leaderboard import leaderboard

    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "k.db") as store:
        began = time.perf_counter()
        _fill(store, CHECKPOINTS)
        started, processor = time.perf_counter(), time.process_time()
        cold = leaderboard(store)
        middle, processor = time.perf_counter(), time.process_time() - processor
        warm = leaderboard(store)
        ended = time.perf_counter()
    assert cold == warm and len({score.bench for score in cold}) == 4
    return {
        "scores": len(cold),
        "build s": round(started - began, 1),
        "cold s": round(middle - started, 3),
        "cold processor s": round(processor, 3),
        "cached s": round(ended - middle, 3),
    }


def _fill(store: Store, count: int) -> None:
    """Store checkpoints with judgments: those of one, and copies with other values.

    SQLite copies rows ten times faster than Python makes them; indexes and counters are made last.
    """
    for number in range(count):
        name = f"c{number}"
        store.add_checkpoint(
            Checkpoint(id=name, name=name, method="kd", path="", created=float(number))
        )
    store.add_judgments(_judgments("c0", random.Random(0)))
    db = store.db
    made = db.execute(
        "SELECT sql, type, name FROM sqlite_master WHERE tbl_name = 'judgments' "
        "AND type IN ('index', 'trigger') AND sql IS NOT NULL"
    ).fetchall()
    columns = [row[1] for row in db.execute("PRAGMA table_info(judgments)").fetchall()]
    another = {
        "id": "? || id",
        "checkpoint": "?",
        # Another judgment's value: of the same metric, a random number of rows further on.
        "value": "CASE WHEN abs(random()) % 3 THEN value ELSE lead(value, ?, value) "
        "OVER (PARTITION BY metric ORDER BY rowid) END",
    }
    chosen = ", ".join(another.get(column, f'"{column}"') for column in columns)
    names = ", ".join(f'"{column}"' for column in columns)
    with db.atomic():
        for _, kind, name in made:
            db.execute(f"DROP {kind} {name}")
        db.execute(f"CREATE TEMP TABLE first AS SELECT {names} FROM judgments")
        for number in range(1, count):
            name = f"c{number}"
            marks = [name if column != "value" else 1 + number % 50 for column in another]
            db.execute(
                f"INSERT INTO judgments ({names}) SELECT {chosen} FROM temp.first",
                marks,
            )
        for sql, _, _ in made:
            db.execute(sql)
        db.execute("DELETE FROM judgment_groups")
        db.execute(
            "INSERT INTO judgment_groups (checkpoint, bench, revision, judge, changes) "
            "SELECT checkpoint, bench, revision, judge, COUNT(*) FROM judgments GROUP BY 1, 2, 3, 4"
        )


def _judgments(checkpoint: str, rng: random.Random) -> list[Judgment]:
    def make_judgment(
        bench: str, item: int, turn: int, metric: str, value: float, **info: Any
    ) -> Judgment:
        return Judgment(
            id=f"{checkpoint}{bench}{item}.{turn}",
            checkpoint=checkpoint,
            bench=bench,
            revision="r",
            item=str(item),
            turn=turn,
            category=f"c{item % 8}",
            judge="openai:x",
            metric=metric,
            status=JudgmentStatus.OK,
            created=float(item),
            value=value,
            raw="words " * 250,
            info=info,
        )

    ratings = [
        make_judgment("mt-bench", q, t, "rating", float(rng.randint(1, 10)))
        for q in range(81, 161)
        for t in (1, 2)
    ]
    preferences = [
        make_judgment(
            "alpaca-eval-2",
            q,
            1,
            "preference",
            1 + rng.betavariate(0.2, 0.5),
            len_1=rng.randint(100, 3000),
            len_2=rng.randint(100, 3000),
        )
        for q in range(805)
    ]
    style = {"headers": 0.0, "lists": 0.01, "bold": 0.0}
    battles = [
        replace(
            make_judgment(
                "arena-hard-v2",
                q,
                1,
                "hard_prompt" if q < 500 else "creative_writing",
                value,
                len_1=rng.randint(100, 3000),
                len_2=rng.randint(100, 3000),
                **style,
            ),
            id=f"{checkpoint}arena{q}.{order}",
            order=order,
        )
        for q in range(750)
        for order, value in enumerate(rng.choices([0.0, 0.5, 1.0], k=2))
    ]
    # 541 prompts with 834 instructions, strict and loose.
    kinds = [("prompt", q) for q in range(541)] + [("inst", q % 541) for q in range(834)]
    followed = [
        replace(
            make_judgment("ifeval", q, 1, f"{kind}_{how}", float(rng.random() < 0.5)),
            id=f"{checkpoint}ifeval{n}{how}",
            judge="exact",
            category=f"kind {n % 25}",
            raw="followed",
            order=n,
        )
        for n, (kind, q) in enumerate(kinds)
        for how in ("strict", "loose")
    ]
    return [*ratings, *preferences, *battles, *followed]


def bench_local() -> dict[str, Any]:
    """Compare batched generation with one prompt at a time, on the same prompts and tokens."""
    import torch

    from kdharness.judges.engines.local import LocalEngine

    torch.set_num_threads(2)
    paths = find_paths()
    topics = ["rivers", "bread", "chess", "glaciers", "tax", "violins", "bees", "concrete"]
    texts = [f"Write at length about {a} and {b}." for a in topics for b in topics if a != b][:32]
    requests = [GenerationRequest(({"role": "user", "content": text},), 0.0, 96) for text in texts]
    speeds = {}
    for name, size, part in (("one", 1, requests[:6]), ("batched", 32, requests)):
        engine = LocalEngine("smollm2-135m-instruct", paths, batch_size=size)
        dict(engine.stream(requests[:1]))
        started = time.perf_counter()
        replies = dict(engine.stream(part))
        elapsed = time.perf_counter() - started
        speeds[name] = sum(reply.tokens for reply in replies.values()) / elapsed
    return {
        "one tok/s": round(speeds["one"], 1),
        "batched tok/s": round(speeds["batched"], 1),
        "times": round(speeds["batched"] / speeds["one"], 2),
    }


def bench_ifeval() -> dict[str, Any]:
    """Check an answer of 1,500 characters to every prompt; the assets are pulled if need be."""
    from kdharness.harness import assets
    from kdharness.harness.config.evaluation import EvalConfig
    from kdharness.harness.types import Answer, Finish
    from kdharness.judges.benchmarks.ifeval import ASSETS, IFEval

    paths = find_paths()
    for name in ASSETS:
        assets.pull(paths, name)
    bench = IFEval.load(paths, EvalConfig())
    answers = [
        Answer(
            i.id,
            "c",
            "ifeval",
            "",
            i.id,
            1,
            (f"{i.turns[0]} " * 30)[:1500].lower(),
            Finish.STOP,
            "",
            "",
            0.0,
        )
        for i in bench.items
    ]
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        bench.exact(answers)
        seconds.append(round(time.perf_counter() - started, 2))
    return {"answers": len(answers), "first s": seconds[0], "then s": seconds[1]}


def main() -> None:
    """Run the named benchmarks, or all of them."""
    benches = {
        "client": bench_client,
        "scores": bench_scores,
        "local": bench_local,
        "ifeval": bench_ifeval,
    }
    for name in sys.argv[1:] or benches:
        print(json.dumps({"bench": name, **benches[name]()}), flush=True)


if __name__ == "__main__":
    main()
