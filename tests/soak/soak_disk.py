"""Soak test on small real disks that fill up or turn read-only: `python tests/soak/soak_disk.py`.

Mounts a 24 MB tmpfs for the home (needs root). Starts work, fills the disk at a random moment,
checks the error, frees space and resumes: the result must equal that of an undisturbed run.
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
def small_disk(mount_point: Path) -> Iterator[Path]:
    """Mount a small tmpfs for the duration of the context."""
    mount_point.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "none", str(mount_point)], check=True
    )
    try:
        yield mount_point / "home"
    finally:
        subprocess.run(["umount", "-l", str(mount_point)], check=True)


def fill_up(disk: Path, leave: int) -> Path:
    """Fill a disk except for `leave` bytes; return the file to remove afterwards."""
    filler = disk / "filler"
    stats = os.statvfs(disk)
    with suppress(OSError):  # another process wrote meanwhile: the disk is full anyway
        filler.write_bytes(b"\0" * max(0, stats.f_bavail * stats.f_frsize - leave))
    return filler


def command(soak: Soak, home: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(soak.command(home, *args), capture_output=True, text=True)


def assert_fails_with(done: subprocess.CompletedProcess[str], words: str) -> None:
    """Check that the command failed with a message, not with a traceback."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert words in done.stderr and "Traceback" not in done.stderr, done.stderr


def train_on_full_disk(soak: Soak, rounds: int) -> None:
    """A disk that fills up during training loses no completed work."""
    calm = soak.folder / "calm-disk"
    soak.run(calm, "train", soak_config(soak, "r"))
    want = (calm / "runs" / "r" / "final" / "model.safetensors").read_bytes()
    hits = 0
    for number in range(rounds):
        with small_disk(soak.folder / f"disk-{number}") as home:
            file = soak_config(soak, "r")
            following = soak.start(home, "train", file)
            goal = soak.rng.randint(1, 40)
            wait_until(lambda: (home / "kdharness.db").exists() and "r" in run_names(home))
            wait_until(lambda: step_of(home) >= goal)  # noqa: B023
            filler = fill_up(home.parent, soak.rng.choice([0, 4096, 200_000]))
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
                assert_fails_with(
                    command(soak, home, "train", soak_config(soak, "other")), "is full"
                )
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


def answer_on_full_disk(soak: Soak) -> None:
    """Answers stored before the disk was full are kept."""
    with small_disk(soak.folder / "disk-answers") as home:
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


def use_read_only_disk(soak: Soak) -> None:
    """On a read-only disk, reading commands work and writing commands fail."""
    with small_disk(soak.folder / "disk-ro") as home:
        soak.run(home, "train", soak_config(soak, "r", trainer={"max_steps": 2, "device": "cpu"}))
        # The worker process may need a moment to close its log.
        remount = ["mount", "-o", "remount,ro", str(home.parent)]
        wait_until(lambda: subprocess.run(remount, capture_output=True).returncode == 0)
        for args in (["runs"], ["show", "r"], ["leaderboard"], ["store", "check"]):
            done = command(soak, home, *args)
            assert done.returncode == 0, (args, done.stderr)
        assert_fails_with(
            command(soak, home, "train", soak_config(soak, "more")), "cannot be written"
        )
        assert_fails_with(command(soak, home, "store", "vacuum"), "cannot be written")


def main() -> int:
    """Run all parts."""
    if os.getuid():
        print("soak_disk mounts small disks: run it as root", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="kdharness-disk-") as scratch:
        soak = Soak(Path(scratch), random.randrange(10**6))
        for name, part in (
            ("training", lambda: train_on_full_disk(soak, 4)),
            ("answering", lambda: answer_on_full_disk(soak)),
            ("read-only", lambda: use_read_only_disk(soak)),
        ):
            began = time.monotonic()
            part()
            print(f"{name}: as it should be, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
