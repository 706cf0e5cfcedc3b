"""The shipped general prompts and the teacher's answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib.resources import files
from itertools import combinations
from typing import Any

import pytest

from kdharness.data.general import make
from kdharness.data.general.prompts import (
    NEAR_DUPLICATE,
    PER_CATEGORY,
    Prompt,
    load_prompts,
    similarity,
    split_prompts,
    without_near_duplicates,
)
from kdharness.harness.interop.fastchat import CATEGORIES

Row = dict[str, Any]
SIZES = {"train": 240, "validation": 32, "test": 48}
FOLDER = files("kdharness.data").joinpath("general")
SOURCE: dict[str, Any] = json.loads(FOLDER.joinpath("SOURCE.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    return {
        split: [
            json.loads(line)
            for line in FOLDER.joinpath(f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for split in SIZES
    }


def prompt_of(row: Row) -> str:
    return str(row["messages"][0]["content"])


def answer_of(row: Row) -> str:
    return str(row["messages"][-1]["content"])


def test_each_category_has_at_least_40_prompts() -> None:
    counts = Counter(prompt.category for prompt in load_prompts())
    assert set(counts) == set(CATEGORIES)
    assert min(counts.values()) >= 40
    assert sum(counts.values()) >= 320


def test_prompts_are_short_distinct_and_clean() -> None:
    texts = [prompt.text for prompt in load_prompts()]
    assert len({text.lower() for text in texts}) == len(texts)
    for text in texts:
        assert 5 <= len(text.split()) <= 35
        assert text == text.strip()
        assert "\n" not in text
    for left, right in combinations(texts, 2):
        assert similarity(left, right) < NEAR_DUPLICATE, (left, right)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 8, 2024])
def test_split_is_deterministic_disjoint_and_balanced(seed: int) -> None:
    prompts = load_prompts()
    split = split_prompts(prompts, seed)
    assert split == split_prompts(prompts, seed)
    assert {name: len(rows) for name, rows in split.items()} == SIZES
    all_prompts = [prompt for rows in split.values() for prompt in rows]
    assert len(set(all_prompts)) == len(all_prompts)
    for name, rows in split.items():
        assert Counter(row.category for row in rows) == dict.fromkeys(
            CATEGORIES, PER_CATEGORY[name]
        )


@pytest.mark.slow
def test_another_seed_gives_another_split() -> None:
    prompts = load_prompts()
    assert split_prompts(prompts, 7) != split_prompts(prompts, 8)


def test_near_duplicates_are_dropped() -> None:
    first = Prompt("math", "What is the area of a square with side 4?")
    copy = Prompt("math", "what is the area of a square with side 5?")
    other = Prompt("math", "Name three prime numbers above one hundred.")
    assert without_near_duplicates([first, copy, other]) == [first, other]


def test_too_few_prompts_are_rejected() -> None:
    with pytest.raises(ValueError, match="40 needed"):
        split_prompts(load_prompts()[:100], 7)


def test_shipped_rows_match_the_split_of_their_seed(splits: dict[str, list[Row]]) -> None:
    expected = split_prompts(load_prompts(), SOURCE["seed"])
    for split, rows in splits.items():
        assert [Prompt(row["category"], prompt_of(row)) for row in rows] == expected[split]
        assert [row["id"] for row in rows] == [
            f"general-{split}-{number:04d}" for number in range(1, SIZES[split] + 1)
        ]


def test_shipped_splits_share_no_prompts(splits: dict[str, list[Row]]) -> None:
    for left, right in combinations(splits, 2):
        for row in splits[left]:
            for other in splits[right]:
                assert similarity(prompt_of(row), prompt_of(other)) < NEAR_DUPLICATE


def test_shipped_answers_are_complete_or_flagged_as_truncated(splits: dict[str, list[Row]]) -> None:
    limit = SOURCE["generation"]["max_new_tokens"]
    for row in (row for rows in splits.values() for row in rows):
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row.get("truncated", True) is True, "the flag is there only when set"
        assert answer_of(row)
        assert answer_of(row) == answer_of(row).strip()
        assert "<|im_" not in answer_of(row)
        assert "\ufffd" not in answer_of(row)
        assert len(answer_of(row).split()) <= limit


def test_checksums_match_the_files() -> None:
    assert set(SOURCE["sha256"]) == {f"{split}.jsonl" for split in SIZES}
    for name, digest in SOURCE["sha256"].items():
        assert hashlib.sha256(FOLDER.joinpath(name).read_bytes()).hexdigest() == digest


def test_source_records_the_teacher_and_its_licence() -> None:
    assert SOURCE["model"]["name"] == make.TEACHER["name"]
    assert SOURCE["model"]["licence"] == "Apache-2.0"
    assert SOURCE["generation"]["decoding"] == "greedy"


class TinyTokenizer:
    """Fake tokenizer that decodes token ids as characters."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, tokens))


@pytest.mark.parametrize(
    ("tokens", "text", "truncated"),
    [
        ([72, 105, 0, 0, 0], "Hi", False),
        ([72, 105], "Hi", True),
        ([72, 105, 0xFFFD], "Hi", True),
        ([32, 72, 105, 10, 0], "Hi", False),
    ],
)
def test_answer_is_cut_at_the_end_of_turn_token(
    tokens: list[int], text: str, truncated: bool
) -> None:
    teacher = make.Teacher.__new__(make.Teacher)
    teacher.tokenizer = TinyTokenizer()
    teacher.end = 0
    assert teacher.decode(tokens) == make.Answer(text, truncated)


def test_rows_flag_truncation_and_reject_empty_answers() -> None:
    prompts = [Prompt("math", "One?"), Prompt("stem", "Two?")]
    answers = {"One?": make.Answer("Yes.", False), "Two?": make.Answer("It goes", True)}
    rows = [json.loads(line) for line in make.build_rows("test", prompts, answers)]
    assert [row.get("truncated") for row in rows] == [None, True]
    assert rows[0] == {
        "id": "general-test-0001",
        "category": "math",
        "messages": [
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": "Yes."},
        ],
    }
    answers["One?"] = make.Answer("", False)
    with pytest.raises(SystemExit, match="is empty"):
        make.build_rows("test", prompts, answers)
