"""Commands about experiments: merge."""

from __future__ import annotations

import click

from kdharness.harness.paths import Paths


@click.command("merge")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE",
              help="Change one field of the config; may be given more than once.")
@click.option("--name", help="The run's name.")
@click.pass_obj
def merge_command(
    paths: Paths, config: str, overrides: tuple[str, ...], name: str | None
) -> None:
    """Put models' weights together as CONFIG says: WiSE-FT curve, average, task arithmetic.

    Prints the checkpoints that were made.
    """
    from kdharness.harness import launch
    from kdharness.harness.config import load_config
    from kdharness.harness.errors import ConfigError
    from kdharness.harness.store import Store

    parsed = load_config(config, overrides)
    if parsed.method != "merge":
        raise ConfigError(f"this is a config for {parsed.method}, not for merge", where=config,
                          hint=f"run: kdharness train {config}")
    run = launch.start(paths, parsed, name=name)
    launch.follow(paths, run.id)
    with Store(paths.store) as store:
        for checkpoint in store.checkpoints(run.id):
            click.echo(checkpoint.name)
