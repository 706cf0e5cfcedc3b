"""What `kdharness plan` needs of the data."""

from __future__ import annotations

from typing import Any

from kdharness.harness.config.training import AnyConfig, trains_on_data
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.trainers.data.batches import plan_batches
from kdharness.trainers.data.dataset import config_tokenizer, encode_sources
from kdharness.trainers.preflight import check_rows
from kdharness.trainers.teachers.planned import planned_facts


def planned_rows(config: AnyConfig, paths: Paths, world: int = 1) -> dict[str, Any]:
    """Return steps, tokens, labelled tokens, padding share and longest row of a training config.

    The data is read, tokenized and checked against the models' shapes; no weights are loaded.
    `cached` maps each kind of rows that has a cached teacher to its positions.

    Raises:
        ConfigError: a config without training data.
        DataError: a token or a length that a model does not support, or a damaged teacher cache.
    """
    if not trains_on_data(config):
        raise ConfigError(f"a {config.method} config has no training data")
    data = config.data
    tokenizer = config_tokenizer(config, data, paths)
    rows = encode_sources(data.train, tokenizer, data.max_length)
    check_rows(config, rows, tokenizer, paths)
    plan = plan_batches(rows.rows, data, config.trainer, config.seed, world)
    return planned_facts(config, rows, plan, tokenizer, paths)
