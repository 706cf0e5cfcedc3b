"""How an answer looks, whatever it says: its length, its end, its script, refusals, repetition.

Programs, not judges: they show that a checkpoint behaves in another way, not that it is worse.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kdharness.harness.types import Answer, Finish
from kdharness.judges.audit.gaming import main_script
from kdharness.judges.scoring.verdicts import cut_thinking

WINDOW = 4
"""Words of a passage that counts as repeated."""
BEGINNING = 200
"""Characters in which a refusal is looked for: it comes first."""
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:no|')t|cannot|won't|will not)"
    r"|i(?:'m| am) afraid (?:i|that)|unfortunately,? i|as an ai\b"
    r"|i (?:do not|don't) (?:have (?:access|the ability)|feel comfortable))",
    re.IGNORECASE,
)


class Behaviour(NamedTuple):
    """One answer's behaviour.

    Attributes:
        length: characters, without reasoning.
        ended: whether the model ended it itself.
        refused: whether it begins as a refusal.
        empty: whether nothing is in it.
        repeated: share of its passages of `WINDOW` words that occurred before.
        script: the script of most of its letters; empty without letters.
    """

    length: float
    ended: float
    refused: float
    empty: float
    repeated: float
    script: str


def behaviour_of(answer: Answer) -> Behaviour:
    """Measure an answer's text; a model's reasoning is not part of it."""
    text = cut_thinking(answer.text).strip()
    return Behaviour(
        float(len(text)),
        float(answer.finish is Finish.STOP),
        float(_REFUSAL.search(text[:BEGINNING].replace("’", "'")) is not None),
        float(not text),
        repeated_share(text),
        main_script(text),
    )


def repeated_share(text: str) -> float:
    """Return the share of passages of `WINDOW` words that repeat an earlier one; 0 if too short."""
    words = text.lower().split()
    passages = [tuple(words[i : i + WINDOW]) for i in range(len(words) - WINDOW + 1)]
    return 1 - len(set(passages)) / len(passages) if passages else 0.0
