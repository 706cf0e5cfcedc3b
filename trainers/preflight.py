"""Checks of a config's models and data against each other, before any weights are loaded.

Models are built on torch's meta device: shapes without data. What is missing on this machine (a
model that is not pulled, a data file of another machine) is reported, not refused; what is present
and does not fit is refused.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.references import model_references
from kdharness.harness.config.shipped_data import shipped_file
from kdharness.harness.config.training import (
    AnyConfig,
    KDConfig,
    TrainConfig,
    check_best,
    runs_code_of,
    trains_on_data,
)
from kdharness.harness.errors import AssetError, KDHarnessError, ModelError
from kdharness.harness.models.limits import ModelLimits, limits_of, long_rows, refuse_beyond
from kdharness.harness.models.loading import check_adapter, load_config_of, meta_model
from kdharness.harness.models.lora import missed_by_adapter, with_adapter
from kdharness.harness.models.resolve import local_folder, resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.trainers.data.dataset import (
    Dataset,
    config_tokenizer,
    load_chats,
    tokenizer_source,
)
from kdharness.trainers.data.own_rows import known_rows
from kdharness.trainers.layers import cut_model, kept_layers, map_layers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def preflight(config: AnyConfig, paths: Paths) -> list[str]:
    """Check a config's models and data against each other without loading weights.

    Returns:
        Warnings, and what could not be checked here.

    Raises:
        ConfigError: a benchmark that cannot be scored during training, a `best` that is not
            measured, or layers that a model does not have.
        DataError: rows that cannot be read, or that a model does not support.
        ModelError: an adapter that does not load on its base.
    """
    notes: list[str] = []
    here: set[str] = set()
    if trains_on_data(config):
        check_best(config)
    for source in sorted({source for _, source in model_references(config)}):
        try:
            folder = resolve_model(source, paths)
            if Path(folder).is_dir():
                code = runs_code_of(config, source)
                check_adapter(Path(folder), source, paths, trust_remote_code=code)
            local_folder(source, paths, weights=False)
            here.add(source)
        except (ModelError, AssetError) as error:
            if "could not load the adapter" in error.message:
                raise
            notes.append(f"not checked: {error.message}")
    if trains_on_data(config):
        try:
            resolve(TOOLS, "load_points", "tool")(config.trainer.eval_benches, paths)
        except AssetError as error:
            notes.append(f"not checked: {error.message}")
        with suppress(ModelError, AssetError):  # noted above
            check_layers(config, paths)
        notes += _data(config, paths, here)
    return notes


def teachers_of(config: TrainConfig) -> dict[str, str]:
    """Return role -> model of every teacher that embeds the rows' tokens, cached ones included."""
    return {
        field.removesuffix(".model"): source
        for field, source in model_references(config)
        if not field.startswith("student.")
    }


def check_layers(config: TrainConfig, paths: Paths) -> None:
    """Check which layers a student keeps, and a list of layers for the attention loss.

    Raises:
        ConfigError: layers that there are not.
        ModelError, AssetError: a model that is not here, or cannot be cut to these layers.
    """
    depth = None
    if config.student.keep_layers is not None:
        source = tokenizer_source(config)
        kept_layers(config.student.keep_layers, _depth(config, source, paths))
        whole = meta_model(source, paths, trust_remote_code=runs_code_of(config, source))
        depth = len(cut_model(whole, config.student.keep_layers)[1])
    if isinstance(config, KDConfig) and isinstance(config.trainer.layer_map, list):
        if depth is None and config.student.model:
            depth = _depth(config, config.student.model, paths)
        if depth is not None and config.trainer.has_attention_loss:
            teacher_depth = _depth(config, config.teacher.model, paths)
            map_layers(config.trainer.layer_map, depth, teacher_depth)


def _depth(config: TrainConfig, source: str, paths: Paths) -> int:
    shape = load_config_of(source, paths, trust_remote_code=runs_code_of(config, source))
    return int(shape.get_text_config().num_hidden_layers)


def missed_modules(config: TrainConfig, paths: Paths) -> str:
    """Return a warning about weights that the student's adapter leaves out; empty without one.

    Raises:
        ConfigError: `target_modules` that the model does not have.
        ModelError: a model that is not here.
    """
    source = config.student.model
    if not config.student.lora or not source:
        return ""
    model = meta_model(source, paths, trust_remote_code=runs_code_of(config, source))
    return missed_by_adapter(with_adapter(model, config.student.lora, source))


def _data(config: TrainConfig, paths: Paths, here: set[str]) -> list[str]:
    """Check the rows against those of the student and teachers that are available here."""
    source = tokenizer_source(config)
    if source not in here:
        return []
    missed = missed_modules(config, paths)
    notes = []
    for path in [data.path for data in [*config.data.train, *config.data.heldout]]:
        if path.startswith("hub:"):
            notes.append(f"not checked: {path} is read when the run starts")
        elif shipped_file(path) is None and not exists(local_path(path), folder=False):
            notes.append(f"not checked: missing data file {path}")
    about_adapter = [missed] if missed else []
    if notes:
        return about_adapter + notes
    tokenizer = config_tokenizer(config, config.data, paths)
    if config.data.self_written:
        config, _ = known_rows(config, config.student.model, tokenizer, paths)
    rows, heldout = load_chats(config.data, tokenizer)
    warnings = [text for report in rows.reports for text in report.warnings]
    return [
        *about_adapter,
        *dict.fromkeys(warnings),
        *check_rows(config, rows, heldout, tokenizer, paths, here),
    ]


def check_rows(
    config: TrainConfig,
    rows: Dataset,
    heldout: Dataset,
    tokenizer: Any,
    paths: Paths,
    here: set[str] | None = None,
) -> list[str]:
    """Check encoded rows against the student's and the teachers' shapes.

    Args:
        config: a training config.
        rows: those that it trains on.
        heldout: those that only the student sees.
        tokenizer: the student's.
        paths: the home.
        here: the models that are available; all of them by default.

    Returns:
        Warnings about row lengths.

    Raises:
        DataError: a token or a length that one of them does not support.
    """
    notes = []
    wanted = {"the student": tokenizer_source(config)}
    wanted |= {f"the {role}": source for role, source in teachers_of(config).items()}
    seen: dict[str, ModelLimits] = {}
    for role, source in wanted.items():
        if here is not None and source not in here:
            continue
        if source not in seen:
            try:
                code = runs_code_of(config, source)
                seen[source] = limits_of(meta_model(source, paths, trust_remote_code=code))
            except KDHarnessError as error:
                notes.append(f"not checked: {error.message}")
                continue
        name = f"{role} ({source})"
        held = (rows, heldout) if role == "the student" else (rows,)
        notes += [hold(part, seen[source], tokenizer, name, config.data) for part in held]
    return [note for note in dict.fromkeys(notes) if note]


def hold(
    rows: Dataset,
    limits: ModelLimits,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    data: DataSpec,
) -> str:
    """Check rows against one model; return a warning if some exceed its context length.

    Raises:
        DataError: a token or a length that it does not support.
    """
    pairs = ((row.where, row.input_ids) for row in rows.rows)
    longest = refuse_beyond(pairs, limits, tokenizer, name, max_length=data.max_length)
    return long_rows(longest, limits, name)
