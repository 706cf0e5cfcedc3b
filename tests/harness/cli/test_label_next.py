"""What `kdharness label next` chooses, and that the scores weigh it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from kdharness.harness.analysis.label_design import label_queue
from kdharness.harness.analysis.labelling import LabelSession, label_tasks
from kdharness.harness.analysis.prompts import BenchTexts
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.labelled_home import add_labels, add_pairs, add_ratings

JUDGED = [2.0] * 50 + [8.0] * 50
"""A judge's ratings: two strata."""


def people(item: str) -> float:
    """Return what people say: half of the items that the judge likes are bad."""
    n = int(item.removeprefix("q"))
    return 2.0 if n < 50 else (9.0 if n % 2 else 2.0)


@pytest.fixture
def home(paths: Paths) -> Paths:
    """Return a home with 100 rated answers of each of two checkpoints."""
    with Store(paths.store) as store:
        add_ratings(store, "kd", JUDGED)
        add_ratings(store, "dae", JUDGED)
    return paths


def label_by_file(kd: CommandLine, tmp_path: Path, count: int) -> list[str]:
    """Label the next answers through a file; return their items."""
    rows = kd.json("label", "next", str(count), "--ckpt", "kd", "--by", "ann")
    file = tmp_path / "labels.jsonl"
    lines = [json.dumps({**row, "value": people(row["item"])}) for row in rows]
    file.write_text("\n".join(lines), "utf-8")
    kd.ok("label", "import", str(file), "--by", "ann")
    return [row["item"] for row in rows]


def corrected(kd: CommandLine, name: str = "kd") -> dict[str, object]:
    (row,) = kd.json("leaderboard", "--metric", "corrected_score", "--ckpt", name)
    return dict(row)


def high(items: list[str]) -> int:
    return sum(int(item.removeprefix("q")) >= 50 for item in items)


def test_first_labels_are_spread_and_later_ones_go_where_people_differ(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    first = label_by_file(kd, tmp_path, 20)
    assert high(first) == 10
    for _ in range(2):
        label_by_file(kd, tmp_path, 10)
    later = label_by_file(kd, tmp_path, 20)
    assert high(later) > 12, "people agree about the items that the judge dislikes"
    score = corrected(kd)
    # Half of the items have 2.0, of the others half 2.0 and half 9.0: 3.75 in all.
    assert "chosen-labels" not in str(score["flags"]) and score["n"] == 60
    assert score["ci_low"] < 3.75 < score["ci_high"]  # type: ignore[operator]
    assert abs(float(str(score["value"])) - 3.75) < 0.6


def test_denser_labels_are_weighed(home: Paths, kd: CommandLine, tmp_path: Path) -> None:
    label_by_file(kd, tmp_path, 20)
    items = [*label_by_file(kd, tmp_path, 20), *label_by_file(kd, tmp_path, 20)]
    with Store(home.store) as store:
        given = {label.item: people(label.item) for label in store.labels()}
    assert high(items) > 22
    halves = [
        [value for item, value in given.items() if (int(item[1:]) >= 50) == side]
        for side in (False, True)
    ]
    means = [sum(half) / len(half) for half in halves]
    assert corrected(kd)["value"] == pytest.approx(sum(means) / 2, abs=1e-6)
    assert abs(sum(given.values()) / len(given) - sum(means) / 2) > 0.2, "unweighted is wrong"


def test_labels_from_before_the_strata_count_as_they_did(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    with Store(home.store) as store:
        add_labels(store, "kd", [people(f"q{n}") for n in range(20)])
    before = corrected(kd)
    assert before["n"] == 20 and "chosen-labels" not in str(before["flags"])
    kd.json("label", "next", "5")
    assert corrected(kd) == before, "listing changes nothing"
    items = label_by_file(kd, tmp_path, 10)
    assert high(items) == 10, "the strata that are short come first"
    after = corrected(kd)
    assert "chosen-labels" not in str(after["flags"]) and after["n"] == 30


def test_another_checkpoint_is_labelled_on_the_same_items(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    items = [*label_by_file(kd, tmp_path, 20), *label_by_file(kd, tmp_path, 10)]
    rows = kd.json("label", "next", "30", "--ckpt", "dae")
    assert sorted(row["item"] for row in rows) == sorted(items)
    assert high([row["item"] for row in rows[:10]]) in range(4, 8), "any beginning is a sample"


def test_the_strata_stay_when_more_is_judged(home: Paths, kd: CommandLine, tmp_path: Path) -> None:
    items = label_by_file(kd, tmp_path, 10)
    designs = {row["design"] for row in kd.json("label", "next", "90", "--ckpt", "kd")}
    with Store(home.store) as store:
        add_ratings(store, "sft", [9.0 - rating for rating in JUDGED] + [5.0] * 20)
    rows = kd.json("label", "next", "120", "--ckpt", "sft")
    assert {row["design"] for row in rows} == designs and "" not in designs
    assert len({row["item"] for row in rows}) == 120
    assert sorted(row["item"] for row in rows[:10]) == sorted(items)
    first = [int(row["item"][1:]) // 50 for row in rows[:40]]
    assert Counter(first).keys() == {0, 1, 2}, "the new items are a stratum of their own"


def test_labels_by_other_strata_count_as_chosen(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    label_by_file(kd, tmp_path, 20)
    assert "chosen-labels" not in corrected(kd)["flags"]  # type: ignore[operator]
    with Store(home.store) as store:
        label = store.labels()[0]
        store.add_labels([replace(label, labeller="eve", info={"seed": 0, "design": "other"})])
    assert "chosen-labels" in corrected(kd)["flags"]  # type: ignore[operator]


def test_imported_labels_by_unknown_strata_are_told(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    row = {"checkpoint": "kd", "bench": "mt-bench", "item": "q1", "value": 5, "seed": 0}
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps({**row, "design": "elsewhere"}), "utf-8")
    code, _, err = kd("label", "import", str(file))
    assert code == 0 and "warning: 1 labels" in err and "kdharness store merge" in err
    file.write_text(json.dumps({**row, "item": "q2"}), "utf-8")
    assert "warning" not in kd("label", "import", str(file))[2]


def test_merging_brings_the_strata(home: Paths, kd: CommandLine, tmp_path: Path) -> None:
    label_by_file(kd, tmp_path, 20)
    label_by_file(kd, tmp_path, 20)
    wanted = corrected(kd)
    with Store(home.store) as store:
        exported = store.labels()
    other = tmp_path / "other"
    other.mkdir()
    with Store(other / "kdharness.db") as target:
        for _ in range(2):
            merge(target, home.store)
        (design,) = {str(label.info["design"]) for label in target.labels()}
        assert len(target.label_design(design)) == 100 and target.labels() == exported
    second = CommandLine(other, kd.capsys)
    assert corrected(second) == wanted


def test_pairs_in_which_the_orders_disagree_are_a_stratum(paths: Paths, kd: CommandLine) -> None:
    with Store(paths.store) as store:
        add_pairs(store, "kd", "base", [1.0] * 20 + [0.5] * 20 + [0.0] * 20)
    rows = kd.json("label", "next", "12")
    assert Counter(int(row["item"][1:]) // 20 for row in rows) == {0: 4, 1: 4, 2: 4}


def test_expected_ratings_are_split_by_the_judges_doubt(paths: Paths) -> None:
    with Store(paths.store) as store:
        for name, shares in (("sure", {"5": 1.0}), ("unsure", {"3": 0.5, "7": 0.5})):
            add_ratings(
                store, name, [5.0] * 20, metric="expected_rating", info={"distribution": shares}
            )
            sql = "UPDATE judgments SET item = ? || item WHERE checkpoint = ?"
            store.db.execute(sql, [name, f"id-{name}"])
        label_queue(store, "mt-bench", [], "ann", 0, 1.0)
        (row,) = store.db.query("SELECT strata FROM label_designs")
    strata = json.loads(row["strata"])
    assert len({kind for item, kind in strata.items() if item.startswith("sure")}) == 1
    assert len(set(strata.values())) == 2


def test_a_session_records_the_strata(home: Paths) -> None:
    with Store(home.store) as store:
        assert store.label_design("unknown") == {}
        tasks = label_tasks(store, "mt-bench", store.checkpoints(), BenchTexts())
        queue = label_queue(store, "mt-bench", tasks, "ann", 3, 1.0)
    session = LabelSession(queue.tasks, "ann", 3, queue.design)
    label = session.press("7", 1.0)
    assert label is not None and label.info == {"seed": 3, "design": queue.design}


def test_few_items_are_drawn_from_all(paths: Paths, kd: CommandLine) -> None:
    with Store(paths.store) as store:
        add_ratings(store, "kd", [3.0, 8.0] * 3)
    rows = kd.json("label", "next", "9")
    assert len(rows) == 6 and {row["design"] for row in rows} == {""}
