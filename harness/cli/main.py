"""The command line: a thin layer over the harness that imports each command on demand.

`kdharness --help` lists the commands without importing any. A command's module may import what
loads quickly; torch, transformers, openai, numpy and textual are imported where they are used.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.errors import ConfigError, KDHarnessError, did_you_mean
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.store.creating import without_creating
from kdharness.harness.util.os_errors import as_user_error
from kdharness.harness.util.process import quiet_hub, quiet_torchao, set_passive_omp_wait
from kdharness.harness.util.redact import redact, redact_tracebacks
from kdharness.harness.util.tables import escape_unencodable
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
    "rollouts": "kdharness.harness.cli.rollouts:rollouts_command",
    "stop": "kdharness.harness.cli.runs:stop_command",
    "pause": "kdharness.harness.cli.runs:pause_command",
    "resume": "kdharness.harness.cli.runs:resume_command",
    "queue": "kdharness.harness.cli.queue:queue_group",
    "rm": "kdharness.harness.cli.records:rm_command",
    "rename": "kdharness.harness.cli.records:rename_command",
    "tag": "kdharness.harness.cli.records:tag_command",
    "note": "kdharness.harness.cli.records:note_command",
    "leaderboard": "kdharness.harness.cli.leaderboard:leaderboard_command",
    "compare": "kdharness.harness.cli.compare:compare_command",
    "tradeoff": "kdharness.harness.cli.tradeoff:tradeoff_command",
    "forgetting": "kdharness.harness.cli.forgetting:forgetting_command",
    "report": "kdharness.harness.cli.experiments:report_command",
    "judge": "kdharness.harness.cli.judge:judge_group",
    "label": "kdharness.harness.cli.label:label_group",
    "data": "kdharness.harness.cli.data:data_group",
    "config": "kdharness.harness.cli.data:config_group",
    "check": "kdharness.harness.cli.check:check_command",
    "plan": "kdharness.harness.cli.training:plan_command",
    "merge-adapter": "kdharness.harness.cli.training:merge_adapter_command",
    "selfcheck": "kdharness.harness.cli.training:selfcheck_command",
    "cache": "kdharness.harness.cli.training:cache_group",
    "import": "kdharness.harness.cli.interop:import_group",
    "export": "kdharness.harness.cli.interop:export_group",
    "publish": "kdharness.harness.cli.publish:publish_command",
    "store": "kdharness.harness.cli.store:store_group",
    "doctor": "kdharness.harness.cli.data:doctor_command",
    "docs": "kdharness.harness.cli.docs:docs_command",
    "completion": "kdharness.harness.cli.completion:completion_command",
}

HELP: dict[str, str] = {
    "demo": "Train, align and score a small real model, end to end",
    "train": "Train a student: SFT, KD or DAE",
    "merge": "Merge models' weights: WiSE-FT, average, task arithmetic",
    "sweep": "Run an experiment: several steps over settings and seeds",
    "replicate": "Run an experiment and test its claims",
    "eval": "Evaluate checkpoints: answer benchmarks and judge the answers",
    "runs": "List runs",
    "show": "Show a run: status, config, curves, lineage",
    "logs": "Print the log of a run",
    "rollouts": "Show what a student answered during its training",
    "stop": "Stop a run; it saves a checkpoint first",
    "pause": "Pause a run between two steps",
    "resume": "Resume a run that was paused, stopped or interrupted",
    "queue": "List and manage queued runs",
    "rm": "Remove runs or checkpoints, with their files and scores",
    "rename": "Give a run or checkpoint another name",
    "tag": "Add or list tags of a run or checkpoint",
    "note": "Write or print a note on a run or checkpoint",
    "leaderboard": "Show checkpoints side by side, with intervals",
    "compare": "Compare checkpoints: paired differences, settings, cost",
    "tradeoff": "Plot general against domain score: gain, retention, front",
    "forgetting": "Show what a training changed beside its domain",
    "report": "Write a report as HTML and Markdown",
    "judge": "Check judges before trusting them",
    "label": "Rate and compare answers by hand, to correct the judges",
    "data": "List, pull, check and show data, models and benchmarks",
    "config": "Create, check and show run configs",
    "check": "Check that student, teachers and rows fit each other",
    "plan": "Estimate memory, FLOPs, time and disk before a run",
    "merge-adapter": "Merge a LoRA adapter into its base model",
    "selfcheck": "Check the fused losses against the plain formula",
    "cache": "Cache teacher outputs on disk",
    "import": "Import results of FastChat, alpaca_eval or lm_eval",
    "export": "Export models and results in other tools' formats",
    "publish": "Publish a checkpoint on the Hugging Face hub",
    "store": "Maintain the store: check, shrink, copy, merge, salvage",
    "doctor": "Check this machine and suggest fixes",
    "docs": "Show the documentation, and JSON Schemas of listings",
    "completion": "Print or install tab completion for a shell",
}
"""One-line help of each command; kept here so that listing them imports none."""

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
    "delete": ["rm"],
    "remove": ["rm"],
    "del": ["rm"],
    "mv": ["rename"],
    "cancel": ["stop"],
    "kill": ["stop"],
    "board": ["leaderboard"],
    "diff": ["compare"],
    "pareto": ["tradeoff"],
    "experiment": ["sweep"],
    "pull": ["data pull"],
    "download": ["data pull"],
    "init": ["config init"],
    "preflight": ["check"],
    "gguf": ["export gguf"],
    "quantize": ["export gguf"],
    "convert": ["export gguf", "export hf"],
    "annotate": ["label"],
    "man": ["docs"],
    "manual": ["docs"],
    "help": ["docs"],
    "app": [],
    "tui": [],
}
"""Command names of other tools, and ours; the app has none, hence the empty list."""


REST = "kdharness.rest"


PROGRESS = "kdharness.progress"
"""Key in a command's context: how progress is printed (auto, json or none)."""


class LazyGroup(SuggestingGroup):
    """A group whose commands are imported when they are looked up."""

    synonyms = SYNONYMS

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words after the command, which are gone when `cli` runs."""
        ctx.meta[REST] = super().parse_args(ctx, args)
        return list(ctx.meta[REST])

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in workflow order, not alphabetically."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their one-line help, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(HELP.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; re-raise operating-system and SQLite errors as errors a user can fix."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            user_error = as_user_error(error, (ctx.obj or find_paths()).home)
            if user_error is None or user_error is error:
                raise
            raise user_error from error

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
    help="Folder of the store, runs and logs (default: the platform's data folder).",
)
@click.option("--quiet", is_flag=True, help="Print no progress of runs.")
@click.option("--json-progress", is_flag=True, help="Print progress as JSON lines on stderr.")
@click.version_option(package_name="kdharness", prog_name="kdharness")
@click.pass_context
def cli(ctx: click.Context, home: str | None, quiet: bool, json_progress: bool) -> None:
    """Distil a small model from a large one, align it to a domain, and measure the trade-off.

    Without a command, opens the terminal app.
    """
    if quiet and json_progress:
        raise click.UsageError("give one of --quiet and --json-progress")
    ctx.meta[PROGRESS] = "none" if quiet else "json" if json_progress else "auto"
    ctx.obj = find_paths(home)
    if ctx.invoked_subcommand is None:
        _open_app(ctx.obj)
    elif is_reading([ctx.invoked_subcommand, *ctx.meta[REST]]):
        source = ctx.get_parameter_source("home")
        if source is not ParameterSource.DEFAULT:
            refuse_missing_home(ctx.obj.home)
        ctx.with_resource(without_creating(ctx.obj.store))


READING = frozenset(
    {
        *("runs", "show", "logs", "stop", "pause", "resume", "queue"),
        *("rm", "rename", "tag", "note"),
        *("leaderboard", "compare", "tradeoff", "forgetting", "report", "label"),
        *("export fastchat", "export alpaca-eval", "export model-card"),
        *("judge list", "judge card", "store check", "store vacuum", "store backup"),
        *("store prune", "store archive", "store rehash", "store salvage"),
    }
)
"""Commands that need what is stored: they create no home and no store."""


def is_reading(args: Sequence[str]) -> bool:
    """Return whether a command only makes sense for a home that exists."""
    if {"-h", "--help"} & set(args):
        return False
    return args[0] in READING or " ".join(args[:2]) in READING


def refuse_missing_home(home: Path) -> None:
    """Raise ConfigError if a home that was given is not there; suggest one beside it."""
    if home.is_dir():
        return
    beside = home.parent.iterdir() if home.parent.is_dir() else ()
    homes = [str(path) for path in beside if (path / "kdharness.db").exists()]
    raise ConfigError(
        f"no home at {home}{did_you_mean(str(home), homes)}",
        where="--home",
        hint="train, eval, import and demo create one",
    )


def _open_app(paths: Paths) -> None:
    for stream, name in ((sys.stdin, "stdin"), (sys.stdout, "stdout")):
        if stream is None or not stream.isatty():
            raise click.UsageError(
                f"the app needs a terminal, but {name} is not one; see kdharness --help for the "
                "commands"
            )
    # Nothing of what is imported for the first paint is garbage; the app collects from there on.
    gc.disable()
    resolve(TOOLS, "app", "tool")(paths)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 failed, 2 bad usage or config, 130 interrupted."""
    redact_tracebacks()
    if not sys.warnoptions:
        # Libraries' words for those who call them; `python -W` and PYTHONWARNINGS show them.
        warnings.simplefilter("ignore")
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    set_passive_omp_wait()
    quiet_torchao()
    quiet_hub()
    escape_unencodable()
    with sigterm_as_ctrl_c():
        return _run(globals_first(sys.argv[1:] if args is None else args))


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C: stop the worker that the command started, and print a message.

    Otherwise a terminated command would leave its worker running; `--detach` exists for that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGTERM)
    if previous is not signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def globals_first(args: Sequence[str]) -> list[str]:
    """Move the options of every command to the front: they may be anywhere, up to `--`."""
    found: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            return [*found, *rest, word, *words]
        if word.startswith("--home=") or word in ("--quiet", "--json-progress"):
            found.append(word)
        elif word == "--home" and (value := next(words, None)) is not None:
            found += [word, value]
        else:
            rest.append(word)
    return [*found, *rest]


def _run(args: list[str]) -> int:
    try:
        result: Any = cli.main(args=args, prog_name="kdharness", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except click.ClickException as error:
        _print_error(usage_message(error))
        return 2
    except (KeyboardInterrupt, click.Abort):
        if "_KDHARNESS_COMPLETE" not in os.environ:  # else it would be printed into the prompt
            click.echo("interrupted; finished work is stored", err=True)
        return 130
    except KDHarnessError as error:
        _print_error(str(error))
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _print_error(message: str) -> None:
    click.echo(f"error: {safe_text(redact(message, shapes=True))}", err=True)


def usage_message(error: click.ClickException) -> str:
    """Return a message of click's in the form of all others: what is wrong, then where to look."""
    text = error.format_message().rstrip(".")
    if text[1:2].islower():
        text = text[0].lower() + text[1:]
    context = getattr(error, "ctx", None)
    return f"{text}\n  see: {context.command_path} --help" if context is not None else text
