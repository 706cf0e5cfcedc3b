"""Small real disks that fill up or turn read-only: `python tests/soak/soak_disk.py` (as root).

A file system of 24 MB in memory is mounted for the home. Work is started, the disk is filled at a
random moment, the error is read, room is made, and the work is resumed: it must end where an
undisturbed run ends. Mounting needs root.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from kdharness.harness.util.atomic import is_sealed
from support.environment import isolate_environment
from support.soak import Soak, answers_of, run_names, soak_config, status
from support.waiting import wait_until

isolate_environment()

SIZE_MB = 24


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A disk of its own for as long as it is needed."""
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "none", str(place)], check=True
    )
    try:
        yield place / "home"
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill_up(disk: Path, leave: int) -> Path:
    """Fill a disk but for `leave` bytes; returns the file to remove again."""
    filler = disk / "filler"
    stats = os.statvfs(disk)
    with suppress(OSError):  # somebody wrote meanwhile: then it is full
        filler.write_bytes(b"\0" * max(0, stats.f_bavail * stats.f_frsize - leave))
    return filler


def command(soak: Soak, home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(soak.command(home, *args), capture_output=True, text=True)


def told(done: subprocess.CompletedProcess[str], words: str) -> None:
    """The command failed in words, not with a traceback."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert words in done.stderr and "Traceback" not in done.stderr, done.stderr


def training(soak: Soak, rounds: int) -> None:
    """A disk that is full at some moment of a training costs that moment only."""
    calm = soak.place / "calm-disk"
    soak.run(calm, "train", soak_config(soak, "r"))
    want = (calm / "runs" / "r" / "final" / "model.safetensors").read_bytes()
    hits = 0
    for number in range(rounds):
        with small_disk(soak.place / f"disk-{number}") as home:
            file = soak_config(soak, "r")
            following = soak.start(home, "train", file)
            goal = soak.chance.randint(1, 40)
            wait_until(lambda: (home / "kdharness.db").exists() and "r" in run_names(home))
            wait_until(lambda: step_of(home) >= goal)  # noqa: B023
            filler = fill_up(home.parent, soak.chance.choice([0, 4096, 200_000]))
            following.wait(timeout=120)
            ended = status(home, "r")
            if ended is not RunStatus.FINISHED:
                hits += 1
                assert ended in (RunStatus.FAILED, RunStatus.INTERRUPTED), ended
                log = (home / "runs" / "r" / "worker.log").read_text()
                with Store(home / "kdharness.db") as store:
                    run = store.run("r")
                    assert run is not None
                    assert "disk is full" in run.error + log, (run.error, log[-1500:])
                told(command(soak, home, "train", soak_config(soak, "other")), "is full")
                assert command(soak, home, "runs").returncode == 0
                steps = list((home / "runs" / "r").glob("checkpoint-*"))
                print(
                    f"  full at step {goal}: {ended.value}, "
                    f"{sum(map(is_sealed, steps))} of {len(steps)} step checkpoints whole"
                )
                filler.unlink()
                resumed = command(soak, home, "resume", "r")
                assert resumed.returncode == 0, resumed.stderr
            got = (home / "runs" / "r" / "final" / "model.safetensors").read_bytes()
            assert got == want, "the weights differ"
    assert hits, "no run met the full disk"


def step_of(home: Path) -> int:
    with Store(home / "kdharness.db") as store:
        run = store.run("r")
        return run.step if run else 0


def answering(soak: Soak) -> None:
    """Answers that were stored before the disk was full are there after it."""
    with small_disk(soak.place / "disk-answers") as home:
        args = [
            "eval",
            "--ckpt",
            str(soak.model),
            "--bench",
            "shop",
            "--limit",
            "60",
            "--name",
            "e",
            "--batch-size",
            "2",
            "--max-new-tokens",
            "24",
            "--device",
            "cpu",
        ]
        evaluating = soak.start(home, *args)
        wait_until(lambda: len(answers_of(home)) >= 6)
        filler = fill_up(home.parent, 0)
        evaluating.wait(timeout=120)
        assert status(home, "e") in (RunStatus.FAILED, RunStatus.INTERRUPTED)
        filler.unlink()
        before = answers_of(home)
        assert len(before) >= 6
        assert command(soak, home, "resume", "e").returncode == 0
        after = answers_of(home)
        assert len(after) == 60 and all(after[key] == value for key, value in before.items())
        print(f"  full after {len(before)} answers of 60")


def read_only(soak: Soak) -> None:
    """On a disk that turned read-only everything can be looked at, and nothing pretends."""
    with small_disk(soak.place / "disk-ro") as home:
        soak.run(home, "train", soak_config(soak, "r", trainer={"max_steps": 2, "device": "cpu"}))
        # The worker's process may need a moment to let go of its log.
        remount = ["mount", "-o", "remount,ro", str(home.parent)]
        wait_until(lambda: subprocess.run(remount, capture_output=True).returncode == 0)
        for args in (["runs"], ["show", "r"], ["leaderboard"], ["store", "check"]):
            done = command(soak, home, *args)
            assert done.returncode == 0, (args, done.stderr)
        told(command(soak, home, "train", soak_config(soak, "more")), "cannot be written")
        told(command(soak, home, "store", "vacuum"), "cannot be written")


def main() -> int:
    """Fill disks, read what is said, make room, go on."""
    if os.getuid():
        print("soak_disk mounts small disks: run it as root", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="kdharness-disk-") as scratch:
        soak = Soak(Path(scratch), random.randrange(10**6))
        for name, part in (
            ("training", lambda: training(soak, 4)),
            ("answering", lambda: answering(soak)),
            ("read-only", lambda: read_only(soak)),
        ):
            began = time.monotonic()
            part()
            print(f"{name}: as it should be, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
