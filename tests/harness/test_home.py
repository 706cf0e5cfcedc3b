"""The Python API: the same results as the commands, without a terminal."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from kdharness.harness import ConfigError, Home, Interrupted, KDHarnessError, RunError, load_config
from kdharness.harness.paths import Paths
from support.store_rows import fill_store

Call = Callable[..., tuple[int, str, str]]


def test_importing_the_api_imports_no_heavy_modules(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom kdharness.harness import Home\n"
        "home = Home(sys.argv[1]); home.runs(); home.checkpoints()\n"
        "heavy = {'torch', 'transformers', 'textual', 'openai', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "home")],
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


def test_one_name_needs_no_list(paths: Paths, tmp_path: Path) -> None:
    fill_store(paths.store)
    home = Home(paths.home)
    assert home.leaderboard(checkpoints="kd-1") == home.leaderboard(checkpoints=["kd-1"]) != []
    assert home.leaderboard(benches="shop") == home.leaderboard(benches=["shop"])
    # The errors name the whole word, not its first letter.
    with pytest.raises(KDHarnessError, match="no model named 'no-such-model'"):
        home.evaluate("no-such-model")
    with pytest.raises(ConfigError, match="unknown benchmark 'no-such-bench'"):
        home.evaluate("kd-1", benches="no-such-bench")
    with pytest.raises(ConfigError, match="'nojudge' is not a valid judge"):
        home.evaluate("kd-1", judges="nojudge")
    with pytest.raises(KDHarnessError, match=r"missing\.jsonl: cannot be read"):
        home.evaluate("kd-1", benches=tmp_path / "missing.jsonl")
    with pytest.raises(KDHarnessError, match="is not a model folder"):
        home.evaluate([tmp_path])


def test_other_objects_in_place_of_names_raise_config_errors(paths: Paths) -> None:
    fill_store(paths.store)
    home = Home(paths.home)
    wrong: list[Any] = [[None], None, 3, [home.runs()[0]], home.checkpoints()]
    for checkpoints in wrong:
        with pytest.raises(ConfigError, match="checkpoints: must be a name or a path"):
            home.evaluate(checkpoints)
    with pytest.raises(ConfigError, match="compare: must be a name or a path"):
        home.compare("kd-0", cast(Any, ["kd-1"]))
    for config in ("kd.yaml", {"method": "kd"}, None):
        with pytest.raises(ConfigError, match="train needs a config, not a"):
            home.train(cast(Any, config))


def test_runs_are_given_by_name_or_as_they_were_returned(paths: Paths) -> None:
    fill_store(paths.store)
    home = Home(paths.home)
    finished = home.runs()[0]
    assert home.wait(finished).id == home.wait(finished.id).id == finished.id
    for act in (home.stop, home.resume):
        with pytest.raises(RunError, match=finished.id):
            act(finished)


def test_slices_of_results_convert_to_rows(paths: Paths) -> None:
    fill_store(paths.store)
    board = Home(paths.home).leaderboard()
    assert board[:2].to_rows() == board.to_rows()[:2]
    assert board[::-1].copy().to_rows() == board.to_rows()[::-1]
    assert board[0].as_dict() == board.to_rows()[0]


def test_a_missing_accelerate_config_leaves_no_run(
    paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text(f'{{method: sft, student: "{tiny_teacher}", data: {{train: "shop:train"}}}}')
    home = Home(paths.home)
    with pytest.raises(ConfigError, match="no such accelerate config file"):
        home.train(load_config(config), accelerate="~/no-such-file.yaml")
    assert home.runs() == []


@pytest.mark.parametrize("name", ["x" * 300, "ä" * 150, "a/b", ".."])
def test_a_name_that_no_folder_can_have_leaves_no_run(
    name: str, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text(f'{{method: sft, student: "{tiny_teacher}", data: {{train: "shop:train"}}}}')
    home = Home(paths.home)
    with pytest.raises(ConfigError, match="run name"):
        home.train(load_config(config), name=name)
    assert home.runs() == []


def test_home_folders_are_expanded_in_configs_and_names(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "eval.yaml").write_text("method: eval")
    assert load_config("~/eval.yaml").method == "eval"
    assert load_config("~/eval.yaml", "limit=3").model_dump()["limit"] == 3
    assert Home("~/kd").paths.home == tmp_path / "kd"
    for name in ("~no-such-user/model", "m" * 5000):
        with pytest.raises(KDHarnessError, match="no model named"):
            Home(paths.home).evaluate(name)


@pytest.mark.parametrize("name", ["~no-such-user/home", "a\0b"])
def test_a_home_that_cannot_be_a_folder_is_refused(
    name: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="the home: not the path of a folder"):
        Home(name)
    if "\0" not in name:
        monkeypatch.setenv("KDHARNESS_ASSETS", name)
        with pytest.raises(ConfigError, match="KDHARNESS_ASSETS: not the path of a folder"):
            _ = Home(paths.home).paths.assets


def test_importing_the_api_leaves_logging_and_signals_alone() -> None:
    script = (
        "import logging, signal, threading\n"
        "def state():\n"
        "    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]\n"
        "    return logging.root.handlers[:], logging.root.level, handlers\n"
        "before = state()\n"
        "def use():\n"
        "    from kdharness.harness import Home, load_config\n"
        "    Home('/tmp/kdharness-no-such-home').paths\n"
        "thread = threading.Thread(target=use); thread.start(); thread.join()\n"
        "assert state() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.mark.slow
def test_resuming_logs_only_the_new_messages(
    paths: Paths, tiny_teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = {
        "method": "sft",
        "name": "twice",
        "student": str(tiny_teacher),
        "data": {"train": {"path": "shop:train", "limit": 4}, "max_length": 96},
        "trainer": {"max_steps": 400, "batch_size": 2, "device": "cpu"},
    }
    (tmp_path / "sft.yaml").write_text(json.dumps(values))
    home = Home(paths.home)
    run = home.train(load_config(tmp_path / "sft.yaml"), wait=False)
    home.stop(run)
    with pytest.raises(Interrupted):
        home.wait(run)
    resumed = home.resume(run, wait=False)
    home.stop(resumed)
    with pytest.raises(Interrupted):
        home.wait(resumed)
    with caplog.at_level(logging.INFO, logger="kdharness"):
        threading.Timer(2, home.stop, [run]).start()
        with pytest.raises(Interrupted):
            home.resume(run)
    assert caplog.text.count("twice: resumed") == 1


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
