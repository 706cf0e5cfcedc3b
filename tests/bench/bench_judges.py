"""Figures of the judging side: `python tests/bench/bench_judges.py [client] [scores] [local]`.

client  1,600 verdicts from a server that takes 250 ms, 32 at once, each stored: wall time against
        the ideal 12.5 s, processor time a call against a bare loop over the openai client, memory
scores  200 checkpoints x 965 judgments with intervals, cold and from the cache
local   SmolLM2's tokens a second, batched against one prompt at a time
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
SERVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from support.loopback import Loopback, completion
with Loopback(delay=float(sys.argv[2]), keep_bodies=False,
              answer=lambda body: completion("A fair answer. Rating: [[7]]")) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def serve_apart() -> tuple[subprocess.Popen[str], str]:
    """A server in a process of its own, so that its work is not counted as ours."""
    folder = str(Path(__file__).resolve().parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, folder, str(DELAY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def processor() -> float:
    """User and system seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mb() -> float:
    """Resident MB now."""
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


async def bare(url: str, count: int) -> None:
    """The plainest loop over the same client."""
    import openai

    gate = asyncio.Semaphore(CONCURRENCY)
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:

        async def one(request: GenerationRequest) -> None:
            async with gate:
                await client.chat.completions.create(
                    model="judge-1",
                    messages=list(request.messages),
                    max_tokens=2048,
                    temperature=0,
                )

        await asyncio.gather(*(one(request) for request in prompts(count)))


def bench_client() -> dict[str, Any]:
    """The whole path: benchmark, client, verdicts, store."""
    from kdharness.harness.config.evaluation import EvalConfig
    from kdharness.harness.evaluation import pipeline
    from kdharness.harness.protocols import NullReporter
    from support.benchmark_files import write_mt_bench
    from support.store_rows import add_mt_bench_answers

    process, url = serve_apart()
    try:
        asyncio.run(bare(url, 64))
        before = processor()
        asyncio.run(bare(url, CALLS // 4))
        bare_ms = 1000 * (processor() - before) / (CALLS // 4)
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
                start_mb, before, started = resident_mb(), processor(), time.perf_counter()
                whole = config.model_copy(update={"limit": None, "seed": 1})
                pipeline.run(whole, paths, store, NullReporter())
                wall, used = time.perf_counter() - started, processor() - before
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
    """A cold and a cached leaderboard."""
    from kdharness.harness.analysis.leaderboard import leaderboard

    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "k.db") as store:
        chance = random.Random(0)
        for number in range(200):
            store.add_checkpoint(
                Checkpoint(
                    id=f"c{number}", name=f"c{number}", method="kd", path="", created=float(number)
                )
            )
            store.add_judgments(_judgments(f"c{number}", chance))
        started = time.perf_counter()
        cold = leaderboard(store)
        middle = time.perf_counter()
        warm = leaderboard(store)
        ended = time.perf_counter()
    assert cold == warm
    return {
        "scores": len(cold),
        "cold s": round(middle - started, 3),
        "cached s": round(ended - middle, 3),
    }


def _judgments(checkpoint: str, chance: random.Random) -> list[Judgment]:
    def one(bench: str, item: int, turn: int, metric: str, value: float, **info: Any) -> Judgment:
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
        one("mt-bench", q, t, "rating", float(chance.randint(1, 10)))
        for q in range(81, 161)
        for t in (1, 2)
    ]
    return ratings + [
        one(
            "alpaca-eval-2",
            q,
            1,
            "preference",
            1 + chance.betavariate(0.2, 0.5),
            len_1=chance.randint(100, 3000),
            len_2=chance.randint(100, 3000),
        )
        for q in range(805)
    ]


def bench_local() -> dict[str, Any]:
    """Batched generation against one prompt at a time: the same prompts, the same tokens."""
    import torch

    from kdharness.judges.engines.local import LocalEngine

    torch.set_num_threads(2)
    paths = find_paths()
    topics = ["rivers", "bread", "chess", "glaciers", "tax", "violins", "bees", "concrete"]
    texts = [f"Write at length about {a} and {b}." for a in topics for b in topics if a != b][:32]
    asked = [GenerationRequest(({"role": "user", "content": text},), 0.0, 96) for text in texts]
    speeds = {}
    for name, size, part in (("one", 1, asked[:6]), ("batched", 32, asked)):
        engine = LocalEngine("smollm2-135m-instruct", paths, batch_size=size)
        dict(engine.stream(asked[:1]))
        started = time.perf_counter()
        replies = dict(engine.stream(part))
        took = time.perf_counter() - started
        speeds[name] = sum(reply.tokens for reply in replies.values()) / took
    return {
        "one tok/s": round(speeds["one"], 1),
        "batched tok/s": round(speeds["batched"], 1),
        "times": round(speeds["batched"] / speeds["one"], 2),
    }


def main() -> None:
    """Run what is named, or all of it."""
    benches = {"client": bench_client, "scores": bench_scores, "local": bench_local}
    for name in sys.argv[1:] or benches:
        print(json.dumps({"bench": name, **benches[name]()}), flush=True)


if __name__ == "__main__":
    main()
