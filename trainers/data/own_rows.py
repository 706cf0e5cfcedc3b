"""General rows that the reference writes itself, where the original data is not available.

Bansal & Sanghavi, *Context-Free Synthetic Data Mitigates Forgetting*, arXiv 2505.13811: what a
model says without a context is drawn from its own distribution, which is the one to keep. Here a
row is a chat: an empty or generic user turn, and the answer sampled from the reference
(docs/method.md#dae-without-general-rows).

Rows are written once, before training, into a folder whose name is the hash of what they depend on;
other runs with the same settings, and a resumed one, read them.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.chat.rendering import render
from kdharness.harness.config.data import SelfWritten, SourceSpec
from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.training import DAEConfig, SFTConfig, TrainConfig, untrained
from kdharness.harness.errors import ConfigError, DataError, KDHarnessError, RunError
from kdharness.harness.models.loading import load_model, pick_device, teacher_options
from kdharness.harness.models.resolve import identity_of, resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Engine, Job
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Finish, GenerationRequest, Reply, digest
from kdharness.harness.util.atomic import atomic_replace_dir
from kdharness.harness.util.untrusted import read_json_object
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.waiting import from_first, waiting_group

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHERE = "data.self_written"
ROWS, NOTE = "rows.jsonl", "note.json"
_STRIDE = 1_000_003
"""Between the seeds of two sets of rows, so that they have no draw in common."""


def writer_of(config: TrainConfig, start: str | None) -> TeacherSpec | None:
    """Return the model that writes a config's general rows; None while it does not exist yet.

    Args:
        config: a training config with `data.self_written`.
        start: what the student starts from; None if that is made when the run starts.

    Raises:
        ConfigError: a method without a reference.
    """
    if not isinstance(config, SFTConfig | DAEConfig):
        raise ConfigError(
            f"self_written is for sft and dae, not for {config.method}: nothing would write the "
            "rows",
            where=WHERE,
            hint="remove it",
        )
    if isinstance(config, DAEConfig) and config.reference is not None:
        return config.reference
    return untrained(config, start) if start else None


def with_own_rows(
    config: TrainConfig,
    job: Job,
    start: Checkpoint,
    tokenizer: PreTrainedTokenizerBase,
    device: str,
) -> TrainConfig:
    """Return a config whose data has the rows that its reference wrote; write them if needed.

    The first process writes, the others wait. What the run draws later does not depend on it.

    Args:
        config: a training config.
        job: the run.
        start: the checkpoint that the student starts from.
        tokenizer: the student's, with the chat template of its rows.
        device: the student's.

    Raises:
        Interrupted: stopped while rows were written; none of them are kept.
        DataError: the reference wrote nothing, or stored rows were changed.
    """
    own, writer = config.data.self_written, None
    if own is None or (writer := writer_of(config, start.path)) is None:
        return config
    group = waiting_group() if job.world > 1 else None
    found: Path | KDHarnessError | None = None
    if job.is_main:
        place = torch.device(device)
        try:
            with torch.random.fork_rng([place] if place.type == "cuda" else []):
                name = start.name if writer.model == start.path else writer.model
                found = _ensure(own, writer, name, job, tokenizer, device)
        except KDHarnessError as error:
            found = error  # the other processes must hear of it too
    folder = from_first(found, group)
    if isinstance(folder, KDHarnessError):
        raise folder
    return with_rows(config, folder)


def _ensure(
    own: SelfWritten,
    writer: TeacherSpec,
    name: str,
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    device: str,
) -> Path:
    """Return the folder of the rows, after writing them unless they are there."""
    note = _note(own, writer, tokenizer, job.paths, device)
    folder = job.paths.rows / digest(note)
    before = stored(folder, note)
    if not before:
        _write(own, writer, {**note, "reference": name}, folder, job, tokenizer, device)
    job.reporter.say(f"general rows: {_told(folder)}{', as stored' if before else ''}")
    return folder


def known_rows(
    config: TrainConfig, start: str | None, tokenizer: PreTrainedTokenizerBase, paths: Paths
) -> tuple[TrainConfig, bool]:
    """Return a config with the rows of its reference, and whether they are already written.

    Nothing is written. Without them the config is the same without `self_written`.

    Args:
        config: a training config with `data.self_written`.
        start: as in `writer_of`.
        tokenizer: the student's, with the chat template of its rows.
        paths: the home.
    """
    own = config.data.self_written
    assert own is not None
    writer = writer_of(config, start)
    if writer is not None:
        try:
            note = _note(own, writer, tokenizer, paths, pick_device(config.trainer.device))
        except KDHarnessError:
            note = {}  # the model is not here
        folder = paths.rows / digest(note)
        if note and stored(folder, note):
            return with_rows(config, folder), True
    data = config.data.model_copy(update={"self_written": None})
    return config.model_copy(update={"data": data}), False


def with_rows(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return a config with written rows as its general source."""
    source = SourceSpec(path=str(folder / ROWS), kind="general", format="messages")
    update = {"train": [*config.data.train, source], "self_written": None}
    return config.model_copy(update={"data": config.data.model_copy(update=update)})


def longest_rows(
    own: SelfWritten, tokenizer: PreTrainedTokenizerBase, max_length: int, source: int
) -> list[TrainRow]:
    """Return rows as long as they can get, for a plan of rows that are not written yet."""
    prompt = prompt_tokens(own, tokenizer)
    length = min(prompt + own.max_new_tokens, max_length)
    labels = [-100] * min(prompt, length - 1) + [0] * max(length - prompt, 1)
    row = TrainRow([0] * len(labels), labels, "general", source, "not written yet")
    return [row] * own.rows


def prompt_tokens(own: SelfWritten, tokenizer: Any) -> int:
    """Return the number of tokens of a row's prompt."""
    chat = [{"role": "user", "content": own.prompt}]
    text = render(tokenizer, chat, prompt=True)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


# ---------------------------------------------------------------- what is stored


def _note(
    own: SelfWritten, writer: TeacherSpec, tokenizer: Any, paths: Paths, device: str
) -> dict[str, object]:
    """Return what rows depend on."""
    options = teacher_options(writer, _place(writer, device))
    with Store(paths.store) as store:
        identity = identity_of(resolve_model(writer.model, paths), paths, store)
    return {
        "weights": identity.weights,
        "template": digest(tokenizer.chat_template),
        **own.model_dump(),
        "dtype": options["dtype"],
        "quantization": options["quantization"],
    }


def _place(writer: TeacherSpec, student: str) -> str:
    """Return the device that rows are written on."""
    return pick_device(student if writer.device == "auto" else writer.device)


def stored(folder: Path, note: Mapping[str, object]) -> bool:
    """Return whether a folder has rows with this note.

    Raises:
        DataError: they are others than those that were written.
    """
    if not (folder / NOTE).exists():
        return False
    known = read_json_object(folder / NOTE, "the note of self-written rows", DataError)
    differs = [name for name, value in note.items() if known.get(name) != value]
    rows = folder / ROWS
    if not rows.is_file() or known.get("digest") != digest(rows.read_text("utf-8")):
        differs.append("the rows themselves")
    if differs:
        raise DataError(
            f"these self-written rows are not what was written: {', '.join(differs)} changed",
            where=str(folder),
            hint="delete the folder, and they are written again",
        )
    return True


def _told(folder: Path) -> str:
    note = read_json_object(folder / NOTE, "the note of self-written rows", DataError)
    return (
        f"{note['kept']} of {note['rows']} written by {note['reference']} "
        f"({note['cut']} cut at {note['max_new_tokens']} tokens, {note['empty']} empty)"
    )


# ---------------------------------------------------------------- writing


def _write(
    own: SelfWritten,
    writer: TeacherSpec,
    note: Mapping[str, object],
    folder: Path,
    job: Job,
    tokenizer: PreTrainedTokenizerBase,
    device: str,
) -> None:
    """Write the rows into their folder, with a note that says what they are."""
    place = _place(writer, device)
    model = load_model(writer.model, job.paths, device=place, **teacher_options(writer, place))
    try:
        engine = resolve(TOOLS, "engine_over", "tool")(model.eval(), tokenizer, job.paths)
        replies = _replies(own, engine, job)
    finally:
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    kept = [reply for reply in replies if reply.text.strip()]
    if not kept:
        raise DataError(
            f"{note['reference']} answered none of {own.rows} prompts with any text",
            where=WHERE,
            hint="set another prompt, or a higher temperature",
        )
    text = "".join(f"{json.dumps(_row(own.prompt, reply), ensure_ascii=False)}\n" for reply in kept)
    told = {
        **note,
        "kept": len(kept),
        "cut": sum(reply.finish is Finish.LENGTH for reply in kept),
        "empty": len(replies) - len(kept),
        "tokens": sum(reply.tokens for reply in kept),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kdharness": version("kdharness"),
        "digest": digest(text),
    }
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        (scratch / ROWS).write_text(text, "utf-8")
        (scratch / NOTE).write_text(json.dumps(told, indent=1, ensure_ascii=False), "utf-8")
        if not (folder / NOTE).exists():  # another run may have written them meanwhile
            atomic_replace_dir(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replies(own: SelfWritten, engine: Engine, job: Job) -> list[Reply]:
    """Return the answers in the order of their seeds."""
    requests = [
        GenerationRequest(
            ({"role": "user", "content": own.prompt},),
            temperature=own.temperature,
            max_new_tokens=own.max_new_tokens,
            seed=own.seed * _STRIDE + number,
        )
        for number in range(own.rows)
    ]
    job.reporter.stage("writing general rows", own.rows)
    found: dict[int, Reply] = {}
    for number, reply in engine.stream(requests):
        if reply.error or reply.finish is Finish.ERROR:
            raise RunError(
                f"the reference could not write general row {number + 1}: {reply.error}",
                where=WHERE,
                hint="lower max_new_tokens, or shorten the prompt",
            )
        found[number] = reply
        job.reporter.advance(len(found))
        job.reporter.check()
    return [found[number] for number in range(own.rows)]


def _row(prompt: str, reply: Reply) -> dict[str, object]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply.text}]
    return {"messages": turns, "truncated": reply.finish is Finish.LENGTH}
