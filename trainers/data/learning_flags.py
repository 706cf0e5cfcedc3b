"""What rows say about being learnt: whether a turn is, how much a row counts, where it was cut.

Many programs have a name of their own for the same thing. Those that are documented (`LEARN`) are
done; a field of another name that seems to leave something out is refused, never passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from kdharness.harness.errors import DataError

LEARN = ("train", "trainable", "train_on_turn", "training", "loss", "loss_mask", "weight")
"""Fields of a turn that say whether it is learnt: 1 is learnt, 0 is not."""
CUT = ("finish_reason", "stop_reason")
"""Fields that tell why a generation ended, by the names that servers give them."""
_LIMITS = ("length", "max_tokens", "max_output_tokens", "model_length")
_TRUE, _FALSE = {"true", "yes", "on", "1", "1.0"}, {"false", "no", "off", "0", "0.0"}
# Words in names that speak of learning: `true` says learnt for the first, left out for the second.
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


def truth(value: Any, name: str) -> bool:
    """Read a field that says yes or no: booleans, 0 and 1, and their usual words.

    Raises:
        DataError: anything else.
    """
    said = _said(value)
    if said is not None:
        return said
    hint = "a turn is learnt (1) or not (0)" if name == "weight" else "use true or false"
    raise DataError(f"{name} is {shown(value)}, which is neither 0 nor 1", hint=hint)


def _said(value: Any) -> bool | None:
    word = str(value).strip().lower() if isinstance(value, (bool, int, float, str)) else ""
    return word in _TRUE if word in _TRUE or word in _FALSE else None


def shown(value: Any) -> str:
    """Write a value for an error message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"


def learnt_turn(turn: Mapping[str, Any], role: str) -> bool | None:
    """Read whether a turn is learnt; None where it does not say.

    Raises:
        DataError: fields that contradict each other, a turn to learn that is not the
            assistant's, or a field of an unknown name that seems to leave the turn out.
    """
    said = {name: truth(turn[name], name) for name in LEARN if name in turn}
    if "masked" in turn:
        said["masked"] = not truth(turn["masked"], "masked")
    if len(set(said.values())) > 1:
        raise DataError(f"{' and '.join(said)} contradict each other")
    if role != "assistant":
        wanted = [name for name, value in said.items() if value]
        if wanted:
            raise DataError(
                f"{wanted[0]} asks to learn a {role} turn: assistant turns alone are learnt",
                hint="take the field out, or set it to false",
            )
        return None
    learnt = next(iter(said.values()), None)
    for name in turn:
        if learnt is not False and name not in said and _leaves_out(str(name), turn[name]):
            raise DataError(
                f"{name}: {shown(turn[name])} seems to leave this turn out of training, but is "
                "not a field that is read",
                hint="say it with train: false",
            )
    return learnt


def _leaves_out(name: str, value: Any) -> bool:
    """Whether a field of an unknown name seems to say that something is not learnt."""
    said = _said(value)
    learnt, left_out = _LEARNT.search(name.lower()), _LEFT_OUT.search(name.lower())
    if said is None or not (learnt or left_out):
        return name == "label" and value is False
    return True if learnt and left_out else said == bool(left_out)


def row_flags(row: Mapping[str, Any], form: str) -> set[str]:
    """Refuse what a whole row says about being learnt.

    Returns:
        The names that were read.

    Raises:
        DataError: a row that is left out or counts for less, labels of single tokens, and
            whether an answer is wanted.
    """
    seen: set[str] = set()
    for name in (*LEARN, "masked"):
        value = row.get(name)
        if isinstance(value, list):
            raise _tokens(name)
        try:
            learnt = value is None or truth(value, name) != (name == "masked")
        except DataError:
            learnt = name != "weight"  # a measured loss, or the name of a split, means nothing
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
            "the field label says whether an answer is wanted: such preference data is not "
            "learnt from",
            hint="keep the wanted rows, without label",
        )
    if row.get("mask") in ("User", "Assistant", "System"):
        raise DataError("the field mask names who is not learnt: use train: false on turns")
    return seen


def _numbers(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, (bool, int, float)) for value in values)


def _tokens(name: str) -> DataError:
    return DataError(
        f"{name} holds labels of single tokens or turns: labels are made here",
        hint="say it on the turns, with train: false",
    )


def _whole_row(name: str, value: Any) -> DataError:
    return DataError(
        f"{name}: {shown(value)} on a whole row is not supported",
        hint="leave the row out, or give its source another weight in the config",
    )


def was_cut(fields: Mapping[str, Any]) -> bool:
    """Whether a row or a turn says that its generation ended at a limit."""
    return any(str(fields.get(name)).lower() in _LIMITS for name in CUT)
