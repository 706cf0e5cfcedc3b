"""`kdharness label`: what to label, labels as files, and labelling in the terminal."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.labelled_home import add_pairs, add_ratings
from support.store_rows import stored_answer, stored_judgment
from support.terminal import Terminal


@pytest.fixture
def home(paths: Paths) -> Paths:
    """Return a home with 30 rated answers of each of two checkpoints."""
    with Store(paths.store) as store:
        add_ratings(store, "kd", [n % 10 + 1 for n in range(30)])
        add_ratings(store, "dae", [(n + 3) % 10 + 1 for n in range(30)])
    return paths


def write_rows(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def row(item: int, value: object, **more: object) -> dict[str, Any]:
    return {"checkpoint": "kd", "bench": "mt-bench", "item": f"q{item}", "value": value, **more}


def test_next_is_a_random_sample_of_the_same_items_for_every_checkpoint(
    home: Paths, kd: CommandLine
) -> None:
    first = kd.json("label", "next", "8", "--ckpt", "kd")
    assert len({r["item"] for r in first}) == 8
    assert [r["item"] for r in first] != sorted(r["item"] for r in first)
    assert [r["item"] for r in kd.json("label", "next", "8", "--ckpt", "dae")] == [
        r["item"] for r in first
    ]
    assert [r["item"] for r in kd.json("label", "next", "8", "--ckpt", "kd", "--seed", "1")] != [
        r["item"] for r in first
    ]
    both = kd.json("label", "next", "8")
    assert {(r["item"], r["checkpoint"]) for r in both} == {
        (r["item"], name) for r in first[:4] for name in ("kd", "dae")
    }


def test_listed_answers_can_be_labelled_in_a_file_and_are_not_listed_again(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    rows = kd.json("label", "next", "6", "--ckpt", "kd", "--by", "ann")
    file = write_rows(tmp_path / "x.jsonl", *[{**r, "value": 7} for r in rows])
    for new in (6, 0):
        code, _, err = kd("label", "import", file, "--by", "ann")
        assert code == 0 and f"6 rows, {new} new" in err
    after = kd.json("label", "next", "60", "--ckpt", "kd", "--by", "ann")
    assert len(after) == 24 and not {r["item"] for r in after} & {r["item"] for r in rows}
    assert len(kd.json("label", "next", "60", "--ckpt", "kd", "--by", "bob")) == 30


def test_changing_ones_mind_keeps_the_old_label(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    for value in (3, 8, None, 8):
        kd.ok("label", "import", write_rows(tmp_path / "x.jsonl", row(1, value)), "--by", "ann")
    kd.ok("label", "import", write_rows(tmp_path / "y.jsonl", row(1, 2)), "--by", "bob")
    listed = kd.json("label", "list")
    assert [(r["labeller"], r["value"], r["counts"]) for r in listed] == [
        ("ann", 3.0, False),
        ("ann", 8.0, False),
        ("ann", None, False),
        ("ann", 8.0, True),
        ("bob", 2.0, True),
    ]


def test_two_labels_of_one_answer_in_a_file_need_times(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    code, _, err = kd("label", "import", write_rows(tmp_path / "x.jsonl", row(1, 3), row(1, 8)))
    assert code == 2 and "line 2" in err and "already in" in err and "line 1" in err
    dated = write_rows(tmp_path / "y.jsonl", row(1, 3, created=1), row(1, 8, created=2))
    for _ in range(2):
        kd.ok("label", "import", dated)
        assert [r["value"] for r in kd.json("label", "list")] == [3.0, 8.0]


def test_export_and_import_round_trip_exactly(
    home: Paths, kd: CommandLine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kd.ok(
        "label",
        "import",
        write_rows(
            tmp_path / "x.jsonl",
            row(1, 3, note='ünï "x"\n', created=12.25, labeller="ann"),
            row(1, 4.5, created=13, labeller="ann", blind=True, seed=3, info={"swapped": True}),
            row(2, None, created=14, labeller="bob"),
        ),
    )
    exported = kd.ok("label", "export")
    other = CommandLine(tmp_path / "other", capsys)
    other.home.mkdir()
    with Store(other.home / "kdharness.db") as store:
        add_ratings(store, "kd", [n % 10 + 1 for n in range(30)])
        add_ratings(store, "dae", [(n + 3) % 10 + 1 for n in range(30)])
    file = tmp_path / "labels.jsonl"
    file.write_text(exported, "utf-8")
    for command in (other, kd):
        command.ok("label", "import", str(file))
        assert command.ok("label", "export") == exported
    written = tmp_path / "again.jsonl"
    kd.ok("label", "export", "--output", str(written))
    assert written.read_text("utf-8") == exported


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row(99, 5), "no judged answer to turn 1 of item 'q99'"),
        (row(1, 5, turn=2), "no judged answer to turn 2"),
        (row(1, 5, checkpoint="kdd"), "did you mean kd"),
        (row(1, 5, bench="mt-bemch"), "did you mean mt-bench"),
        (row(1, 11), "value of a rating must be in 1 to 10"),
        (row(1, 0), "value of a rating must be in 1 to 10"),
        (row(1, "good"), "value must be a number"),
        (row(1, True), "value must be a number"),
        (row(1, 5, metric="pair"), "no judged answer"),
        (row(1, 5, metric="stars"), "unknown metric 'stars'"),
        (row(1, 5, rater="ann"), "unknown field 'rater'"),
        (row(1, 5, answer="gone"), "no judged answer"),
        (row(1, 5, turn=1, metric="rating", answer="a-kd-1-1", text="x"), "not stored with the"),
        (row(1, 5, blind="yes"), "blind true or false"),
        (row(1, 5, created="yesterday"), "created must be a number"),
        ({"checkpoint": "kd", "bench": "mt-bench", "value": 5}, "item is missing"),
        ({"checkpoint": "kd", "bench": "mt-bench", "item": "q1"}, "value is missing"),
    ],
)
def test_wrong_rows_are_refused_by_line_and_nothing_is_stored(
    home: Paths, kd: CommandLine, tmp_path: Path, bad: dict[str, Any], words: str
) -> None:
    file = write_rows(tmp_path / "x.jsonl", row(1, 5), bad)
    code, _, err = kd("label", "import", file)
    assert code == 2 and "line 2" in err and words in err and "Traceback" not in err
    assert kd.json("label", "list") == []


def test_an_exported_row_about_another_item_is_refused(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    kd.ok("label", "import", write_rows(tmp_path / "x.jsonl", row(1, 5)))
    exported = json.loads(kd.ok("label", "export"))
    for change in ({"item": "q2"}, {"turn": 2}):
        code, _, err = kd("label", "import", write_rows(tmp_path / "y.jsonl", exported | change))
        assert code == 2 and "turn 1 of item 'q1'" in err


def test_an_answer_that_was_generated_again_is_unlabelled(
    home: Paths, kd: CommandLine, tmp_path: Path
) -> None:
    kd.ok("label", "import", write_rows(tmp_path / "x.jsonl", row(1, 5)), "--by", "ann")
    assert len(kd.json("label", "next", "60", "--ckpt", "kd", "--by", "ann")) == 29
    with Store(home.store) as store:
        changed = stored_answer("kd-1", 1, checkpoint="id-kd", text="another")
        store.add_answers([replace(changed, item="q1")])
    assert len(kd.json("label", "next", "60", "--ckpt", "kd", "--by", "ann")) == 30


def test_pairs_are_listed_with_their_other_side(paths: Paths, kd: CommandLine) -> None:
    with Store(paths.store) as store:
        add_pairs(store, "kd", "base", [1.0, 0.0, 0.5, 1.0])
    rows = kd.json("label", "next", "9")
    assert {(r["metric"], r["baseline"], r["bench"]) for r in rows} == {
        ("pair", "base", "mt-bench-pair")
    }
    assert len(rows) == 4


def test_options_before_a_subcommand_are_refused(home: Paths, kd: CommandLine) -> None:
    for option in (("--ckpt", "kd"), ("--seed", "0"), ("--by", "ann"), ("--count", "3")):
        code, _, err = kd("label", *option, "next", "3")
        assert code == 2 and f"{option[0]} must come after next" in err


def test_nothing_to_label_says_what_to_do(paths: Paths, kd: CommandLine) -> None:
    code, _, err = kd("label", "next", "3")
    assert code == 2 and "kdharness eval" in err


def test_several_benchmarks_need_a_choice(home: Paths, kd: CommandLine) -> None:
    with Store(home.store) as store:
        add_pairs(store, "kd", "base", [1.0, 0.0])
    code, _, err = kd("label", "next", "3", "--ckpt", "kd")
    assert code == 2 and "--bench mt-bench|mt-bench-pair" in err
    assert len(kd.json("label", "next", "3", "--bench", "mt-bench")) == 3
    code, _, err = kd("label", "next", "3", "--bench", "mt-bemch")
    assert code == 2 and "did you mean mt-bench" in err


def test_without_a_terminal_it_says_how_else_to_label(
    home: Paths, kd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoTerminal:
        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", NoTerminal())
    code, _, err = kd("label")
    assert code == 2 and "needs a terminal" in err and "label import" in err


@pytest.mark.slow
def test_labels_are_stored_key_by_key_in_a_terminal(home: Paths, kd: CommandLine) -> None:
    command = ["label", "--by", "ann", "--count", "4"]
    program = [sys.executable, "-m", "kdharness.harness.cli", "--home", str(home.home)]
    terminal = Terminal([*program, *command])
    try:
        terminal.wait_for(b"q quit")
        terminal.drain(0.3)  # the prompt comes before the terminal reads single keys
        for key in (b"7", b"s", b"0", b"u", b"2"):
            terminal.key(key)
            terminal.drain(0.2)
        os.write(terminal.fd, b"q")
        terminal.wait_for(b"2 labels stored")
    finally:
        terminal.close()
    listed = kd.json("label", "list")
    assert [(r["value"], r["counts"], r["blind"]) for r in listed] == [
        (7.0, True, True),
        (10.0, False, True),
        (None, False, True),
        (2.0, True, True),
    ]


def test_benchmarks_without_ratings_and_comparisons_are_not_offered(
    home: Paths, kd: CommandLine
) -> None:
    with Store(home.store) as store:
        for bench, metric in (("lm-eval-quiz", "acc"), ("arena-hard-v2", "hard_prompt")):
            row = stored_judgment(bench, 1, checkpoint="id-kd", bench=bench, metric=metric)
            store.add_judgments([replace(row, judge="imported:lm-eval", value=1.0)])
    assert {r["bench"] for r in kd.json("label", "next", "3")} == {"mt-bench"}
    code, _, err = kd("label", "next", "3", "--bench", "lm-eval-quiz")
    assert code == 2 and "lm-eval-quiz" in err
