"""Benchmarks scored on generated answers during training, and the choice of the best point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import ConfigError, Interrupted, RunError
from kdharness.harness.evaluation.pipeline import run as evaluate
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.trainers.best import BestPoint, Measured
from kdharness.trainers.points import generating, refuse_sharded
from support.commands import CommandLine
from support.configs import config_file
from support.engines import DDP
from support.files import WriteRows
from support.ifeval import write_ifeval
from support.loopback import Loopback, a_judge
from support.reporters import Listener
from support.training_runs import config_of, train

WORDS = ("red", "blue", "green", "black", "white", "pink", "brown", "grey", "gold")
ROWS = [{"prompt": f"Say {word}", "completion": word} for word in WORDS]


def bench_rows(words: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {"id": word, "prompt": f"Say {word}", "reference": word, "metric": "rouge_l"}
        for word in words
    ]


@pytest.fixture
def learner(tiny_teacher: Path, write_jsonl: WriteRows) -> dict[str, Any]:
    """Return a config whose student learns the benchmark `learnt`, and not `other`."""
    rows = write_jsonl("rows.jsonl", ROWS)
    points = [
        {"bench": str(write_jsonl("learnt.jsonl", bench_rows(WORDS))), "max_new_tokens": 6},
        {"bench": str(write_jsonl("other.jsonl", bench_rows(("cat", "dog")))), "max_new_tokens": 6},
    ]
    return {
        "method": "sft",
        "name": "run",
        "student": str(tiny_teacher),
        "data": {"train": str(rows), "heldout": {"path": "general:validation", "limit": 2}},
        "trainer": {
            "max_steps": 24,
            "batch_size": 9,
            "learning_rate": 0.01,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "device": "cpu",
            "eval_every": 4,
            "save_every": 4,
            "keep": 9,
            "eval_benches": points,
        },
    }


def with_trainer(values: dict[str, Any], **trainer: Any) -> Any:
    return parse_config({**values, "trainer": {**values["trainer"], **trainer}})


def curve(reporter: Listener, name: str) -> dict[int, float]:
    return {step: values[name] for step, values in reporter.points if name in values}


def said(reporter: Listener, start: str) -> list[str]:
    return [text for _, text in reporter.said if text.startswith(start)]


# ---------------------------------------------------------------- scores


@pytest.mark.slow
def test_scores_are_those_of_an_evaluation_of_the_checkpoint(
    learner: dict[str, Any], paths: Paths, store: Store
) -> None:
    folder, reporter = train(with_trainer(learner, eval_every=0, save_every=0), paths, "run")
    ended = reporter.points[-1][1]
    assert 0.5 < ended["learnt/score"] <= 1
    files = [point["bench"] for point in learner["trainer"]["eval_benches"]]
    config = EvalConfig(checkpoints=[str(folder)], benches=files, limit=32, max_new_tokens=6)
    evaluate(config, paths, store, NullReporter())
    scores = {s.bench: s for s in leaderboard(store, paths) if s.metric == "score"}
    for name in ("learnt", "other"):
        score = scores[name]
        assert ended[f"{name}/score"] == pytest.approx(score.value)
        assert ended.get(f"{name}/score:low") == score.ci_low
        assert ended.get(f"{name}/score:high") == score.ci_high


@pytest.mark.slow
def test_ifeval_with_a_limit(
    tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ifeval(paths.assets, monkeypatch)
    bench = {"bench": "ifeval", "limit": 3, "max_new_tokens": 8}
    _, reporter = train(
        config_of(tiny_teacher, max_steps=2, eval_every=1, eval_benches=[bench]), paths, "r"
    )
    names = {"prompt_strict", "prompt_loose", "inst_strict", "inst_loose"}
    assert set(curve(reporter, "ifeval/prompt_strict")) == {0, 1, 2}
    assert {f"ifeval/{name}" for name in names} <= set(reporter.points[0][1])
    assert all("(n=3)" in text for text in said(reporter, "step "))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "lora"), [("sft", True), ("kd", False)])
def test_losses_are_those_of_a_run_without(
    learner: dict[str, Any], tiny_teacher: Path, paths: Paths, method: str, lora: bool
) -> None:
    student: dict[str, Any] = {"model": str(tiny_teacher)}
    if lora:
        student["lora"] = {"r": 4, "dropout": 0.3}
    values = {**learner, "method": method, "student": student}
    if method == "kd":
        values |= {"teacher": str(tiny_teacher), "student": {**student}}
    options = {"max_steps": 4, "eval_every": 1, "save_every": 0}
    bench = learner["trainer"]["eval_benches"]
    _, with_bench = train(with_trainer(values, **options), paths, "a")
    _, without = train(with_trainer(values, **options, eval_benches=[]), paths, "b")
    assert curve(with_bench, "loss") == curve(without, "loss")
    assert curve(with_bench, "general_loss") == curve(without, "general_loss")
    assert len(curve(with_bench, "learnt/score")) == 5 and len(bench) == 2


def test_answers_are_those_of_the_local_engine(tiny_teacher: Path, paths: Paths) -> None:
    """Prompts of other lengths are padded at their beginning, which training never does."""
    from types import SimpleNamespace

    from kdharness.harness.models.loading import load_model, load_tokenizer
    from kdharness.harness.types import GenerationRequest
    from kdharness.judges.engines.in_training import InTraining
    from kdharness.judges.engines.local import LocalEngine
    from kdharness.trainers.attention_hook import skip_masks
    from kdharness.trainers.step import attach_loss

    requests = [
        GenerationRequest(({"role": "user", "content": "Say red. " * n},), max_new_tokens=12)
        for n in (1, 4, 9)
    ]
    alone = LocalEngine(str(tiny_teacher), paths, device="cpu")
    expected = {index: reply.text for index, reply in alone.stream(requests)}
    assert len(set(expected.values())) == 3
    model = load_model(str(tiny_teacher), paths, device="cpu").train()
    skip_masks(model)
    attach_loss(model)
    setting: Any = SimpleNamespace(device="cpu", precision=SimpleNamespace(autocast=False))
    with generating(model, setting) as causal:
        engine = InTraining(causal, load_tokenizer(str(tiny_teacher), paths), paths)
        assert {index: reply.text for index, reply in engine.stream(requests)} == expected


# ---------------------------------------------------------------- the best point


def test_best_point_early_stop_and_what_is_said(learner: dict[str, Any], paths: Paths) -> None:
    rule = "learnt subject to other >= 0.98 * reference and general_loss <= 100"
    config = with_trainer(learner, best=rule, early_stop=2)
    folder, reporter = train(config, paths, "r")
    scores = curve(reporter, "learnt/score")
    best = json.loads((folder.parent / "best/best.json").read_text("utf-8"))
    assert best["value"] == max(value for step, value in scores.items() if step)
    assert best["step"] == min(step for step, v in scores.items() if step and v == best["value"])
    last = max(scores)
    assert last - best["step"] == 8 and last < 24
    # A run that is killed while it ends resumes before its last point, and ends there again.
    assert not (folder.parent / f"checkpoint-{last}").exists()
    assert (folder.parent / f"checkpoint-{last - 4}").exists()
    (text,) = said(reporter, "best by ")
    assert f"step {best['step']}, learnt {best['value']:.3f} [" in text
    assert "x 0 at the start" in text and "(n=9)" in text
    assert said(reporter, f"stopped early at step {last}: no new best in 2")


@pytest.mark.slow
def test_tokens_and_flops_of_an_early_stop_are_those_of_its_steps(
    kd: CommandLine, learner: dict[str, Any], tmp_path: Path, paths: Paths
) -> None:
    from kdharness.harness.protocols import Job
    from kdharness.harness.registry import TRAINERS, resolve

    infos = []
    for name, steps in (("a", 24), ("b", 8)):
        # A rule that no point meets: stopped after two points.
        options = {"best": "learnt subject to learnt >= 2", "early_stop": 2, "max_steps": steps}
        folder = paths.run(name)
        folder.mkdir(parents=True)
        job = Job(paths, name, folder, Listener())
        outcome = resolve(TRAINERS, "sft", "method")(with_trainer(learner, **options), job)
        assert outcome.step == 8 and outcome.others == {}
        infos.append(outcome.info)
    for key in ("tokens", "labelled", "flops"):
        assert infos[0][key] == infos[1][key]


def test_no_point_that_meets_the_conditions_keeps_the_last(
    learner: dict[str, Any], paths: Paths
) -> None:
    config = with_trainer(learner, max_steps=4, best="learnt subject to other >= 0.5")
    folder, reporter = train(config, paths, "r")
    warnings = [text for kind, text in reporter.said if kind == "warning"]
    assert any("no evaluation point satisfies learnt subject to" in text for text in warnings)
    assert folder.name == "final" and not (folder.parent / "best").exists()


class Killed(Listener):
    """Dies at step 14, without a checkpoint of that step."""

    def check(self) -> None:
        if self.steps >= 14:
            raise MemoryError("killed")


@pytest.mark.slow
@pytest.mark.parametrize("reporter", [Listener(stop_at_step=8), Killed()])
def test_stopped_and_resumed_run_makes_the_same_choice(
    learner: dict[str, Any], paths: Paths, reporter: Listener
) -> None:
    """As in public reports: patience and the best value must survive a resume."""
    config = with_trainer(
        learner, best="learnt subject to general_loss <= 3 * reference", early_stop=2
    )
    folder, whole = train(config, paths, "whole")
    with pytest.raises((Interrupted, MemoryError)):
        train(config, paths, "cut", reporter=reporter)
    resumed, rest = train(config, paths, "cut", resume=True)
    # The bar continues where the run was, before anything is trained.
    first, values = rest.points[0]
    assert first > 0 and not values
    assert said(rest, "best by ") == said(whole, "best by ")
    assert said(rest, "stopped early") == said(whole, "stopped early")
    for name in ("final/model.safetensors", "best/model.safetensors", "best/best.json"):
        pair = [path.parent.joinpath(name).read_bytes() for path in (folder, resumed)]
        assert pair[0] == pair[1], name
    scores = curve(whole, "learnt/score")
    assert curve(rest, "learnt/score").items() <= scores.items()


@pytest.mark.slow
def test_a_run_that_starts_again_forgets_the_best_of_before(
    learner: dict[str, Any], paths: Paths
) -> None:
    """Killed before its first checkpoint, it kept a best of a training on other rows."""
    config = with_trainer(learner, best="general_loss")
    folder, whole = train(config, paths, "run")
    note = folder.parent / "best" / "best.json"
    right = note.read_text("utf-8")
    shutil.rmtree(folder)
    for checkpoint in folder.parent.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    note.write_text(json.dumps({**json.loads(right), "value": -1.0}), "utf-8")
    _, again = train(config, paths, "run", resume=True)
    assert json.loads(note.read_text("utf-8")) == json.loads(right)
    assert said(again, "best by ") == said(whole, "best by ")


# ---------------------------------------------------------------- refusals and judges


def test_value_that_is_no_number_is_never_the_best(paths: Paths) -> None:
    """As in a public report: a diverged evaluation became the best one, and stayed it."""
    from types import SimpleNamespace

    spec = SimpleNamespace(eval_benches=[], best="a_loss", early_stop=None)
    job = SimpleNamespace(folder=paths.home, resume=False)
    setting: Any = SimpleNamespace(config=SimpleNamespace(trainer=spec), job=job)
    point = BestPoint(setting)
    values = [float("nan"), float("inf"), 2.0, float("nan"), 1.0, 1.0, 1.5]
    found = [point.is_new(step, Measured({"a_loss": v}, {})) for step, v in enumerate(values, 1)]
    assert found == [False, False, True, False, True, False, False]


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"early_stop": 2}, "set best and eval_every too"),
        ({"early_stop": 2, "best": "general_loss", "eval_every": 0}, "set best and eval_every"),
        ({"best": "learnt subject to other"}, "'other' is not a condition"),
        ({"best": "learnt subject to other > 0.5"}, "is not a condition"),
        ({"best": "a subject to b >= 1 subject to c >= 1"}, "is not OBJECTIVE subject to"),
        ({"best": "subject to b >= 1"}, "invalid rule"),
        ({"eval_benches": ["shop", "shop"]}, "two benchmarks are named 'shop'"),
        ({"eval_benches": [{"bench": "shop", "limit": 0}]}, "greater than or equal to 1"),
        ({"best": "learnt/speed"}, "no metric named 'learnt/speed'"),
        ({"best": "learnt subject to unknown >= 1"}, "no held-out curve named 'unknown'"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(
    learner: dict[str, Any], paths: Paths, trainer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(with_trainer(learner, **trainer), paths, "r")


def test_benchmarks_that_do_not_fit_are_refused_before_a_run_exists(
    kd: CommandLine, learner: dict[str, Any], tmp_path: Path, write_jsonl: WriteRows
) -> None:
    rated = str(write_jsonl("rated.jsonl", [{"prompt": "Hi"}]))
    for point, message in (
        ("heldout", "heldout has no answers"),
        (rated, "set budget: the most judge calls"),
        ({"bench": rated, "budget": 9}, "set judge: SPEC"),
        ({"bench": "shop", "budget": 9}, "budget has no effect: shop needs no judge"),
        ("/nowhere/x.jsonl", "x.jsonl"),
        ("no-such-bench", "no-such-bench"),
        ("ifeval", "kdharness data pull"),
    ):
        values = {**learner, "trainer": {**learner["trainer"], "eval_benches": point}}
        code, _, err = kd("config", "check", config_file(tmp_path, **values))
        assert code == (0 if point == "ifeval" else 2) and (code == 0 or message in err)
        code, _, err = kd("train", config_file(tmp_path, **values))
        assert code != 0 and message in err and "Traceback" not in err
    assert json.loads(kd.ok("runs", "--format", "json")) == []


def test_judge_is_called_within_its_budget_only(
    learner: dict[str, Any], paths: Paths, write_jsonl: WriteRows
) -> None:
    rated = str(write_jsonl("rated.jsonl", [{"prompt": "Hi"}, {"prompt": "Ho"}]))
    with Loopback() as server:
        point = {"bench": rated, "max_new_tokens": 4, "judge": server.spec, "budget": 5}
        options = {"max_steps": 4, "eval_every": 2, "eval_benches": [point]}
        with pytest.raises(ConfigError, match="2 judge calls at each of 3 evaluation points, 6"):
            train(with_trainer(learner, **options), paths, "a")
        point["budget"] = 6
        _, reporter = train(with_trainer(learner, **options), paths, "b")
        assert sum("messages" in body for body in server.bodies) == 6
    assert set(curve(reporter, "rated/score")) == {0, 2, 4}
    assert all(1 <= value <= 10 for value in curve(reporter, "rated/score").values())


def test_judge_that_fails_later_leaves_a_point_without_scores(
    learner: dict[str, Any], paths: Paths, write_jsonl: WriteRows
) -> None:
    rated = str(write_jsonl("rated.jsonl", [{"prompt": "Hi"}]))
    with Loopback() as server:

        def answer(body: dict[str, Any]) -> dict[str, Any]:
            if server.calls > 2:
                server.status, server.refusal = 400, "no more"
            return a_judge(body)

        server.answer = answer
        point = {"bench": rated, "max_new_tokens": 4, "judge": server.spec, "budget": 9}
        options = {"max_steps": 4, "eval_every": 1, "eval_benches": [point], "best": "rated"}
        _, reporter = train(with_trainer(learner, **options), paths, "r")
    scored = curve(reporter, "rated/score")
    assert 0 in scored and len(scored) < 5
    assert said(reporter, "step 4 is not scored: ") and said(reporter, "best by rated")


def test_item_without_an_answer_ends_the_run_by_name(
    learner: dict[str, Any], paths: Paths, write_jsonl: WriteRows
) -> None:
    long = {"id": "long", "prompt": "Say red " * 400, "reference": "red", "metric": "rouge_l"}
    bench = str(write_jsonl("long.jsonl", [long]))
    with pytest.raises(RunError, match="long, item long: no answer"):
        train(with_trainer(learner, eval_benches=[bench]), paths, "r")


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_students_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match="the student is sharded by"):
        refuse_sharded({name: "true"})
    refuse_sharded({name: "false"})


@pytest.mark.slow
def test_first_of_two_processes_generates_and_both_decide_alike(
    kd: CommandLine, learner: dict[str, Any], tmp_path: Path, paths: Paths
) -> None:
    """As in public reports: where ranks decide for themselves, one trains on and waits forever."""
    file = tmp_path / "engine.yaml"
    file.write_text(json.dumps(DDP), "utf-8")
    rule = "learnt subject to other >= 0.98 * reference"
    more = {"batch_size": 4, "best": rule, "early_stop": 1, "max_steps": 12}
    values = {**learner, "trainer": {**learner["trainer"], **more}}
    kd.ok("train", config_file(tmp_path, **values), "--accelerate", str(file))
    shown = kd.json("show", "run")  # the real command, and what it stored
    assert shown["status"] == "finished" and shown["last"]["learnt/score"] > 0.3
    log = kd.ok("logs", "run")
    assert log.count("best by learnt") == 1 and (paths.run("run") / "best/best.json").exists()
