"""What answers were compared with, in the report and the app: baselines and references."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from kdharness.harness.analysis.compared_with import OtherText, texts_and_others
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.reports.blocks import Transcript
from kdharness.harness.reports.html import page
from kdharness.harness.reports.transcripts import largest_differences
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint
from kdharness.tui.viewmodels.transcripts import as_text, other_lines, read_transcript
from support.answers import make_answer
from support.arena import GEMINI, O3, QUESTIONS, write_arena
from support.labelled_home import add_pairs
from support.loopback import Loopback

NAMES = ("long", "short")


def add_model(store: Store, name: str, answers: dict[str, str], bench: str) -> None:
    store.add_checkpoint(Checkpoint(f"id-{name}", name, "import", "", 1.0))
    rows: list[Answer] = []
    for item, text in answers.items():
        fixed = {"id": f"{name}/{item}", "checkpoint": f"id-{name}", "bench": bench, "item": item}
        rows.append(make_answer(text, **fixed))
    store.add_answers(rows)


def prefer_long(body: dict[str, Any]) -> dict[str, Any]:
    text = body["messages"][1]["content"]
    first = len(text.partition("<A>")[2].partition("</A>")[0])
    second = len(text.partition("<B>")[2].partition("</B>")[0])
    label = "A>>B" if first > second else "B>>A"
    return {"choices": [{"message": {"content": f"[[{label}]]"}, "finish_reason": "stop"}]}


@pytest.fixture
def arena(
    paths: Paths, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str | None], None]:
    """Return what evaluates two models on three prompts of Arena-Hard."""
    write_arena(paths.assets, monkeypatch)
    for name, text in (("long", "a much longer answer than any baseline's has"), ("short", "s")):
        add_model(store, name, {row["uid"]: text for row in QUESTIONS}, "arena-hard-v2")

    def evaluate(baseline: str | None) -> None:
        with Loopback(answer=prefer_long) as server:
            config = EvalConfig(
                imported=list(NAMES),
                benches=["arena-hard"],
                judge=[server.spec],
                baseline=baseline,
            )
            pipeline.run(config, paths, store, NullReporter())

    return evaluate


@pytest.mark.parametrize(
    ("baseline", "hard", "creative"), [(None, O3, GEMINI), (GEMINI, GEMINI, GEMINI)]
)
def test_the_baselines_answer_is_shown_under_its_own_name(
    arena: Callable[[str | None], None],
    paths: Paths,
    store: Store,
    baseline: str | None,
    hard: str,
    creative: str,
) -> None:
    arena(baseline)
    wanted = {"h1": hard, "h2": hard, "c1": creative}
    blocks = largest_differences(store, paths, NAMES, 9)
    shown = {b.title: b.others for b in blocks if isinstance(b, Transcript)}
    assert shown == {
        f"arena-hard-v2, {item}": ((name, f"{name} on {item}"),) for item, name in wanted.items()
    }
    html = page("title", blocks)
    assert f"<summary>{hard}</summary><pre>{hard} on h1</pre>" in html
    texts, others = texts_and_others(store, paths, "arena-hard-v2", NAMES, store.bench_notes())
    transcript = read_transcript(store, "arena-hard-v2", NAMES, texts.prompts, others)
    for exchange in transcript.exchanges:
        name = wanted[exchange.item]
        assert exchange.others == (OtherText(name, f"{name} on {exchange.item}"),)
        assert f"## {name}\n\n{name} on {exchange.item}\n" in as_text(exchange, transcript)
        assert [line[0][0] for line in other_lines(exchange) if line][:1] == [name]


def test_two_baselines_of_one_benchmark_are_both_shown(
    arena: Callable[[str | None], None], paths: Paths, store: Store
) -> None:
    arena(None)
    arena(GEMINI)
    _, others = texts_and_others(store, paths, "arena-hard-v2", NAMES, store.bench_notes())
    assert {other.title for other in others["h1"]} == {O3, GEMINI}
    assert [other.title for other in others["c1"]] == [GEMINI]


def test_a_stored_checkpoint_is_a_baseline_too_unless_it_is_shown(
    paths: Paths, store: Store
) -> None:
    add_pairs(store, "kd", "base", [1.5, 1.9], metric="preference")
    store.db.execute("UPDATE answers SET bench = 'alpaca-eval'")
    notes = store.bench_notes()
    _, others = texts_and_others(store, paths, "alpaca-eval-2", ("kd", "kd"), notes)
    assert others["q1"] == [OtherText("base", "answer 1 of base")]
    _, others = texts_and_others(store, paths, "alpaca-eval-2", ("kd", "base"), notes)
    assert not others


def test_benchmarks_with_shared_answers_are_in_the_report(paths: Paths, store: Store) -> None:
    add_pairs(store, "long", "base", [1.0, 2.0], metric="preference")
    add_pairs(store, "short", "base", [2.0, 1.0], metric="preference")
    store.db.execute("UPDATE answers SET bench = 'alpaca-eval'")
    blocks = [b for b in largest_differences(store, paths, NAMES, 9) if isinstance(b, Transcript)]
    assert {b.title for b in blocks} == {"alpaca-eval-2, q0", "alpaca-eval-2, q1"}
    assert {b.others for b in blocks} == {(("base", f"answer {n} of base"),) for n in (0, 1)}


def test_reference_answers_are_shown(paths: Paths, store: Store) -> None:
    rows = [
        {"prompt": "Capital of France?", "reference": "Paris", "metric": "exact_match"},
        {"prompt": "As JSON?", "reference": {"a": 1}, "metric": "json_f1"},
        {"prompt": "Two ways?", "references": ["one", "two"], "metric": "exact_match"},
    ]
    file = paths.home / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    bench = EvalConfig(imported=list(NAMES), benches=[str(file)])
    for name, text in (("long", "Paris"), ("short", "Rome")):
        add_model(store, name, {str(n): text for n in range(1, 4)}, "mine")
    pipeline.run(bench, paths, store, NullReporter())
    texts, others = texts_and_others(store, paths, "mine", NAMES, store.bench_notes())
    assert others, texts
    assert all(other.title == "reference" for shown in others.values() for other in shown)
    found = sorted([other.text for other in shown] for shown in others.values())
    assert found == [["Paris"], ["one", "two"], ['{"a": 1}']]
    (block,) = largest_differences(store, paths, NAMES, 9)
    assert isinstance(block, Transcript) and block.others == (("reference", "Paris"),)
