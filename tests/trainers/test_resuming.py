"""A run goes on with what it was begun with, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from kdharness.harness.config.files import load_config
from kdharness.harness.errors import DataError, Interrupted, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.harness.registry import TRAINERS, resolve
from support.reporters import Listener

ROWS = [
    {"prompt": f"Question {n}: what is {n} and {n}?", "completion": f"It is {2 * n}."}
    for n in range(24)
]


class Scene:
    """A KD run on files of its own that was stopped at step 3 of 6."""

    def __init__(self, folder: Path, teacher: Path) -> None:
        self.paths = Paths(folder / "home")
        self.data, self.heldout = folder / "rows.jsonl", folder / "heldout.jsonl"
        self.student = Path(shutil.copytree(teacher, folder / "student"))
        self.teacher = Path(shutil.copytree(teacher, folder / "teacher"))
        self.write(self.data, ROWS)
        self.write(self.heldout, [{"prompt": "Other?", "completion": "Yes."}])
        self.template = folder / "t.jinja"
        self.template.write_text((teacher / "chat_template.jinja").read_text("utf-8"), "utf-8")
        self.config = folder / "c.yaml"
        values = {
            "method": "kd",
            "student": str(self.student),
            "teacher": str(self.teacher),
            "data": {
                "train": [{"path": str(self.data)}],
                "heldout": [{"path": str(self.heldout)}],
                "max_length": 64,
                "chat_template": str(self.template),
            },
            "trainer": {"max_steps": 6, "batch_size": 2, "attention_weight": 0},
        }
        self.config.write_text(yaml.safe_dump(values), "utf-8")
        with pytest.raises(Interrupted):
            self.go(after=2, resume=False)

    @staticmethod
    def write(path: Path, rows: list[dict[str, str]]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def go(self, after: int | None = None, *, resume: bool = True) -> Listener:
        reporter = Listener(stop_at_step=after)
        folder = self.paths.runs / "r"
        folder.mkdir(parents=True, exist_ok=True)
        job = Job(self.paths, "r", folder, reporter, resume=resume)
        resolve(TRAINERS, "kd", "method")(load_config(self.config), job)
        return reporter

    def shift(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["model.norm.weight"] += 1
        save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def scene(tiny_teacher: Path, tmp_path: Path) -> Scene:
    return Scene(tmp_path, tiny_teacher)


CHANGES: dict[str, tuple[Callable[[Scene], Any], str]] = {
    "fewer rows": (
        lambda s: s.write(s.data, ROWS[:20]),
        r"the training rows \(24 then, 20 now; fingerprint",
    ),
    "more rows": (
        lambda s: s.write(s.data, [*ROWS, ROWS[0]]),
        r"the training rows \(24 then, 25 now",
    ),
    "another row": (
        lambda s: s.write(s.data, [*ROWS[:-1], {"prompt": "New?", "completion": "No."}]),
        r"the training rows \(fingerprint",
    ),
    "another order": (
        lambda s: s.write(s.data, ROWS[::-1]),
        r"the training rows \(fingerprint",
    ),
    "another template": (
        lambda s: s.template.write_text(
            s.template.read_text().replace("<|im_start|>", "<|im_start|>: ")
        ),
        r"the training rows .*, the held-out rows|the training rows",
    ),
    "held-out rows": (
        lambda s: s.write(s.heldout, [{"prompt": "Third?", "completion": "Yes."}]),
        r": the held-out rows",
    ),
    "student": (lambda s: s.shift(s.student), r"the student's weights"),
    "teacher": (lambda s: s.shift(s.teacher), r"the teacher changed"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_under_a_stopped_run_is_told(name: str, scene: Scene) -> None:
    """Older versions trained on with the other rows, and said nothing."""
    change, words = CHANGES[name]
    change(scene)
    before = sorted(path.name for path in (scene.paths.runs / "r").iterdir())
    with pytest.raises(RunError, match=words) as caught:
        scene.go()
    assert "since checkpoint-3 was saved" in caught.value.message
    assert sorted(path.name for path in (scene.paths.runs / "r").iterdir()) == before


def test_an_unchanged_run_goes_on(scene: Scene, tmp_path: Path) -> None:
    # Written again, and said to be of another time: the rows are the same.
    scene.write(scene.data, ROWS)
    (scene.teacher / "README.md").write_text("a card", "utf-8")
    reporter = scene.go()
    assert reporter.steps == 6
    assert any("resuming from checkpoint-3" in line for _, line in reporter.said)


def test_a_run_of_an_older_version_goes_on_with_a_word(scene: Scene) -> None:
    (scene.paths.runs / "r" / "begun-with.json").unlink()
    reporter = scene.go()
    assert reporter.steps == 6
    assert any("started by an older version" in line for _, line in reporter.said)


def test_without_a_checkpoint_a_run_begins_anew(scene: Scene) -> None:
    shutil.rmtree(scene.paths.runs / "r" / "checkpoint-3")
    scene.write(scene.data, ROWS[:20])
    assert scene.go().steps == 6
    note = json.loads((scene.paths.runs / "r" / "begun-with.json").read_text("utf-8"))
    assert note["train_rows"] == 20


def test_a_data_file_that_was_moved_meanwhile(scene: Scene, tmp_path: Path) -> None:
    """The hint was about paths in a config file, which a run does not read again."""
    moved = shutil.move(scene.data, tmp_path / "moved.jsonl")
    with pytest.raises(
        DataError, match="existed when the run started and is missing now"
    ) as caught:
        scene.go()
    assert caught.value.where == str(scene.data) and "link" in caught.value.hint
    scene.data.symlink_to(moved)
    assert scene.go().steps == 6
