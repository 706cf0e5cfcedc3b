"""The environment of a test: offline, quiet, and without keys of whoever runs it."""

from __future__ import annotations

import os

INHERITED = ("OPENAI_API_KEY", "KDHARNESS_JUDGE_API_KEY", "KDHARNESS_JUDGE", "KDHARNESS_HOME")


def isolate_environment() -> None:
    """Set what libraries read when they are imported: call it before they are."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in INHERITED:
        os.environ.pop(name, None)
