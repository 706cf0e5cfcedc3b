"""Which runs the experiments kept in a home have, by the names that they give them.

The files are read as plain data, not planned: one whose models or data are gone still counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdharness.harness.errors import ConfigError
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text

LONGEST = 55
"""Characters of a run's name that are kept where the whole is too long."""


@dataclass(frozen=True)
class KeptRuns:
    """The name of a kept experiment, and what the names of its runs begin with."""

    name: str
    starts: tuple[str, ...]

    def names(self, run_id: str) -> bool:
        """Return whether a run's name may be one that the experiment gives."""
        return self.matched(run_id) > 0

    def matched(self, run_id: str) -> int:
        """Return how many characters of a run's name are such a beginning, the longest; 0 if none.

        Of experiments `a` with a step `b` and `a-b`, `a-b-kd-s1` is the latter's.
        """
        return max(
            (len(s) for s in self.starts if run_id == s or run_id.startswith(f"{s}-")), default=0
        )


def kept_runs(file: Path) -> KeptRuns:
    """Return what an experiment's runs are called: `runs`, or its name, and the step.

    A file that cannot be read stands for all runs whose names begin with its own.
    """
    try:
        values = parse_yaml(read_text(file, "the experiment", limit=CONFIG_BYTES), str(file))
    except ConfigError:
        values = None
    if not isinstance(values, dict):
        return KeptRuns(file.stem, (file.stem,))
    return runs_of(values, file.stem)


def runs_of(values: Mapping[str, object], stem: str) -> KeptRuns:
    """Return what an experiment's runs are called, from its plain values.

    Args:
        stem: its name, where the values have none.
    """
    name = str(values.get("name") or stem)
    prefix, steps = str(values.get("runs") or name), values.get("steps")
    if not isinstance(steps, dict) or not steps:
        return KeptRuns(name, (prefix,))
    return KeptRuns(name, tuple(f"{prefix}-{step}"[:LONGEST] for step in steps))
