"""Fifty kills at random points of long-running work: `python tests/soak/soak_kill.py`.

Each part runs some work undisturbed, then the same work with repeated SIGKILLs, and compares: the
store opens, no finished work is lost or requested twice, and the results are identical. Uses real
commands and workers with tiny models. `--seed` changes the moments of the kills.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kdharness.harness.runs.status import find_run

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from kdharness.harness.models.validate import tensor_shapes
from kdharness.harness.store import Store
from kdharness.harness.types import JudgmentStatus, RunStatus
from kdharness.harness.util.atomic import is_sealed
from support.benchmark_files import write_mt_bench
from support.environment import isolate_environment
from support.soak import Soak, answers_of, run_names, soak_config, status
from support.store_rows import add_mt_bench_answers
from support.terminal import Terminal, app_command
from support.waiting import wait_until

isolate_environment()

SERVER = """
import sys, time
sys.path.insert(0, {tests!r})
from support.loopback import Loopback, a_judge
import json
log = open({log!r}, "a")
def answer(body):
    log.write(json.dumps(body["messages"][-1]["content"][-400:]) + "\\n")
    log.flush()
    return a_judge(body)
with Loopback(answer, port={port}, delay=0.05) as server:
    print("ready", flush=True)
    time.sleep(3600)
"""


# ---------------------------------------------------------------- training


def training(soak: Soak, kills: int) -> None:
    """A repeatedly killed run ends with the weights and curves of an undisturbed one."""
    home = soak.folder / "training"
    soak.run(home, "train", soak_config(soak, "calm"))
    soak.run(home, "train", soak_config(soak, "hit"), "--detach")
    done = 0
    while done < kills and status(home, "hit").is_live:
        with Store(home / "kdharness.db") as store:
            before = find_run(store, "hit")
            if soak.rng.random() < 0.3:
                time.sleep(soak.rng.uniform(0, 8))
            else:
                goal = before.step + soak.rng.randint(1, 12)
                wait_until(
                    lambda: (
                        find_run(store, "hit").step >= goal  # noqa: B023
                        or not status(home, "hit").is_live
                    )
                )
                time.sleep(soak.rng.uniform(0, 0.15))
            pid = find_run(store, "hit").pid
        if pid is None or not soak.kill("training", pid):
            break
        done += 1
        wait_until(lambda: not status(home, "hit").is_live)
        soak.check_store(home)
        if status(home, "hit") is RunStatus.FINISHED:
            break
        for folder in (home / "runs" / "hit").glob("checkpoint-*"):
            if is_sealed(folder):
                json.loads((folder / "trainer_state.json").read_text())
        soak.run(home, "resume", "hit", "--detach")
    wait_until(lambda: status(home, "hit") is RunStatus.FINISHED, 600)
    calm, hit = (home / "runs" / name / "final" / "model.safetensors" for name in ("calm", "hit"))
    assert calm.read_bytes() == hit.read_bytes(), "the weights differ"
    with Store(home / "kdharness.db") as store:
        for curve in ("loss", "general_loss"):
            assert store.curve("calm", curve) == store.curve("hit", curve), curve
    assert done >= kills // 2, f"only {done} kills came before the end"


def followers(soak: Soak, kills: int) -> None:
    """Killing the CLI or the app that follows a run does not affect the run."""
    home = soak.folder / "followers"
    trainer = {"learning_rate": 0.01, "max_steps": 30, "batch_size": 4, "device": "cpu"}
    for number in range(kills):
        name = f"run-{number}"
        follower = soak.start(home, "train", soak_config(soak, name, trainer=trainer))
        wait_until(lambda: (home / "kdharness.db").exists())
        wait_until(lambda: name in run_names(home))  # noqa: B023
        wait_until(lambda: status(home, name) is RunStatus.RUNNING)  # noqa: B023
        app = Terminal(app_command(home))
        app.wait_for(name.encode())
        app.drain(soak.rng.uniform(0, 1))
        assert soak.kill("command line", follower.pid) and follower.wait() == -signal.SIGKILL
        assert status(home, name).is_live
        app.close()
        soak.kills["app"] = soak.kills.get("app", 0) + 1
        wait_until(lambda: status(home, name) is RunStatus.FINISHED)  # noqa: B023
        soak.check_store(home)


# ---------------------------------------------------------------- caching


def caching(soak: Soak, kills: int) -> None:
    """A teacher cache whose build was killed has the same entries, without duplicates."""
    for number, cache in enumerate(({"k": 32}, {"kind": "hidden"})):
        build_and_kill(soak, cache, (kills + 1 - number) // 2)


def build_and_kill(soak: Soak, cache: dict[str, object], kills: int) -> None:
    kind = cache.get("kind", "top-k")
    entries = []
    for name, count in ((f"calm-{kind}", 0), (f"hit-{kind}", kills)):
        home = soak.folder / name
        teacher = {"model": str(soak.model), "cache": cache}
        data = {"train": {"path": "general:train", "limit": 600}, "max_length": 192}
        file = soak_config(
            soak,
            name,
            teacher=teacher,
            data=data,
            trainer={"max_steps": 4, "batch_size": 2, "device": "cpu", "attention_weight": 0.0},
        )
        for _ in range(count):
            building = soak.start(home, "cache", "build", file)
            grown = cache_bytes(home)
            wait_until(lambda: cache_bytes(home) > grown or building.poll() is not None)  # noqa: B023
            time.sleep(soak.rng.uniform(0, 0.6))
            if soak.kill("caching", building.pid):
                building.wait()
        soak.run(home, "cache", "build", file)
        entries.append(cached(home))
    assert entries[0].keys() == entries[1].keys() and len(entries[0]) > 100
    for key, value in entries[0].items():
        assert value == entries[1][key], "a cached row differs"


def cache_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in home.glob("cache/*/data-*.bin"))


def cached(home: Path) -> dict[str, bytes]:
    """Return key -> entry bytes for every complete entry of the single cache of a home."""
    (folder,) = [path for path in (home / "cache").iterdir() if path.is_dir()]
    note = json.loads((folder / "note.json").read_text())
    if note.get("kind") == "hidden":
        position = tensor_shapes(folder / "head.safetensors")["weight"][1] * 2
    else:
        position = int(note["k"]) * 8 + 4
    entries: dict[str, bytes] = {}
    for index in folder.glob("index-*.jsonl"):
        data = (folder / f"data-{index.stem.removeprefix('index-')}.bin").read_bytes()
        for line in index.read_text().splitlines():
            try:
                key, offset, count = json.loads(line)[:3]
            except ValueError:
                continue
            assert offset + count * position <= len(data), "an entry points past its data"
            assert key not in entries, "a row was computed twice though it was stored"
            entries[key] = data[offset : offset + count * position]
    return entries


# ---------------------------------------------------------------- answers and verdicts


def generating(soak: Soak, kills: int) -> None:
    """Answers are generated once; a killed evaluation ends with those of an undisturbed one."""
    texts = []
    for name, count in (("calm-answers", 0), ("hit-answers", kills)):
        home = soak.folder / name
        args = [
            "eval",
            "--ckpt",
            str(soak.model),
            "--bench",
            "shop",
            "--limit",
            "60",
            "--batch-size",
            "2",
            "--max-new-tokens",
            "24",
            "--device",
            "cpu",
        ]
        for _ in range(count):
            before = answers_of(home)
            out = soak.run(home, *args, "--detach").split()[-1]
            wait_until(
                lambda home=home, before=before, out=out: (
                    len(answers_of(home)) > len(before) or not status(home, out).is_live
                )
            )
            time.sleep(soak.rng.uniform(0, 0.4))
            with Store(home / "kdharness.db") as store:
                pid = find_run(store, out).pid
            if pid is not None and soak.kill("generating", pid):
                wait_until(lambda: not status(home, out).is_live)  # noqa: B023
            soak.check_store(home)
            after = answers_of(home)
            assert all(after[key] == value for key, value in before.items()), "made again"
        soak.run(home, *args)
        texts.append({key: text for key, (text, _) in answers_of(home).items()})
    assert texts[0] == texts[1] and len(texts[0]) == 60


def judging(soak: Soak, kills: int, server_kills: int) -> None:
    """Only judge calls in flight are repeated when the worker or the server is killed."""
    home, questions = soak.folder / "judging", 4 * 12
    write_mt_bench(home / "assets" / "mt-bench", per_category=12)
    with Store(home / "kdharness.db") as store:
        add_mt_bench_answers(store, questions)
    log, port = soak.folder / "asked.jsonl", free_port()
    code = SERVER.format(tests=str(TESTS), log=str(log), port=port)
    server = start_server(code)
    args = [
        "eval",
        "--answers",
        "a",
        "--bench",
        "mt-bench",
        "--judge",
        f"openai:judge-1@http://127.0.0.1:{port}/v1",
        "--concurrency",
        "2",
    ]
    victims = ["worker"] * kills + ["server"] * server_kills
    soak.rng.shuffle(victims)
    try:
        for victim in victims:
            stored, calls_before = verdicts(home), len(calls(log))
            run = soak.run(home, *args, "--detach").split()[-1]
            wait_until(lambda: len(calls(log)) > calls_before or not status(home, run).is_live)  # noqa: B023
            time.sleep(soak.rng.uniform(0, 0.5))
            if victim == "server":
                assert soak.kill("judge server", server.pid)
                server.wait()
                time.sleep(soak.rng.uniform(0, 1))
                server = start_server(code)
                time.sleep(0.5)
            with Store(home / "kdharness.db") as store:
                pid = find_run(store, run).pid
            if status(home, run).is_live and pid is not None and soak.kill("judging", pid):
                wait_until(lambda: not status(home, run).is_live)  # noqa: B023
            soak.check_store(home)
            repeated = {item_and_turn(text) for text in calls(log)[calls_before:]} & stored
            assert not repeated, f"stored verdicts were asked for again: {repeated}"
        soak.run(home, *args)
    finally:
        server.kill()
        server.wait()
    assert len(verdicts(home)) == 2 * questions
    in_flight = 2 * (len(victims) * 2)
    assert len(calls(log)) <= 2 * questions + in_flight, "more was asked than what was lost"


def start_server(code: str) -> subprocess.Popen[bytes]:
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    return server


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def calls(log: Path) -> list[str]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def item_and_turn(text: str) -> tuple[str, int]:
    item, turn = text.rsplit("<<", 1)[1].split(">>")[0].split(".")
    return item, int(turn)


def verdicts(home: Path) -> set[tuple[str, int]]:
    with Store(home / "kdharness.db") as store:
        return {(j.item, j.turn) for j in store.judgments() if j.status is JudgmentStatus.OK}


# ---------------------------------------------------------------- exporting


def exporting(soak: Soak, kills: int) -> None:
    """A killed export or report leaves either the complete old file or the complete new one."""
    home = soak.folder / "judging"
    report = soak.folder / "report.html"
    soak.run(home, "report", "--output", str(report))
    for number in range(kills):
        command = ("report", "export", "backup")[number % 3]
        folder, copy = soak.folder / f"export-{number}", soak.folder / f"copy-{number}.db"
        args = {
            "report": ["report", "--output", str(report)],
            "export": ["export", "fastchat", str(folder)],
            "backup": ["store", "backup", str(copy)],
        }[command]
        export = soak.start(home, *args)
        time.sleep(soak.rng.uniform(0.3, 1.8))
        if soak.kill("exporting", export.pid):
            export.wait()
        text = report.read_text("utf-8")
        assert text.rstrip().endswith("</html>")
        for file in folder.rglob("*.jsonl"):
            for line in file.read_text("utf-8").splitlines():
                json.loads(line)
        soak.check_store(home)


PARTS: dict[str, Callable[[Soak], None]] = {
    "training": lambda soak: training(soak, 14),
    "followers": lambda soak: followers(soak, 4),
    "caching": lambda soak: caching(soak, 7),
    "generating": lambda soak: generating(soak, 8),
    "judging": lambda soak: judging(soak, 7, 4),
    "exporting": lambda soak: exporting(soak, 6),
}


def test_work_survives_fifty_kills() -> None:
    """Entry point of `make soak`."""
    assert main([]) == 0


def main(argv: list[str] | None = None) -> int:
    """Run the parts and print the number of kills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="kdharness-soak-") as scratch:
        soak = Soak(Path(scratch), args.seed)
        for name in args.parts:
            began = time.monotonic()
            PARTS[name](soak)
            print(f"{name}: as undisturbed, {time.monotonic() - began:.0f} s", flush=True)
    listed = ", ".join(f"{count} {what}" for what, count in soak.kills.items())
    print(f"{sum(soak.kills.values())} kills: {listed}", flush=True)
    if set(args.parts) == set(PARTS):
        assert sum(soak.kills.values()) >= 50
    return 0


if __name__ == "__main__":
    sys.exit(main())
