"""Expected ratings from the command to the outputs, never mixed with parsed ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.compare import compare_all
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError, JudgeError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.evaluation.judging import call_keys
from kdharness.harness.interop.export import export_fastchat
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.stats.metric_specs import category_of
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Finish, JudgmentStatus
from kdharness.judges.benchmarks.mt_bench import MTBench
from kdharness.judges.engines.local import LocalEngine
from kdharness.tui.viewmodels.transcripts import read_transcript, verdict_lines
from support.commands import CommandLine
from support.evaluations import imported, judged, scores
from support.files import WriteRows
from support.loopback import Loopback, Raw, a_judge, completion

pytestmark = pytest.mark.usefixtures("assets_home")


def rates(body: dict[str, Any]) -> dict[str, Any]:
    """Continue a begun rating with a 6 or an 8, and answer everything else as ever."""
    if body["messages"][-1]["role"] != "assistant":
        return a_judge(body)
    if not body["messages"][-1]["content"].endswith("[["):
        return completion("]]", top=[("]]", -0.001)])
    share = 0.75 if "turn 2" in body["messages"][-2]["content"] else 0.25
    tops = [(str(n), p) for n, p in (("8", share), ("6", 1 - share))]
    return completion("8", top=[(token, _log(p)) for token, p in tops])


def _log(share: float) -> float:
    return math.log(share * 0.96)


def run(server: Loopback, paths: Paths, store: Store, **changes: Any) -> dict[str, Any]:
    config = judged(server, **{"benches": ["mt-bench"], **changes})
    return pipeline.run(config, paths, store, NullReporter())


def test_both_protocols_are_stored_side_by_side(paths: Paths, store: Store, tmp_path: Path) -> None:
    for name in "ab":
        imported(store, name)
    with Loopback(rates) as server:
        run(server, paths, store, imported=["a", "b"])
        before = {j.id: j.value for j in store.judgments("id-a", "mt-bench")}
        parsed = scores(store, paths)["a", "mt-bench", "score"]
        done = run(server, paths, store, imported=["a", "b"], rating="expected")
        assert done["judgments"] == 32 and done["failed_judgments"] == 0 and done["reused"] == 0
        again = run(server, paths, store, imported=["a", "b"], rating="expected")
        assert again["judgments"] == 0
        # The parsed ones are not asked again either.
        assert run(server, paths, store, imported=["a", "b"])["judgments"] == 0
    found = store.judgments("id-a", "mt-bench")
    expected = [j for j in found if j.metric == "expected_rating"]
    assert {j.id: j.value for j in found if j.metric == "rating"} == before
    assert len(expected) == 16 and {j.status for j in expected} == {JudgmentStatus.OK}
    assert [j.info["mass"] for j in expected] == pytest.approx([0.96] * 16)
    table = scores(store, paths)
    assert table["a", "mt-bench", "score"] == parsed
    score = table["a", "mt-bench", "expected_rating"]
    assert score.value == pytest.approx((6.5 + 7.5) / 2) and score.n == 16
    assert "rating:expected" in score.flags and "rating:expected" not in parsed.flags
    assert table["a", "mt-bench", "expected_turn_1"].value == pytest.approx(6.5)
    assert table["a", "mt-bench", "expected_category:math"].n == 4
    assert category_of("expected_category:math") == "math" == category_of("category:math")
    gaps = {c.metric: c.other_value for c in compare_all(store, paths, ["a", "b"])}
    assert gaps["expected_rating"] == pytest.approx(7.0)
    assert set(gaps) >= {"score", "turn_1", "expected_turn_1"}
    files = export_fastchat(paths, tmp_path / "out", ["a"])
    rows = [
        json.loads(line)
        for file in files
        if "_single" in file.name
        for line in file.read_text("utf-8").splitlines()
    ]
    assert len(rows) == 16 and all(isinstance(row["score"], int) for row in rows)


def test_transcripts_show_the_distribution(paths: Paths, store: Store) -> None:
    imported(store, "a")
    with Loopback(rates) as server:
        run(server, paths, store, rating="expected")
        only = read_transcript(store, "mt-bench", ("a", "a"), {}).exchanges[0]
        run(server, paths, store)
    both = read_transcript(store, "mt-bench", ("a", "a"), {}).exchanges[0]
    text = "\n".join("".join(part for part, _ in line) for line in verdict_lines(both.first))
    assert "6: 0.72, 8: 0.24 (mass on ratings 0.96)" in text
    assert only.first.value == pytest.approx(7.0)
    parsed = [j.value for j in both.first.judgments if j.metric == "rating"]
    assert both.first.value == pytest.approx(sum(v or 0 for v in parsed) / len(parsed))


def test_a_key_of_one_protocol_is_none_of_the_other(paths: Paths, tiny_teacher: Path) -> None:
    answer = Answer("a", "c", "mt-bench", "", "81", 1, "x", Finish.STOP, "", "", 1.0)
    engine = LocalEngine(str(tiny_teacher), paths)
    keys: list[set[str]] = []
    revisions = set()
    for rating in ("parsed", "expected"):
        bench = MTBench.load(paths, EvalConfig(rating=rating))  # type: ignore[arg-type]
        revisions.add(bench.revision)
        (call,) = bench.judge_calls([answer])
        keys.append(set(call_keys(engine, call)))
    assert not keys[0] & keys[1] and len(revisions) == 2


def test_a_users_file_has_both_too(paths: Paths, store: Store, write_jsonl: WriteRows) -> None:
    file = write_jsonl(
        "mine.jsonl",
        [
            {"id": "r1", "prompt": "Rate me", "category": "one"},
            {
                "id": "r2",
                "prompt": "Rate me too",
                "metric": ["rating", "exact_match"],
                "reference": "x",
                "category": "two",
            },
        ],
    )
    store.add_checkpoint(Checkpoint(id="id-a", name="a", method="import", path="", created=1.0))
    store.add_answers(
        Answer(f"m{i}", "id-a", "mine", "", i, 1, "x", Finish.STOP, "", "", 1.0)
        for i in ("r1", "r2")
    )
    with Loopback(rates) as server:
        run(server, paths, store, benches=[str(file)])
        run(server, paths, store, benches=[str(file)], rating="expected")
        system = [b["messages"][0]["content"] for b in server.bodies if "begun" not in b]
    table = {(s.metric, s.judge.split(":")[0]): s for s in _listed(store, paths)}
    assert table["expected_rating", "openai"].value == pytest.approx(6.5)
    assert table["expected_category:two", "openai"].n == 1
    assert table["score", "openai"].n == 2
    assert any("Reply with the grade alone" in text for text in system)


def _listed(store: Store, paths: Paths) -> list[Any]:
    return [s for s in leaderboard(store, paths) if s.bench == "mine"]


@pytest.mark.parametrize(
    ("benches", "message"),
    [(["shop", "heldout"], "no ratings"), (["alpaca-eval"], "no ratings")],
)
def test_a_wish_that_nothing_honours_is_refused(
    paths: Paths, benches: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline.load_benches(EvalConfig(benches=benches, rating="expected"), paths)


def test_pairs_beside_it_stay_as_they_are(paths: Paths) -> None:
    changes: dict[str, Any] = {"benches": ["mt-bench", "mt-bench-pair"], "baseline": "b"}
    plain = pipeline.load_benches(EvalConfig(**changes), paths)
    other = pipeline.load_benches(EvalConfig(**changes, rating="expected"), paths)
    assert plain[1].revision == other[1].revision and plain[1].flags == other[1].flags
    assert plain[0].revision != other[0].revision


def test_a_judge_that_begins_a_new_reply_is_refused_by_name(paths: Paths, store: Store) -> None:
    imported(store, "a")

    def restarts(body: dict[str, Any]) -> dict[str, Any]:
        return completion("Rating", top=[("Rating", -0.01), ("I", -6.0)])

    def refuses(body: dict[str, Any]) -> Any:
        if body["messages"][-1]["role"] != "assistant":
            return a_judge(body)
        return Raw(400, {"error": {"message": "This model does not support assistant prefill."}})

    for answer in (restarts, refuses, lambda body: completion("Rating: [[7]]")):
        with Loopback(answer) as server, pytest.raises(JudgeError, match=r"judge-1@.*mt-bench"):
            run(server, paths, store, rating="expected")
    assert store.judgments("id-a") == []


def test_a_server_that_refuses_vllms_fields_but_continues(paths: Paths, store: Store) -> None:
    def picky(body: dict[str, Any]) -> Any:
        if "continue_final_message" in body:
            return Raw(400, {"error": {"message": "unknown field: continue_final_message"}})
        return rates(body)

    imported(store, "a")
    with Loopback(picky) as server:
        run(server, paths, store, rating="expected")
    assert scores(store, paths)["a", "mt-bench", "expected_rating"].n == 16


def test_hardly_any_mass_is_no_verdict(paths: Paths, store: Store) -> None:
    imported(store, "a")

    def thinks(body: dict[str, Any]) -> dict[str, Any]:
        if "exactly this" in json.dumps(body["messages"]):
            return rates(body)
        if body["messages"][-1]["role"] != "assistant":
            return a_judge(body)
        return completion("<think>", top=[("<think>", -0.01), ("7", -6.0)])

    with Loopback(thinks) as server:
        done = run(server, paths, store, rating="expected")
    assert done["failed_judgments"] == 16
    score = scores(store, paths)["a", "mt-bench", "expected_rating"]
    assert score.value is None and score.n_failed == 16
    errors = {j.error for j in store.judgments("id-a", "mt-bench")}
    assert all("'<think>'" in error and "at least 5 %" in error for error in errors)


@pytest.mark.slow
def test_the_command_with_a_local_judge(kd: CommandLine, paths: Paths, tiny_teacher: Path) -> None:
    line = f"eval --ckpt {tiny_teacher} --bench mt-bench --judge local:{tiny_teacher} --limit 4"
    code, _, err = kd(*line.split(), "--max-new-tokens", "6", "--rating", "expected")
    # Of so small a judge every distribution may be unreadable, which is said and exits with 1.
    assert code == ("none succeeded" in err)
    rows = json.loads(kd.ok("leaderboard", "--format", "json"))
    found = {row["metric"]: row for row in rows if row["bench"] == "mt-bench"}
    assert found["expected_rating"]["n"] + found["expected_rating"]["n_failed"] == 8
    assert "score" not in found
    with Store(paths.store) as store:
        (checkpoint,) = [c for c in store.checkpoints() if c.name == tiny_teacher.name]
        for judgment in store.judgments(checkpoint.id, "mt-bench"):
            assert judgment.tokens == 0 and "distribution" in judgment.info
    refused = kd("eval", "--ckpt", str(tiny_teacher), "--bench", "shop", "--rating", "expected")
    assert refused[0] != 0 and "no ratings" in "".join(map(str, refused[1:]))
