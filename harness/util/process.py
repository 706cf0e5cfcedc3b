"""Settings of this process that must be made before libraries load."""

from __future__ import annotations

import logging
import os


def set_passive_omp_wait() -> None:
    """Make OpenMP threads sleep instead of spin at barriers; call before torch is imported.

    Two busy torch processes that spin on the same cores slow each other down several times over
    (measured on 2 cores: 8 to 30 tokens/s spinning, 41 to 53 sleeping), and training while
    evaluating on one machine is the normal case. A value that the user set is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def quiet_torchao() -> None:
    """Hide what torchao, which transformers imports where it is installed, logs at its import.

    It names its CUDA kernels that a CPU build of torch cannot load; nothing here uses them.
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
