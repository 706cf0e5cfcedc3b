"""Errors a user can fix.

They state what is wrong, where, and what to do, and never show a traceback: the command line
catches only this family. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class KDHarnessError(Exception):
    """Something the user can fix.

    Args:
        message: what is wrong, in one sentence.
        where: the file, line or field with the error.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        prefix = f"{self.where}: " if self.where else ""
        hint = f"\n  {self.hint}" if self.hint else ""
        return f"{prefix}{self.message}{hint}"


def did_you_mean(
    name: str, known: Iterable[str], synonyms: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return `; did you mean a or b?` for a mistyped name, or an empty string."""
    listed = list(dict.fromkeys(known))  # a run and its checkpoint often share a name
    near = list((synonyms or {}).get(name, ()))
    near = near or _closest(name, listed)
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""


def _closest(name: str, known: Sequence[str]) -> list[str]:
    """Return up to three names that begin like it, else those that are about as similar as any."""
    begun = [other for other in known if len(name) > 1 and other.startswith(name)]
    if begun:
        return begun[:3]
    near = difflib.get_close_matches(name, known, 3, 0.6)
    ratios = [difflib.SequenceMatcher(None, other, name).ratio() for other in near]
    return [other for other, ratio in zip(near, ratios, strict=True) if ratio > ratios[0] - 0.15]


class ConfigError(KDHarnessError):
    """A config, a setting or a command line that cannot be used. Exit code 2."""

    exit_code = 2


class DataError(KDHarnessError):
    """A dataset or benchmark file that cannot be read or trained on. Exit code 2."""

    exit_code = 2


class AssetError(KDHarnessError):
    """A model or benchmark file that could not be found, fetched or verified."""


class ModelError(KDHarnessError):
    """A model or tokenizer that does not load, or models that are incompatible."""


class JudgeError(KDHarnessError):
    """A judge that is unreachable or does not support what was requested."""


class RunError(KDHarnessError):
    """A run that could not be started, stopped, resumed or found."""


class StoreError(KDHarnessError):
    """A store that cannot be opened, read or written: damaged, newer, locked, or read-only."""


class Interrupted(KDHarnessError):
    """The user stopped the work. Everything finished is stored. Exit code 130."""

    exit_code = 130
