"""Which layers a stored student kept of its teacher."""

from __future__ import annotations

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint


def kept_of(checkpoint: Checkpoint, teacher: Checkpoint, paths: Paths) -> list[int] | None:
    """Return the layers a student kept if it was cut from this teacher; None otherwise.

    The weights decide: a teacher with another chat template has the same layers.
    """
    kept, source = checkpoint.info.get("kept_layers"), checkpoint.parents.get("teacher")
    if kept is None or source is None:
        return None
    with Store(paths.store) as store:
        origin = store.checkpoint(source)
    if origin is None or origin.model != teacher.model:
        return None
    return [int(layer) for layer in kept]
