"""A whole distillation by command line in one home: KD, expert, DAE, scores, trade-off."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from kdharness.harness import cli
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.configs import HELDOUT, TRAINER, config_file, kd_config

pytestmark = pytest.mark.slow


SCORING = (
    *("eval", "--ckpt", "kd,expert,dae", "--bench", "shop,heldout", "--limit", "8"),
    *("--max-new-tokens", "4", "--teacher", "kd", "--format", "json"),
)


@pytest.fixture(scope="module")
def trained_home(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train KD, an expert and DAE in one home, the latter two from the KD checkpoint."""
    folder = tmp_path_factory.mktemp("story")
    shop = {"path": "shop:train", "kind": "domain", "limit": 24}
    general = {"path": "general:train", "limit": 24}
    data = {"train": shop, "heldout": HELDOUT, "max_length": 96}
    from_kd = {"student": "kd", "data": data, "trainer": TRAINER}
    mixed_data = {**data, "train": [general, shop], "domain_share": 0.5}
    configs = [
        kd_config(tiny_teacher),
        {"method": "sft", "name": "expert", **from_kd},
        {"method": "dae", "name": "dae", "expert": "expert", **from_kd, "data": mixed_data},
    ]
    for config in configs:
        path = config_file(folder, **config)
        with redirect_stdout(io.StringIO()) as out:
            assert cli.run(["--home", str(folder / "home"), "train", path]) == 0
        assert out.getvalue().strip() == config["name"]
    return folder / "home"


@pytest.fixture(scope="module")
def scored_home(trained_home: Path) -> Path:
    """Evaluate the three checkpoints in that home."""
    assert cli.run(["--home", str(trained_home), *SCORING]) == 0
    return trained_home


@pytest.fixture
def story(scored_home: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Return the command line with that home."""
    return CommandLine(scored_home, capsys)


def test_training_runs_and_lineage(story: CommandLine) -> None:
    runs = {run["run"]: run for run in story.json("runs") if run["method"] != "eval"}
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
        checkpoint = store.checkpoint("dae")
        assert checkpoint is not None and (Path(checkpoint.path) / "model.safetensors").exists()


def test_scores_and_no_repeated_evaluation(story: CommandLine) -> None:
    with Store(Paths(story.home).store) as store:
        total = len(store.judgments())
    printed = json.loads(story.ok(*SCORING))
    rows = {(row["checkpoint"], row["bench"], row["metric"]): row for row in printed}
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
        assert len(store.judgments()) == total
        answers = sum(len(store.answers(c.id, "shop")) for c in store.checkpoints())
    assert answers == 3 * 8
    board = story.json("leaderboard")
    assert {r["checkpoint"] for r in board} == {"kd", "expert", "dae"}
    with Store(Paths(story.home).store) as store:
        assert len(store.judgments()) == total


def test_tradeoff_of_the_trained_checkpoints(story: CommandLine) -> None:
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
def test_listings_support_every_format(story: CommandLine, form: str) -> None:
    for command in (["runs"], ["leaderboard"], ["data", "list"]):
        assert story.ok(*command, "--format", form).strip()


def test_eval_with_a_missing_asset_names_the_pull_command(story: CommandLine, paths: Paths) -> None:
    code, _, err = story("eval", "--ckpt", "kd", "--bench", "mt-bench", "--limit", "1")
    assert code == 1
    assert "kdharness data pull mt-bench" in err


def test_existing_name_and_unknown_run_are_reported(
    story: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    code, _, err = story("train", config_file(tmp_path, **kd_config(tiny_teacher)))
    assert code == 2 and "a run named 'kd' already exists" in err
    for command in ("show", "logs", "stop", "pause", "resume"):
        code, _, err = story(command, "nobody")
        assert code == 1 and "no run named 'nobody'" in err and "newest runs: " in err
