"""Repair of a model's generation config so that it can be saved.

transformers refuses to save contradictory settings such as Vicuna's and Llama 2's (a temperature
without sampling). Loading accepts them, so a training would fail at its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.errors import ModelError
from kdharness.harness.models.loading_errors import essence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
BEAMS = ("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty")
CACHE = ("cache_implementation", "cache_config")
KEPT = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Fields that are kept when a config cannot be repaired otherwise."""


def make_savable(model: PreTrainedModel) -> list[str]:
    """Remove settings from a model's generation config that prevent saving it.

    Removed settings have no effect: a temperature without sampling, a length penalty without
    beams. Only if the config is invalid for another reason, everything but the token ids is
    removed.

    Returns:
        Every removed setting, as `name=value`.
    """
    config = getattr(model, "generation_config", None)
    if config is None or _is_valid(config):
        return []
    unused: list[str] = []
    if config.do_sample is not True:
        unused += SAMPLING
    if config.num_beams in (None, 1):
        unused += BEAMS
    if config.use_cache is False:
        unused += CACHE
    if config.return_dict_in_generate is not True:
        unused += config.extra_output_flags
    if isinstance(config.pad_token_id, int) and config.pad_token_id < 0:
        unused.append("pad_token_id")
    dropped = []
    for name in unused:
        value = getattr(config, name, None)
        if value is not None:
            setattr(config, name, None)
            dropped.append(f"{name}={value}")
    if _is_valid(config):
        return dropped
    before = {name: value for name, value in config.to_diff_dict().items() if name not in KEPT}
    model.generation_config = type(config)(
        **{name: getattr(config, name, None) for name in KEPT if _is_id(getattr(config, name, 0))}
    )
    before.pop("transformers_version", None)
    return dropped + [f"{name}={value}" for name, value in before.items()]


def refuse_unreadable(folder: Path) -> None:
    """Refuse a generation config with which transformers would not load its model.

    Raises:
        ModelError: with the file and what is wrong with it.
    """
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.is_file():
        return
    try:
        GenerationConfig.from_pretrained(str(folder))
    except OSError:
        return  # not JSON: transformers ignores it
    except Exception as error:  # a value of a wrong type may raise anything
        raise ModelError(
            f"invalid generation config: {essence(str(error))}",
            where=str(path),
            hint="fix the file, or remove it: kdharness does not need it for generation",
        ) from error


def _is_valid(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except Exception:  # a value of a wrong type may raise anything
        return False
    return True


def _is_id(value: object) -> bool:
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(isinstance(token, int) and token >= 0 for token in ids)
