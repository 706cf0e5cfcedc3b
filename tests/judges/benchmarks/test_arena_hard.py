"""Arena-Hard v2 as a benchmark: its asset, its calls in both orders, and a whole evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.compare import compare_sides, sides_of
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import AssetError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Finish, Reply
from kdharness.judges.benchmarks.arena_hard import ArenaHard, framed, read_prompts
from support.answers import make_answer
from support.arena import GEMINI, O3, QUESTIONS, TASK, write_arena
from support.commands import CommandLine
from support.evaluations import scores
from support.loopback import Loopback


@pytest.fixture
def home(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    write_arena(paths.assets, monkeypatch)
    return paths


def answers(of: str, text: str = "mine on {uid}") -> list[Answer]:
    return [
        make_answer(
            text.format(uid=row["uid"]),
            id=f"{of}/{row['uid']}",
            checkpoint=of,
            bench="arena-hard-v2",
            item=row["uid"],
        )
        for row in QUESTIONS
    ]


def test_each_category_has_its_own_baseline_and_prompt(home: Paths) -> None:
    bench = ArenaHard.load(home, EvalConfig())
    assert bench.baseline == {"h1": f"{O3} on h1", "h2": f"{O3} on h2", "c1": f"{GEMINI} on c1"}
    assert [item.category for item in bench.items] == ["coding", "math", "creative_writing"]
    assert bench.flags == () and bench.total == 3 and bench.pairwise_with == ""
    calls = {(c.item, c.order): c for c in bench.judge_calls(answers("a"))}
    assert len(calls) == 6 and {c.metric for c in calls.values()} == {
        "hard_prompt",
        "creative_writing",
    }
    first, second = calls["h1", 0].messages, calls["h1", 1].messages
    assert first[1]["content"] == f"<Q>Reverse a list.</Q><A>mine on h1</A><B>{O3} on h1</B>"
    assert second[1]["content"] == f"<Q>Reverse a list.</Q><A>{O3} on h1</A><B>mine on h1</B>"
    assert first[0] != calls["c1", 0].messages[0]
    assert {(c.max_tokens, c.temperature, c.stops) for c in calls.values()} == {(16_000, 0.0, ())}


def test_what_stands_in_a_text_is_not_filled_again() -> None:
    frame = "{QUESTION}|{ANSWER_A}|{ANSWER_B}"
    assert framed(frame, "{ANSWER_B}", "{QUESTION}", "{x}") == "{ANSWER_B}|{QUESTION}|{x}"


def test_reasoning_is_not_shown_to_the_judge(home: Paths) -> None:
    bench = ArenaHard.load(home, EvalConfig())
    call = bench.judge_calls(answers("a", "<think>secret</think>Well."))[0]
    assert "secret" not in call.messages[1]["content"] and call.info["len_2"] == 5


@pytest.mark.parametrize(
    ("order", "label", "value", "weight"),
    [
        (0, "A>>B", 3.0, 3.0),
        (1, "A>>B", 0.0, 3.0),
        (0, "A>B", 1.0, 1.0),
        (1, "B>A", 1.0, 1.0),
        (1, "A=B", 0.5, 1.0),
        (0, "B>>A", 0.0, 3.0),
    ],
)
def test_verdicts_count_for_the_judged_model(
    home: Paths, order: int, label: str, value: float, weight: float
) -> None:
    bench = ArenaHard.load(home, EvalConfig())
    call = next(c for c in bench.judge_calls(answers("a")) if c.order == order)
    verdict = bench.read(call, Reply(text=f"My verdict: [[{label}]]", finish=Finish.STOP))
    assert (verdict.value, verdict.weight) == (value, weight)
    cut = bench.read(call, Reply(text=f"[[{label}]] but", finish=Finish.LENGTH))
    assert cut.value is None


def test_one_published_baseline_can_be_taken_for_all(home: Paths) -> None:
    bench = ArenaHard.load(home, EvalConfig(baseline=GEMINI))
    assert bench.baseline["h1"] == f"{GEMINI} on h1" and bench.flags == (f"baseline:{GEMINI}",)
    assert bench.revision != ArenaHard.load(home, EvalConfig()).revision


def test_prompts_without_a_baseline_answer_are_left_out_and_flagged(home: Paths) -> None:
    file = home.assets / "arena-hard-v2" / "model_answer" / f"{GEMINI}.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    bench = ArenaHard.load(home, EvalConfig(baseline=GEMINI))
    assert [item.id for item in bench.items] == ["h2", "c1"]
    assert bench.flags == ("subset:2", f"baseline:{GEMINI}")
    assert ArenaHard.load(home, EvalConfig()).flags == ()


@pytest.mark.parametrize(
    "task",
    ["JUDGE_SETTINGS = 1", "def (", TASK.replace("{ANSWER_B}", ""), TASK.replace(O3, "another")],
)
def test_judge_prompts_of_another_form_are_refused(tmp_path: Path, task: str) -> None:
    path = tmp_path / "arena_hard_task.py"
    path.write_text(task, "utf-8")
    with pytest.raises(AssetError, match="judge prompts") as caught:
        read_prompts(path)
    assert caught.value.hint == "kdharness data check arena-hard-v2"


def test_missing_asset_is_named(paths: Paths) -> None:
    with pytest.raises(AssetError, match="arena-hard-v2"):
        ArenaHard.load(paths, EvalConfig())


# ---------------------------------------------------------------- end to end


def add_model(store: Store, name: str, text: str) -> None:
    store.add_checkpoint(Checkpoint(f"id-{name}", name, "import", "", 1.0))
    store.add_answers(
        Answer(**{**vars(a), "id": f"{name}/{a.item}"}) for a in answers(f"id-{name}", text)
    )


def prefers_long(body: dict[str, Any]) -> dict[str, Any]:
    """Prefer the longer answer clearly; be torn between equal ones."""
    text = body["messages"][1]["content"]
    first = len(text.partition("<A>")[2].partition("</A>")[0])
    second = len(text.partition("<B>")[2].partition("</B>")[0])
    label = "A=B" if first == second else "A>>B" if first > second else "B>>A"
    return {"choices": [{"message": {"content": f"So: [[{label}]]"}, "finish_reason": "stop"}]}


def test_a_whole_evaluation_is_stored_scored_and_compared(home: Paths, store: Store) -> None:
    add_model(store, "long", "a much longer answer than any of the baselines has, on {uid}")
    add_model(store, "short", "short")
    with Loopback(answer=prefers_long) as server:
        config = EvalConfig(
            imported=["long", "short"], benches=["arena-hard"], judge=[server.spec], concurrency=4
        )
        pipeline.run(config, home, store, NullReporter())
        calls = server.calls
        pipeline.run(config, home, store, NullReporter())
        assert server.calls - calls <= 2  # the probe alone
    found = scores(store, home)
    won = found["long", "arena-hard-v2", "hard_prompt"]
    assert (won.value, won.n, won.n_failed) == (1.0, 4, 0)
    assert found["short", "arena-hard-v2", "hard_prompt"].value == 0.0
    assert found["short", "arena-hard-v2", "creative_writing"].n == 2
    assert found["long", "arena-hard-v2", "order_flip_rate"].value == 0.0
    weights = {j.weight for j in store.judgments("id-long", "arena-hard-v2")}
    assert weights == {3.0}
    rows = compare_sides(store, home, sides_of(store, ["short", "long"]))
    assert any(r.metric == "hard_prompt" and r.gap.value == 1.0 for r in rows)


def test_all_against_all_mirrors_weighted_verdicts(home: Paths, store: Store) -> None:
    add_model(store, "long", "a longer answer on {uid}")
    add_model(store, "short", "short")
    with Loopback(answer=prefers_long) as server:
        config = EvalConfig(
            imported=["long", "short"],
            benches=["arena-hard-v2"],
            judge=[server.spec],
            baseline="all",
        )
        pipeline.run(config, home, store, NullReporter())
    found = scores(store, home)
    assert found["long", "arena-hard-v2", "hard_prompt"].value == 1.0
    assert found["short", "arena-hard-v2", "hard_prompt"].value == 0.0
    mirrored = store.judgments("id-short", "arena-hard-v2")
    assert {(j.value, j.weight) for j in mirrored} == {(0.0, 3.0)}


def test_the_command_names_the_asset_to_pull(kd: CommandLine) -> None:
    code, _, err = kd("eval", "--answers", "x", "--bench", "arena-hard", "--judge", "local:y")
    assert code != 0 and "arena-hard-v2" in err and "data pull" in err
