"""Exporting a checkpoint to the programs that serve models."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kdharness.harness.chat.end_tokens import all_ends, end_of_turn
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.checkpoints import add_made, model_checkpoint
from kdharness.harness.models.generation_config import make_savable
from kdharness.harness.models.gguf_models import SOURCE
from kdharness.harness.models.loading import load_model, load_tokenizer, stored_dtype
from kdharness.harness.models.older_readers import (
    older_config,
    older_notes,
    older_tokenizer,
)
from kdharness.harness.models.resolve import resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.types import Checkpoint, Method
from kdharness.harness.util.atomic import new_folder
from kdharness.harness.util.filesystem import free_bytes, nearest_existing
from kdharness.harness.util.untrusted import read_json_object
from kdharness.trainers.exports.gguf_file import check_tokens, listed_ends, write_gguf
from kdharness.trainers.exports.gguf_model import TYPES, context_length, tensors
from kdharness.trainers.exports.gguf_tokens import vocabulary
from kdharness.trainers.exports.modelfile import (
    NoTemplateError,
    default_template,
    modelfile,
    pattern,
)
from kdharness.trainers.students.folder import folder_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOTE = "kdharness.json"
SPARE_BYTES = 64 * 2**20
"""Room on the disk beside the weights: vocabulary, templates, the file system's own needs."""


@dataclass(frozen=True)
class Export:
    """What was written, and what the user should know about it."""

    folder: Path
    checkpoint: str
    files: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Source:
    """A checkpoint to export, loaded."""

    checkpoint: Checkpoint
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def export_gguf(
    source: str,
    output: str,
    paths: Paths,
    *,
    kind: str = "q8_0",
    force: bool = False,
    trust_remote_code: bool = False,
) -> Export:
    """Write a checkpoint as a GGUF file with an Ollama Modelfile, and store it as a checkpoint.

    Args:
        source: a run, checkpoint, folder, asset or hub id; an adapter is merged.
        output: the new folder.
        paths: the home.
        kind: f32, f16, bf16 or q8_0.
        force: replace an earlier export.
        trust_remote_code: whether code from the model's repository may run.

    Raises:
        ConfigError: the folder exists, or is too large for the disk.
        ModelError: a model or a tokenizer that llama.cpp would read otherwise.
    """
    target = _free_target(output, force=force)
    found = _load(source, paths, "", trust_remote_code=trust_remote_code)
    name = f"{found.checkpoint.name}-{kind}"
    file = f"{folder_name(found.checkpoint)}-{kind}.gguf"
    words = vocabulary(found.tokenizer, int(found.model.config.vocab_size))
    listed = tensors(found.model, kind)
    ends = listed_ends(_ends(found.model, found.tokenizer), found.tokenizer)
    _check_room(target, sum(tensor.bytes for tensor in listed))
    notes = list(words.notes)
    broken = [t.name for t in listed if len(t.shape) > 1 and t.kind is not TYPES[kind][0]]
    if broken:
        notes.append(f"{len(broken)} weights are in f16: their rows are not multiples of 32")
    texts = {"general.name": name, SOURCE: found.checkpoint.id}

    with new_folder(target, "exporting") as folder:
        path = folder / file
        write_gguf(path, found.model, found.tokenizer, ends, words, listed, kind, texts)
        if not check_tokens(path, found.tokenizer):
            notes.append("not compared with llama.cpp's tokens: pip install 'kdharness[llama]'")
        try:
            (folder / "Modelfile").write_text(_modelfile(found, file, ends, words.begins), "utf-8")
        except NoTemplateError as error:
            notes.append(
                f"no Modelfile: the chat template has no equal in Ollama ({error}); llama.cpp "
                "reads it from the file"
            )
        notes.extend(_template_notes(found.tokenizer, folder))
        _note(folder, found.checkpoint, kind)
    made = _stored(paths, target / file, name, found.checkpoint, kind)
    return Export(target, made.name, sorted(path.name for path in target.iterdir()), notes)


def export_folder(
    source: str,
    output: str,
    paths: Paths,
    *,
    dtype: str = "",
    force: bool = False,
    trust_remote_code: bool = False,
) -> Export:
    """Write a checkpoint as a complete folder for vLLM and transformers, an adapter merged.

    Args:
        source: a run, checkpoint, folder, asset or hub id.
        output: the new folder.
        paths: the home.
        dtype: float32, bfloat16 or float16; by default that of the weights.
        force: replace an earlier export.
        trust_remote_code: whether code from the model's repository may run.

    Raises:
        ConfigError: the folder exists, or is too large for the disk.
        ModelError: a model that cannot be loaded, or has no chat template.
    """
    target = _free_target(output, force=force)
    found = _load(source, paths, dtype, trust_remote_code=trust_remote_code)
    template = default_template(found.tokenizer)
    if not template:
        raise ModelError(
            f"{source} has no chat template, and servers take chats",
            hint="set one in training: data.chat_template",
        )
    model = found.model
    _check_room(target, sum(w.numel() * w.element_size() for w in model.parameters()))
    notes = _end_generation(model, found.tokenizer)
    dropped = make_savable(model)
    if dropped:
        notes.append(f"generation_config.json is without {', '.join(dropped)}")

    with new_folder(target, "exporting") as folder:
        model.save_pretrained(folder)
        found.tokenizer.save_pretrained(folder)
        notes.extend(_for_older_readers(folder, template))
        _note(folder, found.checkpoint, dtype or str(model.dtype).removeprefix("torch."))
    made = _stored(paths, target, target.name, found.checkpoint, str(model.dtype)[6:])
    return Export(target, made.name, sorted(path.name for path in target.iterdir()), notes)


# ---------------------------------------------------------------- the source


def _load(source: str, paths: Paths, dtype: str, *, trust_remote_code: bool) -> _Source:
    """Load a checkpoint on the CPU in the type of its weights; an adapter is merged in fp32."""
    folder = Path(resolve_model(source, paths))
    checkpoint = model_checkpoint(paths, source)
    code = trust_remote_code
    dtype = dtype or stored_dtype(str(folder), paths, trust_remote_code=code)
    return _Source(
        checkpoint,
        load_model(str(folder), paths, device="cpu", dtype=dtype, trust_remote_code=code),
        load_tokenizer(str(folder), paths, trust_remote_code=code),
    )


def _template_notes(tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[str]:
    """Return what a Modelfile's template does not do."""
    path = folder / "Modelfile"
    if not path.exists():
        return []
    notes = []
    if "strftime_now" in default_template(tokenizer):
        notes.append("the Modelfile has today's date where the chat template writes a day's own")
    if ".System" not in path.read_text("utf-8"):
        notes.append("the chat template takes no system prompt: Ollama will leave one out")
    return notes


def _modelfile(found: _Source, file: str, ends: list[int], begins: bool) -> str:
    tokenizer = found.tokenizer
    if not default_template(tokenizer):
        raise NoTemplateError("there is none")
    stops = [str(token) for token in tokenizer.convert_ids_to_tokens(ends)]
    closing = end_of_turn(tokenizer)
    end_token = str(tokenizer.convert_ids_to_tokens(closing)) if closing is not None else ""
    return modelfile(
        file,
        pattern(tokenizer, end_token),
        stops,
        getattr(found.model, "generation_config", None),
        bos=str(tokenizer.bos_token or "") if begins else "",
        context=context_length(found.model.config),
    )


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer. Raises ModelError if there are none."""
    ends = all_ends(model, tokenizer)
    if not ends:
        raise ModelError(
            "neither tokenizer nor generation config has an end token: answers would not end",
            hint="set the tokenizer's eos_token",
        )
    return ends


def _end_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Let the generation config name every token that ends an answer; return notes."""
    generation = model.generation_config
    ends = _ends(model, tokenizer)
    before = generation.eos_token_id
    named = before if isinstance(before, list) else [] if before is None else [before]
    added = [token for token in ends if token not in named]
    if not added:
        return []
    generation.eos_token_id = [*named, *added]
    shown = ", ".join(map(str, tokenizer.convert_ids_to_tokens(added)))
    return [f"generation_config.json now ends answers at {shown} too"]


def _for_older_readers(folder: Path, template: str) -> list[str]:
    """Add what servers with transformers 4 read, the chat template in its former place included.

    Returns:
        What they will not read.
    """
    config = older_config(read_json_object(folder / "config.json", "config.json", ModelError))
    name = "tokenizer_config.json"
    tokens = older_tokenizer(read_json_object(folder / name, name, ModelError))
    _write_json(folder / "config.json", config)
    _write_json(folder / name, {**tokens, "chat_template": template})
    return older_notes(config)


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")


# ---------------------------------------------------------------- the target


def _free_target(output: str, *, force: bool) -> Path:
    """Return the folder to write; an existing one must be an earlier export, and `force` given."""
    target = Path(output).expanduser().resolve()
    above = nearest_existing(target)
    if not above.is_dir():
        raise ConfigError("this is a file, not a folder", where=str(above))
    if not target.exists():
        return target
    if not force:
        raise ConfigError(
            "this folder already exists",
            where=str(target),
            hint="choose another name, or replace an earlier export: --force",
        )
    note = target / NOTE
    earlier = note.is_file() and "exported_from" in read_json_object(note, NOTE, ConfigError)
    if not earlier:
        raise ConfigError(
            "this folder is not an earlier export, and is not replaced",
            where=str(target),
            hint="choose another name, or remove it yourself",
        )
    return target


def _check_room(target: Path, size: int) -> None:
    free = free_bytes(target)
    if free < size + SPARE_BYTES:
        raise ConfigError(
            f"the export needs {size / 2**30:.2f} GiB, and the disk has {free / 2**30:.2f} GiB "
            "left",
            where=str(target),
            hint="choose a folder on another disk, or a smaller type",
        )


def _note(folder: Path, checkpoint: Checkpoint, kind: str) -> None:
    """Record what a folder was made from."""
    _write_json(folder / NOTE, {"exported_from": checkpoint.name, "exported": kind})


def _stored(paths: Paths, path: Path, name: str, source: Checkpoint, kind: str) -> Checkpoint:
    """Store an export as a checkpoint whose source is its parent."""
    return add_made(
        paths,
        path,
        name=name,
        method=Method.EXPORT.value,
        parents={"source": source.id},
        info={"exported": kind},
    )
