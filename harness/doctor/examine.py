"""What goes wrong most, looked for before it does: one row a check, each with what to do.

The checks lie by what they look at: `doctor_packages`, `doctor_machine`, `doctor_home` and
`doctor_network`. A check that fails itself becomes a row: the doctor never dies of a finding.
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
    """One row a check: `check`, `status` (`ok`, `note` or `broken`), `detail`, `advice`.

    Args:
        paths: the home to look at; nothing in it is changed.
        online: ask the judge and the hub; at most three seconds.
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
            if seen[finding.check] > 1:  # readers take `check` for a key
                row["check"] = f"{finding.check} ({seen[finding.check]})"
            rows.append(row)
    return rows


def _safely(name: str, part: Callable[[], Iterable[CheckResult]]) -> list[CheckResult]:
    try:
        return list(part())
    except Exception as error:  # whatever a strange machine does, the other rows are still wanted
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [
            warn(
                name,
                f"could not be looked at ({reason})",
                "please report this with your system's name and version",
            )
        ]
