"""The cluster files in docs/scale are parsed and executed as intended."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from support.commands import CommandLine

SCALE = Path(__file__).parents[1] / "docs" / "scale"
ENGINES = {"ddp.yaml": "MULTI_GPU", "fsdp2.yaml": "FSDP", "deepspeed-zero2.yaml": "DEEPSPEED"}


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_accelerate_parses_the_engine_configs(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(SCALE / name))
    assert config.distributed_type.value == ENGINES[name] and config.num_processes == 8
    if name == "fsdp2.yaml":
        assert config.fsdp_config["fsdp_version"] == 2
    if name == "deepspeed-zero2.yaml":
        assert config.deepspeed_config["zero_stage"] == 2


@pytest.mark.parametrize("name", ["train.sbatch", "evaluate.sbatch"])
def test_scripts_have_valid_syntax(name: str) -> None:
    subprocess.run(["bash", "-n", str(SCALE / name)], check=True)


STUBS = {
    "scontrol": "echo node-a; echo node-b",
    # Run the parts of both machines one after the other.
    "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
    "accelerate": 'echo "accelerate $*" >> "$CALLS"',
    "kdharness": 'echo "kdharness $*" >> "$CALLS"',
}


def run_script(tmp_path: Path, name: str, *args: str, **variables: str) -> list[str]:
    """Run a script with stubs for SLURM's and our commands; return the recorded calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool, body in STUBS.items():
        path = folder / tool
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    calls = tmp_path / "calls"
    env = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "CALLS": str(calls),
        **variables,
        "KDHARNESS_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        ["bash", str(SCALE / name), *args], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines()


def test_training_script_on_two_machines(tmp_path: Path) -> None:
    calls = run_script(
        tmp_path,
        "train.sbatch",
        "kd.yaml",
        "fsdp2.yaml",
        "big",
        SLURM_JOB_NODELIST="node-[a-b]",
        SLURM_JOB_NUM_NODES="2",
        SLURM_NNODES="2",
        SLURM_GPUS_ON_NODE="8",
    )
    assert calls[0] == "kdharness train kd.yaml --name big --prepare"
    home = tmp_path / "home"
    assert calls[1:3] == [
        "accelerate launch --config_file fsdp2.yaml --num_machines 2 --num_processes 16 "
        f"--machine_rank {rank} --main_process_ip node-a --main_process_port 29500 "
        f"-m kdharness.harness.worker --home {home} big --resume"
        for rank in (0, 1)
    ]
    assert calls[3:] == ["kdharness show big"]


def test_evaluation_script_of_one_shard(tmp_path: Path) -> None:
    calls = run_script(
        tmp_path,
        "evaluate.sbatch",
        "--ckpt",
        "big",
        "--bench",
        "shop",
        SLURM_ARRAY_TASK_ID="2",
        SLURM_ARRAY_TASK_COUNT="4",
    )
    home = tmp_path / "home"
    assert calls == [
        f"kdharness --home {home}/parts/2 store merge {home}",
        f"kdharness --home {home}/parts/2 eval --shard 2/4 --ckpt big --bench shop",
    ]


def test_prepared_run_is_reused(kd: CommandLine, paths: Paths, tmp_path: Path) -> None:
    config = {"method": "sft", "student": "some/model", "data": {"train": "general:train"}}
    file = tmp_path / "sft.yaml"
    file.write_text(yaml.safe_dump(config))
    for _ in range(2):
        code, out, err = kd("train", str(file), "--name", "r", "--prepare")
        assert (code, out) == (0, "r\n"), err
    with Store(paths.store) as store:
        run = store.run("r")
        assert run is not None and run.status is RunStatus.STOPPED and len(store.runs()) == 1
    code, _, err = kd("train", str(file), "--name", "r", "--prepare", "--set", "seed=9")
    assert code == 2 and "exists" in err
    code, _, err = kd("train", str(file), "--prepare")
    assert code == 2 and "--name" in err
