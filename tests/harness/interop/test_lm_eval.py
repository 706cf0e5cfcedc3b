"""Imports of lm-evaluation-harness results: samples, reported values, hostile files."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.analysis.compare import compare_sides, sides_of
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.errors import DataError, KDHarnessError
from kdharness.harness.interop.lm_eval import import_lm_eval
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from support.commands import CommandLine
from support.evaluations import scores

STAMP = "2026-11-20T10-00-00.123456"


def write_results(
    folder: Path,
    model: str,
    right: list[int],
    *,
    shots: int = 0,
    samples: bool = True,
    **changes: Any,
) -> Path:
    """Write a results file of one task with samples and one without, as lm_eval does."""
    folder.mkdir(parents=True, exist_ok=True)
    accuracy = sum(right) / len(right)
    values = {
        "results": {
            "quiz": {
                "alias": "quiz",
                "acc,none": accuracy,
                "acc_stderr,none": 0.1,
                "exact_match,strict-match": accuracy / 2,
                "exact_match_stderr,strict-match": "N/A",
            },
            "group": {"acc,none": 0.5, "acc_stderr,none": 0.02, "alias": "group"},
            "wikitext": {"word_perplexity,none": 12.5, "word_perplexity_stderr,none": "N/A"},
        },
        "versions": {"quiz": 1.0},
        "n-shot": {"quiz": shots},
        "n-samples": {"quiz": {"original": len(right), "effective": len(right)}},
        "higher_is_better": {"quiz": {"acc": True}},
        "config": {"model": "hf", "model_args": f"pretrained={model},dtype=float32"},
        "date": 1.0e9,
        "model_name": model,
        **changes,
    }
    path = folder / f"results_{STAMP}.json"
    path.write_text(json.dumps(values), "utf-8")
    rows = [
        {
            "doc_id": number,
            "doc": {"question": f"q{number}"},
            "target": "A",
            "arguments": {},
            "resps": [],
            "filtered_resps": [],
            "filter": "none",
            "metrics": ["acc"],
            "doc_hash": f"{number:064x}",
            "acc": float(value),
        }
        for number, value in enumerate(right)
    ]
    if samples:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"samples_quiz_{STAMP}.jsonl").write_text(text, "utf-8")
    return path


def test_samples_give_intervals_and_pairs(paths: Paths, store: Store, tmp_path: Path) -> None:
    first = write_results(tmp_path / "a", "org/a", [1, 0, 1, 1, 0, 1, 1, 1, 0, 1] * 4)
    second = write_results(tmp_path / "b", "org/b", [1, 0, 0, 1, 0, 0, 1, 1, 0, 1] * 4)
    for path in (first, second):
        (summary,) = import_lm_eval(store, path)
        assert summary.new == 40 + 1 + 1 + 1 and summary.notes == []
    found = scores(store, paths)
    quiz = found["org/a", "lm-eval-quiz", "acc"]
    assert (quiz.value, quiz.n, quiz.judge) == (0.7, 40, "imported:lm-eval")
    assert quiz.ci_low is not None and quiz.ci_low < 0.7
    (row,) = [
        r
        for r in compare_sides(store, paths, sides_of(store, ["org/a", "org/b"]))
        if (r.bench, r.metric) == ("lm-eval-quiz", "acc")
    ]
    assert row.gap.value == pytest.approx(-0.2) and row.gap.n == 40


@pytest.mark.parametrize(
    ("higher", "name", "verdict"),
    [
        (None, "acc", "better"),
        (True, "acc", "better"),
        (False, "lower:acc", "worse"),
    ],
)
def test_the_direction_that_a_file_states_counts(
    paths: Paths, store: Store, tmp_path: Path, higher: bool | None, name: str, verdict: str
) -> None:
    """A task's own metric, a calibration error for one, has a name that says nothing."""
    for model, right in (("a", [0, 0, 0, 1] * 10), ("b", [0, 1, 1, 1] * 10)):
        stated = {"quiz": {"acc": higher}, "wikitext": {"word_perplexity": False}, "group": None}
        import_lm_eval(
            store, write_results(tmp_path / model, model, right, higher_is_better=stated)
        )
    found = scores(store, paths)
    assert found["a", "lm-eval-quiz", name].value == 0.25
    assert ("a", "lm-eval-wikitext", "word_perplexity") in found
    (row,) = [
        row
        for row in compare_sides(store, paths, sides_of(store, ["a", "b"]))
        if (row.bench, row.metric) == ("lm-eval-quiz", name)
    ]
    assert row.verdict == verdict
    assert is_lower_better(name) is (verdict == "worse")


def test_reported_values_keep_their_standard_error(
    paths: Paths, store: Store, tmp_path: Path
) -> None:
    import_lm_eval(store, write_results(tmp_path, "m", [1, 0], samples=False))
    found = scores(store, paths)
    group = found["m", "lm-eval-group", "acc"]
    assert group.value == 0.5
    assert (group.ci_low, group.ci_high) == pytest.approx((0.4608, 0.5392), abs=1e-4)
    assert found["m", "lm-eval-quiz", "acc"].n == 2
    filtered = found["m", "lm-eval-quiz", "exact_match/strict-match"]
    assert (filtered.value, filtered.ci_low) == (0.25, None)
    assert found["m", "lm-eval-wikitext", "word_perplexity"].value == 12.5


def test_importing_twice_changes_nothing(paths: Paths, store: Store, tmp_path: Path) -> None:
    path = write_results(tmp_path, "m", [1, 0, 1])
    (first,) = import_lm_eval(store, path)
    before = scores(store, paths)
    (again,) = import_lm_eval(store, tmp_path)
    assert first.new == 6 and again.new == 0 and again.rows == 6
    assert scores(store, paths) == before


def test_a_later_run_of_a_task_counts(paths: Paths, store: Store, tmp_path: Path) -> None:
    import_lm_eval(store, write_results(tmp_path / "old", "m", [0, 0, 1, 0]))
    import_lm_eval(store, write_results(tmp_path / "new", "m", [1, 1, 1, 0], date=2.0e9))
    assert scores(store, paths)["m", "lm-eval-quiz", "acc"].value == 0.75


def test_a_run_that_comes_back_to_earlier_values_counts(
    paths: Paths, store: Store, tmp_path: Path
) -> None:
    runs = [[0, 0, 1, 0, 1], [1, 1, 1, 0, 1], [0, 0, 1, 1, 1]]
    for number, right in enumerate([*runs, runs[0]]):
        path = write_results(tmp_path / str(number), "m", right, date=1.0e9 + number)
        import_lm_eval(store, path)
        quiz = scores(store, paths)["m", "lm-eval-quiz", "acc"]
        assert (quiz.value, quiz.n) == (sum(right) / 5, 5)
        (again,) = import_lm_eval(store, path)
        assert again.new == 0
    # An earlier file does not displace a later one.
    import_lm_eval(store, tmp_path / "1")
    assert scores(store, paths)["m", "lm-eval-quiz", "acc"].value == 0.4


def test_a_later_run_of_a_large_task_is_compared_in_one_pass(
    paths: Paths, store: Store, tmp_path: Path
) -> None:
    """Tasks such as MMLU have 14,000 documents: comparing each with all of them takes a minute."""
    documents = 4_000
    right = [number % 2 for number in range(documents)]
    first = import_lm_eval(store, write_results(tmp_path / "old", "m", right))[0]
    later = write_results(tmp_path / "new", "m", [1, *right[1:]], date=2.0e9)
    started = time.process_time()
    (summary,) = import_lm_eval(store, later)
    taken = time.process_time() - started
    assert first.new == documents + 3
    # The one document that changed, and the figure of the other filter, which depends on the mean.
    assert summary.new == 2
    assert taken < 1.5, f"{taken:.1f} s of processor time"


def test_documents_and_a_reported_value_are_never_mixed(
    paths: Paths, store: Store, tmp_path: Path
) -> None:
    """Scores, comparisons and profiles read the same rows: those of the newer run."""
    right = [1, 0, 1, 1, 0, 1, 1, 1, 0, 1] * 4
    for model in ("a", "b"):
        import_lm_eval(store, write_results(tmp_path / model, model, right))
    import_lm_eval(
        store, write_results(tmp_path / "w", "b", [0, 1] * 20, samples=False, date=2.0e9)
    )

    def compared() -> list[str]:
        return [row.metric for row in compare_sides(store, paths, sides_of(store, ["a", "b"]))]

    assert scores(store, paths)["b", "lm-eval-quiz", "acc"].value == 0.5
    assert "acc" not in compared()
    import_lm_eval(store, write_results(tmp_path / "d", "b", right, date=3.0e9))
    assert scores(store, paths)["b", "lm-eval-quiz", "acc"].value == pytest.approx(0.7)
    (row,) = [
        row
        for row in compare_sides(store, paths, sides_of(store, ["a", "b"]))
        if row.metric == "acc" and row.bench == "lm-eval-quiz"
    ]
    assert (row.gap.value, row.gap.n) == (0.0, 40)


def test_other_shots_are_another_revision(paths: Paths, store: Store, tmp_path: Path) -> None:
    import_lm_eval(store, write_results(tmp_path / "0", "m", [0, 1]))
    import_lm_eval(store, write_results(tmp_path / "5", "m", [1, 1], shots=5))
    revisions = {(j.revision, j.item) for j in store.judgments("", "lm-eval-quiz")}
    model = store.checkpoint("m")
    assert model is not None
    found = store.judgments(model.id, "lm-eval-quiz")
    assert len({j.revision for j in found}) == 2 and revisions == set()


def test_documents_of_another_version_of_a_task_are_not_paired(
    store: Store, tmp_path: Path, paths: Paths
) -> None:
    import_lm_eval(store, write_results(tmp_path / "a", "a", [1, 0, 1, 0, 1, 1]))
    folder = tmp_path / "b"
    write_results(folder, "b", [1, 0, 1, 0, 1, 1])
    file = folder / f"samples_quiz_{STAMP}.jsonl"
    file.write_text(file.read_text().replace('"doc_hash": "0', '"doc_hash": "f'))
    import_lm_eval(store, folder)
    pairs = compare_sides(store, paths, sides_of(store, ["a", "b"]))
    assert not [r for r in pairs if (r.bench, r.metric) == ("lm-eval-quiz", "acc")]


def test_samples_whose_mean_is_another_figure_are_not_used(
    paths: Paths, store: Store, tmp_path: Path
) -> None:
    """An F1 over a whole task is no mean over its documents."""
    path = write_results(tmp_path, "m", [1, 0, 1, 1])
    values = json.loads(path.read_text())
    values["results"]["quiz"]["acc,none"] = 0.9
    path.write_text(json.dumps(values))
    (summary,) = import_lm_eval(store, path)
    assert "imported without samples" in summary.notes[0]
    assert scores(store, paths)["m", "lm-eval-quiz", "acc"].value == pytest.approx(0.9)


def test_results_are_assigned_to_the_checkpoint_that_is_named(
    paths: Paths, store: Store, tmp_path: Path
) -> None:
    mine = store.add_checkpoint(Checkpoint("id-mine", "mine", "sft", "", 1.0))
    import_lm_eval(store, write_results(tmp_path, "elsewhere/x", [1]), mine)
    assert ("mine", "lm-eval-quiz", "acc") in scores(store, paths)
    assert store.checkpoint("elsewhere/x") is None


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ("pretrained=base,peft=adapter", "adapter"),
        ({"pretrained": "org/x"}, "org/x"),
        ("model=gpt,base_url=http://x", "gpt"),
    ],
)
def test_the_model_is_what_was_evaluated(
    store: Store, tmp_path: Path, arguments: object, name: str
) -> None:
    path = write_results(tmp_path, "x", [1], config={"model_args": arguments}, model_name=None)
    (summary,) = import_lm_eval(store, path)
    assert summary.models == {name}


def test_values_that_are_no_numbers_are_named(store: Store, tmp_path: Path) -> None:
    path = write_results(tmp_path, "m", [1])
    path.write_text(path.read_text().replace('"acc,none": 0.5', '"acc,none": NaN'))
    (summary,) = import_lm_eval(store, path)
    assert summary.notes == ["group: acc,none is NaN: left out"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "`results` is missing"),
        ("{", "not JSON"),
        ('{"results": {"t": 3}, "model_name": "m"}', "is not a task"),
        ('{"results": {"t": {"acc,none": 1}}}', "model_name"),
        ('{"results": {"t": {"acc,none": 1}}, "model_name": "m", "date": "x"}', "date"),
        ('{"results": {"t": {"acc": 1}}, "model_name": "m", "config": 3}', "not a results file"),
    ],
)
def test_other_files_are_refused_by_name(
    store: Store, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / f"results_{STAMP}.json"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=message) as caught:
        import_lm_eval(store, path)
    assert str(path) in caught.value.where
    assert not store.judgments("", "lm-eval-t")


def test_a_broken_sample_is_refused_by_its_line(store: Store, tmp_path: Path) -> None:
    write_results(tmp_path, "m", [1, 0])
    file = tmp_path / f"samples_quiz_{STAMP}.jsonl"
    file.write_text(file.read_text() + '{"doc_id": "x"}\n')
    with pytest.raises(DataError, match="doc_id") as caught:
        import_lm_eval(store, tmp_path)
    assert caught.value.where.endswith("line 3")


def test_an_empty_folder_says_what_to_do(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results") as caught:
        import_lm_eval(store, tmp_path)
    assert "--output_path" in caught.value.hint


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["results", "config", "versions", "n-shot", "n-samples", "model_name"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda part: st.dictionaries(st.text(max_size=5), part, max_size=3),
            max_leaves=6,
        ),
    )
)
def test_any_file_is_imported_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "results.json"
    path.write_text(json.dumps(raw), "utf-8")
    with Store(folder / "kdharness.db") as store, suppress(KDHarnessError):
        import_lm_eval(store, path)
        assert isinstance(raw["results"], dict)


def test_the_command_prints_what_was_imported(kd: CommandLine, tmp_path: Path) -> None:
    write_results(tmp_path, "m", [1, 0, 1])
    code, out, err = kd("import", "lm-eval", str(tmp_path))
    assert code == 0 and "lm-eval-quiz" in out and "6 lm-eval rows, 6 new: m" in err
    code, _, err = kd("import", "lm-eval", str(tmp_path), "--ckpt", "nothing-here")
    assert code != 0 and "nothing-here" in err
