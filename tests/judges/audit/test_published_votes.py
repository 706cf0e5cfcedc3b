"""A judge's agreement with people's votes and published ratings, through the command."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.errors import DataError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Engine
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.audit.published_votes import agreement, read_published
from support.commands import CommandLine
from support.loopback import Loopback
from support.published import ROOT, needs_data

CARD: dict[str, Any] = {
    "labels": [],
    "created": 1.0,
    "calls": 2,
    "failed": 0,
    "checks": {"readable": {"share": 1.0, "low": 0.9, "high": 1.0, "n": 12}},
    "ratings": {"intact_above_spoilt": {"share": 0.5, "low": 0.2, "high": 0.8, "n": 10}},
}


def talk(question: str, *answers: str) -> list[dict[str, str]]:
    """Make a conversation."""
    parts = [({"role": "user", "content": f"{question}?"}, answer) for answer in answers]
    return [m for user, text in parts for m in (user, {"role": "assistant", "content": text})]


def vote(number: int, winner: str, a: str, b: str, **changes: Any) -> dict[str, Any]:
    """Make a person's vote, as in FastChat's human judgments."""
    return {
        "question_id": number,
        "model_a": "alpaca",
        "model_b": "vicuna",
        "winner": winner,
        "judge": "expert_1",
        "conversation_a": talk(f"q{number}", a, f"{a} again"),
        "conversation_b": talk(f"q{number}", b, f"{b} again"),
        "turn": 1,
        **changes,
    }


def rating(number: int, score: float, **changes: Any) -> dict[str, Any]:
    """Make a published rating, as in FastChat's single judgments."""
    return {
        "question_id": number,
        "model": "vicuna",
        "judge": ["gpt-4", "single-v1"],
        "user_prompt": f"Rate like this: [[rating]]. Question {number}, answer worth={score:g}",
        "judgment": f"Rating: [[{score:g}]]",
        "score": score,
        "turn": 1,
        **changes,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def reply(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}


def prefers_long(body: dict[str, Any]) -> dict[str, Any]:
    """Prefer the longer answer; rate what the prompt says the answer is worth, one too high."""
    text = body["messages"][-1]["content"]
    if worth := re.search(r"worth=(\d+)", text):
        return reply(f"Rating: [[{min(10, int(worth[1]) + 1)}]]")
    first, _, second = text.partition("Answer B:")
    return reply("[[A]]" if len(first.partition("Answer A:")[2]) > len(second) else "[[B]]")


def rows_of(kd: CommandLine, spec: str, *options: str) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in kd.json("judge", "check", spec, *options)}


def test_agreement_with_votes_is_measured_with_few_calls(
    paths: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    rows = [vote(n, "model_a" if n % 4 else "model_b", "a longer one", "b") for n in range(20)]
    # Shown the other way round by another voter: one pair, on which both agree.
    sides = {f"conversation_{a}": rows[1][f"conversation_{b}"] for a, b in ("ab", "ba")}
    rows.append({**rows[1], "model_a": "vicuna", "model_b": "alpaca", "winner": "model_b", **sides})
    file = write(tmp_path / "votes.jsonl", rows)
    with Loopback(answer=prefers_long) as server, Store(paths.store) as store:
        store.add_card(server.spec, CARD)
        found = rows_of(kd, server.spec, "--against", file)
        probe = server.calls - 40
        assert 0 <= probe <= 6, "20 pairs in both orders, beside the probe"
        card = rows_of_card(kd, server.spec)
        stored = store.cards()[server.spec]
    same = found["agrees with votes.jsonl, pair (same winner where both have one)"]
    assert same["share"] == 0.75 and same["n"] == 20 and same["low"] < 0.75 < same["high"]
    kappa = found["agrees with votes.jsonl, pair (weighted kappa)"]
    assert kappa["n"] == 20 and kappa["share"] == pytest.approx(0, abs=1e-9)
    assert found["replies with a readable verdict"]["share"] == 1.0, "the stored card is kept"
    assert card["agrees with votes.jsonl, pair (weighted kappa)"]["value"] == kappa["share"]
    assert stored["against"]["votes.jsonl"]["calls"] == 40 and stored["checks"] == CARD["checks"]


def rows_of_card(kd: CommandLine, spec: str) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in kd.json("judge", "card", spec)}


def test_published_ratings_are_compared_by_rank_and_by_value(
    paths: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    rows = [rating(n, n % 8 + 1.0) for n in range(40)] + [rating(99, -1)]
    file = write(tmp_path / "gpt-4_single.jsonl", rows)
    with Loopback(answer=prefers_long) as server:
        with Store(paths.store) as store:
            store.add_card(server.spec, CARD)
        found = rows_of(kd, server.spec, "--against", file, "--sample", "24")
        again = rows_of(kd, server.spec, "--against", file, "--sample", "24")
    kappa = found["agrees with gpt-4_single.jsonl, rating (weighted kappa)"]
    rank = found["agrees with gpt-4_single.jsonl, rating (rank correlation)"]
    assert kappa["n"] == rank["n"] == 24
    assert rank["share"] == pytest.approx(1.0) and 0.7 < kappa["share"] < 0.95
    assert kappa["low"] < kappa["share"] < kappa["high"]
    assert again == found, "the same sample"


def test_without_a_card_the_judge_is_probed_as_well(
    paths: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    file = write(tmp_path / "r.jsonl", [rating(n, n % 8 + 1.0) for n in range(12)])
    with Loopback(answer=prefers_long) as server:
        found = rows_of(kd, server.spec, "--against", file, "--items", "2")
        assert "agrees with r.jsonl, rating (weighted kappa)" in found
        assert found["replies with a readable verdict"]["n"] > 20
        # A new check without votes keeps what was compared before.
        assert "agrees with r.jsonl, rating (weighted kappa)" in rows_of(
            kd, server.spec, "--items", "2"
        )


def test_second_turns_show_the_conversation(tmp_path: Path) -> None:
    kind, (verdict,) = read_published(
        Path(write(tmp_path / "v.jsonl", [vote(1, "tie (bothbad)", "x", "y", turn=2)]))
    )
    assert kind == "pair" and verdict.value == 0.5
    assert "x again" in verdict.prompts[0] and "Conversation with B" in verdict.prompts[0]
    assert verdict.prompts[0].index("x again") < verdict.prompts[0].index("y again")
    assert verdict.prompts[1].index("x again") > verdict.prompts[1].index("y again")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (vote(1, "vicuna", "x", "y"), "winner must be model_a, model_b or tie"),
        (vote(1, "model_a", "x", "y", turn=3), "conversation_a must be a list"),
        (vote(1, "model_a", "x", "y", turn=0), "turn must be"),
        (vote(1, "model_a", "x", "y", turn=True), "turn must be"),
        (vote(1, "model_a", "x", "y", conversation_b=[1, 2]), "conversation_b must have objects"),
        (vote(1, "model_a", "x", "y", conversation_b=[{"role": "x"}] * 2), "conversation_b"),
        (vote(1, "model_a", "x", "y", question_id=None), "question_id must be"),
        ({k: v for k, v in vote(1, "model_a", "x", "y").items() if k != "winner"}, "winner is"),
        (rating(1, 11), "score must be in 1 to 10"),
        (rating(1, float("nan")), "score must be in 1 to 10"),
        ({**rating(1, 5), "score": "5"}, "score must be a number"),
        (rating(1, 5, user_prompt=" "), "user_prompt must be text"),
        (vote(1, "model_a", "x", "y"), "votes and ratings in one file"),
    ],
)
def test_wrong_rows_are_refused_by_line_and_field(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    mixed = "in one file" in words
    good = vote(0, "tie", "x", "y") if ("score" in row) == mixed else rating(0, 5)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        read_published(Path(write(tmp_path / "f.jsonl", [good, row])))
    assert caught.value.where.endswith("f.jsonl:2") and caught.value.hint


def test_a_file_without_verdicts_is_refused(kd: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    for text in ("", "\n", json.dumps(rating(1, -1)), "[]", "{", '"x"'):
        file.write_text(text)
        with pytest.raises(DataError):
            read_published(file)


@given(st.dictionaries(st.sampled_from(sorted(vote(1, "tie", "x", "y"))), st.none() | st.text()))
def test_any_change_of_a_vote_is_read_or_refused(changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "f.jsonl", [{**vote(1, "tie", "x", "y"), **changes}])
        try:
            kind, found = read_published(Path(file))
        except DataError:
            return
        assert kind == "pair" and len(found) == 1


@needs_data
def test_the_published_ratings_of_mt_bench_are_read() -> None:
    file = ROOT / "mtbench" / "judgments" / "medusa_gpt-4_single.jsonl"
    kind, found = read_published(file)
    assert kind == "rating" and len(found) > 300
    assert all("[[" in v.prompts[0] or "Assistant" in v.prompts[0] for v in found)


class ExpectedJudge:
    """Rate in the text one too high, and in the distribution between the rating and the next."""

    name = "fake"
    deterministic = True

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Reply]]:
        for index, request in enumerate(requests):
            worth = int(re.findall(r"worth=(\d+)", request.messages[-1]["content"])[0])
            if not request.opening:
                yield index, Reply(f"[[{min(10, worth + 1)}]]", Finish.STOP)
                continue
            shares = ((str(worth), math.log(0.5)), (str(worth + 1), math.log(0.5)))
            yield index, Reply("", Finish.STOP, top_logprobs=shares)


def test_expected_ratings_are_compared_beside_the_parsed_ones(tmp_path: Path) -> None:
    rows = [rating(n, n % 8 + 1.0) for n in range(32)]
    path = Path(write(tmp_path / "r.jsonl", rows))
    seen: list[tuple[int, int]] = []
    found = agreement(
        cast("Engine", ExpectedJudge()),
        path,
        count=32,
        expected=True,
        advance=lambda done, total: seen.append((done, total)),
    )
    figures = cast("dict[str, dict[str, dict[str, float]]]", found["figures"])
    assert figures.keys() == {"rating", "expected_rating"}
    assert found["calls"] == 64 and found["failed"] == 0 and seen[-1] == (64, 64)
    parsed, expected = figures["rating"]["kappa"], figures["expected_rating"]["kappa"]
    assert parsed["share"] < expected["share"] < 1
    assert figures["expected_rating"]["spearman"]["share"] == pytest.approx(1)
