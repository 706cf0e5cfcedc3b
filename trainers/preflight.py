"""What a config's models and data can be held against each other for, before any weights load.

Models are built on torch's meta device: shapes without numbers. What is not on this machine (a
model that is not pulled, a data file of another machine) is said and not refused; what is here
and does not fit is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.references import model_references
from kdharness.harness.config.shipped_data import shipped_file
from kdharness.harness.config.training import AnyConfig, DAEConfig, KDConfig, SFTConfig
from kdharness.harness.errors import AssetError, ConfigError, KDHarnessError, ModelError
from kdharness.harness.models.limits import ModelLimits, limits_of, long_rows, refuse_beyond
from kdharness.harness.models.loading import check_adapter, load_tokenizer, meta_model
from kdharness.harness.models.resolve import local_folder, resolve_model
from kdharness.harness.paths import Paths
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.trainers.data.batches import plan_batches
from kdharness.trainers.data.dataset import (
    Dataset,
    encode_sources,
    set_chat_template,
    teacher_tokenizer,
    tokenizer_source,
)
from kdharness.trainers.students.adapter import with_adapter


def preflight(config: AnyConfig, paths: Paths) -> list[str]:
    """Hold a config's models and data against each other without loading weights.

    Returns:
        What is worth knowing, and what could not be checked here.

    Raises:
        DataError: rows that cannot be read, or that a model cannot take.
        ModelError: an adapter that does not load on its base.
    """
    notes: list[str] = []
    here: set[str] = set()
    for source in sorted({source for _, source in model_references(config)}):
        try:
            found = resolve_model(source, paths)
            if Path(found).is_dir():
                check_adapter(Path(found), source, paths)
            local_folder(source, paths, weights=False)
            here.add(source)
        except (ModelError, AssetError) as error:
            if "could not load the adapter" in error.message:
                raise
            notes.append(f"not checked: {error.message}")
    if isinstance(config, (SFTConfig, KDConfig, DAEConfig)):
        notes += _data(config, paths, here)
    return notes


def teachers_of(config: SFTConfig | KDConfig | DAEConfig) -> dict[str, str]:
    """Role -> model of every teacher that embeds the rows' tokens here, cached ones included."""
    return {
        field.removesuffix(".model"): source
        for field, source in model_references(config)
        if not field.startswith("student.")
    }


def _data(config: SFTConfig | KDConfig | DAEConfig, paths: Paths, here: set[str]) -> list[str]:
    """Hold the rows against student and teachers, as far as they are here."""
    source = tokenizer_source(config)
    if source not in here:
        return []
    if config.student.lora and config.student.model:
        with_adapter(meta_model(source, paths), config.student.lora, source)
    notes = []
    for one in [*config.data.train, *config.data.heldout]:
        if one.path.startswith("hub:"):
            notes.append(f"not checked: {one.path} is read when the run begins")
        elif shipped_file(one.path) is None and not exists(local_path(one.path), folder=False):
            notes.append(f"not checked: no data file {one.path}")
    if notes:
        return notes
    tokenizer = load_tokenizer(source, paths)
    set_chat_template(tokenizer, config.data, teacher_tokenizer(config, paths, tokenizer))
    rows = encode_sources(config.data.train, tokenizer, config.data.max_length)
    warnings = [text for report in rows.reports for text in report.warnings]
    return [*dict.fromkeys(warnings), *hold_rows(config, rows, tokenizer, paths, here)]


def hold_rows(
    config: SFTConfig | KDConfig | DAEConfig,
    rows: Dataset,
    tokenizer: Any,
    paths: Paths,
    here: set[str] | None = None,
) -> list[str]:
    """Hold encoded rows against the student's and the teachers' shapes.

    Args:
        here: the models that can be looked at; all of them by default.

    Returns:
        What is worth knowing about the lengths of the rows.

    Raises:
        DataError: a token or a length that one of them cannot take.
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
                seen[source] = limits_of(meta_model(source, paths))
            except KDHarnessError as error:
                notes.append(f"not checked: {error.message}")
                continue
        notes.append(hold(rows, seen[source], tokenizer, f"{role} ({source})", config.data))
    return [note for note in notes if note]


def hold(rows: Dataset, limits: ModelLimits, tokenizer: Any, name: str, data: DataSpec) -> str:
    """Hold rows against one model; returns a word about rows longer than it was made for.

    Raises:
        DataError: a token or a length that it cannot take.
    """
    pairs = ((row.where, row.input_ids) for row in rows.rows)
    longest = refuse_beyond(pairs, limits, tokenizer, name, max_length=data.max_length)
    return long_rows(longest, limits, name)


def planned_rows(config: AnyConfig, paths: Paths, world: int = 1) -> dict[str, Any]:
    """Steps, tokens, labelled tokens, padding share and the widest row of a config's training.

    Reads and tokenises the data, and holds it against the models' shapes; loads no weights.

    Raises:
        ConfigError: a config without training data.
        DataError: a token or a length that a model cannot take.
    """
    if not isinstance(config, (SFTConfig, KDConfig, DAEConfig)):
        raise ConfigError(f"a {config.method} config has no training data")
    data = config.data
    tokenizer = load_tokenizer(tokenizer_source(config), paths)
    set_chat_template(tokenizer, data, teacher_tokenizer(config, paths, tokenizer))
    rows = encode_sources(data.train, tokenizer, data.max_length)
    hold_rows(config, rows, tokenizer, paths)
    plan = plan_batches(rows.rows, data, config.trainer, config.seed, world)
    return {
        "steps": plan.steps,
        "tokens": plan.tokens,
        "labelled": plan.labelled,
        "padding_share": plan.padding_share,
        "width": max(len(row) for row in rows.rows),
    }
