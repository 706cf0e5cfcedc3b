"""Commands about evaluation: eval and leaderboard; judge, import and export lie beside."""

from __future__ import annotations

import sys
from typing import Any

import click

from kdharness.harness.cli.follow import follow
from kdharness.harness.cli.leaderboard import print_scores, scores_of
from kdharness.harness.cli.options import format_option, split
from kdharness.harness.config.evaluation import (
    absolute_source,
    bench_name,
    make_eval_config,
    plain_http_warning,
)
from kdharness.harness.config.settings import default_judges
from kdharness.harness.evaluation.dry_run import DRY_RUN_COLUMNS, plan
from kdharness.harness.evaluation.pipeline import HOW_TO_JUDGE
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.store import Store
from kdharness.harness.types import EvaluationResult, RunStatus
from kdharness.harness.util.tables import print_table


@click.command("eval")
@click.option(
    "--ckpt",
    multiple=True,
    metavar="PATH",
    help="Checkpoint to score: a folder, a stored name, an asset or a hub id.",
)
@click.option(
    "--bench",
    multiple=True,
    metavar="NAME",
    help="mt-bench, mt-bench-pair, alpaca-eval (2), alpaca-eval-1, shop, heldout, or "
    "your own file.jsonl; commas or repeated. Default: shop,heldout.",
)
@click.option(
    "--judge",
    multiple=True,
    metavar="SPEC",
    help="openai:MODEL, openai:MODEL@URL or local:PATH; several make a panel.",
)
@click.option(
    "--answers",
    multiple=True,
    metavar="MODEL",
    help="Judge answers imported under this name, without weights.",
)
@click.option("--limit", type=click.IntRange(1), help="A fixed, balanced subset of N items.")
@click.option("--shard", metavar="I/N", help="The I-th of N parts: several machines each do one.")
@click.option(
    "--references",
    type=click.Choice(["corrected", "classic"]),
    help="MT-Bench's reference answers.",
)
@click.option("--baseline", metavar="MODEL", help="The other side of pairwise judging, or all.")
@click.option("--judge-config", metavar="NAME", help="AlpacaEval evaluator config, or its YAML.")
@click.option(
    "--discrete",
    is_flag=True,
    help="AlpacaEval 2 where the judge has no log-probabilities: read its token.",
)
@click.option("--teacher", metavar="PATH", help="Held-out agreement with this checkpoint.")
@click.option("--general", type=click.Path(dir_okay=False), help="Held-out general rows (JSONL).")
@click.option("--domain", type=click.Path(dir_okay=False), help="Held-out domain rows (JSONL).")
@click.option("--answer-engine", metavar="SPEC", help="openai:MODEL@URL serving the checkpoint.")
@click.option("--seed", type=click.IntRange(0), help="Of sampled answers.")
@click.option("--batch-size", type=click.IntRange(1), help="Chats generated at once.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer, in tokens.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]))
@click.option("--device", help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--trust-remote-code", is_flag=True, help="Run a model repository's own code.")
@click.option("--concurrency", type=click.IntRange(1), help="Calls to the judge at once.")
@click.option("--requests-per-minute", type=float, help="The judge's limit.")
@click.option("--tokens-per-minute", type=float, help="The judge's limit.")
@click.option("--timeout", type=float, help="Seconds until a call is tried again.")
@click.option("--total-timeout", type=float, help="Seconds for all of a judge's calls.")
@click.option("--judge-max-tokens", type=click.IntRange(1), help="Longest verdict, in tokens.")
@click.option("--budget", type=float, metavar="USD", help="Stop before this is passed.")
@click.option(
    "--resume",
    is_flag=True,
    help="Only say that you mean to go on: what is stored is never asked for again.",
)
@click.option("--keep-failures", is_flag=True, help="Don't ask again for failed verdicts.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be answered and asked, with tokens and price, and stop.",
)
@click.option("--name", help="The run's name.")
@click.option("--detach", is_flag=True, help="Return once the run has started.")
@format_option
@click.pass_obj
def eval_command(paths: Paths, /, **options: Any) -> None:
    """Answer benchmarks with a checkpoint and have the answers judged.

    Everything is stored as it arrives: run the same command again after an error or a Ctrl-C,
    and only what is missing is done.
    """
    config = config_of(paths, options)
    for spec in (*config.judge, *([config.answer_engine] if config.answer_engine else [])):
        if warning := plain_http_warning(spec):
            click.echo(f"warning: {warning}", err=True)
    if options["dry_run"]:
        print_plan(paths, config, options["form"])
        return
    run = launch.start(paths, config, name=options["name"])
    click.echo(f"run {run.id}", err=True)
    if options["detach"]:
        click.echo(run.id)
        return
    run = follow(paths, run.id)
    result = run.info.get("result")
    if result is not None:
        say_outcome(result)
    shown = scores_of(
        paths,
        result["checkpoints"] if result is not None else None,
        [bench_name(bench) for bench in config.benches],
    )
    print_scores(shown, options["form"], "bench")
    if run.status is not RunStatus.FINISHED:
        sys.exit(130 if run.status is RunStatus.STOPPED else 1)


def say_outcome(result: EvaluationResult) -> None:
    """What an evaluation did, in a few lines on stderr."""
    failed = result["failed_answers"] + result["failed_judgments"]
    click.echo(
        f"{result['answers']} answers, {result['judgments']} verdicts"
        + (f", {result['reused']} already paid for" if result["reused"] else "")
        + f", {failed} failed, ${result['usd']:.4f}",
        err=True,
    )
    if failed or result["left"]:
        left = f"{result['left']} not asked; " if result["left"] else ""
        click.echo(f"  {left}run the same command again for what is missing", err=True)
    if result["waiting"]:
        click.echo(
            f"waiting for a judge: {', '.join(result['waiting'])}\n  {HOW_TO_JUDGE}", err=True
        )


def config_of(paths: Paths, options: dict[str, Any]) -> Any:
    """The EvalConfig that the options mean; the judge's default is written into it."""
    heldout = {
        name: absolute_source(options[name])
        for name in ("teacher", "general", "domain")
        if options[name]
    }
    config = make_eval_config(
        checkpoints=[absolute_source(name) for name in split(options["ckpt"])],
        benches=[
            absolute_source(b) if b.endswith(".jsonl") else b for b in split(options["bench"])
        ],
        judge=[absolute_source(spec) for spec in split(options["judge"]) or default_judges(paths)],
        imported=split(options["answers"]),
        heldout=heldout,
        discrete_fallback=options["discrete"] or None,
        trust_remote_code=options["trust_remote_code"] or None,
        retry_failed=False if options["keep_failures"] else None,
        **{
            name: options[name]
            for name in (
                "limit",
                "references",
                "baseline",
                "judge_config",
                "answer_engine",
                "seed",
                "batch_size",
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
        raise click.UsageError("name a checkpoint with --ckpt (or imported answers, --answers)")
    return config


def print_plan(paths: Paths, config: Any, form: str) -> None:
    """What an evaluation would ask, and what it would cost."""
    with Store(paths.store) as store:
        rows = plan(config, paths, store)
    print_table(rows, DRY_RUN_COLUMNS, form)
    calls, tokens = sum(row["calls"] for row in rows), sum(row["tokens"] for row in rows)
    known = [row["usd"] for row in rows if row["usd"] is not None]
    price = f"about ${sum(known):.2f}" if len(known) == len(rows) else "price unknown"
    click.echo(f"{calls} calls, about {tokens:,} tokens, {price}", err=True)
