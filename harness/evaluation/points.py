"""Benchmarks that a model in training is scored on; nothing but their scores is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.points import BenchPoint
from kdharness.harness.config.settings import default_judges
from kdharness.harness.errors import ConfigError, RunError
from kdharness.harness.evaluation.answering import as_answer, request_for
from kdharness.harness.evaluation.dry_run import completed
from kdharness.harness.evaluation.judges import Judge, PendingJudgment, open_judges
from kdharness.harness.evaluation.judging import as_judgment, call_keys, request_of
from kdharness.harness.evaluation.pipeline import load_benches
from kdharness.harness.evaluation.state import Evaluation, Subject
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Benchmark, Engine, MeasuredBenchmark, Reporter
from kdharness.harness.registry import headline_of, scorer_of
from kdharness.harness.stats.metric_specs import category_of
from kdharness.harness.stats.rows import ScoreContext, from_judgments
from kdharness.harness.store import Store
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Finish,
    Judgment,
    Method,
    MetricValue,
    Reply,
)

WHERE = "trainer.eval_benches"
_TRAINING = Subject(Checkpoint("training", "training", Method.MODEL.value, "", 0.0), "training")


@dataclass(frozen=True)
class LoadedPoint:
    """A benchmark of `trainer.eval_benches`, with its config and its judge if it needs one."""

    spec: BenchPoint
    bench: Benchmark
    config: EvalConfig


def load_points(specs: Sequence[BenchPoint], paths: Paths) -> list[LoadedPoint]:
    """Read the benchmarks' files.

    Raises:
        ConfigError: one that has no answers, needs a baseline, or needs a judge without a budget.
        AssetError, DataError: files that are missing or not valid.
    """
    return [_load(spec, paths) for spec in specs]


def _load(spec: BenchPoint, paths: Paths) -> LoadedPoint:
    config = EvalConfig(
        checkpoints=["training"],
        benches=[spec.bench],
        limit=spec.limit,
        max_new_tokens=spec.max_new_tokens,
        judge=[spec.judge] if spec.judge else [],
    )
    bench = load_benches(config, paths)[0]
    if isinstance(bench, MeasuredBenchmark):
        raise ConfigError(
            f"{bench.label} has no answers that could be scored",
            where=WHERE,
            hint="losses on held-out rows are measured during training: set data.heldout",
        )
    if bench.pairwise_with:
        raise ConfigError(
            f"{bench.label} compares with another model's answers, which training has none of",
            where=WHERE,
            hint="evaluate the checkpoints afterwards: kdharness eval",
        )
    if not bench.needs_judge:
        for name in ("judge", "budget"):
            if getattr(spec, name) is not None:
                raise ConfigError(
                    f"{name} has no effect: {bench.label} needs no judge",
                    where=WHERE,
                    hint=f"remove {name}",
                )
        return LoadedPoint(spec, bench, config)
    if spec.budget is None:
        raise ConfigError(
            f"{bench.label} needs a judge, which is called at every evaluation point",
            where=WHERE,
            hint="set budget: the most judge calls of the run; or use exact metrics alone",
        )
    judge = spec.judge or next(iter(default_judges(paths)), None)
    if judge is None:
        raise ConfigError(
            f"{bench.label} needs a judge", where=WHERE, hint="set judge: SPEC, or a default judge"
        )
    return LoadedPoint(spec, bench, config.model_copy(update={"judge": [judge]}))


def check_budgets(points: Sequence[LoadedPoint], times: int) -> None:
    """Refuse benchmarks whose judge would be called more often than their budget allows.

    Args:
        points: the benchmarks.
        times: evaluation points of the run.

    Raises:
        ConfigError: with the number of calls.
    """
    for point in points:
        if point.spec.budget is None:
            continue
        calls = len(point.bench.judge_calls(completed(point.bench, ())))
        if calls * times > point.spec.budget:
            raise ConfigError(
                f"{point.bench.label} needs {calls} judge calls at each of {times} evaluation "
                f"points, {calls * times:,} in all, but its budget is {point.spec.budget:,}",
                where=WHERE,
                hint="raise budget, lower limit, or raise trainer.eval_every",
            )


def main_metric(bench: str, names: Sequence[str]) -> str:
    """Return a benchmark's main metric, which is meant where only its name is given."""
    for name in (headline_of(bench), "score"):
        if name in names:
            return name
    return names[0]


class PointScorer:
    """Scores of one engine on a run's benchmarks, at every evaluation point."""

    def __init__(self, points: Sequence[LoadedPoint], paths: Paths, reporter: Reporter) -> None:
        """Open the judges, if any are needed.

        Raises:
            JudgeError: a judge that cannot be used.
        """
        self.points = points
        self.store = Store(paths.store)
        self.judges: dict[str, Judge] = {}
        for point in points:
            if point.bench.needs_judge:
                job = Evaluation(point.config, paths, self.store, reporter)
                self.judges[point.bench.label] = open_judges(
                    job, point.config.judge, [point.bench]
                )[0]

    def close(self) -> None:
        """Close the judges."""
        for judge in self.judges.values():
            judge.engine.close()
        self.store.close()

    def measure(self, engine: Engine) -> dict[str, MetricValue]:
        """Answer and score every benchmark; return `BENCHMARK/METRIC` -> score.

        A benchmark's name alone stands for its main metric. Categories are left out.

        Raises:
            RunError: an answer or a judgment failed, so that the score would be of other items.
        """
        scores: dict[str, MetricValue] = {}
        for point in self.points:
            answers = _answers(point, engine)
            found = _scored(point.bench, point.bench.exact(answers))
            if judge := self.judges.get(point.bench.label):
                judged = _scored(judge.benches[0], _judgments(judge, answers))
                found |= {
                    f"judged_{name}" if name in found else name: value
                    for name, value in judged.items()
                }
            label = point.bench.label
            scores |= {f"{label}/{name}": value for name, value in found.items()}
            scores[label] = found[main_metric(point.bench.name, list(found))]
        return scores


def _answers(point: LoadedPoint, engine: Engine) -> list[Answer]:
    """Generate the answers to every item, turn by turn."""
    bench, seed = point.bench, point.config.seed
    said: dict[str, list[str]] = {item.id: [] for item in bench.items}
    answers: list[Answer] = []
    for turn in range(1, max(len(item.turns) for item in bench.items) + 1):
        items = [item for item in bench.items if len(item.turns) >= turn]
        requests = [request_for(item, turn, said[item.id], seed) for item in items]
        made: dict[str, Answer] = {}
        for index, reply in engine.stream(requests):
            item = items[index]
            answer = as_answer(
                _TRAINING, bench, bench.family, item, turn, requests[index], reply, {}
            )
            if answer.finish is Finish.ERROR:
                raise RunError(
                    f"{bench.label}, item {item.id}: no answer: {reply.error}",
                    where=WHERE,
                    hint="remove the item, shorten its prompt, or remove the benchmark",
                )
            made[item.id] = answer
        for item in items:
            said[item.id].append(made[item.id].text)
            answers.append(made[item.id])
    return answers


def _judgments(judge: Judge, answers: Sequence[Answer]) -> Iterator[Judgment]:
    """Yield what the judge says of the answers."""
    bench, engine = judge.benches[0], judge.engine
    asks = []
    for call in bench.judge_calls(answers):
        key = call_keys(engine, call)[0]
        ask = PendingJudgment(_TRAINING.checkpoint.id, bench, call, key, key)
        if (settled := bench.settled(call)) is not None:
            yield as_judgment(judge.name, ask, Reply(), settled)
        else:
            asks.append(ask)
    for index, reply in engine.stream([request_of(ask) for ask in asks]):
        ask = asks[index]
        if reply.error:
            raise RunError(
                f"{engine.name} did not judge {bench.label}, item {ask.call.item}: {reply.error}",
                where=WHERE,
                hint="resume the run when the judge can be reached: kdharness resume RUN",
            )
        yield as_judgment(judge.name, ask, reply, bench.read(ask.call, reply))


def _scored(bench: Benchmark, judgments: Iterable[Judgment]) -> dict[str, MetricValue]:
    """Return the scores of some judgments by metric, without those of single categories."""
    rows = from_judgments(judgments)
    if not rows:
        return {}
    values: list[MetricValue] = scorer_of(bench.name)(rows, ScoreContext())
    return {value.metric: value for value in values if category_of(value.metric) is None}
