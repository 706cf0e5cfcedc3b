"""A run resumes only with the data, models and config it was started with."""

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

pytestmark = pytest.mark.slow

ROWS: list[dict[str, Any]] = [
    {"prompt": f"Question {n}: what is {n} and {n}?", "completion": f"It is {2 * n}."}
    for n in range(24)
]


class StoppedRun:
    """A KD run on private copies of its files, stopped at step 3 of 6."""

    def __init__(
        self, folder: Path, teacher: Path, rows: list[dict[str, Any]] = ROWS, **trainer: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.paths = Paths(folder / "home")
        self.data, self.heldout = folder / "rows.jsonl", folder / "heldout.jsonl"
        self.student = Path(shutil.copytree(teacher, folder / "student"))
        self.teacher = Path(shutil.copytree(teacher, folder / "teacher"))
        self.write_rows(self.data, rows)
        self.write_rows(self.heldout, [{"prompt": "Other?", "completion": "Yes."}])
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
            "trainer": {"max_steps": 6, "batch_size": 2, "attention_weight": 0, **trainer},
        }
        self.config.write_text(yaml.safe_dump(values), "utf-8")
        with pytest.raises(Interrupted):
            self.train(after=2, resume=False)

    @staticmethod
    def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def train(self, after: int | None = None, *, resume: bool = True) -> Listener:
        reporter = Listener(stop_at_step=after)
        folder = self.paths.runs / "r"
        folder.mkdir(parents=True, exist_ok=True)
        job = Job(self.paths, "r", folder, reporter, resume=resume)
        resolve(TRAINERS, "kd", "method")(load_config(self.config), job)
        return reporter

    def change_weights(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["model.norm.weight"] += 1
        save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def stopped_run(tiny_teacher: Path, tmp_path: Path) -> StoppedRun:
    return StoppedRun(tmp_path, tiny_teacher)


CHANGES: dict[str, tuple[Callable[[StoppedRun], Any], str]] = {
    "fewer rows": (
        lambda s: s.write_rows(s.data, ROWS[:20]),
        r"the training rows \(24 then, 20 now; fingerprint",
    ),
    "more rows": (
        lambda s: s.write_rows(s.data, [*ROWS, ROWS[0]]),
        r"the training rows \(24 then, 25 now",
    ),
    "another row": (
        lambda s: s.write_rows(s.data, [*ROWS[:-1], {"prompt": "New?", "completion": "No."}]),
        r"the training rows \(fingerprint",
    ),
    "another order": (
        lambda s: s.write_rows(s.data, ROWS[::-1]),
        r"the training rows \(fingerprint",
    ),
    "another template": (
        lambda s: s.template.write_text(
            s.template.read_text().replace("<|im_start|>", "<|im_start|>: ")
        ),
        r"the training rows .*, the held-out rows|the training rows",
    ),
    "held-out rows": (
        lambda s: s.write_rows(s.heldout, [{"prompt": "Third?", "completion": "Yes."}]),
        r": the held-out rows",
    ),
    "student": (lambda s: s.change_weights(s.student), r"the student's weights"),
    "teacher": (lambda s: s.change_weights(s.teacher), r"the teacher changed"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_resume_reports_inputs_changed_since_the_checkpoint(
    name: str, stopped_run: StoppedRun
) -> None:
    """Older versions silently continued with the changed inputs."""
    change, words = CHANGES[name]
    change(stopped_run)
    before = sorted(path.name for path in (stopped_run.paths.runs / "r").iterdir())
    with pytest.raises(RunError, match=words) as caught:
        stopped_run.train()
    assert "since checkpoint-3 was saved" in caught.value.message
    assert sorted(path.name for path in (stopped_run.paths.runs / "r").iterdir()) == before


def test_unchanged_run_resumes(stopped_run: StoppedRun, tmp_path: Path) -> None:
    # Rewritten with the same rows: only the modification time differs.
    stopped_run.write_rows(stopped_run.data, ROWS)
    (stopped_run.teacher / "README.md").write_text("a card", "utf-8")
    reporter = stopped_run.train()
    assert reporter.steps == 6
    assert any("resuming from checkpoint-3" in line for _, line in reporter.said)


def test_run_of_an_older_version_resumes_with_a_note(stopped_run: StoppedRun) -> None:
    (stopped_run.paths.runs / "r" / "begun-with.json").unlink()
    reporter = stopped_run.train()
    assert reporter.steps == 6
    assert any("started by an older version" in line for _, line in reporter.said)


def test_run_of_another_precision_is_not_continued(stopped_run: StoppedRun) -> None:
    """`auto` is mixed on a GPU with bf16, else fp32: a run may be resumed on another machine."""
    note = stopped_run.paths.runs / "r" / "begun-with.json"
    begun = json.loads(note.read_text("utf-8"))
    assert begun["precision"] == "fp32"
    note.write_text(json.dumps({**begun, "precision": "mixed"}), "utf-8")
    with pytest.raises(RunError, match=r"the precision \(mixed then, fp32 now\)"):
        stopped_run.train()
    # A run of an older version has no record of it.
    del begun["precision"]
    note.write_text(json.dumps(begun), "utf-8")
    reporter = stopped_run.train()
    assert any("cannot check that its data, precision" in line for _, line in reporter.said)


def test_run_without_a_checkpoint_restarts(stopped_run: StoppedRun) -> None:
    shutil.rmtree(stopped_run.paths.runs / "r" / "checkpoint-3")
    stopped_run.write_rows(stopped_run.data, ROWS[:20])
    assert stopped_run.train().steps == 6
    note = json.loads((stopped_run.paths.runs / "r" / "begun-with.json").read_text("utf-8"))
    assert note["train_rows"] == 20


def test_moved_data_file_is_reported_with_a_hint(stopped_run: StoppedRun, tmp_path: Path) -> None:
    """The hint was about paths in the config file, which a resumed run does not reread."""
    moved = shutil.move(stopped_run.data, tmp_path / "moved.jsonl")
    with pytest.raises(
        DataError, match="existed when the run started and is missing now"
    ) as caught:
        stopped_run.train()
    assert caught.value.where == str(stopped_run.data) and "link" in caught.value.hint
    stopped_run.data.symlink_to(moved)
    assert stopped_run.train().steps == 6


def test_a_run_of_an_older_version_goes_on_in_the_order_it_began_with(
    tiny_teacher: Path, tmp_path: Path
) -> None:
    """Those versions grouped the rows of whole steps and kept no note of it."""
    curves = {}
    for groups in ("step", "auto"):
        run = StoppedRun(tmp_path / groups, tiny_teacher, accumulation=2, length_groups=groups)
        note = run.paths.runs / "r" / "begun-with.json"
        values = json.loads(note.read_text())
        assert values.pop("groups") == {"step": "step", "auto": "micro-batch"}[groups]
        if groups == "step":
            note.write_text(json.dumps(values))
            run.config.write_text(run.config.read_text().replace("length_groups: step", ""))
        curves[groups] = [v["loss"] for _, v in run.train().points if "loss" in v]
    whole = StoppedRun(tmp_path / "whole", tiny_teacher, accumulation=2, length_groups="step")
    assert curves["step"] == [v["loss"] for _, v in whole.train().points if "loss" in v]
    assert curves["auto"] != curves["step"]


def test_a_run_of_an_older_version_reads_its_rows_as_it_did(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those versions learnt a prompt's answers, and kept the end that an answer is written with."""
    told = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    rows = [
        {
            "prompt": [*told, {"role": "user", "content": f"What is {n}?"}],
            "completion": f"It is {n}.<|im_end|>",
        }
        for n in range(24)
    ]
    with monkeypatch.context() as older:
        older.setattr("kdharness.trainers.loop.drawing_of", lambda job: 1)
        run = StoppedRun(tmp_path, tiny_teacher, rows)
    note = run.paths.runs / "r" / "begun-with.json"
    values = json.loads(note.read_text("utf-8"))
    with pytest.raises(RunError, match="the training rows"):
        run.train()
    del values["drawing"]
    note.write_text(json.dumps(values), "utf-8")
    assert run.train().steps == 6
