"""Forward kernels of the attention loss.

With equal head counts one pass over the keys gives a row's KL (`row_kl`): the log-sum-exps of both
models are updated online, and Σ A_t (s_t − s_s) with them. Scores enter that sum relative to their
running maxima, so that the KL is not the small difference of two large numbers.

With different head counts the head-averaged rows are compared: `row_lse` for either model, then
`row_means` adds up the heads' probabilities tile by tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kdharness.trainers.losses.triton_tiles import (
    key_range,
    load_keys,
    load_queries,
    real_keys,
    scores,
    shifted,
    tile_of_rows,
    visible,
)


@triton.jit
def row_kl(
    student,
    teacher,
    rows,
    kl,
    student_lse,
    teacher_lse,
    ours: tl.constexpr,
    theirs: tl.constexpr,
    tiling: tl.constexpr,
):
    """Write KL(A_teacher ‖ A_student) and both log-sum-exps of each head and labelled row.

    Grid: tiles of rows, heads, samples.
    """
    head, sample = tl.program_id(1), tl.program_id(2).to(tl.int64)
    index, positions, inside = tile_of_rows(rows, sample, tl.program_id(0), tiling)
    q_s = load_queries(student, sample, head, positions, inside, ours)
    q_t = load_queries(teacher, sample, head, positions, inside, theirs)
    M: tl.constexpr = tiling.rows
    m_s = tl.full([M], -float("inf"), tl.float32)
    l_s = tl.zeros([M], tl.float32)
    m_t, l_t, total = m_s, l_s, l_s
    first, last = key_range(positions, inside, rows[3], tiling)
    for k0 in range(first, last, tiling.keys):
        keys = k0 + tl.arange(0, tiling.keys)
        real = real_keys(rows, sample, keys)
        see = visible(positions, inside, keys, real, tiling)
        k_s = load_keys(student, sample, head, keys, real, ours)
        k_t = load_keys(teacher, sample, head, keys, real, theirs)
        s = tl.where(see, scores(q_s, k_s, student[2], ours, tiling), -float("inf"))
        t = tl.where(see, scores(q_t, k_t, teacher[2], theirs, tiling), -float("inf"))
        new_s, new_t = tl.maximum(m_s, tl.max(s, 1)), tl.maximum(m_t, tl.max(t, 1))
        z_s, z_t = shifted(new_s), shifted(new_t)
        p = tl.exp(t - z_t[:, None])
        seen = m_s > -float("inf")
        c_s = tl.where(seen, tl.exp(m_s - z_s), 0.0)
        c_t = tl.where(seen, tl.exp(m_t - z_t), 0.0)
        # What was summed so far moves to the new maxima.
        moved = tl.where(seen, l_t * ((m_t - m_s) - (z_t - z_s)), 0.0)
        gap = (t - s) - (z_t - z_s)[:, None]
        total = c_t * (total + moved) + tl.sum(tl.where(p > 0, p * gap, 0.0), 1)
        l_s = l_s * c_s + tl.sum(tl.exp(s - z_s[:, None]), 1)
        l_t = l_t * c_t + tl.sum(p, 1)
        m_s, m_t = new_s, new_t
    at = head * rows[4] + index
    tl.store(kl + at, total / l_t + tl.log(l_s / l_t), mask=inside)
    tl.store(student_lse + at, m_s + tl.log(l_s), mask=inside)
    tl.store(teacher_lse + at, m_t + tl.log(l_t), mask=inside)


@triton.jit
def row_lse(side, rows, lse, shape: tl.constexpr, tiling: tl.constexpr):
    """Write the log-sum-exp of each head and labelled row of one model.

    Grid: tiles of rows, heads, samples.
    """
    head, sample = tl.program_id(1), tl.program_id(2).to(tl.int64)
    index, positions, inside = tile_of_rows(rows, sample, tl.program_id(0), tiling)
    q = load_queries(side, sample, head, positions, inside, shape)
    M: tl.constexpr = tiling.rows
    m = tl.full([M], -float("inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    first, last = key_range(positions, inside, rows[3], tiling)
    for k0 in range(first, last, tiling.keys):
        keys = k0 + tl.arange(0, tiling.keys)
        real = real_keys(rows, sample, keys)
        see = visible(positions, inside, keys, real, tiling)
        k = load_keys(side, sample, head, keys, real, shape)
        s = tl.where(see, scores(q, k, side[2], shape, tiling), -float("inf"))
        new = tl.maximum(m, tl.max(s, 1))
        z = shifted(new)
        total = total * tl.where(m > -float("inf"), tl.exp(m - z), 0.0)
        total += tl.sum(tl.exp(s - z[:, None]), 1)
        m = new
    tl.store(lse + head * rows[4] + index, m + tl.log(total), mask=inside)


@triton.jit
def mean_attention(
    side,
    rows,
    lse,
    sample,
    index,
    positions,
    inside,
    keys,
    heads,
    shape: tl.constexpr,
    tiling: tl.constexpr,
):
    """Return the attention of a tile of rows to a tile of keys, averaged over heads."""
    real = real_keys(rows, sample, keys)
    see = visible(positions, inside, keys, real, tiling)
    M: tl.constexpr = tiling.rows
    N: tl.constexpr = tiling.keys
    total = tl.zeros([M, N], tl.float32)
    for head in range(heads):
        q = load_queries(side, sample, head, positions, inside, shape)
        k = load_keys(side, sample, head, keys, real, shape)
        s = scores(q, k, side[2], shape, tiling)
        norm = tl.load(lse + head * rows[4] + index, mask=inside, other=0.0)
        total += tl.where(see, tl.exp(s - norm[:, None]), 0.0)
    return total / heads


@triton.jit
def row_means(
    student,
    teacher,
    rows,
    student_lse,
    teacher_lse,
    student_heads,
    teacher_heads,
    kl,
    slopes,
    first_tile,
    ours: tl.constexpr,
    theirs: tl.constexpr,
    tiling: tl.constexpr,
    write_slopes: tl.constexpr,
):
    """Write the KL of head-averaged rows, as parts by tile of keys, or its slopes.

    A slope is the derivative with respect to one head's probability, plus 1 / heads: a constant
    cancels in the gradient, and without it slopes near the teacher would be about equal.
    Grid: tiles of rows from `first_tile`, tiles of keys, samples.
    """
    tile, block = tl.program_id(0), tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    index, positions, inside = tile_of_rows(rows, sample, first_tile + tile, tiling)
    keys = block * tiling.keys + tl.arange(0, tiling.keys)
    first, last = key_range(positions, inside, rows[3], tiling)
    if (block * tiling.keys >= first) & (block * tiling.keys < last):
        a_s = mean_attention(
            student,
            rows,
            student_lse,
            sample,
            index,
            positions,
            inside,
            keys,
            student_heads,
            ours,
            tiling,
        )
        a_t = mean_attention(
            teacher,
            rows,
            teacher_lse,
            sample,
            index,
            positions,
            inside,
            keys,
            teacher_heads,
            theirs,
            tiling,
        )
        if write_slopes:
            slope = tl.where(a_s > 0, (a_s - a_t) / a_s, 0.0) / student_heads
            slot = (sample * tl.num_programs(0) + tile) * tiling.rows + tl.arange(0, tiling.rows)
            at = slot[:, None] * rows[3] + keys[None, :]
            tl.store(slopes + at, slope, mask=inside[:, None] & (keys[None, :] < rows[3]))
        else:
            part = tl.where(a_t > 0, a_t * (tl.log(a_t) - tl.log(a_s)), 0.0)
            tl.store(kl + (block + 0 * sample) * rows[4] + index, tl.sum(part, 1), mask=inside)
