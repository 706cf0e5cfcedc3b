"""Backward kernels of the attention loss: scores are recomputed from queries, keys and lse.

The gradient with respect to a head's scores is A_s − A_t; with head-averaged rows it is
A_s (slope − Σ A_s slope), from the slopes of `row_means`. Gradients of keys have a kernel of their
own, in which a program owns a tile of keys: nothing is added atomically, so that the result does
not depend on the order of programs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kdharness.trainers.losses.triton_tiles import (
    key_range,
    load_keys,
    load_queries,
    load_rows,
    product,
    real_keys,
    scores,
    store_rows,
    tile_of_rows,
    visible,
)


@triton.jit
def capped(gradient, s, shape: tl.constexpr):
    """Return the gradient with respect to scores before their soft-cap."""
    if shape.cap > 0:
        gradient = gradient * (1 - (s / shape.cap) * (s / shape.cap))
    return gradient


@triton.jit
def attention(s, lse, see):
    """Return the attention of scores [M, N]; 0 where not visible."""
    return tl.where(see, tl.exp(s - lse[:, None]), 0.0)


@triton.jit
def query_gradient(
    student,
    teacher,
    rows,
    student_lse,
    teacher_lse,
    output,
    gradient,
    ours: tl.constexpr,
    theirs: tl.constexpr,
    tiling: tl.constexpr,
):
    """Write the gradient of the labelled rows' queries.

    `output` is the loss's gradient; `gradient` is (queries' gradient, its strides).
    Grid: tiles of rows, heads, samples.
    """
    head, sample = tl.program_id(1), tl.program_id(2).to(tl.int64)
    index, positions, inside = tile_of_rows(rows, sample, tl.program_id(0), tiling)
    q_s = load_queries(student, sample, head, positions, inside, ours)
    q_t = load_queries(teacher, sample, head, positions, inside, theirs)
    at = head * rows[4] + index
    lse_s = tl.load(student_lse + at, mask=inside, other=0.0)
    lse_t = tl.load(teacher_lse + at, mask=inside, other=0.0)
    M: tl.constexpr = tiling.rows
    D: tl.constexpr = ours.wide
    total = tl.zeros([M, D], tl.float32)
    first, last = key_range(positions, inside, rows[3], tiling)
    for k0 in range(first, last, tiling.keys):
        keys = k0 + tl.arange(0, tiling.keys)
        real = real_keys(rows, sample, keys)
        see = visible(positions, inside, keys, real, tiling)
        k_s = load_keys(student, sample, head, keys, real, ours)
        k_t = load_keys(teacher, sample, head, keys, real, theirs)
        s = scores(q_s, k_s, student[2], ours, tiling)
        t = scores(q_t, k_t, teacher[2], theirs, tiling)
        g = capped(attention(s, lse_s, see) - attention(t, lse_t, see), s, ours)
        total += product(g, k_s, ours.precision, tiling.interpreted)
    base = gradient[0] + sample * gradient[1] + (head + 0 * sample) * gradient[2]
    total = total * (student[2] * tl.load(output))
    store_rows(base, gradient[3], positions, inside, total, ours, tiling)


@triton.jit
def key_gradient(
    student,
    teacher,
    rows,
    student_lse,
    teacher_lse,
    output,
    gradient,
    per_group,
    ours: tl.constexpr,
    theirs: tl.constexpr,
    tiling: tl.constexpr,
):
    """Write the gradient of the keys, summed over the query heads that attend to them.

    Grid: tiles of keys, key heads, samples.
    """
    block, group = tl.program_id(0), tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    keys = block * tiling.keys + tl.arange(0, tiling.keys)
    real = real_keys(rows, sample, keys)
    k_s = load_keys(student, sample, group * per_group, keys, real, ours)
    start, end = rows_seeing(rows, sample, block, tiling)
    N: tl.constexpr = tiling.keys
    D: tl.constexpr = ours.wide
    total = tl.zeros([N, D], tl.float32)
    for member in range(per_group):
        head = group * per_group + member
        k_t = load_keys(teacher, sample, head, keys, real, theirs)
        for r0 in range(start, end, tiling.rows):
            index = r0 + tl.arange(0, tiling.rows)
            inside = index < end
            positions = tl.load(rows[1] + index, mask=inside, other=0)
            see = visible(positions, inside, keys, real, tiling)
            q_s = load_queries(student, sample, head, positions, inside, ours)
            q_t = load_queries(teacher, sample, head, positions, inside, theirs)
            at = head * rows[4] + index
            lse_s = tl.load(student_lse + at, mask=inside, other=0.0)
            lse_t = tl.load(teacher_lse + at, mask=inside, other=0.0)
            s = scores(q_s, k_s, student[2], ours, tiling)
            t = scores(q_t, k_t, teacher[2], theirs, tiling)
            g = capped(attention(s, lse_s, see) - attention(t, lse_t, see), s, ours)
            total += product(tl.trans(g), q_s, ours.precision, tiling.interpreted)
    base = gradient[0] + sample * gradient[1] + (group + 0 * sample) * gradient[2]
    total = total * (student[2] * tl.load(output))
    store_rows(base, gradient[3], keys, keys < rows[3], total, ours, tiling)


@triton.jit
def rows_seeing(rows, sample, block, tiling: tl.constexpr):
    """Return the range of a sample's labelled rows that attend to a tile of keys."""
    counts = rows[2] + sample * rows[3]
    start = tl.load(counts + block * tiling.keys)
    beyond = rows[3]
    if tiling.window > 0:
        beyond = tl.minimum(beyond, (block + 1) * tiling.keys + tiling.window - 1)
    return start, tl.load(counts + beyond)


@triton.jit
def mean_query_gradient(
    student,
    rows,
    student_lse,
    slopes,
    centres,
    output,
    gradient,
    first_tile,
    ours: tl.constexpr,
    tiling: tl.constexpr,
):
    """Write the gradient of queries for head-averaged rows, and each row's Σ A_s slope.

    Grid: tiles of rows from `first_tile`, heads, samples.
    """
    tile, head = tl.program_id(0), tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    index, positions, inside = tile_of_rows(rows, sample, first_tile + tile, tiling)
    q = load_queries(student, sample, head, positions, inside, ours)
    lse = tl.load(student_lse + head * rows[4] + index, mask=inside, other=0.0)
    slot = (sample * tl.num_programs(0) + tile) * tiling.rows + tl.arange(0, tiling.rows)
    first, last = key_range(positions, inside, rows[3], tiling)
    M: tl.constexpr = tiling.rows
    D: tl.constexpr = ours.wide
    centre = tl.zeros([M], tl.float32)
    for k0 in range(first, last, tiling.keys):
        keys = k0 + tl.arange(0, tiling.keys)
        real = real_keys(rows, sample, keys)
        see = visible(positions, inside, keys, real, tiling)
        k = load_keys(student, sample, head, keys, real, ours)
        slope = tl.load(slopes + slot[:, None] * rows[3] + keys[None, :], mask=see, other=0.0)
        centre += tl.sum(attention(scores(q, k, student[2], ours, tiling), lse, see) * slope, 1)
    total = tl.zeros([M, D], tl.float32)
    for k0 in range(first, last, tiling.keys):
        keys = k0 + tl.arange(0, tiling.keys)
        real = real_keys(rows, sample, keys)
        see = visible(positions, inside, keys, real, tiling)
        k = load_keys(student, sample, head, keys, real, ours)
        slope = tl.load(slopes + slot[:, None] * rows[3] + keys[None, :], mask=see, other=0.0)
        s = scores(q, k, student[2], ours, tiling)
        g = capped(attention(s, lse, see) * (slope - centre[:, None]), s, ours)
        total += product(g, k, ours.precision, tiling.interpreted)
    tl.store(centres + head * rows[4] + index, centre, mask=inside)
    base = gradient[0] + sample * gradient[1] + (head + 0 * sample) * gradient[2]
    total = total * (student[2] * tl.load(output))
    store_rows(base, gradient[3], positions, inside, total, ours, tiling)


@triton.jit
def mean_key_gradient(
    student,
    rows,
    student_lse,
    slopes,
    centres,
    output,
    gradient,
    per_group,
    first_tile,
    tiles,
    ours: tl.constexpr,
    tiling: tl.constexpr,
):
    """Add the gradient of keys for the head-averaged rows of `tiles` tiles from `first_tile`.

    `gradient` is fp32. Grid: tiles of keys, key heads, samples.
    """
    block, group = tl.program_id(0), tl.program_id(1)
    sample = tl.program_id(2).to(tl.int64)
    keys = block * tiling.keys + tl.arange(0, tiling.keys)
    real = real_keys(rows, sample, keys)
    k = load_keys(student, sample, group * per_group, keys, real, ours)
    origin = tl.load(rows[2] + sample * rows[3]) + first_tile * tiling.rows
    start, end = rows_seeing(rows, sample, block, tiling)
    start, end = tl.maximum(start, origin), tl.minimum(end, origin + tiles * tiling.rows)
    N: tl.constexpr = tiling.keys
    D: tl.constexpr = ours.wide
    total = tl.zeros([N, D], tl.float32)
    for member in range(per_group):
        head = group * per_group + member
        for r0 in range(start, end, tiling.rows):
            index = r0 + tl.arange(0, tiling.rows)
            inside = index < end
            positions = tl.load(rows[1] + index, mask=inside, other=0)
            see = visible(positions, inside, keys, real, tiling)
            q = load_queries(student, sample, head, positions, inside, ours)
            at = head * rows[4] + index
            lse = tl.load(student_lse + at, mask=inside, other=0.0)
            centre = tl.load(centres + at, mask=inside, other=0.0)
            slot = sample * tiles * tiling.rows + (index - origin)
            slope = tl.load(slopes + slot[:, None] * rows[3] + keys[None, :], mask=see, other=0.0)
            s = scores(q, k, student[2], ours, tiling)
            g = capped(attention(s, lse, see) * (slope - centre[:, None]), s, ours)
            total += product(tl.trans(g), q, ours.precision, tiling.interpreted)
    base = gradient[0] + sample * gradient[1] + (group + 0 * sample) * gradient[2]
    inside = keys < rows[3]
    before = load_rows(base, gradient[3], keys, inside, ours)
    total = before + total * (student[2] * tl.load(output))
    store_rows(base, gradient[3], keys, inside, total, ours, tiling)
