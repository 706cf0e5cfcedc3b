"""Let the workers that tests start see the packages of a plain installation, without extras.

Python imports this module at its start: its folder is on the tests' PYTHONPATH. A worker that needs
a package of an extra, or of the tests, would pass here and fail at a user's. It also starts in
two thirds of the time, since transformers and peft import what they find.
"""

from __future__ import annotations

import os
import sys

EXTRAS = ("bitsandbytes", "datasets", "pandas", "scipy", "sklearn", "torchao", "triton")

if "kdharness.harness.worker" in sys.orig_argv and "TESTS_WITH_EXTRAS" not in os.environ:
    for name in EXTRAS:
        sys.modules[name] = None  # type: ignore[assignment]
