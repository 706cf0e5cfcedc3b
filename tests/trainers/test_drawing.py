"""How the rows of a resumed run are drawn: as when it began."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.harness.util.atomic import seal
from kdharness.trainers.data.streams import DRAWING
from kdharness.trainers.resuming import NOTE, drawing_of
from support.reporters import Listener


@pytest.mark.parametrize(
    ("note", "want"),
    [
        *(({"drawing": number}, number) for number in range(2, DRAWING + 1)),
        ({"groups": "step"}, 1),
        (None, 1),
    ],
)
def test_only_a_run_of_an_older_version_is_drawn_as_it_was(
    note: dict[str, object] | None, want: int, paths: Paths
) -> None:
    folder = paths.run("r")
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoint-1" / "trainer_state.json").write_text("{}", "utf-8")
    if note is not None:
        (folder / NOTE).write_text(json.dumps(note), "utf-8")
    run = Job(paths, "r", folder, Listener(), resume=True)
    # Without a checkpoint that is whole, it begins again.
    assert drawing_of(run) == DRAWING
    seal(folder / "checkpoint-1")
    assert drawing_of(run) == want
    assert drawing_of(replace(run, resume=False)) == DRAWING
