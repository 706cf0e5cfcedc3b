"""What a model thinks is not what it answers: judges, lengths and later turns see no thoughts."""

from __future__ import annotations

import pytest

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation.answering import conversation, request_for
from kdharness.harness.paths import Paths
from kdharness.harness.types import Answer, Finish, Item, JudgeCall
from kdharness.harness.util.thoughts import spoken
from kdharness.judges.benchmarks.alpaca_eval import AlpacaEval2
from kdharness.judges.benchmarks.domain import UserBench
from kdharness.judges.benchmarks.mt_bench import MTBench
from kdharness.judges.benchmarks.mt_bench_pair import MTBenchPair
from support.files import WriteRows

THOUGHTS = ("<think>I WONDER.</think>\n\n", "I WONDER.</think>", "[THINK]I WONDER.[/THINK]")


def answer(item: str, turn: int, text: str) -> Answer:
    return Answer(
        id=f"{item}.{turn}.{text}",
        checkpoint="c",
        bench="b",
        revision="r",
        item=item,
        turn=turn,
        text=text,
        finish=Finish.STOP,
        prompt_hash="",
        settings="",
        created=0.0,
    )


def shown(calls: list[JudgeCall]) -> str:
    return "\n".join(message["content"] for call in calls for message in call.messages)


@pytest.mark.parametrize("thought", THOUGHTS)
def test_judges_see_no_thoughts(assets_home: Paths, write_jsonl: WriteRows, thought: str) -> None:
    config = EvalConfig(baseline="other")
    rows = [{"id": "1", "turns": ["Plan.", "Again."], "metric": ["rating", "pair"]}]
    path = write_jsonl("mine.jsonl", rows)
    for bench in (
        MTBench.load(assets_home, config),
        MTBenchPair.load(assets_home, config),
        UserBench.load(assets_home, config, str(path)),
    ):
        item = bench.items[0].id
        mine = [answer(item, turn, f"{thought}MINE-{turn}") for turn in (1, 2)]
        theirs = [answer(item, turn, f"{thought}THEIRS-{turn}") for turn in (1, 2)]
        calls = bench.judge_calls(mine, theirs)
        text = shown(calls)
        assert "WONDER" not in text and "think" not in text.lower().replace("thinks", "")
        assert "MINE-1" in text and "MINE-2" in text
        for call in calls:
            if "len_2" in call.info:
                assert (call.info["len_1"], call.info["len_2"]) == (8, 6)


@pytest.mark.parametrize("thought", THOUGHTS)
def test_thoughts_have_no_length(assets_home: Paths, thought: str) -> None:
    bench = AlpacaEval2.load(assets_home, EvalConfig())
    item = bench.items[0].id
    calls = bench.judge_calls([answer(item, 1, f"{thought}Paris.")], [answer(item, 1, "Rome.")])
    assert "WONDER" not in shown(calls)
    assert (calls[0].info["len_1"], calls[0].info["len_2"]) == (5, 6)


def test_unended_thoughts_are_an_empty_answer_that_was_cut_off(assets_home: Paths) -> None:
    bench = MTBench.load(assets_home, EvalConfig())
    (call,) = bench.judge_calls([answer(bench.items[0].id, 1, "<think>I WONDER")])
    assert "WONDER" not in shown([call]) and call.info["truncated"]
    alpaca = AlpacaEval2.load(assets_home, EvalConfig())
    (call,) = alpaca.judge_calls([answer(alpaca.items[0].id, 1, "<think>I WONDER")])
    assert call.info["len_2"] == 0 and call.info["truncated"]


def test_later_turns_are_sent_no_thoughts() -> None:
    item = Item(id="1", category="", turns=("Plan.", "Again."))
    said = conversation(item, 2, ["<think>I WONDER.</think>\n\nA picnic."])
    assert [message["content"] for message in said] == ["Plan.", "A picnic.", "Again."]


def test_answers_without_thoughts_stay_as_they_are() -> None:
    """Their prompts, and so the stored answers and judgments, keep their identity."""
    item = Item(id="1", category="", turns=("Plan.", "Again."))
    assert spoken(" A picnic.\n") == " A picnic.\n"
    assert request_for(item, 2, [" A picnic.\n"], 0).messages[1]["content"] == " A picnic.\n"
