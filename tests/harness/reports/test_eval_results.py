"""Scores on leaderboards of the hub: what is written, what is refused, what the hub is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from kdharness.harness.errors import ConfigError, KDHarnessError, ModelError
from kdharness.harness.models.checkpoints import model_checkpoint
from kdharness.harness.paths import Paths
from kdharness.harness.reports.eval_results import parse_spec, result_files, with_other_tasks
from kdharness.harness.reports.publish import prepare
from kdharness.harness.reports.upload import publish
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from support.commands import CommandLine
from support.hub_server import HubServer
from support.models import make_llama
from support.scored_store import verdict

REPO = "me/shop"
SPEC = "shop:score=lab/Shop-Bench:main"
REGISTERED = b"name: Shop\ntasks:\n  - {id: main, config: default, split: test}\n  - {id: hard}\n"


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    """Return the hub with a registered benchmark."""
    hub.datasets["lab/Shop-Bench"] = {"eval.yaml": REGISTERED}
    return hub


@pytest.fixture
def model(tmp_path: Path, paths: Paths) -> str:
    """Return the name of a stored model with 12 answers, of which 9 are right."""
    folder = tmp_path / "trained"
    make_llama(folder, num_hidden_layers=1)
    known = model_checkpoint(paths, str(folder))
    with Store(paths.store) as store:
        rows = [verdict("x", n, float(n < 9), category="") for n in range(12)]
        store.add_judgments([replace(row, checkpoint=known.id) for row in rows])
    return known.name


def score(**values: Any) -> Score:
    given = {"bench": "shop", "metric": "score", "value": 0.75, "ci_low": 0.5, "ci_high": 0.9}
    rest = {"n": 12, "n_failed": 0, "judge": ""}
    return Score(**{"checkpoint": "c", "run": None, "method": "sft", **given, **rest, **values})


def entries_of(data: bytes | str) -> list[Any]:
    return parse_eval_result_entries(yaml.safe_load(data))


def test_a_score_is_published_for_a_registered_task(
    hub: HubServer, model: str, kd: CommandLine
) -> None:
    kd.ok("publish", model, "--to", REPO, "--eval-result", SPEC, "--percent")
    files = hub.commits[hub.refs["main"]]
    (entry,) = entries_of(files[".eval_results/lab_Shop-Bench.yaml"])
    assert (entry.dataset_id, entry.task_id, entry.value) == ("lab/Shop-Bench", "main", 75.0)
    assert entry.source_url == f"https://huggingface.co/{REPO}"
    assert "n = 12" in entry.notes and "95 % interval" in entry.notes
    # Percent, as the value is.
    low = float(entry.notes.split("interval ")[1].split()[0])
    assert 30 < low < 75


def test_a_dry_run_shows_the_entry_and_asks_nobody(
    hub: HubServer, model: str, kd: CommandLine
) -> None:
    shown = kd.ok("publish", model, "--to", REPO, "--eval-result", SPEC, "--dry-run")
    assert ".eval_results/lab_Shop-Bench.yaml" in shown and "value: 0.75" in shown
    assert hub.asked == []


@pytest.mark.parametrize(
    ("spec", "files", "message", "hint"),
    [
        ("shop:score=lab/Other:main", {}, "no dataset lab/Other", "ORG/DATASET"),
        ("shop:score=lab/Plain:main", {"data.csv": b""}, "is not a benchmark", "leave out"),
        ("shop:score=lab/Plain:mian", {"eval.yaml": REGISTERED}, "did you mean main", "main, hard"),
        ("shop:score=lab/Plain:main", {"eval.yaml": b"tasks: 3"}, "no task 'main'", "none"),
        ("shop:score=lab/Plain:main", {"eval.yaml": b"- 1"}, "no task 'main'", "none"),
        ("shop:score=lab/Plain:main", {"eval.yaml": b"a: [1"}, "eval.yaml of lab/Plain", ""),
    ],
)
def test_what_is_not_registered_is_refused_before_anything_is_uploaded(
    hub: HubServer,
    model: str,
    paths: Paths,
    spec: str,
    files: dict[str, bytes],
    message: str,
    hint: str,
) -> None:
    if files:
        hub.datasets["lab/Plain"] = files
    with pytest.raises(ConfigError) as caught:
        publish(prepare(paths, model, REPO, results=[spec]))
    assert message in str(caught.value) and hint in (caught.value.hint or "")
    assert not hub.refs


def test_a_hub_that_cannot_be_asked_is_named(
    hub: HubServer, model: str, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = prepare(paths, model, REPO, results=[SPEC])
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(ModelError, match="could not ask the hub for the tasks of lab/Shop-Bench"):
        publish(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop=lab/b:t",
        "shop:score",
        "shop:score=lab/b",
        "shop:score=b:t",
        "shop:score=lab/b@1:t",
    ],
)
def test_a_result_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="does not name a result"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("scores", "percent", "message"),
    [
        ([], False, "has no score shop:score"),
        ([score(metric="scroe")], False, "did you mean shop:scroe"),
        ([score(judge="a"), score(judge="b")], False, "several scores: a, b"),
        ([score(n=7)], False, "a score of 7 items"),
        ([score(value=None)], False, "too few"),
        ([score(flags=("judge:unchecked",))], False, "flag judge:unchecked"),
        ([score(value=7.5)], True, "is 7.5, not a share"),
    ],
)
def test_scores_that_no_leaderboard_should_have(
    scores: list[Score], percent: bool, message: str
) -> None:
    with pytest.raises(KDHarnessError) as caught:
        result_files([parse_spec(SPEC)], scores, REPO, percent=percent)
    assert message in str(caught.value)


def test_tasks_of_one_dataset_share_a_file_and_none_is_given_twice() -> None:
    specs = [parse_spec(SPEC), parse_spec("shop:score=lab/Shop-Bench:hard")]
    files = result_files(specs, [score(judge="openai:m@http://10.0.0.1:8/v1")], REPO, percent=False)
    (data,) = files.values()
    assert [entry.task_id for entry in entries_of(data)] == ["main", "hard"]
    assert b"10.0.0.1" not in data and b"judge openai:m" in data
    with pytest.raises(ConfigError, match="given twice"):
        result_files([specs[0], specs[0]], [score()], REPO, percent=False)


def test_entries_of_other_tasks_stay(hub: HubServer, model: str, paths: Paths) -> None:
    """Public reports: a new entry that replaced the whole file of results."""
    publish(prepare(paths, model, REPO, results=[SPEC]))
    publish(prepare(paths, model, REPO, results=["shop:score=lab/Shop-Bench:hard"]), force=True)
    name = ".eval_results/lab_Shop-Bench.yaml"
    files = hub.commits[hub.refs["main"]]
    assert [entry.task_id for entry in entries_of(files[name])] == ["main", "hard"]
    # Once more the first: its entry is replaced, not doubled.
    publish(prepare(paths, model, REPO, results=[SPEC], percent=True), force=True)
    found = entries_of(hub.commits[hub.refs["main"]][name])
    assert [(entry.task_id, entry.value) for entry in found] == [("hard", 0.75), ("main", 75.0)]


@pytest.mark.parametrize("former", ["", "a: [", "3", "- 1\n- {dataset: 2}", "dataset: {id: x}"])
def test_a_damaged_file_of_results_is_replaced(former: str) -> None:
    (data,) = result_files([parse_spec(SPEC)], [score()], REPO, percent=False).values()
    assert with_other_tasks(data.decode(), former) == data.decode()


def test_percent_alone_is_refused(model: str, kd: CommandLine) -> None:
    code, _, err = kd("publish", model, "--to", REPO, "--percent", "--dry-run")
    assert code == 2 and "no --eval-result" in err
