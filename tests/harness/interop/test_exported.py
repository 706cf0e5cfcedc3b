"""Exports hold each result once, of one setting, under the right names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.interop.export import export_alpaca_eval, export_fastchat
from kdharness.harness.interop.exported import judge_names
from kdharness.harness.interop.lm_eval import import_lm_eval
from kdharness.harness.interop.lm_eval_model import model_name
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from support.benchmark_files import write_assets
from support.commands import CommandLine
from support.evaluations import imported, judged, scores
from support.files import WriteRows
from support.loopback import Loopback


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the rows of all judges."""
    files = sorted((folder / "model_judgment").glob(f"*_{kind}.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def evaluate(paths: Paths, store: Store, config: EvalConfig) -> None:
    pipeline.run(config, paths, store, NullReporter())


def test_questions_that_a_limit_had_before_are_exported_once(
    assets_home: Paths, store: Store, tmp_path: Path, kd: CommandLine
) -> None:
    """First a small limit, then a larger one: rows stood twice, and the mean was another."""
    imported(store, "a")
    with Loopback() as server:
        for limit in (2, 4, None):
            evaluate(assets_home, store, judged(server, benches=["mt-bench"], limit=limit))
        evaluate(assets_home, store, judged(server, benches=["mt-bench"], seed=1))
    code, out, err = kd("export", "fastchat", str(tmp_path))
    assert code == 0 and len(out.splitlines()) == 2
    rows = lines(tmp_path, "single")
    assert len(rows) == len({(row["question_id"], row["turn"]) for row in rows}) == 16
    shown = {s.flags: s.value for s in leaderboard(store, assets_home) if s.metric == "score"}
    assert sum(row["score"] for row in rows) / 16 == pytest.approx(shown[("judge:untested",)])
    assert f"a: {8 + 4 + 16} of {16 + 28} judgments on mt-bench are left out" in err


def test_a_smaller_run_is_exported_where_there_is_no_whole_one(
    assets_home: Paths, store: Store, tmp_path: Path
) -> None:
    imported(store, "a")
    with Loopback() as server:
        evaluate(assets_home, store, judged(server, benches=["mt-bench"], limit=2))
    notes: list[str] = []
    export_fastchat(assets_home, tmp_path, say=notes.append)
    assert len(lines(tmp_path, "single")) == 4 and notes == []


def test_two_judges_of_one_name_have_files_of_their_own(
    assets_home: Paths, store: Store, tmp_path: Path
) -> None:
    """The same model on two servers was exported as one judge with two verdicts of each turn."""
    imported(store, "a")
    with Loopback() as one, Loopback() as two:
        for server in (one, two):
            evaluate(assets_home, store, judged(server, benches=["mt-bench"], limit=2))
        specs = {one.spec, two.spec}
    files = export_fastchat(assets_home, tmp_path)
    assert len(files) == 3
    rows = lines(tmp_path, "single")
    assert len(rows) == 8 and {row["judge"][0] for row in rows} == specs


def test_names_of_judges() -> None:
    judges = ["openai:a@http://x/v1", "openai:a@http://y/v1", "openai:b@http://x/v1", "imported:c"]
    names = judge_names(judges)
    assert [names[judge] for judge in judges] == [judges[0], judges[1], "b", "c"]


def test_a_match_of_one_setting_is_exported_once(
    assets_home: Paths, store: Store, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        imported(store, name, text="Of {name}: {item}, turn {turn}.")
    pairs = {"benches": ["mt-bench-pair"], "baseline": "b"}
    with Loopback() as server:
        for limit in (2, 4):
            evaluate(assets_home, store, judged(server, **pairs, limit=limit))
    export_fastchat(assets_home, tmp_path, ["a"])
    rows = lines(tmp_path, "pair")
    assert len(rows) == 8 == len({(row["question_id"], row["turn"]) for row in rows})


def test_annotations_hold_the_answers_of_their_own_baseline(
    assets_home: Paths, store: Store, tmp_path: Path
) -> None:
    """GPT-4's answers stood under the name of another baseline, with preferences against it."""
    for name in ("a", "b"):
        imported(store, name, text="{name} on {item}.")
    with Loopback() as server:
        for baseline in (None, "b"):
            config = judged(server, benches=["alpaca-eval"], baseline=baseline, limit=3)
            evaluate(assets_home, store, config)
    files = [
        path
        for path in export_alpaca_eval(assets_home, tmp_path, ["a"])
        if path.name == "annotations.json"
    ]
    found = {file.parent.name: json.loads(file.read_text("utf-8")) for file in files}
    assert set(found) == {"judge-1", "judge-1-b"}
    for row in found["judge-1-b"]:
        assert row["generator_1"] == "b" and row["output_1"].startswith("b on ")
        assert row["output_2"] == row["output_1"].replace("b on", "a on")
    for row in found["judge-1"]:
        assert row["generator_1"] == "gpt4_1106_preview" and " on " not in row["output_1"]


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    ["alpaca-eval", "arena-hard", "mt-bench", "file", "fastchat", "fastchat-mine", "lm-eval-mmlu"],
)
def test_a_file_cannot_have_the_name_of_other_results(
    paths: Paths, write_jsonl: WriteRows, kd: CommandLine, name: str
) -> None:
    """Answers of alpaca-eval.jsonl were exported under AlpacaEval's instructions."""
    path = write_jsonl(f"{name}.jsonl", [{"prompt": "x", "reference": "y", "metric": "rouge_l"}])
    with pytest.raises(ConfigError, match="name of built-in") as error:
        pipeline.load_benches(EvalConfig(benches=[str(path)]), paths)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["fastchats", "my-fastchat", "lm-evaluation", "lm-eval2", "shops"])
def test_names_that_only_look_alike_are_free(
    paths: Paths, write_jsonl: WriteRows, name: str
) -> None:
    path = write_jsonl(f"{name}.jsonl", [{"prompt": "x", "reference": "y", "metric": "rouge_l"}])
    (bench,) = pipeline.load_benches(EvalConfig(benches=[str(path)]), paths)
    assert bench.label == name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("pretrained=M/x", "M/x"),
        ("pretrained=M/x,revision=main,dtype=bfloat16,trust_remote_code=True", "M/x"),
        ("pretrained=M/x,revision=step1000", "M/x@step1000"),
        ("pretrained=M/x, revision=step1000", "M/x@step1000"),
        ("pretrained=M/x,subfolder=last", "M/x/last"),
        ("pretrained=M/x,load_in_4bit=True", "M/x+load_in_4bit=True"),
        ("pretrained=M/x,load_in_4bit=False", "M/x"),
        ("pretrained=M/x,enable_thinking=False", "M/x+enable_thinking=False"),
        (
            "pretrained=M/x,max_length=2048,add_bos_token=True",
            "M/x+add_bos_token=True+max_length=2048",
        ),
        ({"pretrained": "M/x", "load_in_8bit": True, "device": "cuda"}, "M/x+load_in_8bit=True"),
        ({"pretrained": "M/x", "revision": None, "load_in_8bit": False}, "M/x"),
        ("pretrained=M/x,peft=me/lora", "me/lora"),
        ("pretrained=M/x,peft=me/lora,revision=v2", "me/lora@v2"),
    ],
)
def test_models_of_lm_eval_are_told_apart(arguments: Any, expected: str) -> None:
    """Two commits, or a quantised model and its original, had one name: the later one was left."""
    raw = {"model_name": "M/x", "config": {"model_args": arguments}}
    assert model_name(raw) == expected
    assert model_name({"config": {"model_args": arguments}}) == expected


def test_results_of_two_revisions_stay_apart(
    paths: Paths, store: Store, tmp_path: Path, kd: CommandLine
) -> None:
    write_assets(paths.assets)
    for number, (revision, value) in enumerate((("step1000", 0.31), ("step143000", 0.44))):
        file = tmp_path / f"results_2026-01-0{number + 1}T00-00-00.000000.json"
        file.write_text(
            json.dumps(
                {
                    "results": {"arc_easy": {"acc,none": value, "acc_stderr,none": 0.01}},
                    "config": {"model_args": f"pretrained=E/pythia,revision={revision}"},
                    "date": 1.0e9 + number,
                    "model_name": "E/pythia",
                }
            ),
            "utf-8",
        )
    assert kd("import", "lm-eval", str(tmp_path))[0] == 0
    found = {name: score.value for (name, _, metric), score in scores(store, paths).items()}
    assert found == {"E/pythia@step1000": 0.31, "E/pythia@step143000": 0.44}


def test_shots_as_turns_are_another_setting(paths: Paths, store: Store, tmp_path: Path) -> None:
    for number, turns in enumerate((False, True)):
        file = tmp_path / f"results_2026-01-0{number + 1}T00-00-00.000000.json"
        file.write_text(
            json.dumps(
                {
                    "results": {"arc_easy": {"acc,none": 0.3 + number / 10}},
                    "n-shot": {"arc_easy": 5},
                    "config": {"model_args": "pretrained=M/x"},
                    "chat_template": "{{ x }}",
                    "fewshot_as_multiturn": turns,
                    "date": 1.0e9 + number,
                }
            ),
            "utf-8",
        )
        import_lm_eval(store, file)
    found = {"multiturn" in score.flags: score.value for score in leaderboard(store, paths)}
    assert found == {False: 0.3, True: 0.4}
