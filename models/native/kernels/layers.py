"""The kernels of everything between two attentions of one segment, forward and backward."""

from __future__ import annotations

import triton
import triton.language as tl

from models.native.kernels.parts import (
    NUMBERS,
    dot,
    hidden_chunk,
    load_matrix,
    load_tokens,
    normalise,
    normalise_grad,
    project,
    project_across,
    scale_and_shift,
)


@triton.jit(do_not_specialize=NUMBERS)
def forward(
    x_at, memory_at, positions, weights, kept, out, layer, size, stride, T, M, Q,
    D: tl.constexpr, HEAD: tl.constexpr, F: tl.constexpr, CHUNK: tl.constexpr,
    TB: tl.constexpr, MB: tl.constexpr,
    OUT: tl.constexpr, FC1: tl.constexpr, FC2: tl.constexpr, NORMS: tl.constexpr,
    LAYER: tl.constexpr,
    HAS_MEMORY: tl.constexpr, IS_FIRST: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """Compute, from the heads' outputs of the previous layer, queries, keys and values of `layer`.

    The first layer starts from the tokens; after the last come its norm and the output.
    """
    segment = tl.program_id(0).to(tl.int64)
    rows, channels, others = tl.arange(0, TB), tl.arange(0, D), tl.arange(0, MB)
    offsets = rows[:, None] * D + channels[None, :]
    transposed_offsets = channels[:, None] * TB + rows[None, :]
    at, weights = kept + segment * size + layer * stride, weights + layer * LAYER
    if IS_FIRST:
        x = load_tokens(x_at + segment * T * D, T, positions, rows, channels, D)
    else:
        w_out, w1, w2 = weights - LAYER + OUT, weights - LAYER + FC1, weights - LAYER + FC2
        context = tl.trans(tl.load(at - stride + TB * D + transposed_offsets))
        x = tl.load(at - stride + offsets)
        x += project(context, w_out, w_out + D * D, channels, D)
        n, _scale = normalise(x, D)
        n = scale_and_shift(n, weights - LAYER + NORMS + 2 * D, channels, D)
        x += tl.load(w2 + D * F + channels)[None, :]
        for begin in range(0, F, CHUNK):
            hidden, _weight, chunk = hidden_chunk(n, w1, w1 + D * F, begin, channels, D, CHUNK)
            x += dot(hidden, tl.trans(load_matrix(w2, F, channels, chunk)))
    tl.store(at + offsets, x)
    n, _scale = normalise(x, D)
    if IS_LAST:
        is_out = (rows[:, None] < T) & (rows[:, None] >= T - Q)
        n = scale_and_shift(n, weights, channels, D)
        tl.store(out + segment * Q * D + offsets - (T - Q) * D, n, mask=is_out)
    else:
        n = scale_and_shift(n, weights + NORMS, channels, D)
        m = n
        if HAS_MEMORY:
            m = load_tokens(memory_at + segment * M * D, M, positions, others, channels, D)
            m, _scale = normalise(m, D)
            m = scale_and_shift(m, weights + NORMS, channels, D)
        both, bias = tl.arange(0, 2 * D), weights + 3 * D * D
        q = project_across(n, weights, bias, channels, channels, D) * HEAD**-0.5
        k_and_v = project_across(m, weights + D * D, bias + D, both, channels, D)
        tl.store(at + 2 * D * TB + transposed_offsets, q)
        tl.store(at + 3 * D * TB + both[:, None] * MB + others[None, :], k_and_v)


@triton.jit(do_not_specialize=NUMBERS)
def backward(
    memory_at, positions, weights, kept, grads, grad_out, grad_x, grad_memory, grad_weights,
    layer, size, stride, T, M, Q, L,
    D: tl.constexpr, HEAD: tl.constexpr, F: tl.constexpr, CHUNK: tl.constexpr,
    TB: tl.constexpr, MB: tl.constexpr,
    OUT: tl.constexpr, FC1: tl.constexpr, FC2: tl.constexpr, NORMS: tl.constexpr,
    LAYER: tl.constexpr,
    HAS_MEMORY: tl.constexpr, IS_FIRST: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """The backward pass of `forward`; stores each segment's gradients of the weights.

    The caller adds these up.
    """
    segment = tl.program_id(0).to(tl.int64)
    rows, channels, others = tl.arange(0, TB), tl.arange(0, D), tl.arange(0, MB)
    offsets = rows[:, None] * D + channels[None, :]
    transposed_offsets = channels[:, None] * TB + rows[None, :]
    square = channels[:, None] * D + channels[None, :]
    is_there = rows[:, None] < T
    at, weights = kept + segment * size + layer * stride, weights + layer * LAYER
    to, grads = grad_weights + segment * (L * LAYER + 2 * D), grads + segment * 3 * (TB + MB) * D
    to += layer * LAYER
    n, scale = normalise(tl.load(at + offsets), D)
    if IS_LAST:
        is_out = is_there & (rows[:, None] >= T - Q)
        inner = tl.load(grad_out + segment * Q * D + offsets - (T - Q) * D, mask=is_out, other=0.0)
        grad_gamma, grad_beta = tl.sum(inner * n, 0), tl.sum(inner, 0)
        gamma, to_norm = tl.load(weights + channels)[None, :], to
        grad = tl.zeros((TB, D), tl.float32)
    else:
        gamma = tl.load(weights + NORMS + channels)[None, :]
        beta = tl.load(weights + NORMS + D + channels)[None, :]
        to_norm, to_bias = to + NORMS, to + 3 * D * D
        grad = tl.load(grads + offsets)
        both = tl.arange(0, 2 * D)
        both_offsets = D * D + both[:, None] * D + channels[None, :]
        grad_q = tl.load(grads + 2 * D * TB + transposed_offsets) * HEAD**-0.5
        grad_k_and_v = tl.load(grads + 3 * D * TB + both[:, None] * MB + others[None, :])
        tl.store(to + square, dot(grad_q, n * gamma + beta))
        tl.store(to_bias + channels, tl.sum(grad_q, 1))
        tl.store(to_bias + D + both, tl.sum(grad_k_and_v, 1))
        inner = dot(tl.trans(grad_q), tl.load(weights + square))
        of_memory = dot(tl.trans(grad_k_and_v), tl.load(weights + both_offsets))
        if HAS_MEMORY:
            m = load_tokens(memory_at + segment * M * D, M, positions, others, channels, D)
            m, m_scale = normalise(m, D)
            tl.store(to + both_offsets, dot(grad_k_and_v, m * gamma + beta))
            grad_gamma = tl.sum(inner * n, 0) + tl.sum(of_memory * m, 0)
            grad_beta = tl.sum(inner, 0) + tl.sum(of_memory, 0)
            memory_offsets = others[:, None] * D + channels[None, :]
            grad_m_at = grads + (3 * TB + 2 * MB) * D + memory_offsets
            is_begun = tl.zeros((MB, 1), tl.int32) + layer < L - 1
            grad_m = tl.load(grad_m_at, mask=is_begun, other=0.0)
            grad_m += normalise_grad(of_memory * gamma, m, m_scale, D)
            if IS_FIRST:
                tl.store(
                    grad_memory + segment * M * D + memory_offsets,
                    grad_m * D**0.5,
                    mask=others[:, None] < M,
                )
            else:
                tl.store(grad_m_at, grad_m)
        else:
            tl.store(to + both_offsets, dot(grad_k_and_v, n * gamma + beta))
            inner += of_memory
            grad_gamma, grad_beta = tl.sum(inner * n, 0), tl.sum(inner, 0)
    tl.store(to_norm + channels, grad_gamma)
    tl.store(to_norm + D + channels, grad_beta)
    grad += normalise_grad(inner * gamma, n, scale, D)
    if IS_FIRST:
        tl.store(grad_x + segment * T * D + offsets, grad * D**0.5, mask=is_there)
    else:
        at, weights, to = at - stride, weights - LAYER, to - LAYER
        w_out, w1, w2, norm = weights + OUT, weights + FC1, weights + FC2, weights + NORMS + 2 * D
        to_out, to_1, to_2, to_norm = to + OUT, to + FC1, to + FC2, to + NORMS + 2 * D
        context = tl.load(at + TB * D + transposed_offsets)
        n = project(tl.trans(context), w_out, w_out + D * D, channels, D)
        n, scale = normalise(tl.load(at + offsets) + n, D)
        gamma = tl.load(norm + channels)[None, :]
        scaled = n * gamma + tl.load(norm + D + channels)[None, :]
        tl.store(to_2 + D * F + channels, tl.sum(grad, 0))
        inner = tl.zeros((TB, D), tl.float32)
        for begin in range(0, F, CHUNK):
            hidden, weight, chunk = hidden_chunk(scaled, w1, w1 + D * F, begin, channels, D, CHUNK)
            w2_offsets = channels[None, :] * F + chunk[:, None]
            tl.store(to_2 + w2_offsets, dot(tl.trans(hidden), grad))
            grad_hidden = dot(grad, tl.trans(tl.load(w2 + w2_offsets)))
            grad_hidden = tl.where(hidden <= 0, 0.0, grad_hidden)
            chunk_offsets = chunk[:, None] * D + channels[None, :]
            tl.store(to_1 + chunk_offsets, dot(tl.trans(grad_hidden), scaled))
            tl.store(to_1 + D * F + chunk, tl.sum(grad_hidden, 0))
            inner += dot(grad_hidden, weight)
        tl.store(to_norm + channels, tl.sum(inner * n, 0))
        tl.store(to_norm + D + channels, tl.sum(inner, 0))
        grad += normalise_grad(inner * gamma, n, scale, D)
        tl.store(to_out + square, dot(tl.trans(grad), tl.trans(context)))
        tl.store(to_out + D * D + channels, tl.sum(grad, 0))
        grad_context = dot(tl.trans(tl.load(w_out + square)), tl.trans(grad))
        tl.store(grads + offsets, grad)
        tl.store(grads + D * TB + transposed_offsets, grad_context)
