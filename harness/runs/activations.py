"""Memory that a backward pass needs, per layer and in total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdharness.harness.config.models import LoraSpec
from kdharness.harness.config.precision import BYTES, Precision
from kdharness.harness.runs.sizes import Adapter, Size, adapted_linears


def layer_bytes(
    size: Size,
    precision: Precision,
    lora: LoraSpec | None,
    *,
    on_cpu: bool,
    routed: bool = False,
) -> float:
    """Return the bytes per position that a layer keeps for its backward pass.

    The inputs of its two norms are kept in fp32. Trained norm weights need their normalised inputs
    too, and trained matrices their inputs: one for queries, keys and values, one for gate and up.
    Under autocast every matrix has its own bf16 copy of its input, and with LoRA's dropout every
    matrix has its own input and mask. Queries, keys, values, attention's output and four vectors
    of the MLP's inner size are kept in the dtype of the products.

    A `routed` layer has experts in place of the MLP, or beside a shared one.
    """
    h = size.hidden
    i = size.intermediate if not routed or size.experts is None else size.experts.shared
    compute = BYTES[precision.compute]
    kept = 4.0 * 2 * h + _attention_bytes(size, precision, lora) + compute * 4 * i
    if routed:
        kept += _routed_bytes(size, precision, lora)
    if lora is None:
        # The router reads one input more, gate and up two, each if it is there.
        readers = 2 if size.latent else 3
        inputs = (readers + 2 * bool(i) + routed) * h if precision.autocast else 2 * h
        inputs += _narrow(size)
        return kept + BYTES[precision.trained] * 2 * h + compute * inputs
    return kept + _adapted_bytes(size, precision, lora, i, on_cpu=on_cpu, routed=routed)


def _attention_bytes(size: Size, precision: Precision, lora: LoraSpec | None) -> float:
    """Return the bytes per position that attention keeps: what it reads, returns, and its norms.

    Norms of queries and keys, or of the vectors that latent ones are made from, keep fp32 inputs,
    and normalised ones if they are trained.
    """
    kept = BYTES[precision.compute] * (size.queries + size.keys + size.values + size.attended)
    normed = size.queries + size.keys if size.normed else _narrow(size)
    return kept + 4.0 * size.heads + (4 + (0 if lora else BYTES[precision.trained])) * normed


def _narrow(size: Size) -> int:
    """Return the width of the vectors that latent queries, keys and values are made from."""
    return size.latent.query_rank + size.latent.key_rank if size.latent else 0


def _adapted_bytes(
    size: Size, precision: Precision, lora: LoraSpec, inner: int, *, on_cpu: bool, routed: bool
) -> float:
    """Return the bytes per position that a layer keeps for its adapters alone.

    Args:
        inner: the inner size of the layer's MLP, whose product is among what the layer keeps.
    """
    h, compute = size.hidden, BYTES[precision.compute]
    linears = _linears_of_layer(size, lora, routed=routed)
    down = _share_of_down(size, lora, routed=routed)
    dropped = sum(share * i for _, i, _, share in linears)
    inputs = dropped - down * inner
    if not precision.autocast and not lora.dropout:
        # Queries, keys and values share their input, and so do gate and up; the output projection
        # reads what attention keeps anyway.
        others = [one for one in linears if not _is_output(one[:3], size.attended, inner, h)]
        read = {(name.rpartition(".")[0], i): share for name, i, _, share in others}
        inputs = sum(share * i for (_, i), share in read.items())
    if routed and size.adapter and "weight" in size.adapter.kinds and precision.autocast:
        inputs += h
    kept = compute * (inputs + lora.r * sum(share for *_, share in linears))
    # Without an adapter its reader keeps no product of the MLP; with dropout it keeps a copy.
    kept -= compute * inner * (1 - down)
    if lora.dropout:
        kept += dropped * (BYTES[precision.trained] if on_cpu else 1)
    return kept


def _linears_of_layer(
    size: Size, lora: LoraSpec, *, routed: bool
) -> list[tuple[str, int, int, float]]:
    """Return (name, inputs, outputs, share) of the layers' linear layers that have an adapter.

    The share is one over the number of layers of the kind, so that sums are those of one layer.
    """
    sparse = size.experts.layers if size.experts is not None else 0
    found = []
    for name, inputs, outputs in adapted_linears(size, lora):
        shared = "shared_expert" in name
        if sparse and not _is_attention(name):
            if shared is routed:
                found.append(
                    (name, inputs, outputs, 1 / (sparse if routed else size.layers - sparse))
                )
        else:
            found.append((name, inputs, outputs, 1 / size.layers))
    return found


def _share_of_down(size: Size, lora: LoraSpec, *, routed: bool) -> float:
    """Return the share of layers whose MLP's last matrix, the reader of its product, is adapted."""
    inner = size.intermediate if not routed or size.experts is None else size.experts.shared
    return sum(
        share
        for name, i, o, share in _linears_of_layer(size, lora, routed=routed)
        if inner and i == inner and o == size.hidden and not _is_attention(name)
    )


def _is_output(linear: tuple[str, int, int], attended: int, inner: int, hidden: int) -> bool:
    """Return whether a linear layer is the last of attention or of an MLP."""
    name, inputs, outputs = linear
    if _is_attention(name):
        ends = name.endswith(("o_proj", "out_proj", "dense", "c_proj"))
        return ends and (inputs, outputs) == (attended, hidden)
    return (inputs, outputs) == (inner, hidden)


def _unreached_bytes(size: Size, precision: Precision, lora: LoraSpec, *, on_cpu: bool) -> float:
    """Return the bytes per position that layers do not keep: nothing needs a gradient there.

    Those are the layers before the first with an adapter, and the beginning of that layer.
    """
    linears = adapted_linears(size, lora)
    sparse = size.experts.layers if size.experts is not None else 0
    places = [_layer_of(name) for name, *_ in linears]
    if size.adapter is not None and size.adapter.merged:
        places.append(size.layers - sparse)
    first = min(places, default=size.layers)
    plain = replace(size, adapter=Adapter(0, (), 0, frozenset()))
    dense = size.layers - sparse
    whole = [
        count * layer_bytes(plain, precision, lora, on_cpu=on_cpu, routed=routed)
        for routed, count in ((False, min(first, dense)), (True, max(0, first - dense)))
        if count
    ]
    if first == size.layers:
        return sum(whole)
    mine = [one for one in linears if _layer_of(one[0]) == first]
    mask = (BYTES[precision.trained] if on_cpu else 1) if lora.dropout else 0
    return sum(whole) + _beginning_bytes(size, precision, mine, mask, routed=first >= dense)


def _layer_of(name: str) -> int:
    """Return the number of the layer that a module is in."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)


def _beginning_bytes(
    size: Size,
    precision: Precision,
    linears: Sequence[tuple[str, int, int]],
    mask: int,
    *,
    routed: bool,
) -> float:
    """Return the bytes per position that the first layer with an adapter does not keep.

    Without an adapter of queries, keys or values it does not keep what attention reads, without
    any in attention neither the input of the second norm, nor of the MLP what no adapter needs.

    Args:
        size: the model's.
        precision: of the training.
        linears: the layer's linear layers with adapters.
        mask: bytes of a value of a dropout's mask, 0 without dropout: an input that needs no
            gradient needs no mask.
        routed: whether the layer has experts.
    """
    experts, compute = size.experts if routed else None, BYTES[precision.compute]
    inner = experts.shared if experts else size.intermediate
    attention = [one for one in linears if _is_attention(one[0])]
    ends = [one for one in attention if _is_output(one, size.attended, inner, size.hidden)]
    left = 4.0 * size.hidden
    if len(attention) > len(ends):
        return left + mask * size.hidden * sum(
            one[1] == size.hidden for one in attention if one not in ends
        )
    left += _attention_bytes(size, precision, LoraSpec())
    if ends:
        return left + (mask - compute * (not mask)) * size.attended
    left += 4.0 * size.hidden
    if experts:
        # Without a gradient of the router, none of what its weights multiply.
        left += BYTES[precision.weights] * experts.active * size.hidden
    others = [one for one in linears if one not in attention]
    readers = [one for one in others if not _is_output(one, size.attended, inner, size.hidden)]
    names = [name.rpartition(".")[2] for name, *_ in readers]
    left += mask * sum(one[1] for one in readers or others)
    # Gate, its activation and up, of which the product with an adapter alone needs one or two.
    spared = 3 if not readers else {"gate_proj": 1, "up_proj": 2}.get(names[0], 0)
    return left + compute * inner * (spared if len(readers) < 2 else 0)


def _is_attention(name: str) -> bool:
    return "attn" in name or "attention" in name


def _routed_bytes(size: Size, precision: Precision, lora: LoraSpec | None) -> float:
    """Return the bytes per position that a layer's experts and its router keep.

    Every active expert keeps its input, its output before it is weighted, gate and up, the
    activated gate and their product, all in the dtype of its weights: autocast leaves products of
    experts alone. Frozen experts keep neither input nor product. Indices and weights of the routing
    are int64 and fp32. A shared MLP keeps its output, which a gate of its own multiplies.
    """
    experts = size.experts
    assert experts is not None
    trained = {"gate_up_proj", "down_proj"}
    if lora is not None:
        trained &= size.adapter.kinds if size.adapter else frozenset()
    unit = BYTES[precision.weights]
    vectors = size.hidden * (1 + ("gate_up_proj" in trained))
    vectors += experts.inner * (3 + ("down_proj" in trained))
    kept = float(unit * experts.active * vectors)
    if experts.shared:
        kept += BYTES[precision.compute] * size.hidden
    return kept + 40 * experts.active + 4 * experts.count


def activation_bytes(
    size: Size,
    precision: Precision,
    lora: LoraSpec | None,
    tokens: int,
    *,
    checkpointing: bool,
    head: float,
    on_cpu: bool,
) -> float:
    """Return the bytes that the backward pass needs, for `tokens` positions of one micro-batch.

    With gradient checkpointing each layer keeps only its input. In the backward pass one layer at
    a time keeps everything, with gradients of the MLP's inner vector beside it; by then the buffers
    of the head (`head`, in bytes) are gone, so that only what is larger than they counts.

    Experts with adapters add their merged weights, and the backward pass of experts makes the
    gradient of the larger one of their two tensors before it is added up or multiplied on.
    """
    dense = layer_bytes(size, precision, lora, on_cpu=on_cpu)
    experts, unit = size.experts, BYTES[precision.weights]
    routed, merged, gradient = 0.0, 0.0, 0.0
    if experts is not None:
        routed = layer_bytes(size, precision, lora, on_cpu=on_cpu, routed=True)
        merged = float(unit * size.adapter.merged) if size.adapter and lora else 0.0
        if merged or not lora:
            gradient = unit * 2.0 * experts.count * experts.inner * size.hidden
    ends = tokens * (4 + BYTES[precision.weights]) * size.hidden
    if checkpointing:
        inputs = size.layers * BYTES[precision.weights] * size.hidden
        working = 0.0
        if experts is None or experts.layers < size.layers:
            working = tokens * (dense + _beside(size, precision, lora, routed=False))
        if experts is not None:
            beside = tokens * _beside(size, precision, lora, routed=True)
            working = max(working, tokens * routed + merged + max(beside, gradient))
        return ends + tokens * inputs + max(0.0, working - head)
    sparse = experts.layers if experts is not None else 0
    kept = (size.layers - sparse) * dense + sparse * routed
    if lora:
        kept -= _unreached_bytes(size, precision, lora, on_cpu=on_cpu)
    fixed = sparse * merged
    if experts and merged and size.adapter and not size.adapter.linears:
        # The input of the first experts needs no gradient, which their merged weights are for.
        both = "gate_up_proj" in size.adapter.kinds
        fixed -= unit * 2.0 * experts.count * experts.inner * size.hidden * both
    gradient = max(gradient, tokens * _beside(size, precision, lora, routed=experts is not None))
    return ends + tokens * kept + fixed + max(0.0, gradient - head)


def _beside(size: Size, precision: Precision, lora: LoraSpec | None, *, routed: bool) -> float:
    """Return the bytes per position that one layer's backward pass adds to what it keeps.

    Counted on small models, per value of the MLP's inner vector: one gradient, more where adapters
    or autocast make copies. The gradients of gate and up are there at once with that of their
    product: if the product itself was kept, it is gone by then.
    """
    experts, compute = size.experts, BYTES[precision.compute]
    inner = size.intermediate
    found = 0.0
    if routed and experts is not None:
        kept = lora is None or (size.adapter is not None and "down_proj" in size.adapter.kinds)
        exact = experts.exact and not precision.autocast
        unit = BYTES["float32" if exact else precision.weights]
        # The output of the experts is gone as well; where they are narrow, more is made before,
        # when its gradient is weighted and sorted.
        beside = max((2 if kept else 3) * experts.inner - size.hidden, 2.5 * size.hidden)
        found = unit * experts.active * beside
        inner = experts.shared
    each = 4.0
    if lora is not None and not _share_of_down(size, lora, routed=routed):
        each = 3.0 * compute
    elif lora and precision.autocast:
        each = 12 if lora.dropout else 8
    elif lora and compute == 2:
        each = 4
    # Experts and a shared MLP come one after the other.
    return max(found, each * inner)
