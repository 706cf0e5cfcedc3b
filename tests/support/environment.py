"""The environment of tests: offline, quiet, and without the user's API keys."""

from __future__ import annotations

import os
from pathlib import Path

PLAIN_INSTALL = Path(__file__).parent / "plain_install"
INHERITED = ("OPENAI_API_KEY", "KDHARNESS_JUDGE_API_KEY", "KDHARNESS_JUDGE", "KDHARNESS_HOME")


def isolate_environment() -> None:
    """Set variables that libraries read on import; call it before importing them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if "PYTEST_XDIST_WORKER" in os.environ:
        # With a thread per core each, the tests that run at once would wait for each other's.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(PLAIN_INSTALL) not in given:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PLAIN_INSTALL), *given])
    for name in INHERITED:
        os.environ.pop(name, None)
