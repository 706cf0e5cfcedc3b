"""The kernel of a chunk of logits: log-softmax of both models, loss and gradient of a row.

A program owns a row [V] and goes over it in blocks: once for the log-sum-exps, once for the loss
and the gradient, which may overwrite the logits. Divergences other than forward KL take one more
pass, for the row's sum of slopes that their gradient needs. Reads after the first are from cache.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from kdharness.trainers.losses.triton_tiles import narrow

DIVERGENCES = ("forward_kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl")


class Loss(NamedTuple):
    """What is computed, fixed at compile time.

    Attributes:
        divergence: empty without a teacher.
        beta: the teacher's weight in the mixture.
        cross_entropy: whether there are targets.
        same: whether both losses have the same log-sum-exp: all ids at temperature 1.
        softcap: of the student's logits; 0 for none.
        block: ids at once.
        interpreted: whether Triton's interpreter runs this.
    """

    divergence: str
    beta: float
    cross_entropy: bool
    same: bool
    softcap: float
    block: int
    interpreted: bool


@triton.jit
def log_sum_exp(row, width, temperature, block: tl.constexpr):
    """Return the log-sum-exp of a row of logits over a temperature, as (maximum, rest)."""
    columns = tl.arange(0, block)
    z = tl.load(row + columns, mask=columns < width, other=-float("inf")) / temperature
    top = tl.max(z, 0)
    total = tl.sum(tl.exp(z - top), 0)
    for c0 in range(block, width, block):
        z = tl.load(row + c0 + columns, mask=c0 + columns < width, other=-float("inf"))
        z = z / temperature
        new = tl.maximum(top, tl.max(z, 0))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(z - new), 0)
        top = new
    return top, tl.log(total)


@triton.jit
def log_mixture(lp, lq, loss: tl.constexpr):
    """Return log(β p + (1 − β) q): relative to the larger one, so that it is exact for p = q."""
    rest: tl.constexpr = 1 - loss.beta
    ratio = tl.exp(-tl.abs(lp - lq))
    above = lp + tl.log(loss.beta + rest * ratio)
    return tl.where(lp > lq, above, lq + tl.log(loss.beta * ratio + rest))


@triton.jit
def expected(p, values):
    """Return p · values, with 0 · inf = 0."""
    return tl.where(p > 0, p * values, 0.0)


@triton.jit
def divergence(lp, lq, loss: tl.constexpr):
    """Return each outcome's share of the divergence, and its slope (see `divergence_rows`)."""
    p, q = tl.exp(lp), tl.exp(lq)
    if loss.divergence == "forward_kl":
        value, slope = expected(p, lp - lq), -p
    elif loss.divergence == "reverse_kl":
        value = expected(q, lq - lp)
        slope = value
    else:
        lm = log_mixture(lp, lq, loss)
        rest: tl.constexpr = 1 - loss.beta
        to_teacher, to_student = expected(p, lp - lm), expected(q, lq - lm)
        if loss.divergence == "js":
            value = loss.beta * to_teacher + rest * to_student
            slope = rest * to_student
        elif loss.divergence == "skew_kl":
            value, slope = to_teacher, -rest * tl.exp(lp + lq - lm)
        else:
            tl.static_assert(loss.divergence == "skew_reverse_kl")
            value, slope = to_student, to_student - rest * tl.exp(2 * lq - lm)
    return value, slope


@triton.jit
def row_loss(
    student,
    teacher,
    gradient,
    targets,
    kl,
    cross_entropy,
    width,
    shared,
    temperature,
    kl_factor,
    ce_weight,
    scale,
    loss: tl.constexpr,
):
    """Write a row's divergence, its cross-entropy, and the gradient of its uncapped logits.

    `student`, `teacher` and `gradient` are (tensor, stride of rows); the first `shared` ids of
    `width` are compared with the teacher. Grid: rows.
    """
    row = tl.program_id(0).to(tl.int64)
    ours, theirs = student[0] + row * student[1], teacher[0] + row * teacher[1]
    into = gradient[0] + row * gradient[1]
    block: tl.constexpr = loss.block
    top, rest, target = 0.0, 0.0, 0
    if loss.cross_entropy:
        target = tl.load(targets + row)
        top, rest = log_sum_exp(ours, width, 1.0, block)
        tl.store(cross_entropy + row, rest - (tl.load(ours + target) - top))
    top_s, rest_s, top_t, rest_t = top, rest, 0.0, 0.0
    if loss.divergence != "":
        if not loss.same:
            top_s, rest_s = log_sum_exp(ours, shared, temperature, block)
        top_t, rest_t = log_sum_exp(theirs, shared, temperature, block)
    slopes = -1.0  # Σ slope, which for forward KL is −Σ p
    if loss.divergence != "" and loss.divergence != "forward_kl":
        slopes = top_s * 0
        for c0 in range(0, shared, block):
            columns = c0 + tl.arange(0, block)
            inside = columns < shared
            z = tl.load(ours + columns, mask=inside, other=0.0)
            y = tl.load(theirs + columns, mask=inside, other=0.0)
            lq, lp = z / temperature - top_s - rest_s, y / temperature - top_t - rest_t
            value, slope = divergence(lp, lq, loss)
            slopes += tl.sum(tl.where(inside, slope, 0.0), 0)
    total = tl.zeros([1], tl.float32)
    for c0 in range(0, width, block):
        columns = c0 + tl.arange(0, block)
        inside = columns < width
        z = tl.load(ours + columns, mask=inside, other=0.0)
        g = tl.zeros([block], tl.float32)
        if loss.divergence != "":
            compared = columns < shared
            y = tl.load(theirs + columns, mask=compared, other=0.0)
            lq, lp = z / temperature - top_s - rest_s, y / temperature - top_t - rest_t
            value, slope = divergence(lp, lq, loss)
            total += tl.sum(tl.where(compared, value, 0.0), 0)
            g = tl.where(compared, kl_factor * (slope - tl.exp(lq) * slopes), 0.0)
        if loss.cross_entropy:
            g += ce_weight * (tl.exp(z - top - rest) - tl.where(columns == target, 1.0, 0.0))
        if loss.softcap > 0:
            g = g * (1 - (z / loss.softcap) * (z / loss.softcap))
        tl.store(
            into + columns,
            narrow(g * scale, gradient[0].dtype.element_ty, loss.interpreted),
            mask=inside,
        )
    if loss.divergence != "":
        tl.store(kl + row, tl.sum(total, 0))
