"""Results of lm-evaluation-harness as its versions 0.4.1 to 0.4.9 write them, and odd ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.compare import compare_sides, sides_of
from kdharness.harness.analysis.forgetting import profile_of
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.interop.lm_eval import import_lm_eval
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.evaluations import scores

STAMP = "2026-11-20T10-00-00.123456"
STRICT, LOOSE = [1, 0, 0, 0], [1, 1, 1, 0]
FIGURES = {
    "gsm8k": {"exact_match,strict-match": 0.25, "exact_match,flexible-extract": 0.75},
}


def write(folder: Path, name: str, results: dict[str, Any], **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    values = {"results": results, "config": {"model_args": "pretrained=org/m"}, **more}
    path.write_text(json.dumps(values), "utf-8")
    return path


def rows_of(**names: str) -> list[dict[str, Any]]:
    """Return one pass over the documents for each filter; `names` is a field of each pass."""
    passes = ((STRICT, "strict-match"), (LOOSE, "flexible-extract"))
    return [
        {"doc_id": at, "exact_match": value, "resps": [], **dict.fromkeys(names, label)}
        for values, label in passes
        for at, value in enumerate(values)
    ]


@pytest.mark.parametrize("version", ["0.4.1", "0.4.5", "0.4.9"])
def test_samples_under_several_filters(
    store: Store, paths: Paths, tmp_path: Path, version: str
) -> None:
    """Before 0.4.7 samples do not say their filter; before 0.4.3 they are a list."""
    rows = rows_of(filter="") if version == "0.4.9" else rows_of()
    if version == "0.4.1":
        path = write(tmp_path, "results.json", FIGURES)
        (tmp_path / "pretrained__org__m_gsm8k.jsonl").write_text(json.dumps(rows, indent=2))
    else:
        path = write(tmp_path, f"results_{STAMP}.json", FIGURES, date=1.0e9)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"samples_gsm8k_{STAMP}.jsonl").write_text(lines)
    (summary,) = import_lm_eval(store, path)
    assert (summary.rows, summary.notes) == (8, [])
    found = scores(store, paths)
    for name, value in (("strict-match", 0.25), ("flexible-extract", 0.75)):
        score = found["org/m", "lm-eval-gsm8k", f"exact_match/{name}"]
        assert (score.value, score.n) == (value, 4)


def test_a_limit_without_counts_is_a_subset(store: Store, paths: Paths, tmp_path: Path) -> None:
    config = {"model_args": "pretrained=m", "limit": 10.0, "gen_kwargs": "temperature=1"}
    write(tmp_path, "results.json", {"t": {"acc,none": 0.5}}, config=config)
    import_lm_eval(store, tmp_path)
    flags = scores(store, paths)["m", "lm-eval-t", "acc"].flags
    assert "subset:10.0" in flags and any(flag.startswith("gen_kwargs:") for flag in flags)


def test_a_group_has_the_documents_of_its_tasks(store: Store, paths: Paths, tmp_path: Path) -> None:
    counts = {name: {"original": 9, "effective": 9} for name in ("a", "b", "c")}
    groups = {"mmlu": ["stem", "a"], "stem": ["b", "c"], "a": [], "b": [], "c": []}
    figures = {"mmlu": {"acc,none": 0.5, "acc_stderr,none": 0.02, "alias": "mmlu"}}
    more = {"n-samples": counts, "group_subtasks": groups}
    import_lm_eval(store, write(tmp_path, "results.json", figures, **more))
    score = scores(store, paths)["org/m", "lm-eval-mmlu", "acc"]
    assert (score.value, score.n) == (0.5, 27)


def test_task_names_with_spaces(store: Store, paths: Paths, tmp_path: Path) -> None:
    """One task of lm_eval's own has a space in its name."""
    import_lm_eval(store, write(tmp_path, "results.json", {"north macedonian": {"acc,none": 1}}))
    assert ("org/m", "lm-eval-north-macedonian", "acc") in scores(store, paths)


def test_a_link_to_samples_elsewhere_is_named(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "run", f"results_{STAMP}.json", {"t": {"acc,none": 1.0}})
    (tmp_path / "elsewhere").write_text('{"doc_id": 0, "acc": 1.0}\n')
    (path.parent / f"samples_t_{STAMP}.jsonl").symlink_to(tmp_path / "elsewhere")
    (summary,) = import_lm_eval(store, path)
    assert "a link to outside" in summary.notes[0] and summary.rows == 1


@pytest.mark.parametrize(
    "metric", ["ter", "wer", "bits_per_byte/clean", "word_perplexity/clean", "brier_score/none2"]
)
def test_lower_is_better_whatever_the_filter(metric: str) -> None:
    assert is_lower_better(metric) and not is_lower_better("bleu/clean")


def test_a_profile_names_tasks_without_samples(store: Store, paths: Paths, tmp_path: Path) -> None:
    for name in ("a", "b"):
        config = {"model_args": f"pretrained={name}"}
        import_lm_eval(
            store, write(tmp_path / name, "results.json", {"t": {"acc,none": 0.5}}, config=config)
        )
    sides = sides_of(store, ["a", "b"])
    found = profile_of(store, sides, compare_sides(store, paths, sides))
    assert found.few == {"lm-eval-t": ["b"]}


def test_a_task_of_any_name_is_imported_beside_the_others(
    store: Store, paths: Paths, tmp_path: Path
) -> None:
    figures = {"acc,none": 0.5}
    names = ["arc", "mmlu_flan::stem", "leader/board|2", "../../etc", "a:b", "a|b", "::"]
    path = write(tmp_path, "results.json", dict.fromkeys(names, figures))
    (summary,) = import_lm_eval(store, path)
    found = {bench for _, bench, _ in scores(store, paths)}
    assert found == {
        "lm-eval-arc",
        "lm-eval-mmlu_flan--stem",
        "lm-eval-leader-board-2",
        "lm-eval-..-..-etc",
        "lm-eval-a-b",
    }
    left = [note for note in summary.notes if "left out" in note]
    assert len(left) == 2 and '"a|b"' in left[0] and '"::"' in left[1]


@pytest.mark.parametrize(
    ("value", "error", "count", "want"),
    [
        # As scores made here: 25 or 3 documents that agree do not prove that all others do.
        (1.0, 0.0, 25, (0.863, 1.0)),
        (1.0, 0.0, 3, (0.292, 1.0)),
        (0.0, 0.0, 25, (0.0, 0.137)),
        # No documents are right or wrong alone and have a mean of one half.
        (0.5, 0.0, 25, None),
        (1.0, 0.0, 1, None),
        (0.98, 0.04, 25, (0.9016, 1.0)),
        (0.02, 0.04, 25, (0.0, 0.0984)),
        (0.5, 0.1, 25, (0.304, 0.696)),
    ],
)
def test_a_reported_share_never_claims_certainty(
    store: Store,
    paths: Paths,
    tmp_path: Path,
    value: float,
    error: float,
    count: int,
    want: tuple[float, float] | None,
) -> None:
    results = {"t": {"acc,none": value, "acc_stderr,none": error}}
    counts = {"n-samples": {"t": {"original": count, "effective": count}}}
    import_lm_eval(store, write(tmp_path, "results.json", results, **counts))
    found = scores(store, paths)["org/m", "lm-eval-t", "acc"]
    assert found.value == value
    if want is None:
        assert (found.ci_low, found.ci_high) == (None, None)
    else:
        assert (found.ci_low, found.ci_high) == pytest.approx(want, abs=1e-3)
