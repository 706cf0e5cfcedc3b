"""Imports and exports: round trips and rejected files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError, DataError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.interop.alpaca_eval import import_alpaca_eval
from kdharness.harness.interop.export import export_alpaca_eval, export_fastchat, file_name
from kdharness.harness.interop.fastchat import import_fastchat
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.reports.model_card import model_card
from kdharness.harness.store import Store
from support.benchmark_files import write_assets
from support.files import WriteRows
from support.loopback import Loopback
from support.result_files import alpaca_annotation, fastchat_answer, pair_judgment, single_judgment


def values(store: Store, **options: Any) -> dict[str, float | None]:
    return {s.metric: s.value for s in leaderboard(store, **options)}


def test_fastchat_file_kinds_are_detected(paths: Paths, write_jsonl: WriteRows) -> None:
    with Store(paths.store) as store:
        assert (
            import_fastchat(store, write_jsonl("a", [fastchat_answer(81), fastchat_answer(82)])).new
            == 4
        )
        assert (
            import_fastchat(store, write_jsonl("s", [single_judgment(81, 1, 7)])).kind == "single"
        )
        assert import_fastchat(store, write_jsonl("p", [pair_judgment()])).new == 4
        scores = {(s.checkpoint, s.metric): s.value for s in leaderboard(store)}
    assert scores["m", "score"] == 7 and scores["m", "tie_rate"] == scores["n", "tie_rate"] == 1
    assert scores["m", "order_flip_rate"] == 1.0


def test_failed_and_out_of_range_scores(paths: Paths, write_jsonl: WriteRows) -> None:
    rows = [
        single_judgment(81, 1, 7),
        single_judgment(82, 1, -1),
        single_judgment(83, 1, 85),
        single_judgment(84, 1, 8.5),
    ]
    with Store(paths.store) as store:
        import_fastchat(store, write_jsonl("s", rows))
        score = next(s for s in leaderboard(store) if s.metric == "score")
        assert (score.value, score.n, score.n_failed) == (7.75, 2, 2)
        # FastChat drops -1 and averages everything else.
        assert values(store, as_published=True)["score"] == pytest.approx((7 + 85 + 8.5) / 3)


def test_repeated_judgments_of_one_turn(paths: Paths, write_jsonl: WriteRows) -> None:
    rows = [
        single_judgment(81, 1, 4, tstamp=1.0),
        single_judgment(81, 1, 9, tstamp=2.0),
        single_judgment(81, 1, -1, tstamp=3.0),
    ]
    with Store(paths.store) as store:
        import_fastchat(store, write_jsonl("s", rows))
        assert values(store)["score"] == 9
        assert values(store, as_published=True)["score"] == 6.5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"x": 1}], "line 1"),
        ([single_judgment(81, 1, 7), fastchat_answer(81)], "different kinds"),
        ([], "no rows"),
        ([single_judgment(81, 1, 7), {**single_judgment(82, 1, 7), "score": "high"}], "line 2"),
    ],
)
def test_invalid_fastchat_files_are_rejected(
    paths: Paths, write_jsonl: WriteRows, rows: list[Any], message: str
) -> None:
    with Store(paths.store) as store, pytest.raises(DataError) as caught:
        import_fastchat(store, write_jsonl("s.jsonl", rows))
    assert message in str(caught.value)


def test_invalid_lines_are_reported_by_number(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps(single_judgment(81, 1, 7)) + "\n{broken\n")
    with Store(paths.store) as store, pytest.raises(DataError, match="line 2"):
        import_fastchat(store, path)
    path.write_text("[1, 2]")
    with Store(paths.store) as store, pytest.raises(DataError, match="entry 1"):
        import_alpaca_eval(store, path)


def test_import_of_alpaca_annotations(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    rows = [
        alpaca_annotation("a", 2),
        alpaca_annotation("b", 1.0),
        alpaca_annotation("c", 0),
        alpaca_annotation("d", None),
        alpaca_annotation("e", float("nan")),
        alpaca_annotation("f", 1.25),
    ]
    path.write_text(json.dumps(rows))
    with Store(paths.store) as store:
        assert import_alpaca_eval(store, path, "mine").models == {"mine"}
        score = next(s for s in leaderboard(store) if s.metric == "win_rate")
        assert (score.checkpoint, score.bench) == ("mine", "alpaca-eval-2")
        assert score.value == pytest.approx(100 * (1 + 0 + 0.5 + 0.25) / 4)
        assert (score.n, score.n_failed) == (4, 2) and "subset:6" in score.flags
        metrics = values(store)
        assert (metrics["n_wins"], metrics["n_wins_base"], metrics["n_draws"]) == (1, 2, 1)
        assert metrics["avg_length"] == 13
        assert import_alpaca_eval(store, path, "mine").new == 0


def test_alpaca_eval_version_follows_the_baseline(paths: Paths, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps(
            [
                alpaca_annotation("a", 2, generator_1="text_davinci_003"),
                alpaca_annotation("b", 2, generator_1="other"),
            ]
        )
    )
    with Store(paths.store) as store:
        assert import_alpaca_eval(store, path).benches == {"alpaca-eval-1", "alpaca-eval-2"}
        flags = {s.bench: s.flags for s in leaderboard(store)}
    assert "baseline:other" in flags["alpaca-eval-2"]


def test_imported_alpaca_outputs_become_answers(paths: Paths, tmp_path: Path) -> None:
    write_assets(paths.home / "assets")
    asset = paths.assets / "alpaca-eval/alpaca_eval_gpt4_baseline.json"
    rows = json.loads(asset.read_text())
    # Real instructions are identified by their position; these are identified by their text.
    outputs = tmp_path / "model_outputs.json"
    outputs.write_text(
        json.dumps([{**row, "output": f"Mine {n}", "generator": "m"} for n, row in enumerate(rows)])
    )
    with Store(paths.store) as store:
        summary = import_alpaca_eval(store, outputs)
        assert (summary.kind, summary.new) == ("outputs", 12)
        items = [a.item for a in store.answers(store.checkpoints()[0].id)]
        assert len(set(items)) == 12 and all(item.startswith("x") for item in items)


def test_fastchat_round_trip_of_answers_and_judgments(
    paths: Paths, tmp_path: Path, write_jsonl: WriteRows
) -> None:
    write_assets(paths.home / "assets")
    rows = [fastchat_answer(n, "their-model") for n in range(81, 89)]
    with Store(paths.store) as store:
        import_fastchat(store, write_jsonl("a", rows))
        with Loopback() as server:
            config = EvalConfig(imported=["their-model"], benches=["mt-bench"], judge=[server.spec])
            pipeline.run(config, paths, store, NullReporter())
        original = values(store)
    written = export_fastchat(paths, tmp_path / "out")
    names = {path.relative_to(tmp_path / "out").as_posix() for path in written}
    assert names == {"model_answer/their-model.jsonl", "model_judgment/judge-1_single.jsonl"}
    lines = (tmp_path / "out/model_judgment/judge-1_single.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    assert row["judge"][0] == "judge-1" and row["judge"][1].startswith("single-")
    assert "Q" in row["user_prompt"] and isinstance(row["score"], int)
    other = Paths(tmp_path / "other")
    with Store(other.store) as store:
        for path in written:
            import_fastchat(store, path)
        # Categories depend on MT-Bench's own ids, which the small test files do not follow.
        reimported = values(store)
        assert {m: reimported[m] for m in ("score", "turn_1", "turn_2")} == {
            m: original[m] for m in ("score", "turn_1", "turn_2")
        }
        assert {a.text for a in store.answers(store.checkpoints()[0].id)} == {"one", "two"}


def test_fastchat_round_trip_of_pairs(paths: Paths, tmp_path: Path, write_jsonl: WriteRows) -> None:
    games = [
        ("model_1", "model_1"),
        ("model_2", "tie"),
        ("error", "model_1"),
        ("model_2", "model_2"),
    ]
    rows = [
        pair_judgment(
            81 + n,
            g1_winner=first,
            g2_winner=second,
            tstamp=float(n),
            g1_judgment="x",
            g2_judgment="y",
        )
        for n, (first, second) in enumerate(games)
    ]
    with Store(paths.store) as store:
        import_fastchat(store, write_jsonl("p", rows))
    (path,) = export_fastchat(paths, tmp_path / "out")
    exported = [json.loads(line) for line in path.read_text().splitlines()]
    fields = ("question_id", "model_1", "model_2", "g1_winner", "g2_winner", "turn", "g1_judgment")
    assert [{k: r[k] for k in fields} for r in exported] == [
        {k: r[k] for k in fields} for r in rows
    ]


def test_alpaca_round_trip_of_results(paths: Paths, tmp_path: Path, tiny_teacher: Path) -> None:
    write_assets(paths.home / "assets")
    with Store(paths.store) as store, Loopback() as server:
        config = EvalConfig(
            checkpoints=[str(tiny_teacher)],
            benches=["alpaca-eval"],
            judge=[server.spec],
            max_new_tokens=8,
        )
        pipeline.run(config, paths, store, NullReporter())
        original = values(store)
    written = export_alpaca_eval(paths, tmp_path / "out")
    assert [path.name for path in written] == ["model_outputs.json", "annotations.json"]
    rows = json.loads(written[1].read_text())
    assert len(rows) == 12 and rows[0]["generator_1"] == "gpt4_1106_preview"
    with Store(Paths(tmp_path / "other").store) as store:
        import_alpaca_eval(store, written[1])
        reimported = values(store)
    assert (reimported["n_wins"], reimported["avg_length"]) == (
        original["n_wins"],
        original["avg_length"],
    )
    # Test instructions get other ids on import: another summation order, another last digit.
    assert reimported["win_rate"] == pytest.approx(original["win_rate"], rel=1e-12)


def test_model_card_lists_scores_and_judge(paths: Paths, write_jsonl: WriteRows) -> None:
    with Store(paths.store) as store:
        rows = [
            single_judgment(81 + n, t, n % 10 + 1, "the | model") for n in range(80) for t in (1, 2)
        ]
        import_fastchat(store, write_jsonl("s", rows))
    card = model_card(paths, "the | model")
    assert card.startswith("# the | model\n")
    assert "95 % interval" in card and "imported:gpt-4" in card and "`imported`" in card
    with pytest.raises(ConfigError, match="nobody"):
        model_card(paths, "nobody")


def test_file_name_is_sanitized() -> None:
    assert file_name("../../etc/passwd") == "etc_passwd"
    assert file_name("org/model v1") == "org_model_v1"
    assert file_name("…") == "unnamed"
