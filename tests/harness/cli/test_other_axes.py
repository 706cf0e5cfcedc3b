"""Arena-Hard and IFEval in every command: shards, merging, archives, panels, all against all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from support.answers import make_answer
from support.arena import GEMINI, O3, QUESTIONS, write_arena
from support.commands import CommandLine
from support.ifeval import BAD, GOOD, make, write_ifeval
from support.loopback import Loopback
from support.tui_home import add_past_run

pytestmark = pytest.mark.slow
TEXTS = {"good": (GOOD, "a much longer answer than any baseline's has"), "bad": (BAD, "short")}


def fill(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Give a home both benchmarks and two models' answers, each of a run of its own."""
    write_arena(paths.assets, monkeypatch)
    write_ifeval(paths.assets, monkeypatch)
    with Store(paths.store) as store:
        for name, (followed, text) in TEXTS.items():
            add_past_run(store, f"run-{name}", "kd", 10.0, checkpoint=name)
            store.add_checkpoint(
                Checkpoint(
                    id=f"id-{name}", name=name, method="kd", path="", created=1.0, run=f"run-{name}"
                )
            )
            store.add_answers(make(followed, of=f"id-{name}"))
            store.add_answers(
                make_answer(
                    text,
                    id=f"{name}/{row['uid']}",
                    checkpoint=f"id-{name}",
                    bench="arena-hard-v2",
                    item=row["uid"],
                )
                for row in QUESTIONS
            )
    return paths


@pytest.fixture
def home(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    return fill(paths, monkeypatch)


def prefer_long(body: dict[str, Any]) -> dict[str, Any]:
    text = body["messages"][-1]["content"]
    first = len(text.partition("<A>")[2].partition("</A>")[0])
    second = len(text.partition("<B>")[2].partition("</B>")[0])
    label = "A=B" if first == second else "A>>B" if first > second else "B>>A"
    return {"choices": [{"message": {"content": f"[[{label}]]"}, "finish_reason": "stop"}]}


def evaluate(kd: CommandLine, *judges: str, **settings: Any) -> None:
    """Evaluate both models. In this process: the benchmarks' files are not the published ones."""
    config = EvalConfig(
        imported=list(TEXTS), benches=["arena-hard", "ifeval"], judge=list(judges), **settings
    )
    paths = Paths(kd.home)
    with Store(paths.store) as store:
        pipeline.run(config, paths, store, NullReporter())


def board(kd: CommandLine, *options: str) -> dict[tuple[str, str, str], float | None]:
    """Return (checkpoint, judge's kind, metric) -> value."""
    return {
        (row["checkpoint"], row["judge"].partition(":")[0], row["metric"]): row["value"]
        for row in kd.json("leaderboard", *options)
    }


def test_shards_of_two_homes_merge_into_the_whole(
    home: Paths, kd: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = CommandLine(tmp_path / "second", kd.capsys)
    third = CommandLine(tmp_path / "third", kd.capsys)
    for command in (second, third):
        command.home.mkdir()
        fill(Paths(command.home), monkeypatch)
    with Loopback(answer=prefer_long) as server:
        evaluate(kd, server.spec)
        whole = board(kd)
        for number, command in enumerate((second, third), 1):
            evaluate(command, server.spec, shard=f"{number}/2")
            command.json("leaderboard")
        second.ok("store", "merge", str(third.home))
        assert board(second) == whole
        calls = server.calls
        evaluate(second, server.spec)
        assert server.calls - calls <= 4, "nothing is asked again beside the probe"
    assert board(second) == whole
    assert whole["good", "openai", "hard_prompt"] == 1.0
    assert whole["bad", "openai", "creative_writing"] == 0.0
    assert whole["good", "exact", "prompt_strict"] == 1.0
    assert whole["bad", "exact", "prompt_strict"] == 0.0
    assert second.ok("store", "check")


def test_a_run_is_archived_and_comes_back(home: Paths, kd: CommandLine, tmp_path: Path) -> None:
    with Loopback(answer=prefer_long) as server:
        evaluate(kd, server.spec)
    whole = board(kd)
    away = CommandLine(tmp_path / "away", kd.capsys)
    kd.ok("store", "archive", "run-bad", "--to", str(away.home))
    assert {name for name, _, _ in board(kd)} == {"good"}
    assert board(away) == {key: value for key, value in whole.items() if key[0] == "bad"}
    kd.ok("store", "merge", str(away.home))
    assert board(kd) == whole


def test_both_readings_are_in_the_leaderboard_and_the_report(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    with Loopback(answer=prefer_long) as server:
        evaluate(kd, server.spec)
    assert board(kd, "--as-published")["good", "openai", "hard_prompt"] == 1.0
    kd.ok("report", "--output", str(tmp_path / "report.html"))
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "hard_prompt" in html and "prompt_strict" in html and "Traceback" not in html
    assert f"{O3} on h1" in html or f"{GEMINI} on c1" in html, "the baseline's answer"
    assert "no comma" in html or "comma" in html
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "arena-hard-v2" in text and "ifeval" in text


def test_two_judges_are_a_panel(home: Paths, kd: CommandLine) -> None:
    def other(body: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"message": {"content": "[[A=B]]"}, "finish_reason": "stop"}]}

    with Loopback(answer=prefer_long) as first, Loopback(answer=other) as second:
        evaluate(kd, first.spec, second.spec)
    found = board(kd)
    panel = {metric: value for (name, kind, metric), value in found.items() if kind == "panel"}
    assert ("good", "panel", "hard_prompt") in found, sorted(panel)
    value = found["good", "panel", "hard_prompt"]
    # Each judge's two battles a prompt: three of three, and half of one.
    assert value == pytest.approx((3 + 0.5) / (3 + 1))
    assert found["bad", "panel", "hard_prompt"] == pytest.approx(0.5 / (3 + 1))
    for how in ("median", "majority"):
        value = board(kd, "--panel", how)["good", "panel", "hard_prompt"]
        assert value is not None and 0.5 < value <= 1.0, how
    assert kd.ok("compare", "good", "bad")


def test_all_against_all_needs_no_published_answers(home: Paths, kd: CommandLine) -> None:
    with Loopback(answer=prefer_long) as server:
        evaluate(kd, server.spec, baseline="all")
    found = board(kd)
    assert found["good", "openai", "hard_prompt"] == 1.0
    assert found["bad", "openai", "hard_prompt"] == 0.0
    assert found["good", "exact", "prompt_strict"] == 1.0
    assert kd.ok("leaderboard", "--as-published")
    assert kd.ok("report", "--output", str(home.home / "r.html")) is not None
