"""Generating in the middle of a training: what is restored, what is not compiled, who waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kdharness.harness.models.loading import load_model
from kdharness.harness.paths import Paths
from kdharness.trainers.acceleration import compile_layers
from kdharness.trainers.attention_hook import skip_masks
from kdharness.trainers.points import generating
from support.training_steps import make_model

SETTING: Any = SimpleNamespace(device="cpu", precision=SimpleNamespace(autocast=False))


def test_generating_restores_modes_random_numbers_and_attention(tiny_teacher: Path) -> None:
    model = load_model(str(tiny_teacher), Paths(tiny_teacher), device="cpu")
    model.train()
    model.model.layers[1].eval()
    assert skip_masks(model)
    used = model.config._attn_implementation
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with generating(model, SETTING) as causal:
        assert causal.config._attn_implementation == "sdpa" and not causal.training
        torch.rand(5)
        with torch.inference_mode():
            model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq + 0
    assert torch.equal(torch.rand(2), expected)
    assert model.config._attn_implementation == used
    assert model.model.layers[0].training and not model.model.layers[1].training
    assert not model.model.rotary_emb.inv_freq.is_inference()


def test_compiled_layers_are_not_compiled_again_to_generate() -> None:
    """Caches of keys and values and every length made variants, up to torch's limit of them."""
    graphs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    model, ids = make_model(1), torch.arange(3, 12)[None]
    plain = model.generate(ids, max_new_tokens=4, do_sample=False)
    compile_layers(model, backend)
    model.train()
    with generating(model, SETTING) as causal:
        assert torch.equal(causal.generate(ids, max_new_tokens=4, do_sample=False), plain)
    assert graphs == []
    model(input_ids=ids, use_cache=False)
    assert len(graphs) == 1
    torch.compiler.reset()


WAITS = """
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, NullReporter
from kdharness.trainers.waiting import from_first, main_first, wait_for_all, waiting_group

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
dist.init_process_group("gloo")
# Only now: to find each other may take a busy machine longer.
_set_pg_timeout(timedelta(seconds=1), dist.group.WORLD)
job = Job(Paths(folder), "run", folder, NullReporter(), rank=rank, world=2)
with main_first(job, "cpu"):
    if rank == 0:
        time.sleep(2)
        (folder / "made").write_text("")
    assert (folder / "made").exists()
found = None
if rank == 0:
    time.sleep(2)
    found = {"shop/score": 0.5}
group = waiting_group()
assert from_first(found, group) == {"shop/score": 0.5}
failed = from_first(RunError("no judge") if rank == 0 else None, group)
assert isinstance(failed, RunError) and "no judge" in str(failed)
if rank == 0:
    time.sleep(2)
wait_for_all()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_wait_longer_for_the_first_than_for_gradients(tmp_path: Path) -> None:
    """NCCL's limit is 10 minutes; downloads, long answers and slow disks take longer."""
    script = tmp_path / "waits.py"
    script.write_text(WAITS, "utf-8")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = subprocess.run(
        [*run, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr[-2000:]
