"""The Python API: the same results as the commands, without a terminal."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness import Home, KDHarnessError, load_config
from kdharness.harness.errors import ConfigError, RunError
from kdharness.harness.paths import Paths
from support.store_rows import fill_store

Call = Callable[..., tuple[int, str, str]]


def test_importing_the_api_imports_no_heavy_modules() -> None:
    script = (
        "import sys\nfrom kdharness.harness import Home\n"
        "home = Home(sys.argv[1]); home.runs(); home.checkpoints()\n"
        "heavy = {'torch', 'transformers', 'textual', 'openai', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "/tmp/kdharness-no-such-home"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_results_match_the_commands(paths: Paths, kd: Call) -> None:
    fill_store(paths.store)
    home = Home(paths.home)
    assert home.leaderboard().to_rows() == json.loads(kd("leaderboard", "--format", "json")[1])
    compared = json.loads(kd("compare", "kd-0", "kd-1", "--format", "json")[1])
    assert home.compare("kd-0", "kd-1").to_rows() == compared
    assert [score.checkpoint for score in home.leaderboard(checkpoints=["kd-1"])] == ["kd-1"] * len(
        home.leaderboard(checkpoints=["kd-1"])
    )
    assert home.leaderboard(benches=["no-such-bench"]) == []
    assert [run.id for run in home.runs()] == ["kd-2", "kd-1", "kd-0"]


def test_invalid_calls_raise_kdharness_errors(paths: Paths, tmp_path: Path) -> None:
    home = Home(paths.home)
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        home.evaluate([])
    with pytest.raises(ConfigError, match="limt"):
        home.evaluate(["x"], limt=3)
    with pytest.raises(KDHarnessError):
        home.evaluate([str(tmp_path / "no-such-model")])
    with pytest.raises(RunError, match="no run named 'x'"):
        home.wait("x")
    assert home.runs() == []


@pytest.mark.slow
def test_train_evaluate_and_trade_off(
    paths: Paths, tiny_teacher: Path, tmp_path: Path, kd: Call, caplog: pytest.LogCaptureFixture
) -> None:
    home = Home(paths.home)
    trainer = {"max_steps": 2, "batch_size": 2, "device": "cpu"}
    rows = {"path": "shop:train", "kind": "domain", "limit": 4}

    def config(**values: Any) -> Any:
        path = tmp_path / "config.yaml"
        data = {"train": [{"path": "general:train", "limit": 4}, rows], "max_length": 96}
        path.write_text(json.dumps({"data": data, "trainer": trainer, **values}))
        return load_config(path)

    student = {"from": "teacher", "keep_layers": 2}
    with caplog.at_level(logging.INFO, logger="kdharness"):
        kd_run = home.train(config(method="kd", teacher=str(tiny_teacher), student=student))
    assert "2 steps" in caplog.text and kd_run.id in caplog.text
    assert kd_run.checkpoint is not None
    home.train(config(method="sft", student=kd_run.checkpoint), name="expert")
    dae = home.train(
        config(method="dae", student=kd_run.checkpoint, expert="expert"), wait=False, name="dae"
    )
    assert home.wait(dae.id).checkpoint == "dae"
    run = home.evaluate([kd_run.checkpoint, "expert", "dae"], limit=6, max_new_tokens=4)
    assert run.info["result"]["answers"] == 18
    trade_off = home.trade_off(
        domain="heldout:domain_loss", general="heldout:general_loss", keep=0.5
    )
    assert trade_off.view.roles == (kd_run.checkpoint, "expert")
    assert trade_off.pick in {kd_run.checkpoint, "expert", "dae"}
    printed = kd(
        "tradeoff",
        "--domain",
        "heldout:domain_loss",
        "--general",
        "heldout:general_loss",
        "--keep",
        "0.5",
        "--format",
        "json",
    )
    assert trade_off.as_dict() == json.loads(printed[1])
    assert {row["checkpoint"] for row in trade_off.to_rows()} == {
        kd_run.checkpoint,
        "expert",
        "dae",
    }
    with pytest.raises(ConfigError, match="a run named 'expert' already exists"):
        home.train(config(method="sft", student=kd_run.checkpoint), name="expert")
