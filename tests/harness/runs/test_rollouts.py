"""The file of a run's sampled answers, the work of sampling, and the command that shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.on_policy import OnPolicySpec
from kdharness.harness.config.trainer import DistillSpec
from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.memory import sampling_bytes
from kdharness.harness.runs.rollouts import (
    NAME,
    Rollout,
    RolloutFile,
    SamplingWork,
    read_rollouts,
    sampling_work,
)
from kdharness.harness.runs.sizes import Size
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from support.commands import CommandLine


def rollout(step: int, **changes: Any) -> Rollout:
    values: dict[str, Any] = {
        "step": step,
        "row": 3,
        "where": "rows.jsonl:4",
        "kind": "domain",
        "prompt_tokens": 5,
        "tokens": 2,
        "ended": True,
        "distinct": None,
        "score": 0.25,
        "text": "Grüße \ud800 \x1b[2J",
    }
    return Rollout(**{**values, **changes})


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path)
    assert file.restart_after(3) == []
    file.add([rollout(1), rollout(2, distinct=0.5)])
    file.add([rollout(3, ended=False)])
    file.sync()
    found = list(read_rollouts(tmp_path))
    assert [one.step for one in found] == [1, 2, 3]
    # Half characters become U+FFFD, as everywhere.
    assert found[0].text == "Grüße � \x1b[2J"
    assert [one.step for one in file.restart_after(2)] == [1, 2]
    assert [one.step for one in read_rollouts(tmp_path)] == [1, 2]


def test_a_line_that_was_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path)
    file.add([rollout(1)])
    with (tmp_path / NAME).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(rollout(2).as_dict())[:-9])
    assert [one.step for one in read_rollouts(tmp_path)] == [1]
    assert [one.step for one in file.restart_after(2)] == [1]
    file.add([rollout(2)])
    assert [one.step for one in read_rollouts(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "damaged line"),
        ("[1]", "not a JSON object"),
        (json.dumps({**rollout(1).as_dict(), "step": "1"}), "invalid step"),
        (json.dumps({**rollout(1).as_dict(), "tokens": True}), "invalid tokens"),
        (json.dumps({**rollout(1).as_dict(), "ended": 1}), "invalid ended"),
        (json.dumps({**rollout(1).as_dict(), "distinct": "all"}), "invalid distinct"),
        ('{"step": 1}', "missing or invalid row, where"),
    ],
)
def test_damaged_lines_are_named_with_their_place(line: str, words: str, tmp_path: Path) -> None:
    good = json.dumps(rollout(1).as_dict())
    (tmp_path / NAME).write_text(f"{good}\n{line}\n{good}\n", "utf-8")
    with pytest.raises(RunError, match=words) as caught:
        list(read_rollouts(tmp_path))
    assert str(caught.value.where).endswith(f"{NAME}:2")


def test_the_work_of_sampling_adds_up_token_by_token() -> None:
    for prompt, tokens in ((7, 1), (7, 4), (1, 9)):
        # The prompt in one pass over all pairs, then one query a token.
        scores = prompt**2 + sum(prompt + n for n in range(1, tokens))
        assert sampling_work(prompt, tokens) == SamplingWork(prompt + tokens - 1, tokens, scores)


@pytest.fixture
def a_run(paths: Paths) -> str:
    with Store(paths.store) as store:
        store.add_run(
            Run(
                id="r",
                method="kd",
                status=RunStatus.FINISHED,
                config={},
                config_hash="0",
                folder=str(paths.run("r")),
                created=1.0,
            )
        )
    paths.run("r").mkdir(parents=True)
    return "r"


def test_the_command_shows_answers_without_driving_the_terminal(
    a_run: str, paths: Paths, kd: CommandLine
) -> None:
    RolloutFile(paths.run(a_run)).add(rollout(step, row=step % 2) for step in range(1, 15))
    text = kd.ok("rollouts", a_run)
    assert text.count("nats per token") == 10 and "step 5 ·" in text and "step 4 ·" not in text
    assert "\x1b" not in text and "ended" in text
    rows = kd.json("rollouts", a_run, "--row", "1", "--all")
    assert [row["step"] for row in rows] == list(range(1, 15, 2))
    code, out, err = kd("rollouts", a_run, "--step", "99", "--format", "json")
    assert (code, json.loads(out)) == (0, []) and "no sampled answer matches" in err
    assert "0.25" in kd.ok("rollouts", a_run, "--format", "csv", "-n", "1")


def test_runs_without_sampled_answers_are_told_apart(a_run: str, kd: CommandLine) -> None:
    code, _, err = kd("rollouts", a_run)
    assert code != 0 and "no sampled answers in run r" in err and "trainer.on_policy" in err
    code, _, err = kd("rollouts", "nope")
    assert code != 0 and "nope" in err


def test_keys_and_values_of_answers_that_are_sampled_together() -> None:
    size = Size(
        total=1,
        body=1,
        linear=1,
        linears=(),
        layers=4,
        hidden=8,
        intermediate=8,
        heads=2,
        key_heads=1,
        head_size=4,
        vocab=10,
    )
    spec = DistillSpec(batch_size=2, accumulation=3, on_policy=OnPolicySpec(batch_size=16))
    # Six answers at once, each of 10 positions: keys and values of 4 numbers in 4 layers.
    assert sampling_bytes(spec, size, 10, 2) == 6 * 10 * 4 * (4 + 4) * 2
    served = OnPolicySpec(engine="http://h:1/v1")
    assert sampling_bytes(DistillSpec(on_policy=served), size, 10, 2) == 0
    assert sampling_bytes(DistillSpec(), size, 10, 2) == 0
