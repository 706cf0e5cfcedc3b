"""Commands that export a checkpoint's model."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import click

from kdharness.harness.cli.completion import CHECKPOINT
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve


class Exported(Protocol):
    """What an export wrote."""

    folder: Path
    checkpoint: str
    files: list[str]
    notes: list[str]


source_argument = click.argument("checkpoint", type=CHECKPOINT)
folder_argument = click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
force_option = click.option("--force", is_flag=True, help="Replace an earlier export in FOLDER.")
code_option = click.option(
    "--trust-remote-code", is_flag=True, help="Run code from the model's repository."
)


@click.command("gguf")
@source_argument
@folder_argument
@click.option(
    "--type",
    "kind",
    type=click.Choice(["q8_0", "f16", "bf16", "f32"]),
    default="q8_0",
    show_default=True,
    help="How weights are stored.",
)
@force_option
@code_option
@click.pass_obj
def export_gguf_command(
    paths: Paths, checkpoint: str, folder: Path, kind: str, force: bool, trust_remote_code: bool
) -> None:
    """Write CHECKPOINT as a GGUF file for llama.cpp and Ollama, with a Modelfile, to FOLDER.

    Llama, Mistral, Qwen2 and Qwen3 models; an adapter is merged first. What llama.cpp would read
    otherwise (an unknown tokenizer, a weight without a place) is refused. The file is a checkpoint
    of its own: kdharness eval scores it, and compare shows what it lost against its source.
    """
    export = resolve(TOOLS, "export_gguf", "tool")
    code = trust_remote_code
    _say(export(checkpoint, str(folder), paths, kind=kind, force=force, trust_remote_code=code))


@click.command("hf")
@source_argument
@folder_argument
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Type of the weights (default: as they are; fp32 for an adapter).",
)
@force_option
@code_option
@click.pass_obj
def export_hf_command(
    paths: Paths,
    checkpoint: str,
    folder: Path,
    dtype: str | None,
    force: bool,
    trust_remote_code: bool,
) -> None:
    """Write CHECKPOINT as a complete folder for vLLM and transformers, to FOLDER.

    An adapter is merged; the chat template and every token that ends an answer are in the folder,
    which servers with transformers 4 read too.
    """
    export = resolve(TOOLS, "export_folder", "tool")
    code = trust_remote_code
    _say(
        export(
            checkpoint, str(folder), paths, dtype=dtype or "", force=force, trust_remote_code=code
        )
    )


def _say(made: Exported) -> None:
    """Print the files, and say under which name they can be scored."""
    for name in made.files:
        click.echo(made.folder / name)
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"score it: kdharness eval --ckpt {made.checkpoint}", err=True)
