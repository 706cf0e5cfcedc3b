"""The evaluation commands through the real entry point."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdharness.harness.cli.eval import all_failed
from kdharness.harness.paths import Paths
from support.commands import CommandLine
from support.files import WriteRows
from support.loopback import Loopback
from support.result_files import alpaca_annotation, fastchat_answer, single_judgment

pytestmark = pytest.mark.usefixtures("assets_home")


@pytest.mark.slow
def test_eval_runs_in_a_worker_and_prints_scores(
    kd: CommandLine, tiny_teacher: Path, paths: Paths
) -> None:
    with Loopback() as server:
        code, out, err = kd(
            "eval",
            "--ckpt",
            str(tiny_teacher),
            "--bench",
            "shop,mt-bench",
            "--judge",
            server.spec,
            "--limit",
            "4",
            "--max-new-tokens",
            "6",
            "--format",
            "json",
        )
    assert code == 0, err
    rows = json.loads(out)
    assert {row["bench"] for row in rows} == {"shop", "mt-bench"}
    keys = [
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
    assert all(list(row) == keys for row in rows)
    score = next(r for r in rows if r["bench"] == "mt-bench" and r["metric"] == "score")
    assert score["n"] == 8 and score["flags"][0] == "subset:4"
    # The second run starts a worker as well but makes no judge calls.
    with Loopback(port=server.port) as second_server:
        code, _, err = kd(
            "eval",
            "--ckpt",
            str(tiny_teacher),
            "--bench",
            "mt-bench",
            "--judge",
            second_server.spec,
            "--limit",
            "4",
            "--max-new-tokens",
            "6",
            "--resume",
        )
        assert code == 0, err
        assert second_server.calls == 0


@pytest.mark.slow
def test_eval_without_a_judge_names_the_judge_settings(kd: CommandLine, tiny_teacher: Path) -> None:
    code, _, err = kd(
        "eval",
        "--ckpt",
        str(tiny_teacher),
        "--bench",
        "mt-bench",
        "--limit",
        "2",
        "--max-new-tokens",
        "4",
    )
    assert code == 0
    assert "--judge" in err and "KDHARNESS_JUDGE" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["eval"], "--ckpt"),
        (["eval", "--ckpt", "x", "--judge", "gpt-4"], "is not a valid judge spec"),
        (["eval", "--ckpt", "x", "--limit", "0"], "limit"),
        (["eval", "--ckpt", "x", "--timeout", "-1"], "timeout"),
    ],
)
def test_usage_error_exits_with_2_and_names_the_field(
    kd: CommandLine, args: list[str], message: str
) -> None:
    code, out, err = kd(*args)
    assert code == 2 and message in err and not out and "Traceback" not in err


def test_import_leaderboard_and_export(
    kd: CommandLine, write_jsonl: WriteRows, tmp_path: Path
) -> None:
    rows = [single_judgment(81 + n, t, 1 + (n * t) % 10) for n in range(80) for t in (1, 2)]
    path = write_jsonl("gpt-4_single.jsonl", rows)
    code, out, err = kd("import", "fastchat", str(path), "--format", "json")
    assert code == 0 and "160 single rows, 160 new: m" in err
    assert any(row["metric"] == "category:math" for row in json.loads(out))
    code, out, err = kd("import", "fastchat", str(path), "--as-published", "--format", "json")
    assert "0 new" in err and "as-published" in json.loads(out)[0]["flags"]

    code, out, err = kd("leaderboard")
    assert code == 0 and "score" in out and "category" not in out
    assert "imported:" in err  # the legend
    code, out, _ = kd("leaderboard", "--format", "csv", "--metric", "score")
    assert (
        out.splitlines()[0].startswith("checkpoint,method,bench,metric")
        and len(out.splitlines()) == 2
    )
    code, out, _ = kd("leaderboard", "--format", "md", "--bench", "mt-bench")
    assert out.startswith("| rank | checkpoint |")

    code, out, _ = kd("export", "fastchat", str(tmp_path / "out"))
    assert code == 0 and out.strip().endswith("gpt-4_single.jsonl")
    code, out, _ = kd("export", "model-card", "m")
    assert code == 0 and out.startswith("# m\n")


def test_import_alpaca_eval(kd: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([alpaca_annotation(str(n), 1 + n % 2) for n in range(40)]))
    code, out, err = kd("import", "alpaca-eval", str(path), "--name", "mine", "--format", "json")
    assert code == 0 and "40 annotations rows" in err
    rows = {row["metric"]: row for row in json.loads(out)}
    assert rows["win_rate"]["value"] == 50 and rows["win_rate"]["checkpoint"] == "mine"
    assert "lc:difficulty-free" in rows["length_controlled_winrate"]["flags"]


def test_import_of_an_unrelated_file_reports_the_line(
    kd: CommandLine, write_jsonl: WriteRows
) -> None:
    code, out, err = kd("import", "fastchat", str(write_jsonl("x.jsonl", [{"a": 1}])))
    assert code == 2 and "line 1" in err and not out and "Traceback" not in err


def test_dry_run_prints_calls_and_cost(
    kd: CommandLine, write_jsonl: WriteRows, paths: Paths
) -> None:
    kd(
        "import",
        "fastchat",
        str(write_jsonl("a.jsonl", [fastchat_answer(n) for n in range(81, 89)])),
    )
    spec = "openai:judge-1@http://127.0.0.1:9/v1"
    args = ("eval", "--answers", "m", "--bench", "mt-bench", "--judge", spec, "--dry-run")
    code, out, err = kd(*args, "--format", "json")
    (row,) = json.loads(out)
    assert code == 0 and (row["calls"], row["answers"]) == (16, 0) and row["tokens"] > 16 * 256
    paths.settings.write_text("prices: {judge-1: [1, 2]}\n")
    _, out, err = kd(*args, "--format", "json")
    assert json.loads(out)[0]["usd"] > 0 and "about $" in err


@pytest.mark.slow
def test_judge_check_stores_a_card_that_flags_the_judges_scores(
    kd: CommandLine, write_jsonl: WriteRows, paths: Paths
) -> None:
    from kdharness.harness.config.evaluation import EvalConfig
    from kdharness.harness.evaluation import pipeline
    from kdharness.harness.protocols import NullReporter
    from kdharness.harness.store import Store

    kd(
        "import",
        "fastchat",
        str(write_jsonl("a.jsonl", [fastchat_answer(n) for n in range(81, 89)])),
    )
    with Loopback() as server:
        config = EvalConfig(imported=["m"], benches=["mt-bench"], judge=[server.spec])
        with Store(paths.store) as store:
            pipeline.run(config, paths, store, NullReporter())
        rows = json.loads(kd("leaderboard", "--format", "json")[1])
        assert "judge:untested" in rows[0]["flags"]
        code, out, err = kd("judge", "check", server.spec, "--items", "4", "--format", "json")
    assert code == 0 and "log-probabilities" in err
    card = {row["key"]: row for row in json.loads(out)}
    # The test server answers by a hash of the prompt: no better than chance.
    assert card["readable"]["share"] > 0.9 and card["tells_all"]["low"] < 0.5
    rows = json.loads(kd("leaderboard", "--format", "json")[1])
    assert "judge:near-chance" in rows[0]["flags"]
    code, out, _ = kd("judge", "list", "--format", "json")
    (listed,) = [row for row in json.loads(out) if row["judge"] == f"openai:judge-1@{server.url}"]
    assert "near-chance" in listed["card"]


@pytest.mark.slow
def test_judge_check_of_an_unreachable_judge_is_reported(kd: CommandLine) -> None:
    code, _, err = kd("judge", "check", "openai:m@http://127.0.0.1:9/v1")
    assert code == 1 and "cannot be reached" in err and "Traceback" not in err


def test_an_empty_store_has_an_empty_leaderboard(kd: CommandLine) -> None:
    assert kd("leaderboard", "--format", "json")[:2] == (0, "[]\n")
    assert kd("judge", "list", "--format", "json")[:2] == (0, "[]\n")


def test_help_imports_no_heavy_modules() -> None:
    script = (
        "import sys\n"
        "from kdharness.harness import cli\n"
        "cli.run(['eval', '--help']); cli.run(['judge', '--help'])\n"
        "heavy = {'torch', 'openai', 'textual', 'numpy', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_unreachable_judge_fails_the_run_with_a_reason(
    kd: CommandLine, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_teacher.parent)
    code, _, err = kd(
        "eval",
        "--ckpt",
        tiny_teacher.name,
        "--bench",
        "mt-bench",
        "--judge",
        "openai:m@http://127.0.0.1:9/v1",
        "--format",
        "json",
    )
    assert code == 1 and "cannot be reached" in err and "Traceback" not in err


def test_absolute_source_resolves_local_paths_only(
    paths: Paths, tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdharness.harness.config.evaluation import absolute_source

    monkeypatch.chdir(tiny_teacher.parent)
    assert absolute_source(tiny_teacher.name) == str(tiny_teacher)
    assert absolute_source(f"local:{tiny_teacher.name}") == f"local:{tiny_teacher}"
    assert absolute_source(f"vllm:{tiny_teacher.name}") == f"vllm:{tiny_teacher}"
    assert absolute_source(f"llama:{tiny_teacher.name}/config.json").startswith("llama:/")
    assert absolute_source("org/model") == "org/model"
    assert absolute_source("vllm:org/model") == "vllm:org/model"
    assert absolute_source("openai:m@http://h/v1") == "openai:m@http://h/v1"


def test_eval_config_stores_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be resumed from another folder."""
    from kdharness.harness.config.files import make_eval_config

    monkeypatch.chdir(tmp_path)
    (tmp_path / "twin").mkdir()
    for name in ("twin/config.json", "mine.jsonl", "template.yaml", "general.jsonl"):
        (tmp_path / name).write_text("{}")
    config = make_eval_config(
        checkpoints=["m"],
        benches=["mine.jsonl", "shop"],
        baseline="twin",
        judge_config="template.yaml",
        heldout={"general": "general.jsonl", "teacher": "twin"},
    )
    assert config.benches == [str(tmp_path / "mine.jsonl"), "shop"]
    assert config.baseline == config.heldout.teacher == str(tmp_path / "twin")
    assert config.judge_config == str(tmp_path / "template.yaml")
    assert config.heldout.general == str(tmp_path / "general.jsonl")
    assert config.checkpoints == ["m"]


@pytest.mark.parametrize(
    ("counts", "want"),
    [
        ({"answers": 4, "failed_answers": 4}, True),
        ({"answers": 4, "judgments": 4, "failed_judgments": 4}, True),
        ({"answers": 4, "failed_answers": 3, "judgments": 4, "failed_judgments": 3}, False),
        ({"reused": 8}, False),
        # One of many that were scored before fails again.
        ({"reused": 8, "judgments": 1, "failed_judgments": 1}, False),
        ({}, False),
    ],
)
def test_an_evaluation_of_which_nothing_came_has_failed(counts: dict[str, int], want: bool) -> None:
    names = ("answers", "failed_answers", "judgments", "failed_judgments", "reused", "left")
    result = {**dict.fromkeys(names, 0), "usd": 0.0, "waiting": [], "checkpoints": [], **counts}
    assert all_failed(result) is want  # type: ignore[arg-type]
