"""A run's own checkpoint, spoilt before it goes on: refused by name, and nothing in it is run."""

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
from kdharness.harness.errors import Interrupted, KDHarnessError, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.registry import TRAINERS, resolve
from kdharness.harness.util.atomic import seal
from support.models import make_llama
from support.pickles import Bomb
from support.reporters import Listener


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A home with a run that was stopped half-way, and its config."""
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
        go(home, values, Listener(stop_at_step=2))
    assert list((home / "runs" / "r").glob("checkpoint-*"))
    return home, values


def go(home: Path, values: dict[str, Any], reporter: Listener, resume: bool = False) -> Outcome:
    """Train, in this process."""
    paths = Paths(home)
    job = Job(paths=paths, run="r", folder=paths.run("r"), reporter=reporter, resume=resume)
    outcome: Outcome = resolve(TRAINERS, "sft", "method")(parse_config(values), job)
    return outcome


def bomb(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(marker)))


def torch_bomb(path: Path, marker: Path) -> None:
    torch.save({"state": Bomb(marker)}, path)


def overwritten(path: Path, marker: Path) -> None:
    path.write_bytes(b"\x80\x04" + bytes(range(256)) * 8)


def empty(path: Path, marker: Path) -> None:
    path.write_bytes(b"")


def half(path: Path, marker: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILERS: list[Callable[[Path, Path], None]] = [bomb, torch_bomb, overwritten, empty, half]


@pytest.mark.slow
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
def test_a_spoilt_state_is_refused_and_never_run(
    name: str, stopped: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, values = stopped
    for spoil in SPOILERS:
        place = tmp_path / f"{spoil.__name__}"
        shutil.copytree(home, place)
        marker = tmp_path / f"ran-{spoil.__name__}"
        newest = max((place / "runs" / "r").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
        assert (newest / name).exists()
        spoil(newest / name, marker)
        seal(newest)
        with pytest.raises(RunError, match=newest.name) as caught:
            go(place, values, Listener(), resume=True)
        assert "delete it" in caught.value.hint
        assert not marker.exists(), spoil
        shutil.rmtree(newest)
        if spoil is bomb:
            assert go(place, values, Listener(), resume=True).step == 4


@pytest.mark.slow
def test_what_is_never_read_is_never_run(
    stopped: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, values = stopped
    place, marker = tmp_path / "home", tmp_path / "ran"
    shutil.copytree(home, place)
    newest = max((place / "runs" / "r").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert (newest / "training_args.bin").exists()
    bomb(newest / "training_args.bin", marker)
    seal(newest)
    assert go(place, values, Listener(), resume=True).step == 4
    assert not marker.exists()


@pytest.mark.slow
def test_pickled_weights_in_a_checkpoint_are_refused(
    stopped: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, values = stopped
    for name in ("pytorch_model.bin", "adapter_model.bin"):
        place, marker = tmp_path / name, tmp_path / "ran"
        shutil.copytree(home, place)
        newest = max((place / "runs" / "r").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
        bomb(newest / name, marker)
        seal(newest)
        with pytest.raises(RunError, match="pickled"):
            go(place, values, Listener(), resume=True)
        assert not marker.exists()


def test_a_list_of_files_that_is_none_seals_nothing(tmp_path: Path) -> None:
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
    assert issubclass(RunError, KDHarnessError)


@pytest.mark.parametrize(
    "path", ["global_step7/mp_rank_00_model_states.pt", "pytorch_model_fsdp_0/.metadata"]
)
def test_what_other_engines_pickle_is_refused(path: str, tmp_path: Path) -> None:
    """DeepSpeed's state and torch's sharded metadata are unpickled by those who read them."""
    from kdharness.trainers.loop import check_state

    marker = tmp_path / "ran"
    victim = tmp_path / "checkpoint-7" / path
    victim.parent.mkdir(parents=True)
    bomb(victim, marker)
    with pytest.raises(RunError, match="never loaded"):
        check_state(tmp_path / "checkpoint-7")
    assert not marker.exists()
