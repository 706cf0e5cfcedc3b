"""What must not change in a refactoring: identities, stored words, the JSON of listings.

Identities are hashes of their inputs, so a renamed class or a reordered field could change the
identity of all stored rows. The literals here were recorded before the code was
rearranged (`fixtures/frozen/*.json`). When one of these tests fails, the change breaks stored
homes: fix the change, not the literal.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from kdharness.harness.analysis.metrics import LEGEND
from kdharness.harness.config.evaluation import EvalConfig, in_shard
from kdharness.harness.config.files import parse_config
from kdharness.harness.config.training import config_hash
from kdharness.harness.doctor.finding import CheckResult
from kdharness.harness.evaluation.answering import identity as answer_identity
from kdharness.harness.evaluation.answering import request_for
from kdharness.harness.evaluation.judging import _identity as judgment_identity
from kdharness.harness.evaluation.judging import call_keys
from kdharness.harness.experiments.expand import run_name
from kdharness.harness.interop.fastchat import imported_model
from kdharness.harness.models.identity import Forgetful, identify
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.migrations import migrations
from kdharness.harness.types import (
    Answer,
    Finish,
    Item,
    JudgmentStatus,
    Method,
    Request,
    RunStatus,
    digest,
)
from kdharness.harness.util import atomic
from kdharness.judges.benchmarks.alpaca_eval import AlpacaEval1, AlpacaEval2
from kdharness.judges.benchmarks.domain import Shop, UserBench, exact_judgment
from kdharness.judges.benchmarks.heldout import Heldout
from kdharness.judges.benchmarks.ifeval import IFEval, model_files
from kdharness.judges.benchmarks.mt_bench import MTBench
from kdharness.judges.benchmarks.mt_bench_pair import MTBenchPair
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.teachers.cache_store import row_key
from support.benchmark_files import write_assets
from support.ifeval import write_ifeval

Call = Callable[..., tuple[int, str, str]]
FROZEN = Path(__file__).parent / "fixtures" / "frozen"

ITEM = Item(id="q1", category="math", turns=("What is 2 + 2?", "And twice that?"))
ANSWER = Answer(
    id="a1",
    checkpoint="c1",
    bench="b",
    revision="r",
    item="q1",
    turn=1,
    text="Four.",
    finish=Finish.STOP,
    prompt_hash="",
    settings="",
    created=0.0,
)
DATA = {"train": [{"path": "shop:train", "kind": "domain"}]}


class JudgeEngine:
    """The minimal engine that identifies a judge call."""

    name = "openai:j"
    identity = ""


def assert_frozen(group: str, actual: Any) -> None:
    """Compare with the values under `group` in `fixtures/frozen/identities.json`."""
    golden = json.loads((FROZEN / "identities.json").read_text("utf-8"))
    assert json.loads(json.dumps(actual)) == golden[group]


# ---------------------------------------------------------------- identities


def test_digest() -> None:
    assert digest("a", 1, 1.5, None, ["ü"], {"b": 1, "a": 2}) == "fdbe5dad653df281764e"


CONFIGS: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft", "student": "s", "data": DATA},
    "kd": {
        "method": "kd",
        "teacher": "t",
        "student": {"from": "teacher", "keep_layers": 2},
        "data": DATA,
    },
    "dae": {"method": "dae", "student": "s", "expert": "e", "data": DATA},
    "cached": {
        "method": "kd",
        "teacher": {"model": "t", "cache": {"k": 8, "tail": "bucket"}},
        "student": "s",
        "data": DATA,
        "trainer": {"attention_weight": 0},
    },
    "lora": {
        "method": "sft",
        "student": {"model": "s", "lora": {"r": 8}},
        "data": {**DATA, "heldout": ["h.jsonl"]},
        "trainer": {"max_steps": 3},
    },
    "merge": {"method": "merge", "reference": "a", "expert": "b"},
}


def test_config_hashes() -> None:
    """Defaults of new fields do not change a config's hash; nor does the name."""
    hashes = {name: config_hash(parse_config(values)) for name, values in CONFIGS.items()}
    named = {
        name: config_hash(parse_config({**values, "name": "other"}))
        for name, values in CONFIGS.items()
    }
    assert hashes == named
    assert_frozen("configs", hashes)


def test_run_names_of_experiments() -> None:
    settings = {"trainer.temperature": 2.0, "data.train": [{"path": "x"}], "seed": 1}
    short = run_name("shop", "dae", settings, list(settings))
    assert_frozen("run names", [short, run_name("p" * 40, "step", settings, list(settings))])


def test_identities_of_answers_and_judgments(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = request_for(ITEM, 2, ["Four."], seed=7)
    sampled = request_for(
        Item(id="q1", category="c", turns=("Say it.",), temperature=0.7), 1, [], seed=7
    )
    write_assets(paths.home / "assets")
    bench = MTBench.load(paths, EvalConfig())
    answers = [
        Answer(**{**vars(ANSWER), "id": f"a{turn}", "item": "81", "turn": turn}) for turn in (1, 2)
    ]
    call = bench.judge_calls(answers)[1]
    key = call_keys(JudgeEngine(), call)[0]  # type: ignore[arg-type]
    shop = Shop.load(paths, EvalConfig())
    exact = exact_judgment("c1", shop, shop.items[0], ANSWER, shop.items[0].metric)
    write_ifeval(paths.assets, monkeypatch)
    ifeval = IFEval.load(paths, EvalConfig())
    checked = ifeval.exact([Answer(**{**vars(ANSWER), "item": "7"})])
    row = TrainRow(input_ids=[5, 6, 7], labels=[-100, 6, 7], kind="general", source=0, where="")
    identities = {
        "greedy answer": answer_identity("c1", "mt-bench", ITEM, 2, greedy),
        "sampled answer": answer_identity("c1", "mt-bench", ITEM, 1, sampled),
        "sampling seed": sampled.seed,
        "call": key,
        "judgment": judgment_identity(bench, call, key),
        "exact": exact.id,
        "ifeval": checked[0].id,
        "shard of 5": [n for n in range(12) if in_shard("2/5", str(n))],
        "cached row": row_key(row),
    }
    assert_frozen("answers and judgments", identities)


def test_benchmark_revisions(
    paths: Paths, write_jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    published_models = digest(model_files())
    write_ifeval(paths.assets, monkeypatch)
    assets = write_assets(paths.home / "assets")
    (assets / "alpaca-eval-1").mkdir()
    rows = (assets / "alpaca-eval/alpaca_eval_gpt4_baseline.json").read_bytes()
    (assets / "alpaca-eval-1/alpaca_eval.json").write_bytes(rows)
    config, pair = EvalConfig(), EvalConfig(baseline="base")
    exact = write_jsonl("mine.jsonl", [{"id": "1", "prompt": "p", "reference": "r"}])
    judged = write_jsonl("rated.jsonl", [{"id": "1", "prompt": "p"}])
    alpaca = AlpacaEval2.load(paths, config)
    revisions = {
        "mt-bench": MTBench.load(paths, config).revision,
        "mt-bench limited": MTBench.load(paths, EvalConfig(limit=4)).revision,
        "mt-bench classic": MTBench.load(paths, EvalConfig(references="classic")).revision,
        "mt-bench-pair": MTBenchPair.load(paths, pair).revision,
        "alpaca-eval-1": AlpacaEval1.load(paths, config).revision,
        "alpaca-eval-2": alpaca.revision,
        "alpaca-eval-2 discrete": alpaca.for_judge(False, True).revision,
        "ifeval": IFEval.load(paths, config).revision,
        "ifeval models": published_models,
        "shop": Shop.load(paths, config).revision,
        "exact rows": UserBench.load(paths, config, str(exact)).revision,
        "rated rows": UserBench.load(paths, config, str(judged)).revision,
        "paired rows": UserBench.load(paths, pair, str(judged)).revision,
        "heldout": Heldout.load(paths, config).revision,
    }
    assert_frozen("benchmark revisions", revisions)


def test_model_identity(tmp_path: Path) -> None:
    """The file is written byte by byte, independent of library versions."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 4}')
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    body = struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.0, 2.0)
    (folder / "model.safetensors").write_bytes(body)
    model = identify(folder, Forgetful())
    assert_frozen("model", [model.id, model.weights, model.interface])


def test_identity_of_imported_models(paths: Paths) -> None:
    with Store(paths.store) as store:
        assert imported_model(store, "gpt-4").id == "1b2d6998babbfb2421e9"


# ---------------------------------------------------------------- stored words


def test_stored_words() -> None:
    enums = {
        "run": RunStatus,
        "request": Request,
        "finish": Finish,
        "judgment": JudgmentStatus,
    }
    assert_frozen("words", {name: sorted(enum) for name, enum in enums.items()})
    # Methods may be added; stored ones must remain.
    assert {"sft", "kd", "dae", "merge", "cut", "model", "import"} <= set(Method)
    assert get_args(get_type_hints(CheckResult)["status"]) == ("ok", "note", "broken")
    assert atomic.SEAL == "sealed.json"
    assert_frozen("flags", sorted(LEGEND))


def test_migration_names() -> None:
    """Every store records the names of applied migrations, which are not applied again."""
    names = [migration.name for migration in migrations._migrations]
    assert_frozen("migrations", [migrations.name, *names[:7]])


# ---------------------------------------------------------------- listings of a stored home

LISTINGS: dict[str, list[str]] = {
    "runs": ["runs"],
    "show": ["show", "kd-1"],
    "show of a merge": ["show", "wise"],
    "leaderboard": ["leaderboard"],
    "leaderboard as published": ["leaderboard", "--as-published"],
    "compare": ["compare", "kd-1", "dae-1"],
    "compare settings": ["compare", "kd-1", "dae-1", "wise", "--what", "settings"],
    "compare flips": ["compare", "kd-1", "dae-1", "--what", "flips"],
    "compare cost": ["compare", "kd-1", "dae-1", "wise", "--what", "cost"],
    "tradeoff": ["tradeoff", "--general", "mt-bench:score"],
    "judge list": ["judge", "list"],
    "data list": ["data", "list"],
    "store check": ["store", "check"],
    "store prune": ["store", "prune"],
}


def run_listing(name: str, kd: Call, paths: Paths) -> Any:
    """Return the JSON of a listing of the frozen home, with the home's path as `/kd/home`."""
    write_assets(paths.home / "assets")
    text = (FROZEN / "home.sql").read_text("utf-8").replace("/kd/home", str(paths.home))
    connection = sqlite3.connect(paths.store)
    connection.executescript(text)
    connection.close()
    code, out, err = kd(*LISTINGS[name], "--format", "json")
    assert code == 0, err
    return json.loads(out.replace(str(paths.home), "/kd/home"))


def rounded(value: Any) -> Any:
    """Round to six significant digits, as sums differ in the last digits between machines."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", LISTINGS)
def test_listings_match_the_golden_output(
    name: str, kd: Call, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    golden = json.loads((FROZEN / "listings.json").read_text("utf-8"))[name]
    actual = run_listing(name, kd, paths)
    assert rounded(actual) == rounded(golden)
    for new, old in zip(actual, golden, strict=True) if isinstance(golden, list) else ():
        assert list(new) == list(old), "the order of the keys is part of the output"
