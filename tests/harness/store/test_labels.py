"""Stored labels: identities, which of them count, and what moves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.analysis.labelling import current_labels, valid_labels
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.labels import Label
from kdharness.harness.types import Answer, digest
from support.scored_store import add_checkpoint
from support.store_rows import stored_answer, stored_label


def real_answer(checkpoint: str, item: int) -> Answer:
    """Make an answer with the id that an evaluation gives it."""
    answer = stored_answer(checkpoint, item, checkpoint=checkpoint)
    key = digest("answer", checkpoint, "mt-bench", answer.item, 1, "", "")
    return replace(answer, id=key)


def test_labels_are_stored_once_and_read_back_exactly(paths: Paths) -> None:
    label = stored_label(stored_answer("x", 1), 7.25, note="a\nünï")
    with Store(paths.store) as store:
        assert store.add_labels([label, label]) == 1
        assert store.add_labels([label]) == 0
        assert store.labels() == [label] and store.labels()[0].id == label.id
        assert store.labels("id-x", "mt-bench") == [label]
        assert store.labels("id-y") == store.labels("id-x", "shop") == []
        assert store.labelled_benches() == {"mt-bench"}


def test_labels_of_the_same_text_by_two_checkpoints_are_two(paths: Paths) -> None:
    with Store(paths.store) as store:
        labels = [stored_label(stored_answer(name, 1)) for name in ("kd", "dae")]
        assert store.add_labels(labels) == 2


def test_a_key_in_a_note_is_not_stored_and_the_label_keeps_its_identity(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-" + "a1B2" * 12
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    label = stored_label(stored_answer("x", 1), note=f"see {secret}")
    with Store(paths.store) as store:
        store.add_labels([label])
        (stored,) = store.labels()
        assert secret not in stored.note
        assert store.add_labels([stored, label]) == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([None, 1.0, 2.0])), max_size=8))
def test_the_newest_label_of_each_person_counts(changes: list[tuple[str, float | None]]) -> None:
    answer = stored_answer("x", 1)
    labels: list[Label] = []
    last: dict[str, float | None] = {}
    for n, (who, value) in enumerate(changes):
        labels.append(stored_label(answer, value, labeller=who, created=float(n)))
        last[who] = value
    wanted = {who: value for who, value in last.items() if value is not None}
    for order in (labels, labels[::-1]):
        assert {label.labeller: label.value for label in current_labels(order)} == wanted


def test_labels_follow_a_checkpoint_to_its_new_identity_and_name(paths: Paths) -> None:
    with Store(paths.store) as store:
        old, other = add_checkpoint(store, "kd"), add_checkpoint(store, "base")
        answers = [real_answer(side.id, 1) for side in (old, other)]
        store.add_answers(answers)
        pair = stored_label(answers[0], 1.0, metric="pair", baseline="base", other=answers[1].id)
        store.add_labels(
            [stored_label(answers[0]), replace(pair, other_text=stored_label(answers[1]).text)]
        )
        assert len(valid_labels(store, old.id, "mt-bench")) == 2
        store.adopt_checkpoint(old, "new", "w", "i", path=old.path)
        store.adopt_checkpoint(other, "new-base", "w2", "i", path=other.path)
        renamed = store.checkpoint("new-base")
        assert renamed is not None
        store.rename_checkpoint(renamed, "teacher", path=renamed.path)
        moved = valid_labels(store, "new", "mt-bench")
        assert sorted(label.baseline for label in moved) == ["", "teacher"]
        assert valid_labels(store, old.id, "mt-bench") == []


def test_a_home_merged_with_its_copy_from_before_an_adoption_has_no_second_labels(
    tmp_path: Path,
) -> None:
    homes = [tmp_path / name / "kdharness.db" for name in ("a", "b")]
    for path in homes:
        path.parent.mkdir()
        with Store(path) as store:
            checkpoint = add_checkpoint(store, "kd")
            store.add_answers([real_answer(checkpoint.id, 1)])
            store.add_labels([stored_label(real_answer(checkpoint.id, 1))])
    with Store(homes[0]) as store:
        old = store.checkpoint("kd")
        assert old is not None
        store.adopt_checkpoint(old, "new", "w", "i", path=old.path)
        counts = merge(store, homes[1])
        assert counts["labels"] == 0 and len(store.labels()) == 1
        assert len(valid_labels(store, "new", "mt-bench")) == 1


def test_forgetting_a_run_forgets_its_labels(paths: Paths) -> None:
    with Store(paths.store) as store:
        for name in ("kd", "dae"):
            checkpoint = add_checkpoint(store, name)
            store.db.execute("UPDATE checkpoints SET run = ? WHERE id = ?", [name, checkpoint.id])
            store.add_labels([stored_label(stored_answer(name, 1))])
        store.forget_runs(["kd"])
        assert [label.checkpoint for label in store.labels()] == ["id-dae"]
