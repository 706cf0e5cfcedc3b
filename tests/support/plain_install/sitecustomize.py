"""How the Python processes of tests start. Python imports this module: it is on their PYTHONPATH.

Workers see the packages of a plain installation, without extras. One that needs a package of
an extra, or of the tests, would pass here and fail at a user's. It also starts in two thirds of the
time, since transformers and peft import what they find.

Workers are forked from a process that has imported their libraries, where `fork_server` allows it.
"""

from __future__ import annotations

import os
import sys

EXTRAS = ("bitsandbytes", "datasets", "pandas", "scipy", "sklearn", "torchao", "triton")

WORK = ("kdharness.harness.worker", "torch.distributed.run")

if "TORCHELASTIC_RUN_ID" in os.environ or not set(WORK).isdisjoint(sys.orig_argv):
    with_extras = "TESTS_WITH_EXTRAS" in os.environ
    for name in () if with_extras else EXTRAS:
        sys.modules[name] = None  # type: ignore[assignment]
    if "TESTS_FORK_SERVER" in os.environ:
        from fork_client import fork_instead

        fork_instead(os.environ["TESTS_FORK_SERVER"] + ("-extras" if with_extras else ""))
