"""Two benchmark files with the same name never shadow each other silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.board import make_board
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import DataError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from support.commands import CommandLine
from support.loopback import Loopback, completion
from support.models import make_llama


def benchmark_rows(word: str, count: int = 4, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{word} {n}?", "metric": "exact_match", "reference": "x", **changes}
        for n in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def evaluate(paths: Paths, store: Store, tiny_teacher: Path) -> Any:
    """Return a function that evaluates a benchmark file with answers from a server."""
    with Loopback(answer=lambda body: completion("x")) as server:

        def evaluate_file(path: Path) -> list[Score]:
            config = EvalConfig(
                checkpoints=[str(tiny_teacher)], benches=[str(path)], answer_engine=server.spec
            )
            pipeline.run(config, paths, store, NullReporter())
            return [s for s in leaderboard(store, paths) if s.metric == "score"]

        yield evaluate_file


def test_different_file_of_the_same_name_is_rejected(
    evaluate: Callable[[Path], list[Score]], tmp_path: Path
) -> None:
    """From a public report: of de/faq.jsonl and fr/faq.jsonl only the second was shown."""
    german = write_rows(tmp_path / "de/faq.jsonl", benchmark_rows("Wieviel"))
    french = write_rows(tmp_path / "fr/faq.jsonl", benchmark_rows("Combien"))
    assert len(evaluate(german)) == 1
    with pytest.raises(DataError) as caught:
        evaluate(french)
    error_text = str(caught.value)
    assert (
        str(german) in error_text
        and str(french) in error_text
        and "rename one of the two files" in error_text
    )
    # The rejected file leaves no record that would cause the first one to be rejected.
    assert len(evaluate(german)) == 1
    shown = evaluate(french.rename(french.with_name("faq-fr.jsonl")))
    assert {(s.bench, s.n) for s in shown} == {("faq", 4), ("faq-fr", 4)}


def test_edited_or_copied_benchmark_file_is_accepted(
    evaluate: Callable[[Path], list[Score]], tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "a/faq.jsonl", benchmark_rows("Wieviel"))
    evaluate(path)
    # Edited in place, even completely; then copied to another folder, with more rows.
    write_rows(path, benchmark_rows("Wie"))
    assert [s.n for s in evaluate(path)] == [4]
    copy = write_rows(tmp_path / "b/faq.jsonl", benchmark_rows("Wie", 6))
    assert [s.n for s in evaluate(copy)] == [6]
    # The file no longer exists, as on another machine.
    path.unlink()
    other = write_rows(tmp_path / "c/faq.jsonl", benchmark_rows("Wer", 5))
    copy.unlink()
    (shown,) = evaluate(other)
    assert shown.n == 5 and {"hides:a/faq.jsonl", "hides:b/faq.jsonl"} <= set(shown.flags)


def test_held_out_sets_with_the_same_name_are_rejected(
    paths: Paths, store: Store, tiny_teacher: Path, tmp_path: Path
) -> None:
    def losses(path: Path) -> list[Score]:
        config = EvalConfig(
            checkpoints=[str(tiny_teacher)],
            benches=["heldout"],
            limit=3,
            heldout={"domain": str(path)},
        )  # type: ignore[arg-type]
        pipeline.run(config, paths, store, NullReporter())
        return [s for s in leaderboard(store, paths) if s.metric == "domain_loss"]

    first = [{"prompt": f"Wieviel {n}?", "response": "x"} for n in range(3)]
    second = [{"prompt": f"Combien {n}?", "response": "x"} for n in range(3)]
    assert len(losses(write_rows(tmp_path / "de/rows.jsonl", first))) == 1
    with pytest.raises(DataError, match="the held-out set 'domain' already has results"):
        losses(write_rows(tmp_path / "fr/rows.jsonl", second))
    # With another file name, both sets are on the leaderboard.
    assert len(losses(write_rows(tmp_path / "fr/lignes.jsonl", second))) == 2


@pytest.mark.slow
def test_eval_command_reports_the_name_clash(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    files = [
        write_rows(tmp_path / folder / "faq.jsonl", benchmark_rows(folder, 1))
        for folder in ("de", "fr")
    ]
    with Loopback(answer=lambda body: completion("x")) as server:
        results = [
            kd(
                "eval",
                "--ckpt",
                str(tiny_teacher),
                "--bench",
                str(path),
                "--answer-engine",
                server.spec,
            )
            for path in files
        ]
    assert results[0][0] == 0, results[0][2]
    assert results[1][0] in (1, 2) and "rename one of the two files" in results[1][2]
    assert "Traceback" not in results[1][2]


def test_scores_from_before_the_file_changed_are_not_ranked_with_newer_ones(
    paths: Paths, store: Store, tiny_teacher: Path, tmp_path: Path, kd: CommandLine
) -> None:
    """Another reference makes another benchmark: who was not evaluated again is marked."""
    other = tmp_path / "other"
    make_llama(other, seed=5)
    path = write_rows(tmp_path / "faq.jsonl", benchmark_rows("Wieviel"))

    def evaluated(*models: Path) -> None:
        with Loopback(answer=lambda body: completion("x")) as server:
            config = EvalConfig(
                checkpoints=[str(model) for model in models],
                benches=[str(path)],
                answer_engine=server.spec,
            )
            pipeline.run(config, paths, store, NullReporter())

    evaluated(tiny_teacher)
    assert not any("older" in s.flags for s in leaderboard(store, paths))
    write_rows(path, benchmark_rows("Wie"))
    evaluated(other)
    names = {s.checkpoint: "older" in s.flags for s in leaderboard(store, paths)}
    assert names == {tiny_teacher.name: True, other.name: False}
    # The same where only one is asked for.
    (alone,) = {s.flags for s in leaderboard(store, paths, checkpoints=[tiny_teacher.name])}
    assert "older" in alone
    columns = make_board(leaderboard(store, paths)).columns
    assert all(len(column.scores) == 1 for column in columns)
    _, out, err = kd("compare", tiny_teacher.name, other.name)
    assert "no items judged for both" in out and "faq has changed since" in err
    evaluated(tiny_teacher)
    assert not any("older" in s.flags for s in leaderboard(store, paths))
    assert "has changed" not in kd("compare", tiny_teacher.name, other.name)[2]
