"""MT-Bench: stored judgments reproduce the scores printed by FastChat's script."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.interop.fastchat import import_fastchat
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from kdharness.judges.scoring.verdicts import read_rating, read_winner
from support.published import MT_BENCH, ROOT, needs_data, published_judgments

pytestmark = needs_data
SINGLES = ("medusa_gpt-4_single.jsonl", "alvarobartt_gpt-4_single.jsonl")
PAIRS = "stefanstud_gpt-4_pair.jsonl"


@pytest.fixture(scope="module")
def mt_bench_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    opened = Store(tmp_path_factory.mktemp("parity") / "k.db")
    for name in (*SINGLES, PAIRS):
        import_fastchat(opened, ROOT / "mtbench" / "judgments" / name)
    return opened


def score_table(store: Store, **options: bool) -> dict[tuple[str, str], Score]:
    return {(s.checkpoint, s.metric): s for s in leaderboard(store, **options)}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SINGLES)
def test_published_rating_parser_reproduces_every_rating(name: str) -> None:
    for row in published_judgments(name):
        verdict = read_rating(row["judgment"], published=True)
        assert (verdict.value if verdict.value is not None else -1) == row["score"]


def test_default_rating_parser_agrees_on_published_judgments() -> None:
    for name in SINGLES:
        for row in published_judgments(name):
            value = read_rating(row["judgment"]).value
            assert (value if value is not None else -1) == row["score"], row["judgment"][-200:]


def test_published_winner_parser_reproduces_every_winner() -> None:
    letters = {1.0: "A", 0.0: "B", 0.5: "tie", None: "error"}
    for row in published_judgments(PAIRS):
        for game, names in (("g1", ("model_1", "model_2")), ("g2", ("model_2", "model_1"))):
            verdict = letters[read_winner(row[f"{game}_judgment"], published=True).value]
            winner = {"A": names[0], "B": names[1]}.get(verdict, verdict)
            assert winner == row[f"{game}_winner"]


@pytest.mark.parametrize("model", MT_BENCH)
def test_average_scores_match_the_published_ones(mt_bench_store: Store, model: str) -> None:
    table = score_table(mt_bench_store)
    for metric, published in zip(("turn_1", "turn_2", "score"), MT_BENCH[model], strict=True):
        score = table[model, metric]
        if published is not None:
            assert score.value == published
        assert score.ci_low is not None and score.value is not None and score.ci_high is not None
        assert score.ci_low < score.value < score.ci_high
    assert table[model, "score"].n == 160


def test_rerun_judgments_count_once_unless_as_published(mt_bench_store: Store) -> None:
    assert (
        round(score_table(mt_bench_store, as_published=True)["mistral-orpo", "score"].value or 0, 6)
        == 5.858934
    )
    once = score_table(mt_bench_store)["mistral-orpo", "score"]
    assert (once.n, once.n_failed) == (160, 0)
    assert score_table(mt_bench_store, as_published=True)["mistral-orpo", "score"].n == 319


def test_pairwise_rates_match_the_published_ones(mt_bench_store: Store) -> None:
    table = score_table(mt_bench_store)
    dpo = {m: table["phi-3-dpo", m] for m in ("win_rate", "loss_rate", "tie_rate")}
    assert [round((s.value or 0) * s.n) for s in dpo.values()] == [20, 18, 35]
    assert (dpo["win_rate"].n, dpo["win_rate"].n_failed) == (73, 2)
    assert round(table["phi-3-dpo", "win_rate_adjusted"].value or 0, 6) == 0.513699
    assert table["phi-3", "win_rate_adjusted"].value == pytest.approx(1 - 0.513699, abs=1e-6)
    flips = table["phi-3", "order_flip_rate"]
    assert flips.value == table["phi-3-dpo", "order_flip_rate"].value == pytest.approx(27 / 73)


def test_category_scores_match_the_published_judgments(mt_bench_store: Store) -> None:
    table = score_table(mt_bench_store)
    categories = [m for c, m in table if c == "vicuna-7b-v1.3" and m.startswith("category:")]
    assert len(categories) == 8
    rows = [r for r in published_judgments(SINGLES[0]) if r["model"] == "vicuna-7b-v1.3"]
    math = [r["score"] for r in rows if 111 <= r["question_id"] <= 120]
    assert table["vicuna-7b-v1.3", "category:math"].value == sum(math) / len(math)


def test_reimport_changes_nothing(mt_bench_store: Store) -> None:
    before = [s.as_dict() for s in leaderboard(mt_bench_store)]
    for name in (*SINGLES, PAIRS):
        assert import_fastchat(mt_bench_store, ROOT / "mtbench" / "judgments" / name).new == 0
    assert [s.as_dict() for s in leaderboard(mt_bench_store)] == before


def test_judge_prompts_match_the_stored_ones(tmp_path: Path) -> None:
    """Rebuild the user prompts stored by FastChat from its questions, answers and references."""
    import shutil

    from kdharness.harness.config.evaluation import EvalConfig
    from kdharness.harness.paths import Paths
    from kdharness.harness.types import Answer, Finish
    from kdharness.judges.benchmarks.mt_bench import MTBench

    folder = tmp_path / "assets" / "mt-bench"
    (folder / "reference_answer").mkdir(parents=True)
    source = ROOT / "mtbench"
    for name in ("question.jsonl", "judge_prompts.jsonl"):
        shutil.copy(source / name, folder / name)
    shutil.copy(source / "reference_answer.gpt-4.jsonl", folder / "reference_answer/gpt-4.jsonl")
    shutil.copy(
        source / "reference_answer.gpt-4-0125-preview.corrected.jsonl",
        folder / "reference_answer/gpt-4-0125-preview.jsonl",
    )
    bench = MTBench.load(Paths(tmp_path), EvalConfig(references="classic"))
    assert len(bench.items) == 80
    delimiters = {
        1: ("[The Start of Assistant's Answer]\n", "\n[The End of Assistant's Answer]"),
        2: ("### Assistant A:\n", "\n\n<|The End of Assistant A's Conversation with User|>"),
    }
    rows = [r for r in published_judgments(SINGLES[0]) if r["model"] == "vicuna-7b-v1.3-greedy"]
    answers: dict[tuple[int, int], str] = {}
    for row in rows:
        start, end = delimiters[row["turn"]]
        prompt = row["user_prompt"]
        text = prompt[prompt.rindex(start) + len(start) : prompt.rindex(end)]
        answers[row["question_id"], row["turn"]] = text
    answer_rows = [
        Answer(
            id=f"{q}-{t}",
            checkpoint="c",
            bench="mt-bench",
            revision="",
            item=str(q),
            turn=t,
            text=text,
            finish=Finish.STOP,
            prompt_hash="",
            settings="",
            created=0.0,
        )
        for (q, t), text in answers.items()
    ]
    calls = {(c.item, c.turn): c for c in bench.judge_calls(answer_rows)}
    assert len(calls) == 160
    same = sum(
        calls[str(r["question_id"]), r["turn"]].messages[1]["content"] == r["user_prompt"]
        for r in rows
    )
    names = sum(
        calls[str(r["question_id"]), r["turn"]].info["prompt"] == r["judge"][1] for r in rows
    )
    assert names == 160
    assert same == 160
