"""Homes for soak tests, kills of their processes, and checks of the store afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import yaml

from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from support.models import make_llama
from support.terminal import app_command


class Soak:
    """Kill processes, count the kills by kind, and run commands in homes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.kills: dict[str, int] = {}
        self.model = folder / "teacher"
        make_llama(self.model, seed=1, tie_word_embeddings=True, attention_dropout=0.1)

    def command(self, home: Path, *args: str) -> list[str]:
        return [*app_command(home), *args]

    def run(self, home: Path, *args: str) -> str:
        done = subprocess.run(self.command(home, *args), capture_output=True, text=True)
        assert done.returncode == 0, (args, done.stderr[-2000:])
        return done.stdout

    def start(self, home: Path, *args: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(home, *args),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, kind: str, pid: int) -> bool:
        """Send SIGKILL; return whether the process was still alive."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills[kind] = self.kills.get(kind, 0) + 1
        return True

    def check_store(self, home: Path) -> None:
        """Check that the store opens and passes an integrity check."""
        with Store(home / "kdharness.db") as store:
            assert store.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def soak_config(soak: Soak, name: str, **changes: Any) -> str:
    """Write the config of a training run with frequent saves; return its path."""
    values: dict[str, Any] = {
        "method": "kd",
        "name": name,
        "teacher": str(soak.model),
        "student": {"from": "teacher", "keep_layers": 2},
        "data": {
            "train": {"path": "general:train", "limit": 60},
            "max_length": 96,
            "heldout": [{"path": "general:validation", "limit": 4}],
        },
        "trainer": {
            "learning_rate": 0.01,
            "max_steps": 200,
            "batch_size": 4,
            "device": "cpu",
            "accumulation": 2,
            "save_every": 3,
            "eval_every": 20,
            "best": "general_loss",
        },
    }
    path = soak.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}), "utf-8")
    return str(path)


def status(home: Path, run: str) -> RunStatus:
    """Return the current status of a run."""
    with Store(home / "kdharness.db") as store:
        return effective_status(find_run(store, run))


def run_names(home: Path) -> set[str]:
    """Return the names of all runs."""
    with Store(home / "kdharness.db") as store:
        return store.run_ids()


def answers_of(home: Path) -> dict[tuple[str, int], tuple[str, float]]:
    """Map (item, turn) to (text, creation time)."""
    if not (home / "kdharness.db").exists():
        return {}
    with Store(home / "kdharness.db") as store:
        rows = [answer for made in store.checkpoints() for answer in store.answers(made.id)]
    return {(row.item, row.turn): (row.text, row.created) for row in rows}
