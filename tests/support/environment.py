"""The environment of tests: offline, quiet, and without the user's API keys."""

from __future__ import annotations

import os

INHERITED = ("OPENAI_API_KEY", "KDHARNESS_JUDGE_API_KEY", "KDHARNESS_JUDGE", "KDHARNESS_HOME")


def isolate_environment() -> None:
    """Set variables that libraries read on import; call it before importing them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in INHERITED:
        os.environ.pop(name, None)
