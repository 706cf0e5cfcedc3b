"""Row fields that control training: which turns are trained on, row weights, truncation.

Many programs have a name of their own for the same thing. The documented ones (`LEARN`) are
honoured; any other field that seems to exclude something is refused, never ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from kdharness.harness.errors import DataError

LEARN = ("train", "trainable", "train_on_turn", "training", "loss", "loss_mask", "weight")
"""Fields of a turn that say whether it is trained on: 1 yes, 0 no."""
CUT = ("finish_reason", "stop_reason")
"""Fields with the reason a generation ended, as servers name them."""
_LIMITS = ("length", "max_tokens", "max_output_tokens", "model_length")
_TRUE, _FALSE = {"true", "yes", "on", "1", "1.0"}, {"false", "no", "off", "0", "0.0"}
# Words in field names about training: `true` means trained on for the first pattern, excluded for
# the second.
_LEARNT = re.compile(
    r"(?:^|_)(?:train|trained|training|trainable|loss|learn|learnt|learned|supervise|supervised"
    r"|weight)(?:_|$)"
)
_LEFT_OUT = re.compile(r"(?:^|_)(?:mask|masked|masking|ignore|ignored|skip|skipped)(?:_|$)")
_TOKENS = (
    "labels",
    "completion_mask",
    "assistant_masks",
    "assistant_mask",
    "loss_masks",
    "weights",
)


def truth(value: object, name: str) -> bool:
    """Read a boolean field: booleans, 0 and 1, and the usual words.

    Raises:
        DataError: anything else.
    """
    flag = _as_flag(value)
    if flag is not None:
        return flag
    hint = "use 1 (trained on) or 0 (not)" if name == "weight" else "use true or false"
    raise DataError(f"{name} is {shown(value)}, which is neither 0 nor 1", hint=hint)


def _as_flag(value: object) -> bool | None:
    word = str(value).strip().lower() if isinstance(value, (bool, int, float, str)) else ""
    return word in _TRUE if word in _TRUE or word in _FALSE else None


def shown(value: object) -> str:
    """Format a value for an error message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"


def learnt_turn(turn: Mapping[str, object], role: str) -> bool | None:
    """Read whether a turn is trained on; None if it does not say.

    Raises:
        DataError: fields that contradict each other, a training flag on a turn that is not the
            assistant's, or an unknown field that seems to exclude the turn.
    """
    flags = {name: truth(turn[name], name) for name in LEARN if name in turn}
    if "masked" in turn:
        flags["masked"] = not truth(turn["masked"], "masked")
    if len(set(flags.values())) > 1:
        raise DataError(f"{' and '.join(flags)} contradict each other")
    if role != "assistant":
        wanted = [name for name, value in flags.items() if value]
        if wanted:
            raise DataError(
                f"{wanted[0]} is set on a {role} turn: only assistant turns are trained on",
                hint="remove the field, or set it to false",
            )
        return None
    learnt = next(iter(flags.values()), None)
    for name in turn:
        if learnt is not False and name not in flags and _leaves_out(str(name), turn[name]):
            raise DataError(
                f"{name}: {shown(turn[name])} seems to exclude this turn from training, but is "
                "not a known field",
                hint="use train: false",
            )
    return learnt


def _leaves_out(name: str, value: object) -> bool:
    """Return whether an unknown field seems to exclude something from training."""
    flag = _as_flag(value)
    learnt, left_out = _LEARNT.search(name.lower()), _LEFT_OUT.search(name.lower())
    if flag is None or not (learnt or left_out):
        return name == "label" and value is False
    return True if learnt and left_out else flag == bool(left_out)


def row_flags(row: Mapping[str, object], form: str) -> set[str]:
    """Refuse training flags on a whole row.

    Returns:
        The names that were read.

    Raises:
        DataError: a row that is excluded or weighted, per-token labels, and preference labels.
    """
    seen: set[str] = set()
    for name in (*LEARN, "masked"):
        value = row.get(name)
        if isinstance(value, list):
            raise _tokens(name)
        try:
            learnt = value is None or truth(value, name) != (name == "masked")
        except DataError:
            learnt = name != "weight"  # a measured loss, or the name of a split: no flag
        else:
            seen |= {name} if value is not None else set()
        if not learnt:
            raise _whole_row(name, value)
    for name, value in row.items():
        if name in LEARN:
            continue
        if name in _TOKENS and isinstance(value, list) and _numbers(value):
            raise _tokens(name)
        share = name.endswith("_weight") and isinstance(value, (int, float)) and value != 1
        flag = isinstance(value, (bool, str)) and name not in ("label", "masked")
        if share or (flag and _leaves_out(name, value)):
            raise _whole_row(name, value)
    label = row.get("label")
    if form in {"prompt", "messages"} and isinstance(label, bool):
        raise DataError(
            "the field label marks an answer as wanted or unwanted: preference data is not "
            "supported",
            hint="keep the wanted rows, without the field label",
        )
    if row.get("mask") in ("User", "Assistant", "System"):
        raise DataError("the field mask excludes a role: use train: false on its turns")
    return seen


def _numbers(values: list[object]) -> bool:
    return bool(values) and all(isinstance(value, (bool, int, float)) for value in values)


def _tokens(name: str) -> DataError:
    return DataError(
        f"{name} holds labels of tokens or turns, but kdharness computes labels itself",
        hint="use train: false on turns",
    )


def _whole_row(name: str, value: object) -> DataError:
    return DataError(
        f"{name}: {shown(value)} on a whole row is not supported",
        hint="remove the row, or change the weight of its source in the config",
    )


def was_cut(fields: Mapping[str, object]) -> bool:
    """Return whether a row or turn says that its generation hit a length limit."""
    return any(str(fields.get(name)).lower() in _LIMITS for name in CUT)
