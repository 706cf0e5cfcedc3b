"""The command line: a thin layer over the harness, each command loaded when it is called.

`kdharness --help` lists the commands without importing one. A command's module may import what
loads quickly; torch, transformers, openai, numpy and textual are imported where they are used.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from kdharness.harness.errors import KDHarnessError, did_you_mean
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.util.os_errors import as_user_error
from kdharness.harness.util.process import set_passive_omp_wait
from kdharness.harness.util.redact import RedactedStream, redact, redact_tracebacks
from kdharness.harness.util.tables import write_anything
from kdharness.harness.util.text import safe_text

COMMANDS: dict[str, str] = {
    "demo": "kdharness.harness.cli.demo:demo_command",
    "train": "kdharness.harness.cli.training:train_command",
    "merge": "kdharness.harness.cli.training:merge_command",
    "sweep": "kdharness.harness.cli.experiments:sweep_command",
    "replicate": "kdharness.harness.cli.replicate:replicate_command",
    "eval": "kdharness.harness.cli.eval:eval_command",
    "runs": "kdharness.harness.cli.runs:runs_command",
    "show": "kdharness.harness.cli.runs:show_command",
    "logs": "kdharness.harness.cli.runs:logs_command",
    "stop": "kdharness.harness.cli.runs:stop_command",
    "pause": "kdharness.harness.cli.runs:pause_command",
    "resume": "kdharness.harness.cli.runs:resume_command",
    "leaderboard": "kdharness.harness.cli.leaderboard:leaderboard_command",
    "compare": "kdharness.harness.cli.compare:compare_command",
    "tradeoff": "kdharness.harness.cli.tradeoff:tradeoff_command",
    "report": "kdharness.harness.cli.experiments:report_command",
    "judge": "kdharness.harness.cli.judge:judge_group",
    "data": "kdharness.harness.cli.data:data_group",
    "config": "kdharness.harness.cli.data:config_group",
    "plan": "kdharness.harness.cli.training:plan_command",
    "merge-adapter": "kdharness.harness.cli.training:merge_adapter_command",
    "selfcheck": "kdharness.harness.cli.training:selfcheck_command",
    "cache": "kdharness.harness.cli.training:cache_group",
    "import": "kdharness.harness.cli.interop:import_group",
    "export": "kdharness.harness.cli.interop:export_group",
    "store": "kdharness.harness.cli.store:store_group",
    "doctor": "kdharness.harness.cli.data:doctor_command",
}

HELP: dict[str, str] = {
    "demo": "Train, align and score a small real model: the whole story",
    "train": "Train a student: SFT, KD or DAE",
    "merge": "Merge models' weights: WiSE-FT, average, task arithmetic",
    "sweep": "Run an experiment of several steps over settings and seeds",
    "replicate": "Run an experiment and test its claims",
    "eval": "Answer benchmarks and have the answers judged",
    "runs": "List runs",
    "show": "Show a run: status, config, curves, lineage",
    "logs": "Print the output of a run's worker",
    "stop": "Stop a run; it saves a checkpoint first",
    "pause": "Pause a run between two steps",
    "resume": "Continue a run that was paused, stopped or interrupted",
    "leaderboard": "Show every checkpoint's scores with intervals",
    "compare": "Compare checkpoints: paired differences, settings, cost",
    "tradeoff": "Plot general against domain: gain, retention, front",
    "report": "Write a report as one HTML file and as Markdown",
    "judge": "Check judges before trusting them",
    "data": "List, pull, check and show data, models and benchmarks",
    "config": "Create, check and show run configs",
    "plan": "Estimate memory, FLOPs, time and disk before a run",
    "merge-adapter": "Merge a LoRA checkpoint into a plain model",
    "selfcheck": "Check the fused losses against the plain formula",
    "cache": "Build a cache of teacher distributions",
    "import": "Import answers and judgments from FastChat or alpaca_eval",
    "export": "Export results in other tools' formats",
    "store": "Maintain the store: check, shrink, copy, merge, salvage",
    "doctor": "Check this machine and suggest fixes",
}
"""What each command does in a line; kept here so that listing them imports none."""

SYNONYMS = {
    "run": ["train", "runs"],
    "start": ["train"],
    "evaluate": ["eval"],
    "score": ["eval"],
    "bench": ["eval"],
    "ls": ["runs"],
    "list": ["runs"],
    "ps": ["runs"],
    "status": ["runs", "show"],
    "log": ["logs"],
    "cancel": ["stop"],
    "kill": ["stop"],
    "board": ["leaderboard"],
    "diff": ["compare"],
    "pareto": ["tradeoff"],
    "experiment": ["sweep"],
    "pull": ["data pull"],
    "download": ["data pull"],
    "init": ["config init"],
    "check": ["config check", "doctor"],
    "app": [],
    "tui": [],
}
"""What other tools call things; an empty list is the app, which needs no command."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the story, not of the alphabet."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with what they do, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """What the machine did to us is raised like any other error that a user can mend."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            found = as_user_error(error, (ctx.obj or find_paths()).home)
            if found is None or found is error:
                raise
            raise found from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a mistyped name is answered with the nearest ones."""
        name = args[0]
        if not name.startswith("-") and name not in COMMANDS:
            near = did_you_mean(name, COMMANDS, SYNONYMS)
            raise click.UsageError(f"no command {name!r}" + near, ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--home",
    type=click.Path(file_okay=False),
    envvar="KDHARNESS_HOME",
    default=None,
    help="Where the store, runs and logs live (default: the platform's data folder).",
)
@click.version_option(package_name="kdharness", prog_name="kdharness")
@click.pass_context
def cli(ctx: click.Context, home: str | None) -> None:
    """Distil a small model from a big one, align it to a domain, see what was gained and lost.

    Without a command it opens the terminal app.
    """
    ctx.obj = find_paths(home)
    if ctx.invoked_subcommand is None:
        _open_app(ctx.obj)


def _open_app(paths: Paths) -> None:
    for stream, what in ((sys.stdin, "input"), (sys.stdout, "output")):
        if stream is None or not stream.isatty():
            raise click.UsageError(
                f"the app needs a terminal, and its {what} is none; see kdharness --help for the "
                "commands"
            )
    resolve(TOOLS, "app", "tool")(paths)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 bad usage or config, 130 interrupted."""
    redact_tracebacks()
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    set_passive_omp_wait()
    write_anything()
    with sigterm_as_ctrl_c():
        return _run(args)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM stop a command as Ctrl-C does: with the worker it started, and a word.

    A command that was told to end would otherwise leave its worker running, which nobody asked
    for; `--detach` is the way to that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = signal.getsignal(signal.SIGTERM)
    if known is not signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, known)


def _run(args: list[str] | None) -> int:
    try:
        result: Any = cli.main(args=args, prog_name="kdharness", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.ClickException as error:
        error.show(RedactedStream(sys.stderr))  # type: ignore[arg-type]
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; what was finished is stored", err=True)
        return 130
    except KDHarnessError as error:
        click.echo(f"error: {safe_text(redact(str(error), shapes=True))}", err=True)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
