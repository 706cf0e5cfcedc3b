"""The publish command."""

from __future__ import annotations

import click

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.util.tables import print_table


@click.command("publish")
@click.argument("checkpoint")
@click.option("--to", "repo", required=True, metavar="ORG/NAME", help="The repository on the hub.")
@click.option("--private", is_flag=True, help="Create it as a private one.")
@click.option("--merged", is_flag=True, help="Merge an adapter into its base first.")
@click.option("--license", metavar="ID", help="The model's license: apache-2.0, mit, other.")
@click.option("--force", is_flag=True, help="Replace files that the repository has already.")
@click.option("--dry-run", is_flag=True, help="Show files and model card; upload nothing.")
@click.option(
    "--eval-result",
    "results",
    multiple=True,
    metavar="BENCH:METRIC=ORG/DATASET:TASK",
    help="List a score on the leaderboard of a benchmark of the hub; can be repeated.",
)
@click.option("--percent", is_flag=True, help="Write the scores of --eval-result times 100.")
@click.option("--trust-remote-code", is_flag=True, help="Run code from the base's repository.")
@click.pass_obj
def publish_command(
    paths: Paths,
    checkpoint: str,
    repo: str,
    private: bool,
    merged: bool,
    license: str | None,
    force: bool,
    dry_run: bool,
    results: tuple[str, ...],
    percent: bool,
    trust_remote_code: bool,
) -> None:
    """Publish CHECKPOINT on the Hugging Face hub, with a model card that has its scores.

    Uploads weights (or the adapter), tokenizer and configs. Paths of this machine, endpoints and
    keys are left out. Files that the repository has already are never overwritten without --force.
    """
    prepare = resolve(TOOLS, "prepare_publication", "tool")
    if percent and not results:
        raise ConfigError("there is no --eval-result whose scores it applies to", where="--percent")
    found = prepare(
        paths,
        checkpoint,
        repo,
        merged=merged,
        trust_remote_code=trust_remote_code,
        results=results,
        percent=percent,
        license=license or "",
    )
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if dry_run:
        print_table(found.rows(), ["file", "bytes"], "table")
        click.echo(f"\n{found.card}", nl=False)
        for name, text in found.eval_results.items():
            click.echo(f"\n{name}\n{text}", nl=False)
        return
    address, new = resolve(TOOLS, "publish", "tool")(found, private=private, force=force)
    click.echo(address)
    click.echo(f"{new} files uploaded" if new else "nothing to do: it is there already", err=True)
