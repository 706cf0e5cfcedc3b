"""Groups of commands that suggest the closest name, and commands with grouped options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import click

from kdharness.harness.errors import did_you_mean

WHOLE = 10_000
"""Characters of a command's first sentence: none is cut."""


class SuggestingGroup(click.Group):
    """A group that lists whole help lines, and suggests similar names for an unknown command."""

    synonyms: ClassVar[Mapping[str, Sequence[str]]] = {}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest similar names for an unknown one."""
        name, known = args[0], self.list_commands(ctx)
        if not name.startswith("-") and name not in known and not ctx.resilient_parsing:
            suggestion = did_you_mean(name, known, self.synonyms)
            raise click.UsageError(f"no such command {name!r}" + suggestion, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their first sentence, wrapped instead of cut."""
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(WHOLE)) for name, command in named if command]
            )


class SectionedCommand(click.Command):
    """A command whose help lists options in sections; those of none come first."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Title -> names of parameters."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by section."""
        titles = {name: title for title, names in self.sections.items() for name in names}
        tables: dict[str, list[tuple[str, str]]] = {"Options": []}
        tables.update({title: [] for title in self.sections})
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                tables[titles.get(parameter.name or "", "Options")].append(record)
        tables["Other options"] = tables.pop("Options")
        for title, rows in tables.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are."""
        if self.epilog:
            formatter.write_paragraph()
            for line in self.epilog.splitlines():
                formatter.write(f"{line}\n")
