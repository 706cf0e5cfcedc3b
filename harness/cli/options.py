"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kdharness.harness.util.tables import FORMATS

format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", help="How to print the list."
)


def split(values: Sequence[str]) -> list[str]:
    """Values of a repeatable option that also takes commas."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
