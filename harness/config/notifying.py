"""The settings of notifications: a command of the user's, and when it is run."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from kdharness.harness.config.base import Settings
from kdharness.harness.config.code_words import JOINING, SHELLS, code_words

State = Literal["finished", "failed", "stopped", "interrupted", "alert"]
STATES: tuple[State, ...] = get_args(State)
PLACEHOLDERS = ("run", "state", "message", "method", "folder", "home")
"""What `{…}` in an argument can stand for; the command has each in its environment too."""
OPERATORS = ("|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1")
PLACE = re.compile(r"\{(\w+)\}")


def _words(value: object) -> object:
    """Split a command line as a shell would."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{value!r}: {str(error).lower()}") from error


def as_notify(value: object) -> object:
    """Accept a command alone, for a mapping that has one."""
    return {"command": value} if isinstance(value, (str, list)) else {} if value is None else value


def _not_filled(name: str, program: str) -> str:
    """Return why a placeholder is refused in what a program will run, and what to write."""
    variable = f"KDHARNESS_{name.upper()}"
    if program in SHELLS:
        return (
            f"{{{name}}} is not filled in for a shell, which could run what is in it: "
            f'write "${variable}"'
        )
    advice = f"read {variable} from the environment"
    if program in JOINING:
        advice = f'send it as input, with shell: printf %s "${variable}" | {program} …'
    return f"{{{name}}} is not filled in for {program}, which could run what is in it: {advice}"


class NotifySettings(Settings):
    """The notification sent when a run ends."""

    command: Annotated[list[str], BeforeValidator(_words)] = Field(
        default_factory=list,
        title="Command",
        description="A command line, which is run without a shell, or a list of its words.",
    )
    shell: str | None = Field(
        None,
        title="Shell",
        description="A line for /bin/sh, in place of a command; it reads the environment.",
    )
    when: list[State] = Field(
        default_factory=lambda: list(STATES),
        title="When",
        description="What it is run for; default: all of them.",
    )
    terminal: bool = Field(
        True,
        title="Terminal",
        description="Let the app ring the terminal's bell and send it a notification.",
    )

    @model_validator(mode="after")
    def _can_be_run(self) -> NotifySettings:
        """Refuse placeholders that nothing fills, and two commands."""
        if self.command and self.shell:
            raise ValueError("command and shell are alternatives: give one")
        for name in PLACE.findall(" ".join(self.command)):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                raise ValueError(f"nothing fills {{{name}}}; there are {known}")
        for name in PLACE.findall((self.shell or "").replace("${", "")):
            if name in PLACEHOLDERS:
                raise ValueError(_not_filled(name, "sh"))
        code = code_words(self.command)
        for program, word in code:
            for name in PLACE.findall(word):
                raise ValueError(_not_filled(name, program))
        if self.command and Path(self.command[0]).name not in SHELLS:
            run = [word for _, word in code]
            for word in self.command:
                if word in run:
                    continue
                if word in OPERATORS or "$KDHARNESS_" in word or "${KDHARNESS_" in word:
                    raise ValueError(
                        f"{word!r} means something to a shell only, and command is run without "
                        "one: write {run}, or give the line as shell:"
                    )
        return self

    def argv(self, values: dict[str, str]) -> list[str]:
        """Return the command with its placeholders filled; empty if there is none."""
        if self.shell:
            return ["/bin/sh", "-c", self.shell]
        return [PLACE.sub(lambda found: values[found[1]], word) for word in self._expanded()]

    def program(self, folder: Path) -> str:
        """Return the program of the command, as it is found from a folder; empty if unknown."""
        name = next(iter(self._expanded()), "")
        if "{" in name:
            return ""
        return str(folder / name) if os.sep in name else name

    def _expanded(self) -> list[str]:
        """Return the command's words; ~ is the user's folder, as in a shell."""
        return [os.path.expanduser(word) if word[:2] == "~/" else word for word in self.command]
