"""What a run refuses about its held-out rows, `check` and `plan` refuse too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.commands import CommandLine
from support.configs import config_file, kd_config
from support.files import WriteRows

REFUSED = {"check": 1, "plan": 2}
"""Exit codes."""
ROWS = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(6)]


def outcomes(
    kd: CommandLine, folder: Path, teacher: Path, data: dict[str, Any]
) -> dict[str, tuple[int, str]]:
    """Return the exit code and the words of each command on such data."""
    config = config_file(folder, **kd_config(teacher, student=str(teacher), data=data))
    commands = {"check": ("--no-weights", "--format", "json"), "plan": ()}
    found = {}
    for command, flags in commands.items():
        code, out, err = kd(command, config, *flags)
        found[command] = (code, out + err)
    return found


@pytest.mark.parametrize("place", ["the same file", "a copied row", "other whitespace in the file"])
def test_rows_that_are_trained_on_are_not_held_out(
    place: str, kd: CommandLine, tiny_teacher: Path, tmp_path: Path, write_jsonl: WriteRows
) -> None:
    """Both said nothing, and the run failed when it had read its rows."""
    train = write_jsonl("train.jsonl", ROWS[:4])
    heldout = write_jsonl("heldout.jsonl", [ROWS[5], ROWS[2]])
    if place == "the same file":
        heldout = train
    elif place.startswith("other"):
        heldout.write_text("\n".join(json.dumps(row, indent=None) for row in ROWS[3:5]) + "\n\n")
    data = {"train": str(train), "heldout": str(heldout)}
    count = "4 held-out rows are" if place == "the same file" else "1 held-out row is"
    for command, (code, text) in outcomes(kd, tmp_path, tiny_teacher, data).items():
        assert code == REFUSED[command] and f"{count} also in the training data" in text
        assert "data.allow_duplicates: true" in text
    allowed = outcomes(kd, tmp_path, tiny_teacher, {**data, "allow_duplicates": True})
    assert {code for code, _ in allowed.values()} == {0}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a"\n', "heldout.jsonl:2"),
        ('{"question": "a"}\n', "heldout.jsonl:1"),
        ("", "heldout.jsonl"),
    ],
)
def test_held_out_rows_that_cannot_be_read(
    lines: str,
    message: str,
    kd: CommandLine,
    tiny_teacher: Path,
    tmp_path: Path,
    write_jsonl: WriteRows,
) -> None:
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text(lines, "utf-8")
    data = {"train": str(write_jsonl("train.jsonl", ROWS)), "heldout": str(heldout)}
    for command, (code, text) in outcomes(kd, tmp_path, tiny_teacher, data).items():
        assert code == REFUSED[command] and message in text


def test_rows_apart_are_fine(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path, write_jsonl: WriteRows
) -> None:
    train, heldout = write_jsonl("train.jsonl", ROWS[:4]), write_jsonl("heldout.jsonl", ROWS[4:])
    data = {"train": str(train), "heldout": [str(heldout), "shop:validation"]}
    assert {code for code, _ in outcomes(kd, tmp_path, tiny_teacher, data).values()} == {0}
