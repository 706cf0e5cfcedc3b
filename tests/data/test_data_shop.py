"""The rows of the fictional shop: the guarantees that make scores on them meaningful."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest

from kdharness.data.shop import make
from kdharness.data.shop.listings import DISTRACTORS, reserved_adjectives
from kdharness.data.shop.policies import POLICIES
from kdharness.data.shop.world import ADJECTIVES, DEPARTMENT_NAMES, DEPARTMENTS, SHOP

Row = dict[str, Any]
SIZES = {"train": 360, "validation": 48, "test": 72}
SEEDS = (7, 8, 2024)
FIELDS = ["brand", "product", "colour", "size", "material", "price"]


def read_shipped(split: str) -> list[Row]:
    text = files("kdharness.data").joinpath("shop", f"{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def prompt_of(row: Row) -> str:
    return str(row["messages"][0]["content"])


def answer_of(row: Row) -> str:
    return str(row["messages"][-1]["content"])


def of_task(rows: list[Row], task: str) -> list[Row]:
    return [row for row in rows if row["category"] == task]


def listing(row: Row) -> str:
    """Return the prompt without the instruction before the listing."""
    text = prompt_of(row)
    for wording in make.WORDINGS[row["category"]]:
        lead = wording.format("")
        if text.startswith(lead):
            return text.removeprefix(lead)
    raise AssertionError(f"no known instruction: {text}")


@pytest.fixture(params=["shipped", *SEEDS], scope="module")
def splits(request: pytest.FixtureRequest) -> dict[str, list[Row]]:
    """The shipped rows, and rows of other seeds: the guarantees hold for any seed."""
    if request.param == "shipped":
        return {split: read_shipped(split) for split in SIZES}
    return make.make_splits(request.param)


@pytest.mark.parametrize("split", SIZES)
def test_shipped_files_match_the_generator(split: str) -> None:
    source = files("kdharness.data").joinpath("shop", f"{split}.jsonl")
    assert source.read_bytes() == make.make_files(7)[f"{split}.jsonl"]


def test_check_passes_on_the_shipped_folder() -> None:
    with as_file(files("kdharness.data").joinpath("shop")) as folder:
        assert make.main(["--check", "--output", str(folder)]) == 0


def test_check_detects_changed_and_missing_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make.main(["--output", str(tmp_path)]) == 0
    assert make.main(["--output", str(tmp_path), "--check"]) == 0
    assert make.main(["--output", str(tmp_path), "--check", "--seed", "8"]) == 1
    (tmp_path / "test.jsonl").unlink()
    capsys.readouterr()
    assert make.main(["--output", str(tmp_path), "--check"]) == 1
    assert "test.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "test.jsonl").exists(), "--check must write nothing"


def test_splits_have_fixed_sizes_and_are_balanced(splits: dict[str, list[Row]]) -> None:
    for split, rows in splits.items():
        assert len(rows) == SIZES[split]
        assert Counter(row["category"] for row in rows) == dict.fromkeys(
            make.METRICS, SIZES[split] // 3
        )
        per_department = Counter(answer_of(row) for row in of_task(rows, "department"))
        assert per_department == dict.fromkeys(DEPARTMENT_NAMES, SIZES[split] // 24)


def test_ids_are_unique_and_numbered(splits: dict[str, list[Row]]) -> None:
    for split, rows in splits.items():
        expected = [f"shop-{split}-{number:04d}" for number in range(1, len(rows) + 1)]
        assert [row["id"] for row in rows] == expected


def test_rows_have_a_question_an_answer_and_a_metric(splits: dict[str, list[Row]]) -> None:
    for row in (row for rows in splits.values() for row in rows):
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["metric"] == make.METRICS[row["category"]]
        assert ("choices" in row) == (row["category"] == "department")
        assert prompt_of(row).strip() == prompt_of(row) != ""
        assert answer_of(row).strip() == answer_of(row) != ""


def test_prompts_and_listings_are_unique(splits: dict[str, list[Row]]) -> None:
    rows = [row for split in splits.values() for row in split]
    assert len({prompt_of(row).lower() for row in rows}) == len(rows)
    listings = [listing(row).lower() for row in rows if row["category"] != "policy"]
    assert len(set(listings)) == len(listings)


def test_attributes_are_valid_json_and_appear_in_the_listing(splits: dict[str, list[Row]]) -> None:
    for row in (row for rows in splits.values() for row in of_task(rows, "attributes")):
        assert "\n" not in answer_of(row)
        fields = json.loads(answer_of(row))
        assert fields["product"]
        assert list(fields) == [name for name in FIELDS if name in fields]
        assert all(isinstance(value, str) and value for value in fields.values())
        text = listing(row).lower()
        for name in ("brand", "product", "colour", "material"):
            assert fields.get(name, "").lower() in text
        if "price" in fields:
            number = fields["price"].removeprefix("$")
            assert f"${number}" in text or f"{number} dollars" in text


def test_some_attributes_are_missing_and_some_listings_have_distractors() -> None:
    rows = of_task(read_shipped("train"), "attributes")
    counts = Counter(len(json.loads(answer_of(row))) for row in rows)
    assert len(counts) >= 4
    starts = tuple(text.split("{")[0] for text in DISTRACTORS if not text.startswith("{"))
    distracting = [row for row in rows if any(start in listing(row).lower() for start in starts)]
    assert len(rows) // 4 < len(distracting) < len(rows)


def test_departments_are_choices_that_do_not_appear_in_the_prompt(
    splits: dict[str, list[Row]],
) -> None:
    for row in (row for rows in splits.values() for row in of_task(rows, "department")):
        assert row["choices"] == list(DEPARTMENT_NAMES)
        assert answer_of(row) in row["choices"]
        assert not any(name.lower() in prompt_of(row).lower() for name in row["choices"])


def test_each_product_belongs_to_a_single_department() -> None:
    products = [name for group in DEPARTMENTS for name in (*group.products, *group.held_out)]
    assert len(set(products)) == len(products)


def pairs_of(rows: list[Row]) -> set[tuple[str, str]]:
    """Return the (adjective, product) pairs of listings, parsed from their text."""
    products = [name for group in DEPARTMENTS for name in (*group.products, *group.held_out)]
    pairs = set()
    for row in rows:
        text = listing(row).lower()
        # The longest name: "table lamp" rather than a shorter product contained in it.
        product = max((name for name in products if name in text), key=len)
        adjective = next(word for word in ADJECTIVES if word in text)
        pairs.add((adjective, product))
    return pairs


def test_test_listings_use_combinations_unseen_in_training(splits: dict[str, list[Row]]) -> None:
    pairs = {
        split: pairs_of([row for row in rows if row["category"] != "policy"])
        for split, rows in splits.items()
    }
    assert not pairs["test"] & (pairs["train"] | pairs["validation"])
    assert all(adjective in reserved_adjectives(name) for adjective, name in pairs["test"])
    known = {product for _, product in pairs["train"] | pairs["validation"]}
    assert known == {name for group in DEPARTMENTS for name in group.products}
    unseen = {product for _, product in pairs["test"]} - known
    assert unseen == {name for group in DEPARTMENTS for name in group.held_out}


def test_policy_facts_of_the_test_split_are_trained_in_other_wordings(
    splits: dict[str, list[Row]],
) -> None:
    facts = {question: policy for policy in POLICIES for question in policy.questions}
    trained: Counter[str] = Counter()
    lead = f"{SHOP} policy: "
    for split, rows in splits.items():
        for row in of_task(rows, "policy"):
            policy = facts[prompt_of(row).removeprefix(lead)]
            assert answer_of(row) == policy.answer
            if split == "train":
                trained[policy.answer] += 1
    assert trained == {policy.answer: 5 for policy in POLICIES}
    tested = Counter(answer_of(row) for row in of_task(splits["test"], "policy"))
    assert tested == {policy.answer: 1 for policy in POLICIES}


def test_policy_wordings_and_answers_are_distinct() -> None:
    questions = [question.lower() for policy in POLICIES for question in policy.questions]
    assert len(set(questions)) == len(questions) == 7 * len(POLICIES)
    assert len({policy.answer for policy in POLICIES}) == len(POLICIES)


def test_rows_are_short(splits: dict[str, list[Row]]) -> None:
    for row in (row for rows in splits.values() for row in rows):
        assert 4 <= len(prompt_of(row).split()) <= 45
        assert len(answer_of(row).split()) <= 20
