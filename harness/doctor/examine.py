"""The checks of `kdharness doctor`: one row per check, each with what to do.

The checks are grouped by subject: `packages`, `machine`, `home` and `network`. A check that
raises becomes a row itself, so `doctor` never crashes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from kdharness.harness.doctor import home, machine, network, packages
from kdharness.harness.doctor.finding import CheckResult, warn
from kdharness.harness.paths import Paths


def examine(paths: Paths, *, online: bool = True) -> list[dict[str, Any]]:
    """Run all checks; each row has `check`, `status` (`ok`, `note`, `broken`), `detail`, `advice`.

    Args:
        paths: the home to check; nothing in it is changed.
        online: contact the judge and the hub, for at most three seconds.
    """
    parts: dict[str, Callable[[], Iterable[CheckResult]]] = {
        "packages": packages.run_checks,
        "machine": machine.run_checks,
        "home": lambda: home.run_checks(paths),
        "network": lambda: network.run_checks(paths, online=online),
    }
    rows, seen = [], Counter[str]()
    for name, part in parts.items():
        for finding in _safely(name, part):
            row = asdict(finding)
            seen[finding.check] += 1
            if seen[finding.check] > 1:  # `check` is a unique key for programs
                row["check"] = f"{finding.check} ({seen[finding.check]})"
            rows.append(row)
    return rows


def _safely(name: str, part: Callable[[], Iterable[CheckResult]]) -> list[CheckResult]:
    try:
        return list(part())
    except Exception as error:  # on an unusual machine the other checks should still run
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [
            warn(
                name,
                f"the check failed ({reason})",
                "please report this, with your system's name and version",
            )
        ]
