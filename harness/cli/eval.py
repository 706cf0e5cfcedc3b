"""The eval command: answer benchmarks with a checkpoint and have the answers judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from kdharness.harness.cli.completion import CHECKPOINT
from kdharness.harness.cli.follow import follow, queue_run
from kdharness.harness.cli.groups import SectionedCommand
from kdharness.harness.cli.leaderboard import print_scores, scores_of
from kdharness.harness.cli.options import format_option, queue_option, split
from kdharness.harness.config.evaluation import (
    SPECS,
    EvalConfig,
    absolute_source,
    bench_name,
    plain_http_warning,
)
from kdharness.harness.config.files import make_eval_config
from kdharness.harness.config.settings import default_judges
from kdharness.harness.evaluation.dry_run import DRY_RUN_COLUMNS, plan
from kdharness.harness.evaluation.pipeline import HOW_TO_JUDGE, load_benches
from kdharness.harness.evaluation.unused import unused_settings
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Benchmark
from kdharness.harness.runs import launch
from kdharness.harness.runs.overlapping import overlapping
from kdharness.harness.runs.step_sources import step_sources
from kdharness.harness.store import Store
from kdharness.harness.types import EvaluationResult, RunStatus
from kdharness.harness.util.tables import print_table


class EvalCommand(SectionedCommand):
    """The eval command's options in sections."""

    sections = {
        "What to score": ("ckpt", "answers", "bench", "limit", "shard"),
        "Judging": (
            *("judge", "references", "baseline", "judge_config", "rating", "discrete"),
            *("judge_max_tokens", "keep_failures"),
        ),
        "Answering": (
            *(
                "answer_engine",
                "max_new_tokens",
                "batch_size",
                "cuda_graphs",
                "seed",
                "dtype",
                "device",
            ),
            "trust_remote_code",
        ),
        "Held-out rows": ("teacher", "general", "domain"),
        "Limits of calls": (
            *("budget", "concurrency", "requests_per_minute", "tokens_per_minute"),
            *("timeout", "total_timeout"),
        ),
    }


EXAMPLES = """\
Examples:
  kdharness eval --ckpt kd,dae --bench shop,ifeval
  kdharness eval --ckpt kd --bench mt-bench --judge openai:gpt-4.1 --dry-run
  kdharness eval --ckpt kd --bench mine.jsonl --judge openai:M@http://gpu1/v1
  kdharness eval --ckpt kd --bench heldout --teacher org/big"""


@click.command("eval", cls=EvalCommand, epilog=EXAMPLES)
@click.option(
    "--ckpt",
    multiple=True,
    type=CHECKPOINT,
    metavar="PATH",
    help="Checkpoint to score: a folder, a GGUF file, a stored name, an asset, a hub id, or a step "
    "of a run (RUN/checkpoint-20; RUN/checkpoint-* for all that are there).",
)
@click.option(
    "--bench",
    multiple=True,
    metavar="NAME",
    help="mt-bench, mt-bench-pair, alpaca-eval (2), alpaca-eval-1, arena-hard (v2), ifeval, shop, "
    "heldout, or the path of your own .jsonl file; comma-separated or repeated. Default: "
    "shop,heldout.",
)
@click.option(
    "--judge",
    multiple=True,
    metavar="SPEC",
    help=f"{SPECS}; several judges form a panel.",
)
@click.option(
    "--answers",
    multiple=True,
    metavar="MODEL",
    help="Judge the answers imported under this name; needs no weights.",
)
@click.option("--limit", type=click.IntRange(1), help="Use a fixed, balanced subset of N items.")
@click.option("--shard", metavar="I/N", help="Process part I of N, to split work over machines.")
@click.option(
    "--references",
    type=click.Choice(["corrected", "classic"]),
    help="Which MT-Bench reference answers to use.",
)
@click.option("--baseline", metavar="MODEL", help="The opponent in pairwise judging, or `all`.")
@click.option(
    "--judge-config", metavar="NAME", help="AlpacaEval evaluator config: a name or a YAML file."
)
@click.option(
    "--rating",
    type=click.Choice(["parsed", "expected"]),
    help="How ratings are read: from the judge's text, or as the mean of its distribution over "
    "1 to 10 (needs log-probabilities).",
)
@click.option(
    "--discrete",
    is_flag=True,
    help="AlpacaEval 2: read the judge's token if it returns no log-probabilities.",
)
@click.option("--teacher", metavar="PATH", help="Measure held-out agreement with this checkpoint.")
@click.option("--general", type=click.Path(dir_okay=False), help="Held-out general rows (JSONL).")
@click.option("--domain", type=click.Path(dir_okay=False), help="Held-out domain rows (JSONL).")
@click.option(
    "--answer-engine",
    metavar="SPEC",
    help="vllm (a server for each checkpoint), or what serves one checkpoint: openai:MODEL@URL, "
    "vllm:PATH or llama:FILE.gguf.",
)
@click.option("--seed", type=click.IntRange(0), help="Seed of sampled answers.")
@click.option("--batch-size", type=click.IntRange(1), help="Chats generated per batch.")
@click.option("--cuda-graphs", is_flag=True, help="Use CUDA graphs for decoding (GPU only).")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Maximum answer length, in tokens.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]))
@click.option("--device", help="auto, cpu, cuda, cuda:1 or mps.")
@click.option(
    "--trust-remote-code", is_flag=True, help="Allow running code from the model repository."
)
@click.option(
    "--track",
    multiple=True,
    help="Send scores to these too: tensorboard, wandb, mlflow, trackio (commas).",
)
@click.option("--concurrency", type=click.IntRange(1), help="Maximum concurrent judge calls.")
@click.option("--requests-per-minute", type=float, help="Request rate limit of the judge.")
@click.option("--tokens-per-minute", type=float, help="Token rate limit of the judge.")
@click.option(
    "--timeout", type=float, help="Timeout of a call in seconds, after which it is retried."
)
@click.option("--total-timeout", type=float, help="Time limit in seconds for all calls to a judge.")
@click.option(
    "--judge-max-tokens", type=click.IntRange(1), help="Maximum verdict length, in tokens."
)
@click.option(
    "--budget", type=float, metavar="USD", help="Stop before the cost exceeds this amount."
)
@click.option(
    "--resume",
    is_flag=True,
    help="No effect, kept for clarity: stored results are always reused.",
)
@click.option("--keep-failures", is_flag=True, help="Do not retry failed judgments.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print the answers and judge calls needed, with tokens and cost, and exit.",
)
@click.option("--name", help="Name of the run.")
@click.option("--detach", is_flag=True, help="Return as soon as the run has started.")
@queue_option
@format_option
@click.pass_obj
def eval_command(paths: Paths, /, **options: Any) -> None:
    """Answer benchmarks with a checkpoint and have the answers judged.

    Results are stored as they arrive. After an error or Ctrl-C, run the same command again: only
    what is missing is done.
    """
    config = config_of(paths, options)
    for spec in (*config.judge, *([config.answer_engine] if config.answer_engine else [])):
        if warning := plain_http_warning(spec):
            click.echo(f"warning: {warning}", err=True)
    if options["dry_run"]:
        print_plan(paths, config, options["form"])
        return
    if not config.judge:
        warn_unjudged(load_benches(config, paths))
    if options["queue"]:
        click.echo(queue_run(paths, config, options["name"]))
        return
    with Store(paths.store) as store:
        for sentence in overlapping(config, store):
            click.echo(f"warning: {sentence}", err=True)
    run = launch.start(paths, config, name=options["name"])
    click.echo(f"run {run.id}", err=True)
    if options["detach"]:
        click.echo(run.id)
        return
    run = follow(paths, run.id)
    result = run.info.get("result")
    if result is not None:
        say_outcome(result, config.budget)
    scores = scores_of(
        paths,
        result["checkpoints"] if result is not None else None,
        [bench_name(bench) for bench in config.benches],
    )
    print_scores(scores, options["form"])
    if run.status is not RunStatus.FINISHED:
        raise click.exceptions.Exit(130 if run.status is RunStatus.STOPPED else 1)
    if result is not None and all_failed(result):
        raise click.exceptions.Exit(1)


def warn_unjudged(benches: Sequence[Benchmark]) -> None:
    """Say before anything starts which benchmarks will be answered but not scored."""
    waiting = [bench.label for bench in benches if bench.needs_judge]
    if waiting:
        click.echo(
            f"warning: no judge: {', '.join(waiting)} will be answered, but not scored\n"
            f"  {HOW_TO_JUDGE}",
            err=True,
        )


def all_failed(result: EvaluationResult) -> bool:
    """Return whether nothing came of an evaluation: each answer, or each judgment, has failed."""
    answers = 0 < result["answers"] <= result["failed_answers"]
    judgments = 0 < result["judgments"] <= result["failed_judgments"]
    return not result["reused"] and (answers or judgments)


def say_outcome(result: EvaluationResult, budget: float | None = None) -> None:
    """Print a summary of an evaluation to stderr.

    Args:
        budget: the limit of its cost in dollars, which may be why calls were not made.
    """
    failed = result["failed_answers"] + result["failed_judgments"]
    click.echo(
        f"{result['answers']} answers, {result['judgments']} judgments"
        + (f", {result['reused']} reused" if result["reused"] else "")
        + f", {failed} failed, ${result['usd']:.4f}",
        err=True,
    )
    if failed or result["left"]:
        left = f"{result['left']} not asked; " if result["left"] else ""
        if result["left"] and budget is not None:
            left = f"{result['left']} not asked within the budget of ${budget:g} (--budget); "
        advice = "run the same command again to complete the rest"
        if all_failed(result):
            advice = "none succeeded: the reason is in the run's log (kdharness logs)"
        click.echo(f"  {left}{advice}", err=True)
    if result["waiting"]:
        click.echo(
            f"waiting for a judge: {', '.join(result['waiting'])}\n  {HOW_TO_JUDGE}", err=True
        )


def config_of(paths: Paths, options: dict[str, Any]) -> EvalConfig:
    """Return the EvalConfig of the options, with the default judge filled in."""
    heldout = {name: options[name] for name in ("teacher", "general", "domain") if options[name]}
    config = make_eval_config(
        checkpoints=[
            absolute_source(path)
            for name in split(options["ckpt"])
            for path in step_sources(name, paths)
        ],
        benches=split(options["bench"]),
        judge=[absolute_source(spec) for spec in split(options["judge"]) or default_judges(paths)],
        imported=split(options["answers"]),
        heldout=heldout,
        discrete_fallback=options["discrete"] or None,
        trust_remote_code=options["trust_remote_code"] or None,
        track=split(options["track"]) or None,
        retry_failed=False if options["keep_failures"] else None,
        **{
            name: options[name]
            for name in (
                "limit",
                "references",
                "rating",
                "baseline",
                "judge_config",
                "answer_engine",
                "seed",
                "batch_size",
                "cuda_graphs",
                "max_new_tokens",
                "dtype",
                "device",
                "concurrency",
                "requests_per_minute",
                "tokens_per_minute",
                "timeout",
                "total_timeout",
                "budget",
                "judge_max_tokens",
                "shard",
            )
        },
    )
    if not config.checkpoints and not config.imported:
        raise click.UsageError("missing checkpoint: use --ckpt (or --answers for imported answers)")
    return config


def print_plan(paths: Paths, config: EvalConfig, form: str) -> None:
    """Print the calls an evaluation would make and what they would cost."""
    benches = load_benches(config, paths)
    if not config.judge:
        warn_unjudged(benches)
    for sentence in unused_settings(config, benches):
        click.echo(f"warning: {sentence}", err=True)
    with Store(paths.store) as store:
        rows = plan(config, paths, store, benches)
    print_table(rows, DRY_RUN_COLUMNS, form)
    calls, tokens = sum(row["calls"] for row in rows), sum(row["tokens"] for row in rows)
    prices = [row["usd"] for row in rows if row["usd"] is not None]
    price = f"about ${sum(prices):.2f}" if len(prices) == len(rows) else "price unknown"
    click.echo(f"{calls} calls, about {tokens:,} tokens, {price}", err=True)
