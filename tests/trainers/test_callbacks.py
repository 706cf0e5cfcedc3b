"""Best checkpoints by a rule, out-of-memory advice, model cards."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from kdharness.harness import cli
from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import ConfigError
from kdharness.harness.maintenance.records import plan_removal
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from kdharness.trainers.best import rule_value
from kdharness.trainers.loop import out_of_memory
from support.scored_store import add_run

CURVES = {"general_loss": 2.0, "domain_loss": 4.0}


def test_best_checkpoint_rules_are_evaluated() -> None:
    assert rule_value("general_loss", CURVES) == 2.0
    assert rule_value("general_loss + 0.5 * domain_loss", CURVES) == 4.0
    assert rule_value("-(general_loss - domain_loss) / 2", CURVES) == 1.0
    with pytest.raises(ConfigError, match="no held-out curve named 'loss'"):
        rule_value("loss", CURVES)
    for bad in ("__import__('os')", "general_loss **2", "1 +", "general_loss / 0", "'x'"):
        with pytest.raises(ConfigError, match="invalid rule"):
            rule_value(bad, CURVES)


@pytest.mark.parametrize(
    ("trainer", "advice"),
    [
        ({"batch_size": 8, "accumulation": 2}, "trainer.batch_size: 4 and trainer.accumulation: 4"),
        ({"batch_size": 1}, "trainer.gradient_checkpointing: true"),
        ({"batch_size": 1, "gradient_checkpointing": True}, "data.max_length: 1024"),
    ],
)
def test_out_of_memory_error_suggests_lower_settings(trainer: dict[str, Any], advice: str) -> None:
    config = parse_config(
        {"method": "sft", "student": "a/b", "data": {"train": "x"}, "trainer": trainer}
    )
    error = out_of_memory(SimpleNamespace(config=config), torch.OutOfMemoryError("CUDA oom"))  # type: ignore[arg-type]
    assert advice in str(error) and "out of memory" in str(error)


@pytest.mark.slow
def test_best_checkpoint_is_kept_with_a_model_card(
    tiny_teacher: Path, tmp_path: Path, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate high enough to diverge, so that the best step is not the last."""
    config = {
        "method": "sft",
        "name": "wild",
        "student": {"from": str(tiny_teacher), "keep_layers": 2},
        "data": {
            "train": {"path": "general:train", "limit": 16},
            "max_length": 64,
            "heldout": {"path": "general:validation", "limit": 4},
        },
        "trainer": {
            "learning_rate": 0.05,
            "schedule": "constant",
            "warmup_ratio": 0,
            "max_steps": 12,
            "batch_size": 4,
            "eval_every": 1,
            "best": "general_loss",
        },
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    assert cli.run(["--home", str(paths.home), "train", str(path)]) == 0
    with Store(paths.store) as store:
        curve = dict(store.curve("wild", "general_loss"))
        best, last = store.checkpoint("wild@best"), store.checkpoint("wild")
    assert best is not None and last is not None
    note = json.loads((Path(best.path) / "best.json").read_text("utf-8"))
    lowest = min((value, step) for step, value in curve.items() if step)
    assert (note["value"], note["step"]) == pytest.approx(lowest)
    assert lowest[1] < 12, "the learning rate is too low to diverge"
    assert best.id != last.id
    # What is stored of the best is what was trained and measured up to its step.
    assert (best.step, last.step) == (lowest[1], 12)
    tokens, flops = best.info["tokens"] / last.info["tokens"], best.info["flops"]
    assert 0 < tokens < 1 and flops < last.info["flops"]
    assert tokens == pytest.approx(lowest[1] / 12, abs=0.1)
    assert dict(best.info)["general_loss"] == pytest.approx(lowest[0])
    assert f"step {lowest[1]}" in (Path(best.path) / "README.md").read_text("utf-8")
    card = (Path(last.path) / "README.md").read_text("utf-8")
    for part in ("wild", "sft", "tiny-teacher", last.config_hash):
        assert part in card
    # The last point of a short training is the best: it has both names, and one folder.
    steady = {"learning_rate": 1e-3, "max_steps": 2, "batch_size": 4, "best": "general_loss"}
    path.write_text(yaml.safe_dump({**config, "name": "short", "trainer": steady}), "utf-8")
    assert cli.run(["--home", str(paths.home), "train", str(path)]) == 0
    with Store(paths.store) as store:
        run = store.checkpoint("short")
        assert run is not None and store.checkpoint("short@best") == run
        assert Path(run.path).name == "final" and run.info["best_step"] == run.step == 2
        assert (Path(run.path).parent / "best" / "best.json").exists()
        # Who needs it by that name is asked for, and a run with the same weights has it too.
        add_run(store, "next", config={"student": {"from": "short@best"}})
        store.update_run("next", status=RunStatus.STOPPED)
        assert plan_removal(paths, store, ["short"]).users == ("next",)
        add_run(store, "again")
        store.update_run("again", checkpoint="short")
        assert store.checkpoint("again@best") == run
        # A point that no condition let be the best has no such name.
        assert store.checkpoint("tiny-teacher@best") is None
    capsys.readouterr()
    config["trainer"] = {"max_steps": 1, "best": "nonsense_loss"}
    path.write_text(yaml.safe_dump({**config, "name": "bad"}), "utf-8")
    assert cli.run(["--home", str(paths.home), "train", str(path)]) != 0
    assert "no held-out curve named 'nonsense_loss'" in capsys.readouterr().err
