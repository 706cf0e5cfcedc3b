"""A text in the user's editor: VISUAL, else EDITOR, else one that is installed."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

INSTALLED = ("sensible-editor", "nano", "vim", "vi")
AT_ONCE = 1.0
"""Seconds: an editor that returns sooner, with nothing changed, did not wait for its window."""


@dataclass(frozen=True)
class Edited:
    """What came back: the text, and what went wrong; the text holds also then."""

    text: str
    problem: str = ""


def editor_command(environ: Mapping[str, str]) -> list[str]:
    """Return the editor with its arguments, which a variable may have; empty if there is none.

    Raises:
        ValueError: the variable has an open quote.
    """
    for name in ("VISUAL", "EDITOR"):
        if words := shlex.split(environ.get(name, "")):
            return [os.path.expandvars(os.path.expanduser(word)) for word in words]
    found = next(filter(shutil.which, INSTALLED), None)
    return [found] if found else []


def edit(text: str, name: str, suspended: AbstractContextManager[None]) -> Edited:
    """Let the user edit a text in a file of this name, and return it when the editor has ended.

    Args:
        suspended: gives the terminal to the editor meanwhile.
    """
    try:
        command = editor_command(os.environ)
    except ValueError as error:
        return Edited(text, f"VISUAL or EDITOR cannot be read: {error}")
    if not command:
        return Edited(text, "no editor found: set VISUAL or EDITOR, such as EDITOR=nano")
    with tempfile.TemporaryDirectory(prefix="kdharness-edit-") as scratch:
        file = Path(scratch) / name
        file.write_text(text, encoding="utf-8")
        began = time.monotonic()
        with suspended:
            problem = _run([*command, str(file)])
        try:
            edited = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            return Edited(text, f"what {command[0]} saved cannot be read: {error}")
    if not problem and edited == text and time.monotonic() - began < AT_ONCE:
        problem = f"{command[0]} returned at once: if it has a window, let it wait (code --wait)"
    return Edited(edited, problem)


def _run(command: list[str]) -> str:
    """Run the editor on this terminal; return what went wrong.

    Ctrl-C is for the editor: here it would end the app. A handler, unlike an ignored signal, is
    not inherited.
    """
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = subprocess.call(command)
    except OSError as error:
        return f"{command[0]} cannot be started: {error.strerror or error}"
    finally:
        signal.signal(signal.SIGINT, before)
    return f"{command[0]} ended with code {code}" if code else ""
