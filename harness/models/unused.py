"""Tensors in a model's files that its config has no place for, which nothing loads.

A config with fewer layers than the file, or without the biases that it has, makes another model;
transformers only lists such tensors in a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What a causal model may have beside what it needs: parts for other tasks, drafts of further
# tokens, and buffers that are computed.
_HARMLESS = re.compile(
    r"(^|\.)(mtp|score|classifier|qa_outputs|v_head|value_head|reward_head|summary"
    r"|vision_tower|vision_model|visual|audio_tower|multi_modal_projector)\."
    r"|(^|\.)(inv_freq|position_ids|masked_bias|attn\.bias)$"
    r"|^lm_head\.weight$"
)
SHOWN = 3


def unused_note(names: Iterable[object], source: str) -> str:
    """Return a warning about tensors that a model's config does not use; "" if there are none.

    Args:
        names: of the tensors that were not loaded.
        source: the model, as it was asked for.
    """
    unused = sorted(name for name in map(str, names) if not _HARMLESS.search(name))
    if not unused:
        return ""
    more = ", …" if len(unused) > SHOWN else ""
    count = len(unused)
    are = "1 tensor in its files is" if count == 1 else f"{count} tensors in its files are"
    first = ", ".join(name[:120] for name in unused[:SHOWN])
    return (
        f"{source}: {are} not used, because its config has no place for them ({first}{more}). "
        "Do config and weights belong together?"
    )


def unused_note_of(model: object) -> str:
    """Return the warning that `load_model` left on a model."""
    return str(getattr(model, "unused_note", ""))
