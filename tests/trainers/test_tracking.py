"""Curves and scores in trackers: copies of ours, which can neither stop nor slow a run."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback, TrainingArguments

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.tracking import check_trackers
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.trainers import tracking
from support.commands import CommandLine
from support.configs import config_file
from support.reporters import Listener
from support.training_runs import config_of, train


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the environment variables that are set for trackers."""
    monkeypatch.setattr(tracking.os, "environ", dict(os.environ))


def use(monkeypatch: pytest.MonkeyPatch, callback: type[TrainerCallback]) -> None:
    monkeypatch.setitem(tracking.INTEGRATION_TO_CALLBACK, "wandb", callback)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read TensorBoard's files: records of a length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.rglob("events.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
            data = data[16 + size :]
    return found


def test_tensorboard_gets_every_point_of_the_curves(
    tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(paths.home / "tb"))
    config = config_of(tiny_teacher, max_steps=3, track="tensorboard")
    _, reporter = train(config, paths, "run")
    found = scalars(paths.home / "tb")
    for name in ("loss", "grad_norm", "learning_rate"):
        ours = [(step, values[name]) for step, values in reporter.points if name in values]
        assert len(ours) == 3
        assert dict(found[f"train/{name}"]) == pytest.approx(dict(ours)), name


class Broken(TrainerCallback):
    def on_log(self, *_: object, **__: object) -> None:
        raise ConnectionError("the server is gone\nand more")


class Quits(TrainerCallback):
    def on_train_begin(self, *_: object, **__: object) -> None:
        raise SystemExit("no key: sk-verysecret-0123456789")


@pytest.mark.parametrize(
    ("callback", "notes"),
    [
        (
            Broken,
            (
                "track: wandb failed, and is tried again: the server is gone",
                "track: wandb did not come back: its last 3 points are not there",
            ),
        ),
        (Quits, ("track: wandb failed and is left out: no key: ",)),
    ],
)
def test_a_tracker_that_fails_is_noted_once(
    callback: type[TrainerCallback],
    notes: tuple[str, ...],
    tiny_teacher: Path,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, callback)
    folder, reporter = train(config_of(tiny_teacher, max_steps=3, track="wandb"), paths, "run")
    assert (folder / "model.safetensors").exists()
    told = [line for _, line in reporter.said if line.startswith("track:")]
    assert len(told) == len(notes)
    for line, note in zip(told, notes, strict=True):
        assert line.startswith(note)
        assert "verysecret" not in line and "\n" not in line


def test_a_tracker_that_comes_back_gets_every_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in public reports of a server that was restarted in the middle of a long run."""
    got: list[tuple[int, float]] = []

    class Restarted(TrainerCallback):
        failures = 3

        def on_log(self, args: object, state: Any, control: object, **rest: Any) -> None:
            if state.global_step == 2 and self.failures:
                self.failures -= 1
                raise ConnectionError("restarting")
            got.append((state.global_step, rest["logs"].pop("loss")))

    use(monkeypatch, Restarted)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.01)
    args = tracking.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    tracker = tracking.Tracker("wandb", args, None)
    for step in range(6):
        tracker.log(step, {"loss": step / 2})
    deadline = time.monotonic() + 30
    while len(got) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    tracker.close(20)
    assert got == [(step, step / 2) for step in range(6)]
    assert list(tracker.troubles()) == ["track: wandb failed, and is tried again: restarting"]


@pytest.mark.parametrize("refused", [(1,), (2, 3), (0, 1, 5), (6,)])
def test_a_refused_point_does_not_cost_those_after_it(
    refused: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    got: list[int] = []

    class Refuses(TrainerCallback):
        def on_log(self, args: object, state: Any, control: object, **rest: Any) -> None:
            if state.global_step in refused:
                raise ValueError("no such name")
            got.append(state.global_step)

        def on_train_end(self, *_: object, **__: object) -> None:
            got.append(-1)

    use(monkeypatch, Refuses)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.01)
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    tracker = tracking.Tracker("wandb", args, None)
    for step in range(7):
        tracker.log(step, {"loss": 1.0})
    # While the run goes on, too.
    deadline = time.monotonic() + 30
    while len(got) < 7 - len(refused) and time.monotonic() < deadline and 6 not in refused:
        time.sleep(0.01)
    tracker.close(20)
    assert got == [*(step for step in range(7) if step not in refused), -1]
    assert list(tracker.troubles()) == [
        "track: wandb failed, and is tried again: no such name",
        f"track: wandb refused {len(refused)} of the points: they are not there",
    ]


def test_scores_have_no_training_settings_and_are_sent_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MLflow's callback sends later by default: what the server refuses is only logged there."""
    seen: list[object] = []

    class Later(TrainerCallback):
        def on_train_begin(self, args: Any, *_: object, **__: object) -> None:
            self._async_log = True
            seen.append(args.to_dict())

        def on_log(self, *_: object, **rest: Any) -> None:
            seen.append(self._async_log)

    use(monkeypatch, Later)
    tracking.track_scores(["wandb"], {"a": {"shop/score": 0.5}}, tmp_path, Listener())
    assert seen == [{}, False]


class Hangs(TrainerCallback):
    def on_log(self, *_: object, **__: object) -> None:
        time.sleep(120)


def test_a_tracker_that_hangs_is_left_behind(
    tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Hangs)
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    monkeypatch.setattr(tracking, "POINTS", 2)
    started = time.monotonic()
    _, reporter = train(config_of(tiny_teacher, max_steps=6, track="wandb"), paths, "run")
    assert time.monotonic() - started < 100
    assert any("did not finish" in line for _, line in reporter.said)


def test_a_slow_tracker_misses_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Slow(TrainerCallback):
        def on_log(self, *_: object, **__: object) -> None:
            time.sleep(0.05)

    use(monkeypatch, Slow)
    monkeypatch.setattr(tracking, "POINTS", 2)
    args = tracking.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    tracker = tracking.Tracker("wandb", args, None)
    for step in range(50):
        tracker.log(step, {"loss": 1.0})
    tracker.close(20)
    assert tracker.dropped > 0
    assert list(tracker.troubles()) == [
        f"track: wandb was too slow: {tracker.dropped} points are not there"
    ]


def test_what_is_tracked_is_no_part_of_what_a_config_does(tiny_teacher: Path) -> None:
    assert config_hash(config_of(tiny_teacher)) == config_hash(
        config_of(tiny_teacher, track=["wandb", "mlflow"])
    )
    values: dict[str, Any] = {"method": "eval", "checkpoints": ["a"]}
    assert config_hash(parse_config(values)) == config_hash(
        parse_config({**values, "track": "trackio"})
    )


def test_a_tracker_that_is_not_installed_is_refused_before_the_run(
    kd: CommandLine, tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdharness.harness.config.tracking.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="mlflow is not installed") as caught:
        check_trackers(["mlflow"], "track")
    assert caught.value.hint == "run: pip install mlflow"
    check_trackers(["mlflow"], "track", here=False)
    # A tracker's own folder in the working directory is no package.
    monkeypatch.undo()
    (tmp_path / "work" / "mlflow").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    with pytest.raises(ConfigError, match="mlflow is not installed"):
        check_trackers(["mlflow"], "track")
    monkeypatch.setattr("kdharness.harness.config.tracking.find_spec", lambda _: None)
    values = config_of(tiny_teacher, track="wandb").model_dump(mode="json", by_alias=True)
    code, _, err = kd("train", config_file(tmp_path, **{**values, "name": "run"}))
    assert code == 2 and "trainer.track: wandb is not installed" in err
    assert kd.json("runs") == []


@pytest.mark.slow
def test_scores_of_an_evaluation_are_tracked(kd: CommandLine, tiny_teacher: Path) -> None:
    short = ["--bench", "shop", "--limit", "2", "--max-new-tokens", "4", "--device", "cpu"]
    kd.ok("eval", "--ckpt", str(tiny_teacher), *short, "--track", "tensorboard")
    rows = kd.json("leaderboard")
    found = scalars(kd.home / "runs")
    ours = {f"train/{r['bench']}/{r['metric']}": r["value"] for r in rows}
    assert found and {tag: values[-1][1] for tag, values in found.items()}.items() <= ours.items()


def test_scores_follow_the_users_own_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder that the user named was replaced by the run's."""
    seen: list[tuple[str | None, str]] = []
    folders: list[str] = []

    class Notes(TrainerCallback):
        def on_train_begin(self, args: Any, *_: object, **__: object) -> None:
            seen.append((os.environ.get("WANDB_RUN_ID"), args.run_name))
            folders.append(os.environ["WANDB_DIR"])

    use(monkeypatch, Notes)
    scores = {"a": {"shop/score": 0.5}, "org/b": {"shop/score": 0.25}}
    tracking.track_scores(["tensorboard", "wandb"], scores, tmp_path / "run", Listener())
    assert [name for _, name in seen] == ["a", "org/b"] and seen[0][0] != seen[1][0]
    assert folders == [str(tmp_path / "run" / "scores" / name) for name in ("a", "org-b")]
    assert scalars(tmp_path / "run" / "scores" / "org-b") == {"train/shop/score": [(0, 0.25)]}
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    tracking.track_scores(["tensorboard", "wandb"], scores, tmp_path / "run", Listener())
    assert [run for run, _ in seen[2:]] == ["one", "one"]
    assert scalars(tmp_path / "mine" / "a") == {"train/shop/score": [(0, 0.5)]}


def test_every_run_has_its_own_folder_and_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard made one run of all; wandb one of two trainings of a name, or of all scores."""
    seen, closed = [], []

    class Notes(TrainerCallback):
        def on_train_begin(self, args: Any, *_: object, **__: object) -> None:
            seen.append(os.environ["WANDB_RUN_ID"])

    use(monkeypatch, Notes)
    client = SimpleNamespace(finish=lambda: closed.append(len(seen)), teardown=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", client)
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    for name in ("a", "a", "b"):
        # Removed, and trained anew.
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        tracking.os.environ = dict(os.environ, TENSORBOARD_LOGGING_DIR=str(tmp_path / "tb"))
        tracking.os.environ.pop("WANDB_RUN_ID", None)
        sent = tracking.tracked(Listener(), ["wandb"], name, tmp_path / name, args, None)
        assert tracking.os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tb" / name)
        sent.close()
    assert len(set(seen)) == 3 and closed == [1, 2, 3]
