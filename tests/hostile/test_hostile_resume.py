"""Tampered checkpoints of a stopped run: rejected by name, and never executed."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import Interrupted, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.registry import TRAINERS, resolve
from kdharness.harness.util.atomic import seal
from support.models import make_llama
from support.pickles import Bomb
from support.reporters import Listener


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a home with a run stopped half-way, and its config."""
    home = tmp_path_factory.mktemp("stopped")
    make_llama(home / "student", seed=5)
    values = {
        "method": "sft",
        "student": str(home / "student"),
        "data": {"train": [{"path": "shop:train", "limit": 8}], "max_length": 96},
        "trainer": {
            "batch_size": 2,
            "max_steps": 4,
            "device": "cpu",
            "threads": 1,
            "save_every": 1,
        },
    }
    with pytest.raises(Interrupted):
        train(home, values, Listener(stop_at_step=2))
    assert list((home / "runs" / "r").glob("checkpoint-*"))
    return home, values


def train(home: Path, values: dict[str, Any], reporter: Listener, resume: bool = False) -> Outcome:
    """Train in this process."""
    paths = Paths(home)
    job = Job(paths=paths, run="r", folder=paths.run("r"), reporter=reporter, resume=resume)
    outcome: Outcome = resolve(TRAINERS, "sft", "method")(parse_config(values), job)
    return outcome


def write_pickle_bomb(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(marker)))


def write_torch_bomb(path: Path, marker: Path) -> None:
    torch.save({"state": Bomb(marker)}, path)


def overwrite(path: Path, marker: Path) -> None:
    path.write_bytes(b"\x80\x04" + bytes(range(256)) * 8)


def truncate(path: Path, marker: Path) -> None:
    path.write_bytes(b"")


def cut_in_half(path: Path, marker: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


TAMPERINGS: list[Callable[[Path, Path], None]] = [
    write_pickle_bomb,
    write_torch_bomb,
    overwrite,
    truncate,
    cut_in_half,
]


@pytest.mark.slow
@pytest.mark.usefixtures("unlimited_memory")
@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "model.safetensors",
        "trainer_state.json",
    ],
)
def test_tampered_state_is_rejected_and_never_executed(
    name: str, stopped_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, values = stopped_run
    for tamper in TAMPERINGS:
        copy = tmp_path / f"{tamper.__name__}"
        shutil.copytree(home, copy)
        marker = tmp_path / f"ran-{tamper.__name__}"
        newest = max((copy / "runs" / "r").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
        assert (newest / name).exists()
        tamper(newest / name, marker)
        seal(newest)
        with pytest.raises(RunError, match=newest.name) as caught:
            train(copy, values, Listener(), resume=True)
        assert "delete it" in caught.value.hint
        assert not marker.exists(), tamper
        shutil.rmtree(newest)
        if tamper is write_pickle_bomb:
            assert train(copy, values, Listener(), resume=True).step == 4


@pytest.mark.slow
@pytest.mark.usefixtures("unlimited_memory")
def test_tampered_training_args_are_never_loaded(
    stopped_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, values = stopped_run
    copy, marker = tmp_path / "home", tmp_path / "ran"
    shutil.copytree(home, copy)
    newest = max((copy / "runs" / "r").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert (newest / "training_args.bin").exists()
    write_pickle_bomb(newest / "training_args.bin", marker)
    seal(newest)
    assert train(copy, values, Listener(), resume=True).step == 4
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("unlimited_memory")
def test_pickled_weights_in_a_checkpoint_are_rejected(
    stopped_run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, values = stopped_run
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        copy, marker = tmp_path / name, tmp_path / "ran"
        shutil.copytree(home, copy)
        newest = max((copy / "runs" / "r").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
        write_pickle_bomb(newest / name, marker)
        seal(newest)
        with pytest.raises(RunError, match="pickled"):
            train(copy, values, Listener(), resume=True)
        assert not marker.exists()


def test_malformed_seal_file_is_not_a_seal(tmp_path: Path) -> None:
    from kdharness.harness.util.atomic import SEAL, is_sealed

    (tmp_path / "a").write_text("x", "utf-8")
    for value in (
        [],
        {},
        None,
        "a",
        {"a": "1"},
        {"a": None},
        {"../../../etc/passwd": 1},
        {"\0": 1},
        {"": 1},
        [["a", 1]],
        5,
    ):
        (tmp_path / SEAL).write_text(json.dumps(value), "utf-8")
        assert not is_sealed(tmp_path), value
    for raw in (b"", b"\xff", b"[" * 100_000, b"9" * 6000):
        (tmp_path / SEAL).write_bytes(raw)
        assert not is_sealed(tmp_path)


@pytest.mark.parametrize(
    "path", ["global_step7/mp_rank_00_model_states.pt", "pytorch_model_fsdp_0/.metadata"]
)
def test_pickled_state_of_other_engines_is_rejected(path: str, tmp_path: Path) -> None:
    """The loaders of DeepSpeed state and of torch's sharded metadata unpickle them."""
    from kdharness.trainers.resuming import check_state

    marker = tmp_path / "ran"
    victim = tmp_path / "checkpoint-7" / path
    victim.parent.mkdir(parents=True)
    write_pickle_bomb(victim, marker)
    with pytest.raises(RunError, match="never loaded"):
        check_state(tmp_path / "checkpoint-7")
    assert not marker.exists()
