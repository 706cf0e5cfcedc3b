"""Lines through the points of the trade-off: along a setting, and along a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.analysis.series import series_of
from kdharness.harness.analysis.tradeoff import Axis, Point, place
from kdharness.harness.cli.eval import config_of
from kdharness.harness.cli.tradeoff import draw
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.step_sources import step_sources
from kdharness.harness.store import Store
from kdharness.harness.util.atomic import seal
from support.commands import CommandLine
from support.scored_store import add_checkpoint, add_run, verdict

LOSS = Axis("heldout", "general_loss", True)
SCORE = Axis("shop", "score", False)


def trained(store: Store, name: str, rate: float, *, seed: int = 1, **trainer: Any) -> None:
    """Store an SFT run at a learning rate, from `start`, with its checkpoint."""
    values = {"learning_rate": rate, "l2_start": 0.0, **trainer}
    add_run(store, name, "sft", config={"seed": seed, "trainer": values}, step=40)
    add_checkpoint(store, name, "sft", parents={"student": "id-start"})


def score(store: Store, name: str, loss: float, gained: float) -> None:
    """Give a checkpoint both scores, on 12 questions."""
    store.add_judgments(
        verdict(name, item, value + item / 100, bench=bench, metric=metric, category="")
        for item in range(12)
        for bench, metric, value in (
            ("heldout", "general_loss", loss),
            ("shop", "score", gained),
        )
    )


def lines(store: Store) -> dict[str, dict[float, str]]:
    found = series_of(store, {c.name for c in store.checkpoints()})
    return {line.name: dict(zip(line.values, line.checkpoints, strict=True)) for line in found}


def test_trackers_are_no_part_of_a_setting(store: Store) -> None:
    add_checkpoint(store, "start", "kd")
    trained(store, "slow", 1e-5, track=["wandb"])
    trained(store, "fast", 1e-4)
    assert [set(line.values()) for line in lines(store).values()] == [{"start", "slow", "fast"}]


# ---------------------------------------------------------------- which lines there are


def test_runs_that_differ_in_the_rate_alone_are_one_line(store: Store) -> None:
    add_checkpoint(store, "start", "model")
    for rate in (1e-4, 1e-6, 1e-5):
        trained(store, f"x-sft-learning_rate{rate:g}-s1", rate)
        trained(store, f"x-sft-learning_rate{rate:g}-s2", rate, seed=2)
    trained(store, "other", 1e-5, epochs=9)
    found = series_of(store, {c.name for c in store.checkpoints()})
    assert [line.name for line in found] == ["x-sft over learning_rate"] * 2
    assert [line.values for line in found] == [(0.0, 1e-6, 1e-5, 1e-4)] * 2
    assert found[0].checkpoints == (
        "start",
        "x-sft-learning_rate1e-06-s1",
        "x-sft-learning_rate1e-05-s1",
        "x-sft-learning_rate0.0001-s1",
    )
    assert found[0].kind == "axis"


def test_a_line_needs_two_runs_and_those_that_have_scores(store: Store) -> None:
    add_checkpoint(store, "start", "model")
    trained(store, "a-1", 1e-5)
    assert lines(store) == {}
    trained(store, "a-2", 1e-4)
    assert lines(store) == {"a over learning_rate": {0.0: "start", 1e-5: "a-1", 1e-4: "a-2"}}
    assert series_of(store, {"a-1", "start"}) == []
    # Without its score the start is not on the line.
    (line,) = series_of(store, {"a-1", "a-2"})
    assert line.values == (1e-5, 1e-4)


def test_what_is_saved_on_the_way_does_not_part_a_line(store: Store) -> None:
    trained(store, "low", 1e-5, save_every=10, keep=99, eval_every=5, device="cpu")
    trained(store, "usual", 1e-4, save_every=0, keep=2, eval_every=0, device="cuda")
    assert lines(store) == {"sft over learning_rate": {1e-5: "low", 1e-4: "usual"}}


def test_each_number_is_a_line_of_its_own(store: Store) -> None:
    """A grid of two numbers has a line for each value of the other one."""
    add_checkpoint(store, "start", "model")
    for rate in (1e-5, 1e-4):
        for pull in (0.0, 1.0):
            trained(store, f"g-{rate:g}-{pull:g}", rate, l2_start=pull)
    found = series_of(store, {c.name for c in store.checkpoints()})
    assert [line.field for line in found] == ["trainer.learning_rate"] * 2 + [
        "trainer.l2_start"
    ] * 2
    assert all(line.values == (0.0, 1.0) for line in found[2:])


def test_steps_of_a_run_lead_from_its_start_to_its_end(store: Store) -> None:
    add_checkpoint(store, "start", "model")
    trained(store, "run", 1e-5)
    for step in (20, 4, 10):
        add_checkpoint(
            store, f"run/checkpoint-{step}", "model", path=f"/h/runs/run/checkpoint-{step}"
        )
    # A folder of another program that has the same name, and one whose files are gone.
    add_checkpoint(store, "elsewhere/checkpoint-7", "model", path="/h/runs/elsewhere/checkpoint-7")
    add_checkpoint(store, "other", "model", path="/tmp/run/checkpoint-8")
    add_checkpoint(store, "run/checkpoint-30", "model", path="")
    assert lines(store) == {
        "run": {
            0.0: "start",
            4.0: "run/checkpoint-4",
            10.0: "run/checkpoint-10",
            20.0: "run/checkpoint-20",
            30.0: "run/checkpoint-30",
            40.0: "run",
        }
    }


def test_a_run_of_another_method_or_a_plugin_has_no_lines(store: Store) -> None:
    for name, config in (("m-1", {"alphas": [1]}), ("m-2", {"trainer": "mine"}), ("m-3", {})):
        add_run(store, name, "merge", config=config)
        add_checkpoint(store, name, "merge")
    assert lines(store) == {}


# ---------------------------------------------------------------- how they are shown


def scored_home(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_checkpoint(store, "start", "model")
        score(store, "start", 2.0, 0.1)
        for rate, loss, gained in ((1e-5, 2.1, 0.5), (1e-4, 3.0, 0.9)):
            trained(store, f"sft-{rate:g}", rate)
            score(store, f"sft-{rate:g}", loss, gained)
        for step in (10, 20):
            name = f"sft-0.0001/checkpoint-{step}"
            add_checkpoint(store, name, "model", path=f"/h/runs/{name}")
            score(store, name, 2.0 + step / 50, 0.1 + step / 50)


def test_tradeoff_shows_the_frontier_and_the_way_of_a_run(paths: Paths, kd: CommandLine) -> None:
    scored_home(paths)
    roles = ["--reference", "start", "--expert", "sft-0.0001"]
    code, out, _ = kd("tradeoff", *roles)
    assert code == 0
    assert "sft over learning_rate" in out
    assert "sft-0.0001 along its steps" in out
    assert "·" in out.split("heldout:general_loss")[0]
    along = out.split("sft-0.0001 along its steps")[1].splitlines()
    assert [line.split()[0] for line in along[2:6]] == ["0", "10", "20", "40"]
    found = json.loads(kd("tradeoff", *roles, "--format", "json")[1])["series"]
    assert [(line["kind"], line["field"]) for line in found] == [
        ("axis", "trainer.learning_rate"),
        ("run", "step"),
    ]
    assert found[0]["checkpoints"] == ["start", "sft-1e-05", "sft-0.0001"]
    assert found[1]["values"] == [0, 10, 20, 40]


corner = st.tuples(st.floats(0, 9), st.floats(0, 9))


@given(st.lists(corner, min_size=2, max_size=8))
def test_lines_never_cover_a_point(corners: list[tuple[float, float]]) -> None:
    from kdharness.harness.analysis.series import Series

    names = [f"p{n}" for n in range(len(corners))]
    points = [Point(n, "sft", x, y) for n, (x, y) in zip(names, corners, strict=True)]
    placed = place(points, LOSS, SCORE, None, None)
    line = Series("s", "axis", "f", tuple(names), tuple(map(float, range(len(names)))))
    plain, joined = draw(placed, LOSS, SCORE), draw(placed, LOSS, SCORE, [line])
    assert len(plain) == len(joined)
    for before, after in zip(plain, joined, strict=True):
        assert after.replace("·", " ").rstrip() == before.rstrip()


# ---------------------------------------------------------------- naming the steps


def steps(paths: Paths, *sealed: int, half: int | None = None) -> None:
    for step in (*sealed, *([half] if half else [])):
        folder = paths.run("r") / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}", "utf-8")
        if step != half:
            seal(folder)


def test_steps_of_a_run_are_named_alone_or_together(paths: Paths) -> None:
    steps(paths, 20, 4, 100, half=120)
    folder = paths.run("r").resolve()
    assert step_sources("r/checkpoint-4", paths) == [str(folder / "checkpoint-4")]
    assert step_sources("r/checkpoint-*", paths) == [
        str(folder / f"checkpoint-{step}") for step in (4, 20, 100)
    ]
    config = config_of(paths, _options(["r/checkpoint-*"]))
    assert [Path(name).name for name in config.checkpoints][-1] == "checkpoint-100"


def _options(names: list[str]) -> dict[str, Any]:
    from kdharness.harness.cli.eval import eval_command

    values: dict[str, Any] = {p.name: None for p in eval_command.params if p.name}
    lists = {p.name: () for p in eval_command.params if p.name and getattr(p, "multiple", False)}
    return {**values, **lists, "ckpt": names, "bench": ["shop"]}


@pytest.mark.parametrize("name", ["r", "org/checkpoint-5", "r/final", "./r/checkpoint-4", "hub/x"])
def test_other_names_are_left_alone(name: str, paths: Paths) -> None:
    steps(paths, 4)
    assert step_sources(name, paths) == [name]


def test_steps_that_are_not_there_are_refused_with_those_that_are(paths: Paths) -> None:
    steps(paths, 4, half=8)
    for name, message in (
        ("r/checkpoint-8", "r has no checkpoint-8"),
        ("r/checkpoint-5", "r has no checkpoint-5"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            step_sources(name, paths)
        assert error.value.hint is not None
        assert "there: checkpoint-4;" in error.value.hint
    paths.run("bare").mkdir()
    with pytest.raises(ConfigError, match="bare has no step checkpoints") as error:
        step_sources("bare/checkpoint-*", paths)
    assert "there: none" in str(error.value.hint)
