"""Runs that are stopped, paused, killed or aborted, and how they resume."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import effective_status, find_run, is_alive
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from support.commands import CommandLine, start_command
from support.configs import TRAINER, config_file, kd_config
from support.waiting import wait_until

pytestmark = pytest.mark.slow


def long_config(teacher: Path, name: str, **trainer: Any) -> dict[str, Any]:
    return kd_config(
        teacher,
        name=name,
        student={"from": "teacher", "keep_layers": 2, "lora": {"r": 4, "dropout": 0.1}},
        trainer={**TRAINER, "max_steps": 40, "accumulation": 2, "save_every": 5, **trainer},
    )


def final_weights(home: Path, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    folder = home / "runs" / name / "final"
    return load_file(next(folder.glob("*.safetensors")))


def test_killed_and_stopped_runs_resume_to_identical_weights(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Dropout is enabled, so that the random state matters as well."""
    import torch

    for name in ("calm", "killed", "stopped"):
        run = config_file(tmp_path, **long_config(tiny_teacher, name))
        kd.ok("train", run, *(["--detach"] if name != "calm" else []))
        if name == "calm":
            continue
        with Store(Paths(kd.home).store) as store:
            wait_until(lambda s=store, n=name: find_run(s, n).step >= 7)  # type: ignore[misc]
            run_record = find_run(store, name)
            if name == "killed":
                assert run_record.pid is not None
                os.kill(run_record.pid, signal.SIGKILL)
                wait_until(
                    lambda s=store: (
                        effective_status(  # type: ignore[misc]
                            find_run(s, "killed")
                        )
                        is RunStatus.INTERRUPTED
                    )
                )
                assert kd.json("runs")[0]["status"] == "interrupted"
            else:
                kd.ok("stop", name)
                assert find_run(store, name).status is RunStatus.STOPPED
        kd.ok("resume", name)
    uninterrupted = final_weights(kd.home, "calm")
    for name in ("killed", "stopped"):
        resumed = final_weights(kd.home, name)
        assert set(resumed) == set(uninterrupted)
        assert all(torch.equal(uninterrupted[key], resumed[key]) for key in uninterrupted), name
    with Store(Paths(kd.home).store) as store:
        curves = [store.curve(name, "loss") for name in ("calm", "killed", "stopped")]
    assert curves[0] == curves[1] == curves[2]


def test_pause_and_resume(kd: CommandLine, tiny_teacher: Path, tmp_path: Path) -> None:
    config = long_config(tiny_teacher, "nap", max_steps=400, save_every=0)
    kd.ok("train", config_file(tmp_path, **config), "--detach")
    with Store(Paths(kd.home).store) as store:

        def status() -> RunStatus:
            return effective_status(find_run(store, "nap"))

        wait_until(lambda: find_run(store, "nap").step >= 2)
        kd.ok("pause", "nap")
        wait_until(lambda: status() is RunStatus.PAUSED)
        step = find_run(store, "nap").step
        time.sleep(1)
        assert find_run(store, "nap").step == step
        kd.ok("resume", "nap", "--detach")
        wait_until(lambda: find_run(store, "nap").step > step)
        kd.ok("stop", "nap")
        assert status() is RunStatus.STOPPED
    code, _, err = kd("stop", "nap")
    assert code == 1 and "not running: stopped" in err


def test_exploding_loss_fails_the_run_and_names_the_rows(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    config = kd_config(tiny_teacher, name="boom", trainer={**TRAINER, "max_loss": 1e-3})
    code, _, err = kd("train", config_file(tmp_path, **config))
    assert code == 1
    assert "the loss is" in err and "train.jsonl:" in err and "Traceback" not in err
    assert kd.json("runs")[0]["status"] == "failed"


@pytest.mark.parametrize(
    "signal_number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"]
)
def test_ctrl_c_and_sigterm_stop_a_run_with_a_checkpoint(
    signal_number: signal.Signals, tiny_teacher: Path, paths: Paths, tmp_path: Path
) -> None:
    config = config_file(tmp_path, **long_config(tiny_teacher, "ctrl", max_steps=2000))
    process = start_command("--home", str(paths.home), "train", config)
    wait_until(paths.store.exists)
    with Store(paths.store) as store:
        wait_until(lambda: (run := store.run("ctrl")) is not None and run.step >= 3)
        process.send_signal(signal_number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "stopping ctrl: saving a checkpoint" in err
        assert "kdharness resume ctrl" in err
        assert find_run(store, "ctrl").status is RunStatus.STOPPED
    assert list(paths.run("ctrl").glob("checkpoint-*"))


def test_sigterm_stops_the_worker_of_an_evaluation(
    tiny_teacher: Path, paths: Paths, tmp_path: Path
) -> None:
    """`timeout 90 kdharness eval …` used to leave its worker running for minutes."""
    bench = tmp_path / "many.jsonl"
    rows = [
        {
            "id": str(n),
            "prompt": f"Word {n}",
            "metric": "exact_match",
            "reference": "x",
            "max_new_tokens": 60,
        }
        for n in range(4000)
    ]
    bench.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    process = start_command(
        "--home",
        str(paths.home),
        "eval",
        "--ckpt",
        str(tiny_teacher),
        "--bench",
        str(bench),
        "--name",
        "e",
    )
    wait_until(paths.store.exists)
    with Store(paths.store) as store:
        wait_until(lambda: (run := store.run("e")) is not None and run.step >= 1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "stopping e" in err and "resume e" in err, err
        run = find_run(store, "e")
        assert run.status is RunStatus.STOPPED
        wait_until(lambda: not is_alive(run))
        checkpoint = store.checkpoints()[0]
        assert 0 < len(store.answers(checkpoint.id)) < 4000
