"""The completion command, and the names that tab completes."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from kdharness.harness.errors import ConfigError, KDHarnessError
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.store.inspection import open_read_only
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.text import safe_text

VARIABLE = "_KDHARNESS_COMPLETE"
SHELLS = {
    "bash": ".local/share/bash-completion/completions/kdharness",
    "zsh": ".zfunc/_kdharness",
    "fish": ".config/fish/completions/kdharness.fish",
}
"""Shell -> where it looks for completions, below the user's folder."""
SHOWN = 200
QUERIES = {
    "run": "SELECT id FROM runs ORDER BY created DESC",
    "checkpoint": "SELECT name FROM checkpoints ORDER BY created DESC",
}


if TYPE_CHECKING:
    TextType = click.ParamType[str]  # generic since click 8.5
else:
    TextType = click.ParamType


class Stored(TextType):
    """The name of something stored, which tab completes without loading the store's modules."""

    def __init__(self, *kinds: str) -> None:
        """Complete names of these kinds: `run`, `checkpoint`."""
        self.kinds = kinds
        self.name = "text"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Show arguments by name, options as text."""
        return None if isinstance(param, click.Argument) else "TEXT"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the stored names that begin like what was typed; of a list, its last part."""
        before, comma, typed = incomplete.rpartition(",")
        names: dict[str, None] = {}
        with suppress(OSError, sqlite3.Error, KDHarnessError):
            for name in stored_names(_home(ctx), self.kinds):
                if (
                    name.startswith(typed)
                    and name == safe_text(name)
                    and not set(name) & set(" \n")
                ):
                    names[before + comma + name] = None
        return [CompletionItem(name) for name in list(names)[:SHOWN]]


RUN = Stored("run")
CHECKPOINT = Stored("checkpoint")
EITHER = Stored("run", "checkpoint")


def stored_names(paths: Paths, kinds: tuple[str, ...]) -> Iterator[str]:
    """Yield names of a home's store, newest first; none if there is no store."""
    if not paths.store.exists():
        return
    with closing(open_read_only(paths.store, timeout=0.2)) as connection:
        for kind in kinds:
            for row in connection.execute(QUERIES[kind]):
                yield row[0]


def _home(ctx: click.Context) -> Paths:
    """Return the home of the line that is being typed; `--home` may be anywhere in it."""
    words = iter(shlex.split(os.environ.get("COMP_WORDS", ""), posix=False))
    given = ctx.find_root().params.get("home")
    for word in words:
        if word == "--home":
            given = next(words, given)
        elif word.startswith("--home="):
            given = word.removeprefix("--home=")
    return find_paths(given)


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)), required=False)
@click.option("--install", is_flag=True, help="Write it where the shell looks for it.")
def completion_command(shell: str | None, install: bool) -> None:
    """Print tab completion for SHELL (by default the one in use), or install it.

    It completes commands, options, and the names of runs and checkpoints.
    """
    chosen = shell or Path(os.environ.get("SHELL", "")).name
    if chosen not in SHELLS:
        raise ConfigError(
            "which shell?", where="completion", hint=f"give one of: {', '.join(SHELLS)}"
        )
    script = script_for(chosen)
    if not install:
        click.echo(script)
        return
    target = Path.home() / SHELLS[chosen]
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(target, script)
    click.echo(f"written to {target}; open a new shell to use it", err=True)
    if chosen == "zsh":
        click.echo("  ~/.zshrc needs, before compinit: fpath=(~/.zfunc $fpath)", err=True)
    if chosen == "bash":
        click.echo("  this needs the package bash-completion and bash 4.4 or newer", err=True)


def script_for(shell: str) -> str:
    """Return the script that a shell sources."""
    kind = get_completion_class(shell)
    assert kind is not None
    name = "kdharness"
    completion = kind(click.Command(name), {}, name, VARIABLE)
    return completion.source_template % completion.source_vars()
