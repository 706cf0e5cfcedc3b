"""Messages for typos and unknown names, and output in limited terminal encodings."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdharness.harness.cli.main import COMMANDS, HELP
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus
from support.commands import CommandLine


def add_scored_checkpoint(paths: Paths) -> None:
    """Store one checkpoint with scores."""
    with Store(paths.store) as store:
        store.add_checkpoint(Checkpoint("c", "kd", "kd", "", 1.0))
        store.add_judgments(
            Judgment(
                id=f"j{n}",
                checkpoint="c",
                bench="shop",
                revision="r",
                item=str(n),
                turn=1,
                category="",
                judge="exact",
                metric="accuracy",
                status=JudgmentStatus.OK,
                created=1.0,
                value=n % 2,
            )
            for n in range(12)
        )


@pytest.mark.parametrize(
    ("typed", "suggestion"),
    [
        ("leaderbord", "leaderboard"),
        ("trian", "train"),
        ("run", "train or runs"),
        ("evaluate", "eval"),
        ("ls", "runs"),
        ("compair", "compare"),
        ("docter", "doctor"),
    ],
)
def test_mistyped_command_suggests_the_closest(
    typed: str, suggestion: str, kd: CommandLine
) -> None:
    code, _, err = kd(typed)
    assert code == 2 and f"no such command {typed!r}; did you mean {suggestion}?" in err


def test_unknown_command_without_a_close_match(kd: CommandLine) -> None:
    code, _, err = kd("xyzzy")
    assert code == 2 and "no such command 'xyzzy'" in err and "did you mean" not in err


def test_short_help_option(kd: CommandLine) -> None:
    assert kd("-h")[1] == kd("--help")[1] != ""
    assert kd("store", "merge", "-h")[0] == 0


# ---------------------------------------------------------------- unknown names


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--bench", "nosuch", "no benchmark 'nosuch'"),
        ("--bench", "shpo", "no benchmark 'shpo'; did you mean shop?"),
        ("--metric", "accurracy", "no metric 'accurracy'"),
        ("--metric", "scores", "no metric 'scores'; did you mean score?"),
        ("--ckpt", "kdd", "no checkpoint 'kdd'"),
        ("--judge", "openai:gpt", "no judge 'openai:gpt'"),
    ],
)
def test_leaderboard_rejects_unknown_names_and_lists_available_ones(
    option: str, name: str, message: str, kd: CommandLine, paths: Paths
) -> None:
    add_scored_checkpoint(paths)
    code, out, err = kd("leaderboard", option, name)
    assert code == 2 and message in err and "available: " in err and out == ""


def test_known_benchmark_without_scores_is_not_an_error(kd: CommandLine, paths: Paths) -> None:
    add_scored_checkpoint(paths)
    assert kd("leaderboard", "--bench", "mt-bench")[0] == 0
    assert kd("leaderboard", "--bench", "shop", "--metric", "score", "--ckpt", "kd")[0] == 0


def test_leaderboard_of_an_empty_home_accepts_any_filter(kd: CommandLine) -> None:
    assert kd("leaderboard", "--metric", "anything")[0] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ckpt", "MODEL", "--bench", "shpo"], "unknown benchmark 'shpo'; did you mean shop?"),
        (["--ckpt", "nowhere", "--bench", "shop"], "no model named 'nowhere'"),
        (["--ckpt", "MODEL", "--bench", "none.jsonl"], "none.jsonl"),
        (["--answers", "nobody", "--bench", "shop"], "no stored answers of a model named 'nobody'"),
        (["--ckpt", "MODEL", "--bench", "heldout", "--teacher", "gone"], "no model named 'gone'"),
        (
            ["--ckpt", "MODEL", "--bench", "RATED", "--judge", "local:nowhere"],
            "no model named 'nowhere'",
        ),
        (
            ["--ckpt", "MODEL", "--bench", "RATED", "--judge", "local:ADAPTER"],
            "its base model '/gone'",
        ),
        (["--ckpt", "MODEL", "--bench", "RATED", "--judge", "local:"], "is not a valid judge spec"),
        (
            ["--ckpt", "MODEL", "--bench", "RATED", "--baseline", "nobody"],
            "baseline: no model named 'nobody'",
        ),
        (
            ["--ckpt", "MODEL", "--bench", "shop", "--answer-engine", "local:nowhere"],
            "answer_engine: no model named 'nowhere'",
        ),
    ],
)
def test_invalid_evaluation_arguments_create_no_run(
    args: list[str], message: str, kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    rated = tmp_path / "rated.jsonl"
    rated.write_text('{"prompt": "Say."}\n', "utf-8")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    adapter_config = '{"peft_type": "LORA", "base_model_name_or_path": "/gone"}'
    (adapter / "adapter_config.json").write_text(adapter_config, "utf-8")
    replacements = {
        "MODEL": str(tiny_teacher),
        "RATED": str(rated),
        "local:ADAPTER": f"local:{adapter}",
    }
    code, _, err = kd("eval", *(replacements.get(arg, arg) for arg in args))
    assert code in (1, 2) and message in err and "Traceback" not in err, err
    with Store(paths.store) as store:
        assert store.runs() == []


@pytest.mark.slow
def test_checkpoint_without_weights_can_be_evaluated_but_not_trained(
    kd: CommandLine, paths: Paths, tmp_path: Path
) -> None:
    """Imported answers, and checkpoints whose folder has changed since, have no weights."""
    add_scored_checkpoint(paths)
    assert kd("eval", "--ckpt", "kd", "--bench", "shop", "--limit", "1")[0] == 0
    file = tmp_path / "c.yaml"
    file.write_text("method: sft\nstudent: kd\ndata: {train: 'shop:train'}\n", "utf-8")
    code, _, err = kd("train", str(file), "--name", "mine")
    assert code == 1 and "student.model: kd has stored answers and scores, but no weights" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: sft\nstudent: nowhere\ndata: {train: 'shop:train'}\n", "student.model: no model"),
        ("method: sft\nstudent: MODEL\ndata: {train: gone.jsonl}\n", "data.train.0.path: gone.jso"),
        ("method: sft\nstudent: MODEL\ndata: {train: 'C:\\x.jsonl'}\n", "no such data file"),
        ("method: sft\nstudent: MODEL\ndata: {train: 'shop:trian'}\n", "no shipped data 'shop:tri"),
        ("method: sft\nstudent: MODEL\ndata: {train: /tmp}\n", "/tmp: is a folder"),
        ("method: sft\nstudent: MODEL\ndata: {train: 'hub:'}\n", "missing dataset name"),
        (
            "method: sft\nstudent: MODEL\ndata: {train: 'shop:train', chat_template: gone.jinja}\n",
            "data.chat_template: no such template file: gone.jinja",
        ),
        (
            "method: dae\nstudent: MODEL\nexpert: gone\ndata:\n  train:\n"
            "  - {path: 'shop:train', kind: domain}\n",
            "expert.model: no model named 'gone'",
        ),
        ("method: merge\nkind: average\nmodels: [MODEL, gone]\n", "no model named 'gone'"),
    ],
)
def test_invalid_training_config_creates_no_run(
    text: str, message: str, kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text.replace("MODEL", str(tiny_teacher)), "utf-8")
    command = "merge" if "merge" in text else "train"
    code, _, err = kd(command, str(file), "--name", "mine")
    assert code in (1, 2) and message in err, err
    with Store(paths.store) as store:
        assert store.runs() == []


# ---------------------------------------------------------------- streams


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "latin-1", "ascii"])
def test_output_in_limited_terminal_encodings(
    encoding: str, tmp_path: Path, tiny_teacher: Path
) -> None:
    rows = tmp_path / "rows ☃.jsonl"
    row = {"prompt": "Say 今天 नमस्ते 🙂", "completion": "¡Olé! ☃"}
    rows.write_text(json.dumps(row) + "\n", "utf-8")
    config = tmp_path / "c.yaml"
    config.write_text(f"method: sft\nstudent: {tiny_teacher}\ndata: {{train: {rows}}}\n", "utf-8")
    home = ["--home", str(tmp_path / "home")]
    add_scored_checkpoint(Paths(tmp_path / "home"))
    shown = b""
    commands = [["config", "show"], ["leaderboard"]]
    # A tokenizer takes seconds to import; its text is encoded as any other.
    commands += [["data", "show"]] if encoding == "gbk" else []
    for command in commands:
        arguments = [*home, *command, *([str(config)] if len(command) > 1 else [])]
        done = subprocess.run(
            [sys.executable, "-m", "kdharness.harness.cli", *arguments],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
        shown += done.stdout
    # click treats ASCII as a misconfigured environment and writes UTF-8 instead.
    assert (b"\\u2603" if encoding != "ascii" else "☃".encode()) in shown


@pytest.mark.parametrize("closed", [False, True])
def test_app_does_not_start_without_a_terminal_on_stdin(closed: bool, tmp_path: Path) -> None:
    """`echo x | kdharness` in a terminal opened an app that received no key presses."""
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "kdharness.harness.cli", "--home", str(tmp_path)],
            stdin=None if closed else subprocess.PIPE,
            stdout=slave,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            close_fds=True,
            preexec_fn=(lambda: os.close(0)) if closed else None,
        )
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 2 and "the app needs a terminal, but stdin is not one" in done.stderr


def test_help_lists_all_commands_untruncated(kd: CommandLine) -> None:
    assert list(HELP) == list(COMMANDS)
    out = kd("--help")[1]
    for name, line in HELP.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", out, flags=re.M), name


def test_help_imports_no_command_modules() -> None:
    script = (
        "import sys\nfrom kdharness.harness import cli\ncli.run(['--help'])\n"
        "ours = {m for m in sys.modules if m.startswith('kdharness.harness.cli.')}\n"
        "assert {m.rpartition('.')[2] for m in ours} <= {'main', 'groups'}, ours\n"
        "assert not {'pydantic', 'sqlite_utils', 'yaml', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
