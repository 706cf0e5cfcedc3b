"""Options shared by several commands."""

from __future__ import annotations

from collections.abc import Sequence

import click

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


def split(values: Sequence[str]) -> list[str]:
    """Split the values of a repeatable option at commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
