"""Agreement of people with each other, and what users of other tools report about labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.labelled_home import add_labels, add_pairs, add_ratings


@pytest.fixture
def home(paths: Paths) -> Paths:
    with Store(paths.store) as store:
        add_ratings(store, "kd", [n % 10 + 1 for n in range(30)])
        add_pairs(store, "kd", "base", [1.0, 0.0, 0.5] * 10)
    return paths


def test_two_people_are_compared_on_what_both_have_labelled(home: Paths, kd: CommandLine) -> None:
    ann = [float(n % 7 + 2) for n in range(20)]
    bob = [float(n % 7 + 2 - (n % 4 == 0)) for n in range(12)]
    with Store(home.store) as store:
        add_labels(store, "kd", ann)
        add_labels(store, "kd", bob, labeller="bob")
        for who, values in (("ann", [1.0, 0.0] * 5), ("bob", [1.0, 0.0] * 4 + [0.0, 1.0])):
            add_labels(store, "kd", values, bench="mt-bench-pair", baseline="base", labeller=who)
    rows = {(r["metric"], r["figure"]): r for r in kd.json("label", "agreement")}
    assert {(r["first"], r["second"]) for r in rows.values()} == {("ann", "bob")}
    kappa, equal = rows["rating", "kappa"], rows["rating", "equal"]
    expected = cohen_kappa_score(ann[:12], bob, weights="quadratic", labels=list(range(1, 11)))
    assert kappa["value"] == pytest.approx(expected) and kappa["n"] == 12
    assert kappa["low"] < kappa["value"] <= kappa["high"]
    assert equal["value"] == 0.75 and rows["pair", "equal"]["value"] == 0.8
    assert rows["pair", "kappa"]["value"] == pytest.approx(0.6)


def test_without_two_people_it_says_so(home: Paths, kd: CommandLine) -> None:
    with Store(home.store) as store:
        add_labels(store, "kd", [5.0] * 4)
    code, out, err = kd("label", "agreement", "--format", "json")
    assert code == 0 and json.loads(out) == [] and "two people" in err


def test_a_second_person_is_asked_for_the_same_answers(home: Paths, kd: CommandLine) -> None:
    rows = kd.json("label", "next", "6", "--bench", "mt-bench", "--by", "ann")
    with Store(home.store) as store:
        items = [int(row["item"][1:]) for row in rows]
        add_labels(store, "kd", [5.0] * 30)
        kept = {f"q{n}" for n in items}
        for label in store.labels():
            if label.item not in kept:
                store.db.execute("DELETE FROM labels WHERE id = ?", [label.id])
    again = kd.json("label", "next", "6", "--bench", "mt-bench", "--by", "bob")
    assert {row["item"] for row in again} == {row["item"] for row in rows}


def test_an_export_of_several_people_has_each_label_once_and_comes_back(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    """Exports elsewhere repeat a task for each of its annotators, or leave imported ones out."""
    with Store(home.store) as store:
        for who in ("ann", "bob", "eve"):
            add_labels(store, "kd", [4.0, 5.0, 6.0], labeller=who)
    exported = kd.ok("label", "export")
    assert len(exported.splitlines()) == len(set(exported.splitlines())) == 9
    file = tmp_path / "x.jsonl"
    file.write_text(exported, "utf-8")
    for _ in range(2):
        assert "0 new" in kd("label", "import", str(file))[2]
    with Store(home.store) as store:
        store.db.execute("DELETE FROM labels")
    assert "9 new" in kd("label", "import", str(file))[2]
    assert kd.ok("label", "export") == exported


def test_whoever_labels_constantly_has_no_rank_correlation(home: Paths, kd: CommandLine) -> None:
    """A kappa of NaN, or of 1, is what other tools show of a constant annotator."""
    with Store(home.store) as store:
        add_labels(store, "kd", [5.0] * 10)
        add_labels(store, "kd", [float(n % 3 + 4) for n in range(10)], labeller="bob")
    rows = {r["figure"]: r for r in kd.json("label", "agreement")}
    assert rows["kappa"]["value"] == 0 and "spearman" not in rows
    assert 0 < rows["equal"]["value"] < 1
