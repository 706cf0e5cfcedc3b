"""From checkpoint to leaderboard: judge calls, stored rows, and what is reused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError, Interrupted, JudgeError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.harness.types import Finish, JudgmentStatus
from support.benchmark_files import write_assets
from support.evaluations import imported, judged, scores
from support.files import WriteRows
from support.loopback import Loopback, completion
from support.reporters import Listener

pytestmark = pytest.mark.usefixtures("assets_home")

PROBE = [{"role": "user", "content": "Reply with the single letter m."}]


@pytest.mark.slow
def test_pipeline_with_a_local_model_on_all_benchmarks(
    paths: Paths, store: Store, tiny_teacher: Path, write_jsonl: WriteRows
) -> None:
    custom = write_jsonl(
        "mine.jsonl",
        [{"prompt": "Say x", "reference": "x", "metric": "exact_match"}, {"prompt": "Rate me"}],
    )
    with Loopback() as server:
        config = judged(
            server,
            imported=[],
            checkpoints=[str(tiny_teacher)],
            max_new_tokens=6,
            limit=4,
            benches=["shop", "heldout", "mt-bench", "alpaca-eval", str(custom)],
        )
        done = pipeline.run(config, paths, store, NullReporter())
        # 4 x 2 turns, 4 instructions, one rated row, and one call of the probe.
        assert server.calls == 8 + 4 + 1 + 1
        assert done["answers"] == 4 + 8 + 4 + 2 and done["failed_judgments"] == 0
        repeated = pipeline.run(config, paths, store, NullReporter())
        assert server.calls == 8 + 4 + 1 + 2
        assert repeated["answers"] == repeated["judgments"] == 0
    score_by_key = scores(store, paths)
    name = tiny_teacher.name
    for bench, metric in (
        ("shop", "score"),
        ("heldout", "general_loss"),
        ("mt-bench", "score"),
        ("alpaca-eval-2", "win_rate"),
        ("mine", "score"),
    ):
        score = score_by_key[name, bench, metric]
        assert score.value is not None and score.n_failed == 0
        assert any(flag.startswith("subset:") for flag in score.flags) == (bench != "mine")
    assert score_by_key[name, "mt-bench", "score"].n == 8
    assert "judge:untested" in score_by_key[name, "mt-bench", "score"].flags
    answers = store.answers(store.checkpoints()[0].id)
    assert {a.finish for a in answers} == {Finish.LENGTH}
    assert any(f.startswith("truncated:") for f in score_by_key[name, "shop", "score"].flags)


def test_without_a_judge_pending_benchmarks_are_reported(paths: Paths, store: Store) -> None:
    imported(store, "a")
    listener = Listener()
    done = pipeline.run(EvalConfig(imported=["a"], benches=["mt-bench"]), paths, store, listener)
    assert done["waiting"] == ["mt-bench"]
    kind, message = listener.said[-1]
    assert kind == "waiting"
    assert all(part in message for part in ("16", "--judge", "KDHARNESS_JUDGE", "settings.yaml"))


def test_default_judge_from_settings_and_environment(
    paths: Paths, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(store, "a")
    config = EvalConfig(imported=["a"], benches=["mt-bench"])
    with Loopback() as server:
        paths.settings.write_text(f"judge: {server.spec}\n")
        assert pipeline.run(config, paths, store, NullReporter())["judgments"] == 16
        monkeypatch.setenv("KDHARNESS_JUDGE", "local:nowhere")
        with pytest.raises(Exception, match="nowhere"):
            pipeline.run(config, paths, store, NullReporter())


def test_judgments_of_a_subset_are_reused_by_the_full_run(paths: Paths, store: Store) -> None:
    imported(store, "a")
    with Loopback() as server:
        pipeline.run(judged(server, benches=["mt-bench"], limit=4), paths, store, NullReporter())
        assert server.calls == 8
        done = pipeline.run(judged(server, benches=["mt-bench"]), paths, store, NullReporter())
        assert server.calls == 16 and done["reused"] == 8 and done["judgments"] == 8
    rows = [s for s in leaderboard(store, paths) if s.metric == "score"]
    assert sorted((s.n, "subset:4" in s.flags) for s in rows) == [(8, True), (16, False)]


@pytest.mark.slow
def test_server_faults_do_not_change_scores(paths: Paths, store: Store, tmp_path: Path) -> None:
    imported(store, "a")
    with Loopback() as clean:
        pipeline.run(judged(clean), paths, store, NullReporter())
    expected = {k: (s.value, s.n) for k, s in scores(store, paths).items()}
    other = Paths(tmp_path / "other")
    write_assets(other.home / "assets")
    with Store(other.store) as second:
        imported(second, "a")
        with Loopback(fault_rate=0.3, seed=5) as server:
            server.retry_after = None
            config = judged(server, timeout=1.5)
            done = pipeline.run(config, other, second, NullReporter())
        assert done["failed_judgments"] == 0
        actual = {k: (s.value, s.n) for k, s in scores(second, other).items()}
        assert sum(server.injected.values()) > 3
        assert server.calls <= 28 + 1 + sum(server.injected.values())
    assert actual == expected


def test_failed_judgments_are_counted_kept_and_retried(paths: Paths, store: Store) -> None:
    imported(store, "a")

    def unreadable_for_one_item(body: dict[str, Any]) -> dict[str, Any]:
        prompt = json.dumps(body["messages"])
        if "82" in prompt:
            return completion("I cannot say.")
        return completion("[[7]]")

    with Loopback(answer=unreadable_for_one_item) as server:
        config = judged(server, benches=["mt-bench"])
        done = pipeline.run(config, paths, store, NullReporter())
        assert done["failed_judgments"] == 2
        score = scores(store, paths)["a", "mt-bench", "score"]
        assert (score.value, score.n, score.n_failed) == (7.0, 14, 2)
        unreadable = [j for j in store.judgments("id-a") if j.status is JudgmentStatus.UNREADABLE]
        assert {j.raw for j in unreadable} == {"I cannot say."} and all(
            j.value is None for j in unreadable
        )
        server.answer = lambda body: completion("[[7]]")
        no_retry = judged(server, benches=["mt-bench"], retry_failed=False)
        assert pipeline.run(no_retry, paths, store, NullReporter())["judgments"] == 0
        assert pipeline.run(config, paths, store, NullReporter())["judgments"] == 2
    score = scores(store, paths)["a", "mt-bench", "score"]
    assert (score.n, score.n_failed) == (16, 0)


def test_missing_answers_are_failed_judgments(paths: Paths, store: Store) -> None:
    imported(store, "a")
    store.db.execute("DELETE FROM answers WHERE item = '81' AND turn = 2")
    store.db.conn.commit()
    with Loopback() as server:
        pipeline.run(judged(server, benches=["mt-bench"]), paths, store, NullReporter())
    score = scores(store, paths)["a", "mt-bench", "score"]
    assert (score.n, score.n_failed) == (15, 1)


@pytest.mark.slow
def test_stop_keeps_all_finished_judgments(paths: Paths, store: Store) -> None:
    imported(store, "a")
    with Loopback(delay=0.05) as server:
        config = judged(server, benches=["mt-bench"], concurrency=4)
        with pytest.raises(Interrupted):
            pipeline.run(config, paths, store, Listener(stop_after_checks=3))
        stored = len([j for j in store.judgments("id-a") if j.value is not None])
        # It stops before the last call; how many are under way then depends on the machine.
        assert 4 <= stored < 16 and sum(server.finished.values()) == stored
        pipeline.run(config, paths, store, NullReporter())
        assert max(server.finished.values()) == 1
        assert server.calls == 16


@pytest.mark.slow
def test_judge_without_logprobs_is_rejected_before_generation(
    paths: Paths, store: Store, tiny_teacher: Path
) -> None:
    with Loopback(answer=lambda body: completion("m")) as server:
        config = judged(
            server, imported=[], checkpoints=[str(tiny_teacher)], benches=["alpaca-eval"]
        )
        with pytest.raises(JudgeError, match="log-probabilities"):
            pipeline.run(config, paths, store, NullReporter())
        sent = [body["messages"] for body in server.bodies]
        assert {str(m) for m in sent} == {str(PROBE)}, "no answer was judged"
        assert [len(store.answers(c.id)) for c in store.checkpoints()] == [0]
        imported(store, "a")
        discrete = judged(server, benches=["alpaca-eval"], discrete_fallback=True)
        pipeline.run(discrete, paths, store, NullReporter())
    score = scores(store, paths)["a", "alpaca-eval-2", "win_rate"]
    assert "discrete" in score.flags and score.n == 12


@pytest.mark.slow
def test_pairwise_against_a_baseline_and_all_pairs(paths: Paths, store: Store) -> None:
    for name in "abc":
        imported(store, name, "{name} about {item}.{turn}")
    with Loopback(
        answer=lambda body: completion(
            "[[A]]"
            if "Aa: a" in body["messages"][1]["content"]
            else "[[B]]"
            if "Ab: a" in body["messages"][1]["content"]
            else "[[A]]"
        )
    ) as server:
        config = judged(server, imported=["a", "b"], benches=["mt-bench-pair"], baseline="c")
        pipeline.run(config, paths, store, NullReporter())
        assert server.calls == 2 * 2 * 16
        score_by_key = scores(store, paths)
        assert "baseline:c" in score_by_key["a", "mt-bench-pair", "win_rate"].flags
    all_pairs = judged(server, imported=list("abc"), benches=["mt-bench-pair"], baseline="all")
    with Loopback(port=server.port, answer=lambda body: completion("[[A]]")) as second_server:
        pipeline.run(all_pairs, paths, store, NullReporter())
        # Pairs with c exist under the other revision and are not judged again.
        assert second_server.calls == 2 * 16
    rows = [
        s
        for s in leaderboard(store, paths)
        if "baseline:all" in s.flags and s.metric == "order_flip_rate"
    ]
    assert {(s.checkpoint, s.n) for s in rows} == {(name, 32) for name in "abc"}


def test_panel_is_listed_beside_its_judges(paths: Paths, store: Store) -> None:
    imported(store, "a")
    with Loopback() as first, Loopback(answer=lambda b: completion("[[5]]")) as second:
        config = judged(first, benches=["mt-bench"], judge=[first.spec, second.spec])
        pipeline.run(config, paths, store, NullReporter())
    rows = [s for s in leaderboard(store, paths) if s.metric == "score"]
    by_judge = {s.judge: s.value for s in rows}
    panel = next(name for name in by_judge if name.startswith("panel:"))
    singles = [value or 0 for name, value in by_judge.items() if name != panel]
    assert by_judge[panel] == pytest.approx(sum(singles) / 2)
    metrics = {s.metric for s in leaderboard(store, paths) if s.judge == panel}
    assert "agreement_mean_difference" in metrics


def test_answers_from_an_answer_engine(paths: Paths, store: Store, tiny_teacher: Path) -> None:
    with Loopback(answer=lambda b: completion("Copper Hall", tokens=2)) as server:
        config = EvalConfig(
            checkpoints=[str(tiny_teacher)], benches=["shop"], limit=6, answer_engine=server.spec
        )
        done = pipeline.run(config, paths, store, NullReporter())
        assert done["answers"] == 6 and server.calls == 6
    answers = store.answers(store.checkpoints()[0].id, "shop")
    assert {a.text for a in answers} == {"Copper Hall"}


def test_budget_is_never_exceeded(paths: Paths, store: Store) -> None:
    imported(store, "a")
    paths.settings.write_text("prices: {judge-1: {input: 1000, output: 1000}}\n")
    with Loopback() as server:
        config = judged(server, benches=["mt-bench"], budget=2.2, concurrency=4)
        done = pipeline.run(config, paths, store, NullReporter())
    assert 0 < done["judgments"] < 16 and done["left"] == 16 - done["judgments"]
    assert 0 < done["usd"] <= 2.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"checkpoints": ["x"], "benches": ["no-such"]}, "no-such"),
        ({"benches": ["mt-bench"]}, "nothing to evaluate"),
        ({"imported": ["nobody"], "benches": ["mt-bench"]}, "nobody"),
        ({"checkpoints": ["x"], "benches": ["mt-bench-pair"]}, "baseline"),
    ],
)
def test_invalid_evaluations_are_rejected(
    paths: Paths, store: Store, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline.run(EvalConfig(**fields), paths, store, NullReporter())
    assert message in str(caught.value)


def test_copy_of_a_model_folder_is_the_same_checkpoint(
    paths: Paths, store: Store, tiny_teacher: Path, tmp_path: Path
) -> None:
    import shutil

    copy = shutil.copytree(tiny_teacher, tmp_path / "copy")
    original = pipeline.find_checkpoint(str(tiny_teacher), paths, store)
    copied = pipeline.find_checkpoint(str(copy), paths, store)
    assert original.checkpoint.id == copied.checkpoint.id and len(store.checkpoints()) == 1
