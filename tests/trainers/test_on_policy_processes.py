"""Two processes with on-policy rows over gloo: the answers and the weights of a single one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdharness.harness.paths import Paths
from kdharness.harness.runs.log_output import log_tail
from kdharness.harness.store import Store
from kdharness.harness.worker import work
from support.commands import CommandLine
from support.engines import DDP
from support.models import make_llama
from support.on_policy import on_policy_values, rollouts_of


@pytest.mark.slow
def test_two_processes_sample_and_learn_what_a_single_one_does(
    tiny_teacher: Path, tmp_path: Path, kd: CommandLine
) -> None:
    make_llama(tmp_path / "student", seed=5, num_hidden_layers=2)
    paths, engine = Paths(kd.home), tmp_path / "engine.yaml"
    engine.write_text(yaml.safe_dump(DDP), "utf-8")
    curves = {}
    for name, accumulation in (("one", 4), ("two", 2)):
        values = on_policy_values(
            tmp_path,
            tmp_path / "student",
            tiny_teacher,
            "dae",
            max_steps=2,
            batch_size=2,
            accumulation=accumulation,
            optimizer="sgd",
            on_policy={"max_new_tokens": 6},
        )
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values), "utf-8")
        if name == "one":
            kd.ok("train", str(file), "--name", name, "--prepare")
            assert work(paths, name, resume=False) == 0
        else:
            code, _, err = kd("train", str(file), "--name", name, "--accelerate", str(engine))
            assert code == 0, err + log_tail(paths, name, 30)
        with Store(paths.store) as store:
            parts = ("loss", "kl", "rollout_kl", "rollout_length", "rollout_ended")
            curves[name] = {part: [v for _, v in store.curve(name, part)] for part in parts}
    assert "2 processes" in log_tail(paths, "two", 60)
    one, two = (
        {(r.step, r.row): (r.text, r.tokens, r.ended, r.kind) for r in rollouts_of(paths, name)}
        for name in ("one", "two")
    )
    assert one == two and {step for step, _ in one} == {1, 2}
    for part, values_of_one in curves["one"].items():
        assert curves["two"][part] == pytest.approx(values_of_one, rel=1e-4), part
    first, second = (
        load_file(paths.run(name) / "final" / "model.safetensors") for name in ("one", "two")
    )
    for key, value in first.items():
        assert torch.allclose(value, second[key], rtol=1e-4, atol=2e-5), key
