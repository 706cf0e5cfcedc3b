"""A decoder's forward on a micro-batch, on padded rows or on packed ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from kdharness.harness.models.lm_head import backbone
from kdharness.trainers.data.layout import Packing


class Decoded(NamedTuple):
    """What a decoder returns for rows [B, T].

    Attributes:
        states: last hidden states [B, T, h]; 0 at padding that was left out.
        router_logits: of each layer's router [n, E], for the n positions that were run; empty
            unless asked for.
    """

    states: Tensor
    router_logits: Sequence[Tensor]


def run_decoder(
    decoder: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    *,
    routed: bool = False,
) -> Decoded:
    """Run a model below its output head.

    Args:
        decoder: the model.
        input_ids: [B, T].
        attention_mask: [B, T], or None where a causal mask is enough; not used with packing.
        packing: the same rows without padding, to run on those.
        routed: whether to return the logits of a mixture's routers.
    """
    more: dict[str, Any] = {"output_router_logits": True} if routed else {}
    if packing is not None:
        input_ids, attention_mask = packing.pack(input_ids), None
        more |= packing.arguments()
    outputs = decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **more)
    states: Tensor = outputs.last_hidden_state
    if packing is not None:
        states = packing.unpack(states).view(*packing.shape, -1)
    return Decoded(states, outputs.router_logits if routed else ())


def last_states(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    call: Callable[..., Any] | None = None,
) -> Tensor:
    """Return a causal LM's last hidden states [B, T, h]; see `run_decoder`.

    `call` calls the decoder with its inputs, where its weights are not at their place.
    """
    body = backbone(model)
    run = body if call is None else partial(call, body)
    return run_decoder(run, input_ids, attention_mask, packing).states
