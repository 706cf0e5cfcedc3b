"""Which words of a command are code that a shell or another interpreter will run.

What is filled into such a word is run as well, and a run's message may hold anything. Arguments
after the code (`$1`, `sys.argv`) are only read.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePath

SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "csh", "tcsh", "fish")
PYTHON = re.compile(r"(?:python|pypy)[\d.]*")
OPTIONS = {
    "fish": "cC",
    "perl": "eE",
    "ruby": "e",
    "node": "ep",
    "php": "r",
    "lua": "e",
    "osascript": "e",
}
"""Programs that take further options after code: the letters of those that code follows."""
LONG = ("--command", "--init-command", "--eval", "--print", "--run")
JOINING = ("ssh", "su", "watch")
"""Programs that hand their words to a shell, which splits and reads them again."""


def code_words(command: Sequence[str]) -> list[tuple[str, str]]:
    """Return (program, word) for each word that may be run as code.

    The program may stand behind others: `env A=b nice bash -c …`.
    """
    words = list(_split(command))
    found: list[tuple[str, str]] = []
    for index, word in enumerate(words):
        name, rest = PurePath(word).name, words[index + 1 :]
        if name in JOINING:
            code = rest
        elif name in OPTIONS:
            code = _options(rest, OPTIONS[name])
        elif name in SHELLS or PYTHON.fullmatch(name):
            code = _up_to_code(rest)
        else:
            continue
        found += [(name, part) for part in code]
    return found


def _split(command: Sequence[str]) -> Iterator[str]:
    """Yield words; what follows `env -S` as the words that it is split into."""
    follows = False
    for word in command:
        attached = re.match(r"-v?S(?=.)|--split-string=", word)
        if follows or attached:
            try:
                yield from shlex.split(word[attached.end() :] if attached else word)
            except ValueError:
                yield word
        else:
            yield word
        follows = word in ("-S", "-vS", "--split-string")


def _up_to_code(words: Sequence[str]) -> list[str]:
    """Return options and the code after them, which is one word; none without the option -c."""
    code, takes = False, False
    for index, word in enumerate(words):
        if takes:
            takes = False
        elif word == "--" and code:
            return list(words[: index + 2])
        elif word[:1] not in ("-", "+") or word == "--":
            return list(words[: index + 1]) if code else []
        elif word.startswith("--"):
            takes = word in ("--rcfile", "--init-file")
        else:
            code = code or "c" in word
            takes = word[-1] in "oOWX"
    return list(words) if code else []


def _options(words: Sequence[str], letters: str) -> list[str]:
    """Return options, and the code that follows some of them."""
    found: list[str] = []
    follows = False
    for word in words:
        if not follows and (word[:1] != "-" or word == "--"):
            break
        found.append(word)
        follows = not follows and (word in LONG or (word[1:2] != "-" and word[-1:] in letters))
    return found
