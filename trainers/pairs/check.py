"""All checks of a training's config: student, teachers and rows against each other."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from kdharness.harness.chat.end_tokens import end_of_turn
from kdharness.harness.config.training import AnyConfig, TrainConfig, check_best, trains_on_data
from kdharness.harness.errors import AssetError, ConfigError, ModelError
from kdharness.harness.paths import Paths
from kdharness.trainers.attention_hook import check_packing
from kdharness.trainers.data.dataset import (
    Dataset,
    config_tokenizer,
    load_chats,
    tokenizer_source,
)
from kdharness.trainers.data.own_rows import known_rows
from kdharness.trainers.data.reports import Template
from kdharness.trainers.pairs import rows as pair_rows
from kdharness.trainers.pairs import shapes as pair_shapes
from kdharness.trainers.pairs import tokens as pair_tokens
from kdharness.trainers.pairs.first_step import check_weights
from kdharness.trainers.pairs.models import ModelFacts
from kdharness.trainers.pairs.result import Checks, PairCheck, note, ok
from kdharness.trainers.pairs.roles import teacher_roles
from kdharness.trainers.preflight import check_layers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_pair(config: AnyConfig, paths: Paths, *, weights: bool = True) -> list[dict[str, object]]:
    """Check a config's student, teachers and rows against each other.

    Args:
        config: a training config.
        paths: the home; nothing is written to it but converted and downloaded models.
        weights: whether to run student and teachers on a few rows.

    Returns:
        The checks as rows: see docs/outputs.md.

    Raises:
        ConfigError: a config without training data.
    """
    if not trains_on_data(config):
        raise ConfigError(f"a {config.method} config has no training data: nothing to check")
    checks = Checks()
    with checks.stopping("best", "student"):
        check_best(config)
    with checks.stopping("layers", "student"), suppress(ModelError, AssetError):  # noted below
        check_layers(config, paths)
    tokenizer: PreTrainedTokenizerBase | None = None
    data: Dataset | None = None
    heldout = Dataset([])
    with checks.stopping("rows", "student"):
        try:
            tokenizer = config_tokenizer(config, config.data, paths)
        except (ModelError, AssetError) as error:
            checks.append(_absent("student", error))
            return [check.row() for check in checks]
        if config.data.self_written:
            config, written = known_rows(config, config.student.model, tokenizer, paths)
            if not written:
                checks.append(ok("rows", "reference", "writes its rows when the run starts"))
        data, heldout = load_chats(config.data, tokenizer)
    if tokenizer is not None and data is not None:
        models = check_static(config, tokenizer, data, tokenizer_source(config), paths, checks)
        if heldout.rows and (student := models.get("student")):
            with checks.stopping("held-out rows", "student"):
                pair_shapes.positions(student, heldout, tokenizer, config.data)
        check_weights(config, tokenizer, data, models, paths, checks, weights=weights)
    return [check.row() for check in checks]


def _absent(role: str, error: ModelError | AssetError) -> PairCheck:
    advice = error.hint or "check again where the model is"
    return note("model", role, f"not checked: {error.message}", advice)


def check_static(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    start: str,
    paths: Paths,
    checks: Checks,
) -> dict[str, ModelFacts]:
    """Add every check that needs no weights; return the models that could be read by role.

    Args:
        config: a training config.
        tokenizer: the student's, with the template of the rows.
        data: the encoded training rows.
        start: the model or folder that the student starts from.
        paths: the home.
        checks: where results are added.
    """
    template = Template.of(tokenizer)
    for report in data.reports:
        checks.append(pair_rows.labelled(report))
        checks.append(pair_rows.cut(report, config.data.max_length))
        checks.extend(pair_rows.answer_ends(template, report))
    checks.extend(pair_rows.repeated(data))
    models: dict[str, ModelFacts] = {}
    roles = teacher_roles(config)
    cached = {role.role for role in roles if role.cache}  # may not have to run
    trusted = {role.role: role.trusted for role in roles}
    trusted["student"] = config.student.trust_remote_code
    for role, source in {"student": start, **{r.role: r.model for r in roles}}.items():
        try:
            models[role] = ModelFacts.read(role, source, paths, code=trusted[role])
        except (ModelError, AssetError) as error:
            checks.append(_absent(role, error))
    for model in models.values():
        if config.trainer.packing and model.role not in cached:
            with checks.stopping("packing", model.role):
                check_packing(model.config, model.source)
        checks.append(pair_tokens.end_tokens(model))
        _fit(config, model, tokenizer, data, checks)
    student = models.get("student")
    if student is None:
        return models
    with checks.stopping("output head", "student"):
        code = config.student.trust_remote_code
        checks.append(pair_shapes.heads(student, config.student.lora, paths, code=code))
    teachers = [model for role, model in models.items() if role != "student"]
    checks.extend(pair_tokens.tuning(student, teachers))
    for teacher in teachers:
        with checks.stopping("tokenizer", teacher.role):
            checks.append(pair_tokens.same_tokenizer(student, teacher))
            checks.append(pair_tokens.end_of_answers(end_of_turn(tokenizer), student, teacher))
            checks.append(pair_tokens.templates(tokenizer, teacher))
    return models


def _fit(
    config: TrainConfig,
    model: ModelFacts,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    checks: Checks,
) -> None:
    """Add the checks of a model's vocabulary and positions against the rows."""
    with checks.stopping("vocabulary", model.role):
        if not pair_shapes.ids_fit(model, data):
            pair_shapes.positions(model, data, tokenizer, config.data)  # raises, and names the row
        checks.append(pair_tokens.vocabulary(model))
        with checks.stopping("positions", model.role):
            checks.append(pair_shapes.positions(model, data, tokenizer, config.data))
