"""Every command through the real entry point, on tiny models, with real workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness import cli
from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import effective_status, find_run, is_alive
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from support.commands import CommandLine, start_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared") / "home"


@pytest.fixture
def story(shared_home: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """A home in which earlier tests of this file have already worked."""
    return CommandLine(shared_home, capsys)


TRAINER: dict[str, Any] = {"learning_rate": 0.01, "max_steps": 4, "batch_size": 4, "device": "cpu"}
HELDOUT = [
    {"path": "general:validation", "limit": 4},
    {"path": "shop:validation", "kind": "domain", "limit": 4},
]


def config_file(tmp_path: Path, **values: Any) -> str:
    path = tmp_path / f"{values.get('name', 'config')}.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return str(path)


def kd_config(base: Path, **changes: Any) -> dict[str, Any]:
    return {
        "method": "kd",
        "name": "kd",
        "teacher": str(base),
        "student": {"from": "teacher", "keep_layers": 2},
        "data": {
            "train": {"path": "general:train", "limit": 24},
            "heldout": HELDOUT,
            "max_length": 96,
        },
        "trainer": TRAINER,
        **changes,
    }


def test_the_story_kd_expert_dae(story: CommandLine, tiny_teacher: Path, tmp_path: Path) -> None:
    assert story.ok("train", config_file(tmp_path, **kd_config(tiny_teacher))).strip() == "kd"
    shop = {"path": "shop:train", "kind": "domain", "limit": 24}
    data = {"train": shop, "heldout": HELDOUT, "max_length": 96}
    story.ok(
        "train",
        config_file(
            tmp_path, method="sft", name="expert", student="kd", data=data, trainer=TRAINER
        ),
    )
    mixed = {**data, "train": [{"path": "general:train", "limit": 24}, shop], "domain_share": 0.5}
    story.ok(
        "train",
        config_file(
            tmp_path,
            method="dae",
            name="dae",
            student="kd",
            expert="expert",
            data=mixed,
            trainer=TRAINER,
        ),
    )
    runs = {run["run"]: run for run in story.json("runs")}
    assert set(runs) == {"kd", "expert", "dae"}
    for name, run in runs.items():
        assert (run["status"], run["step"], run["max_steps"]) == ("finished", 4, 4)
        assert run["checkpoint"] == name
        assert set(run) == {
            "run",
            "method",
            "status",
            "step",
            "max_steps",
            "loss",
            "started",
            "checkpoint",
        }
    shown = story.json("show", "dae")
    assert {"general_loss", "domain_loss", "loss", "kl"} <= set(shown["last"])
    assert "  expert: expert (sft)" in shown["lineage"]
    assert "  reference: kd (kd)" in shown["lineage"]
    assert any("tiny-teacher (model)" in line for line in shown["lineage"])
    assert "steps" in story.ok("logs", "dae")
    with Store(Paths(story.home).store) as store:
        found = store.checkpoint("dae")
        assert found is not None and (Path(found.path) / "model.safetensors").exists()


def test_the_story_scores_and_is_asked_nothing_twice(story: CommandLine) -> None:
    for _ in range(2):
        out = story.json(
            "eval",
            "--ckpt",
            "kd,expert,dae",
            "--bench",
            "shop,heldout",
            "--limit",
            "8",
            "--max-new-tokens",
            "4",
            "--teacher",
            "kd",
        )
        rows = {(row["checkpoint"], row["bench"], row["metric"]): row for row in out}
        assert {("dae", "shop", "score"), ("dae", "heldout", "general_loss")} <= set(rows)
    row = rows["dae", "heldout", "domain_loss"]
    assert list(row) == [
        "checkpoint",
        "run",
        "method",
        "bench",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "n",
        "n_failed",
        "judge",
        "flags",
    ]
    assert row["ci_low"] <= row["value"] <= row["ci_high"]
    assert rows["kd", "heldout", "general_kl"]["value"] == pytest.approx(0, abs=1e-6)
    with Store(Paths(story.home).store) as store:
        total = len(store.judgments())
        answers = sum(len(store.answers(c.id, "shop")) for c in store.checkpoints())
    assert answers == 3 * 8
    board = story.json("leaderboard")
    assert {r["checkpoint"] for r in board} == {"kd", "expert", "dae"}
    with Store(Paths(story.home).store) as store:
        assert len(store.judgments()) == total


def test_the_story_ends_in_a_trade_off(story: CommandLine) -> None:
    view = story.json(
        "tradeoff", "--domain", "heldout:domain_loss", "--general", "heldout:general_loss"
    )
    assert view["axes"] == {"general": "heldout:general_loss", "domain": "heldout:domain_loss"}
    points = {point["checkpoint"]: point for point in view["points"]}
    assert set(points["dae"]) == {
        "checkpoint",
        "method",
        "general",
        "domain",
        "gain",
        "retention",
        "on_front",
    }
    assert (view["reference"], view["expert"]) == ("kd", "expert")
    assert points["kd"]["gain"] == 0 and points["expert"]["gain"] == 1
    assert points["kd"]["retention"] == 1
    assert isinstance(view["hypervolume"], float)
    text = story.ok("tradeoff", "--domain", "heldout:domain_loss")
    assert "heldout:domain_loss" in text
    for form in ("csv", "md"):
        assert "dae" in story.ok("tradeoff", "--domain", "heldout:domain_loss", "--format", form)
    code, _, err = story("tradeoff", "--general", "nonsense:score")
    assert code == 2 and "no checkpoint has nonsense:score" in err


@pytest.mark.parametrize("form", ["table", "csv", "md", "json"])
def test_listings_come_in_every_format(story: CommandLine, form: str) -> None:
    for command in (["runs"], ["leaderboard"], ["data", "list"]):
        assert story.ok(*command, "--format", form).strip()


def test_eval_without_a_judge_says_what_waits(story: CommandLine, paths: Paths) -> None:
    code, _, err = story("eval", "--ckpt", "kd", "--bench", "mt-bench", "--limit", "1")
    assert code == 1
    assert "kdharness data pull mt-bench" in err


# ---------------------------------------------------------------- stop, kill, resume


def wait_for(check: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.time() + seconds
    while time.time() < deadline:
        if check():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def long_config(teacher: Path, name: str, **trainer: Any) -> dict[str, Any]:
    return kd_config(
        teacher,
        name=name,
        student={"from": "teacher", "keep_layers": 2, "lora": {"r": 4, "dropout": 0.1}},
        trainer={**TRAINER, "max_steps": 40, "accumulation": 2, "save_every": 5, **trainer},
    )


def weights(home: Path, name: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    folder = home / "runs" / name / "final"
    return load_file(next(folder.glob("*.safetensors")))


def test_killed_and_stopped_runs_resume_to_the_very_same_weights(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    """With dropout on, so that random state counts too."""
    import torch

    for name in ("calm", "killed", "stopped"):
        run = config_file(tmp_path, **long_config(tiny_teacher, name))
        kd.ok("train", run, *(["--detach"] if name != "calm" else []))
        if name == "calm":
            continue
        with Store(Paths(kd.home).store) as store:
            wait_for(lambda s=store, n=name: find_run(s, n).step >= 7)  # type: ignore[misc]
            found = find_run(store, name)
            if name == "killed":
                assert found.pid is not None
                os.kill(found.pid, signal.SIGKILL)
                wait_for(
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
    calm = weights(kd.home, "calm")
    for name in ("killed", "stopped"):
        other = weights(kd.home, name)
        assert set(other) == set(calm)
        assert all(torch.equal(calm[key], other[key]) for key in calm), name
    with Store(Paths(kd.home).store) as store:
        curves = [store.curve(name, "loss") for name in ("calm", "killed", "stopped")]
    assert curves[0] == curves[1] == curves[2]


def test_pause_and_resume(kd: CommandLine, tiny_teacher: Path, tmp_path: Path) -> None:
    config = long_config(tiny_teacher, "nap", max_steps=400, save_every=0)
    kd.ok("train", config_file(tmp_path, **config), "--detach")
    with Store(Paths(kd.home).store) as store:

        def status() -> RunStatus:
            return effective_status(find_run(store, "nap"))

        wait_for(lambda: find_run(store, "nap").step >= 2)
        kd.ok("pause", "nap")
        wait_for(lambda: status() is RunStatus.PAUSED)
        step = find_run(store, "nap").step
        time.sleep(1)
        assert find_run(store, "nap").step == step
        kd.ok("resume", "nap", "--detach")
        wait_for(lambda: find_run(store, "nap").step > step)
        kd.ok("stop", "nap")
        assert status() is RunStatus.STOPPED
    code, _, err = kd("stop", "nap")
    assert code == 1 and "not running: stopped" in err


def test_a_loss_that_explodes_stops_the_run_and_names_its_rows(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    config = kd_config(tiny_teacher, name="boom", trainer={**TRAINER, "max_loss": 1e-3})
    code, _, err = kd("train", config_file(tmp_path, **config))
    assert code == 1
    assert "the loss is" in err and "train.jsonl:" in err and "Traceback" not in err
    assert kd.json("runs")[0]["status"] == "failed"


# ---------------------------------------------------------------- bad input


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown field", {"trainer": {"temprature": 1}}, "did you mean temperature"),
    ("wrong type", {"trainer": {"max_steps": "many"}}, "trainer.max_steps"),
    ("missing model", {"teacher": "/nowhere/model"}, "no model named '/nowhere/model'"),
    ("missing data", {"data": {"train": "absent.jsonl"}}, "no such data file"),
    ("no labels", {"data": {"train": "mute.jsonl"}}, "no row has a labelled token"),
    ("bad line", {"data": {"train": "broken.jsonl"}}, "broken.jsonl:2"),
    (
        "other tokenizer",
        {"student": "other", "data": {"train": "general:train"}},
        "the tokenizers of",
    ),
]


@pytest.mark.parametrize(("name", "changes", "says"), BAD, ids=[case[0] for case in BAD])
def test_bad_configs_get_an_error_that_says_where(
    kd: CommandLine,
    tiny_teacher: Path,
    tmp_path: Path,
    name: str,
    changes: dict[str, Any],
    says: str,
) -> None:
    (tmp_path / "mute.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "hi"}]}\n', "utf-8"
    )
    good = '{"prompt": "a", "completion": "b"}\n'
    (tmp_path / "broken.jsonl").write_text(good + '{"prompt": \n', "utf-8")
    if changes.get("student") == "other":
        from support.models import make_llama_other

        changes = {**changes, "student": str(make_llama_other(tmp_path / "other"))}
    code, out, err = kd("train", config_file(tmp_path, **kd_config(tiny_teacher, **changes)))
    assert code in (1, 2)
    assert says in err
    assert "Traceback" not in err and out == ""


def test_a_taken_name_and_an_unknown_run_are_told(
    story: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    code, _, err = story("train", config_file(tmp_path, **kd_config(tiny_teacher)))
    assert code == 2 and "a run named 'kd' exists" in err
    for command in ("show", "logs", "stop", "pause", "resume"):
        code, _, err = story(command, "nobody")
        assert code == 1 and "no run named 'nobody'" in err and "newest runs: " in err


def test_usage_errors_exit_with_2(kd: CommandLine) -> None:
    assert kd("train")[0] == 2
    assert kd("nonsense")[0] == 2
    assert kd("runs", "--format", "xml")[0] == 2
    code, _, err = kd()
    assert code == 2 and "needs a terminal" in err


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_ctrl_c_and_sigterm_stop_a_run_with_a_checkpoint(
    by: signal.Signals, tiny_teacher: Path, paths: Paths, tmp_path: Path
) -> None:
    config = config_file(tmp_path, **long_config(tiny_teacher, "ctrl", max_steps=2000))
    process = start_command("--home", str(paths.home), "train", config)
    wait_for(paths.store.exists)
    with Store(paths.store) as store:
        wait_for(lambda: (run := store.run("ctrl")) is not None and run.step >= 3)
        process.send_signal(by)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert "stopping ctrl: a checkpoint is saved" in err
        assert "kdharness resume ctrl" in err
        assert find_run(store, "ctrl").status is RunStatus.STOPPED
    assert list(paths.run("ctrl").glob("checkpoint-*"))


def test_sigterm_on_an_evaluation_stops_its_worker(
    tiny_teacher: Path, paths: Paths, tmp_path: Path
) -> None:
    """`timeout 90 kdharness eval …` left the worker answering for minutes, without a word."""
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
    wait_for(paths.store.exists)
    with Store(paths.store) as store:
        wait_for(lambda: (run := store.run("e")) is not None and run.step >= 1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "stopping e" in err and "resume e" in err, err
        run = find_run(store, "e")
        assert run.status is RunStatus.STOPPED
        wait_for(lambda: not is_alive(run))
        checkpoint = store.checkpoints()[0]
        assert 0 < len(store.answers(checkpoint.id)) < 4000


# ---------------------------------------------------------------- data, config, doctor, cache


def test_data_show_prints_counts_and_labelled_parts(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    out = kd.ok("data", "show", config_file(tmp_path, **kd_config(tiny_teacher)), "--rows", "1")
    assert "24 rows" in out and "⟦" in out and "labelled" in out


def test_config_commands(kd: CommandLine, tmp_path: Path) -> None:
    names = kd.ok("config", "init").split()
    target = tmp_path / "mine.yaml"
    assert "kd-laptop" in names
    kd.ok("config", "init", "kd-laptop", "--output", str(target))
    assert kd.ok("config", "check", str(target)).startswith("ok: kd config")
    shown = yaml.safe_load(kd.ok("config", "show", str(target), "--set", "trainer.epochs=3"))
    assert shown["trainer"]["epochs"] == 3 and shown["trainer"]["warmup_ratio"] == 0.1
    code, _, err = kd("config", "init", "kd-laptop", "--output", str(target))
    assert code == 2 and "this file exists" in err
    code, _, err = kd("config", "init", "nothing")
    assert code == 2 and "kd-laptop" in err


def test_doctor_tells_versions_and_what_is_missing(kd: CommandLine) -> None:
    rows = {row["check"]: row for row in kd.json("doctor")}
    assert rows["torch"]["status"] == "ok"
    assert "kdharness data pull mt-bench" in rows["asset mt-bench"]["advice"]
    assert rows["judge"]["status"] == "note"


def test_cache_build_then_train_without_the_teacher(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    trainer = {**TRAINER, "attention_weight": 0}
    config = kd_config(
        tiny_teacher,
        name="cached",
        trainer=trainer,
        teacher={"model": str(tiny_teacher), "cache": {"k": 16}},
    )
    path = config_file(tmp_path, **config)
    code, out, err = kd("cache", "build", path)
    assert (code, out.strip()) == (0, "24 rows run")
    assert "0 stored already" in err
    assert kd("cache", "build", path)[1].strip() == "0 rows run"
    kd.ok("train", path)
    assert "24 stored already" in kd.ok("logs", "cached")


def test_help_of_every_command_is_light() -> None:
    """`kdharness --help` loads neither torch nor textual nor openai (nor transformers)."""
    script = (
        "import sys\nfrom kdharness.harness import cli\n"
        "for c in [[], *[[name] for name in cli.COMMANDS]]:\n"
        "    assert cli.run([*c, '--help']) == 0\n"
        "heavy = {'torch', 'textual', 'openai', 'transformers', 'numpy', 'matplotlib'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in cli.COMMANDS:
        assert command in done.stdout
