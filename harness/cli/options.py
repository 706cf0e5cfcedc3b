"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from kdharness.harness.errors import ConfigError, did_you_mean
from kdharness.harness.util.tables import FORMATS

format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", help="Output format."
)

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=VALUE",
    help="Override a config field; can be repeated.",
)


queue_option = click.option(
    "--queue",
    is_flag=True,
    help="Queue the run and return; it starts when no other run of this home is running.",
)


jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help=(
        "Execute up to N runs side by side, each on its share of the cores, or, with several GPUs, "
        "on one of its own (default: the experiment's `jobs`, else 1)."
    ),
)


def split(values: Sequence[str]) -> list[str]:
    """Split the values of a repeatable option at commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def refuse_unknown(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raise ConfigError for the first unknown name; accept any name if nothing is stored."""
    listed = sorted(set(known))
    for name in names:
        if listed and name not in listed:
            examples = ", ".join(listed[:12]) + (" …" if len(listed) > 12 else "")
            raise ConfigError(
                f"no {kind} {name!r}{did_you_mean(name, listed)}", hint=f"available: {examples}"
            )
