"""Finding out whether a judge continues a reply that was begun for it.

Endpoints ignore unknown fields, so this asks: after "Rating: [[", a judge that was told to reply
with "Rating: [[7]]" continues with a number, and one that begins a new reply does not.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from kdharness.harness.config.endpoints import endpoint_of
from kdharness.harness.config.evaluation import Spec
from kdharness.harness.protocols import Engine, Probe
from kdharness.harness.types import GenerationRequest, JudgmentStatus
from kdharness.judges.scoring.expected import MOST_TOP, NUMBERS, OPENING, read_expected

NEW_TURNS = ("api.openai.com", ".openai.azure.com")
"""Hosts whose models always begin a new reply after an assistant message."""


def gives_expected(engine: Engine, probe: Probe, spec: Spec) -> bool:
    """Return whether a judge can give expected ratings.

    A judge that does not state it is asked one short question.

    Raises:
        JudgeError: the endpoint rejects every call.
    """
    if probe.opens or not probe.logprobs:
        return probe.opens
    if spec.kind == "openai":
        host = urlsplit(endpoint_of(spec.url).base).hostname or ""
        if host == NEW_TURNS[0] or host.endswith(NEW_TURNS):
            return False
    text = f"Reply with exactly this and nothing else: {OPENING}7]]"
    request = GenerationRequest(
        ({"role": "user", "content": text},),
        max_new_tokens=1,
        top_logprobs=MOST_TOP,
        choices=NUMBERS,
        opening=OPENING,
    )
    for _, reply in engine.stream([request]):
        return not reply.error and read_expected(reply).status is JudgmentStatus.OK
    return False
