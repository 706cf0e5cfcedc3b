"""Make the training and test rows of the shop Marlowick.

    python -m kdharness.data.shop.make [--seed 7] [--output DIR] [--check]

Three tasks, in equal parts:

- `attributes` (json_f1): a listing -> its attributes as a JSON object on one line. An
  attribute the listing doesn't name is absent, never null.
- `department` (accuracy): a listing -> the one of eight departments that sells it. Their codes
  ("Pets N6") are peculiar to the shop and not in the prompt: only training can teach them.
- `policy` (exact_match): a question about a rule of the shop -> a short fixed answer.

What the splits share: no listing, no item and no wording of a question is in two splits. Every
test listing describes its product by an adjective that never occurs with that product in
training, and a third are for products never seen there. The policy *facts* are the same
everywhere: they can't be derived, so train contains each in five wordings and the test asks it
in another.

Uses only the standard library, and one seed gives the same bytes everywhere; `--check` compares
the files on disk with that.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from kdharness.data.shop.listings import Item, draw_item, write_listing
from kdharness.data.shop.policies import POLICIES
from kdharness.data.shop.world import DEPARTMENT_NAMES, DEPARTMENTS, SHOP, Department

Row = dict[str, Any]

PER_TASK = {"train": 120, "validation": 16, "test": 24}
METRICS = {"attributes": "json_f1", "department": "accuracy", "policy": "exact_match"}
MISSING = {"attributes": 0.35, "department": 0.6}
"""Probability that a listing omits an attribute; departments need little but the product."""

WORDINGS = {
    "attributes": (
        "Attributes as JSON: {}",
        f"{SHOP} catalogue entry: {{}}",
        "Extract the attributes. {}",
    ),
    "department": (
        f"{SHOP} department for: {{}}",
        f"Which {SHOP} department? {{}}",
        "Department of this listing: {}",
    ),
}


def pick_product(task: str, department: Department, turn: int, *, test: bool) -> str:
    """Pick products in turn, so that all are equally frequent; every third test one is unseen."""
    if test and turn % 3 == 0:
        return department.held_out[list(MISSING).index(task)]
    return department.products[turn % len(department.products)]


def listing_rows(rng: random.Random, split: str, task: str, seen: set[Item]) -> list[Row]:
    """Make one task's rows on listings, distributed evenly over the departments.

    `seen` contains the items of all splits: duplicates are drawn again.
    """
    test = split == "test"
    rows: list[Row] = []
    for number in range(PER_TASK[split]):
        turn, column = divmod(number, len(DEPARTMENTS))
        department = DEPARTMENTS[column]
        product = pick_product(task, department, turn, test=test)
        while True:
            item = draw_item(rng, department, product, test=test, missing=MISSING[task])
            if item not in seen:
                break
        seen.add(item)
        prompt = rng.choice(WORDINGS[task]).format(write_listing(rng, item))
        answer = json.dumps(item.attributes()) if task == "attributes" else department.name
        row = make_row(task, prompt, answer)
        if task == "department":
            row["choices"] = list(DEPARTMENT_NAMES)
        rows.append(row)
    return rows


def policy_rows(rng: random.Random) -> dict[str, list[Row]]:
    """Distribute each policy's wordings over the splits: five to train, one to test.

    Validation gets the seventh wording of as many policies as it has rows.
    """
    splits: dict[str, list[Row]] = {split: [] for split in PER_TASK}
    for policy in POLICIES:
        questions = list(policy.questions)
        rng.shuffle(questions)
        deal = {"train": questions[:5], "test": questions[5:6], "validation": questions[6:7]}
        for split, chosen in deal.items():
            splits[split].extend(
                make_row("policy", f"{SHOP} policy: {question}", policy.answer)
                for question in chosen
            )
    rng.shuffle(splits["validation"])
    return {split: rows[: PER_TASK[split]] for split, rows in splits.items()}


def make_row(task: str, prompt: str, answer: str) -> Row:
    """Make one row without its id, which depends on its final position."""
    return {
        "category": task,
        "metric": METRICS[task],
        "messages": [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": answer},
        ],
    }


def make_splits(seed: int) -> dict[str, list[Row]]:
    """Make all rows of all splits, shuffled within each split and numbered."""
    rng = random.Random(seed)
    policies = policy_rows(rng)
    seen: set[Item] = set()
    splits: dict[str, list[Row]] = {}
    for split in PER_TASK:
        rows = [row for task in MISSING for row in listing_rows(rng, split, task, seen)]
        rows += policies[split]
        rng.shuffle(rows)
        splits[split] = [
            {"id": f"shop-{split}-{number:04d}", **row} for number, row in enumerate(rows, start=1)
        ]
    return splits


def render(rows: list[Row]) -> bytes:
    """Serialise rows as the bytes of a JSONL file."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return "".join(lines).encode("utf-8")


def make_files(seed: int) -> dict[str, bytes]:
    """Make the content of each file, by name."""
    return {f"{split}.jsonl": render(rows) for split, rows in make_splits(seed).items()}


def stale_files(folder: Path, made: dict[str, bytes]) -> list[str]:
    """List the files that are missing from a folder or differ from what is made now."""
    return [
        name
        for name, content in made.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]


def main(argv: list[str] | None = None) -> int:
    """Write the files, or check them; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m kdharness.data.shop.make",
        description=f"Make the rows of the made-up shop {SHOP}.",
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if files differ")
    args = parser.parse_args(argv)
    made = make_files(args.seed)
    if args.check:
        stale = stale_files(args.output, made)
        for name in stale:
            print(f"{args.output / name}: not what seed {args.seed} makes", file=sys.stderr)
        return 1 if stale else 0
    args.output.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        (args.output / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
