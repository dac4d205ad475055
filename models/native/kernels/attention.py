"""The kernels of one head's attention in one segment, forward and backward."""

from __future__ import annotations

import triton
import triton.language as tl

from models.native.kernels.parts import NUMBERS, dot


@triton.jit
def _scrambled(x):
    """Hash as models.layers.dropout.scramble does."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _dropout(keys, layer, head, queries, first, M, below, rows, others, IS_DROPPED: tl.constexpr):
    """Return 1 / (share kept) where a weight is kept, else 0; see models.layers.dropout."""
    if IS_DROPPED:
        key = tl.load(keys + tl.program_id(0)).to(tl.uint32) + layer
        index = (head * M + others[None, :]) * queries + rows[:, None] - first
        hashed = _scrambled(_scrambled(key) + index.to(tl.uint32) * 0x9E3779B1)
        return tl.where(hashed < below, 4294967296.0 / below.to(tl.float32), 0.0)
    else:
        return tl.full((rows.shape[0], others.shape[0]), 1.0, tl.float32)


@triton.jit
def _channel(at, channel, BLOCK: tl.constexpr):
    """Return a channel of queries, keys or values for all tokens."""
    return tl.load(at + channel * BLOCK + tl.arange(0, BLOCK))


@triton.jit
def _outer(a_at, b_at, HEAD: tl.constexpr, TB: tl.constexpr, MB: tl.constexpr):
    """Return the product of a head's channels of `a` and of `b`, `(TB, MB)`.

    It starts with a matrix product of zeros: in the layout of such a result, sums along rows need
    little communication between threads.
    """
    product = dot(tl.zeros((TB, 16), tl.float32), tl.zeros((16, MB), tl.float32))
    for channel in tl.range(HEAD, loop_unroll_factor=4):
        a, b = _channel(a_at, channel, TB), _channel(b_at, channel, MB)
        product += a[:, None] * b[None, :]
    return product


@triton.jit
def _attention(q_at, k_at, M, others, HEAD: tl.constexpr, TB: tl.constexpr, MB: tl.constexpr):
    """Return a head's attention weights; each query's highest score, and its softmax's divisor."""
    scores = _outer(q_at, k_at, HEAD, TB, MB)
    scores = tl.where(others[None, :] < M, scores, -float("inf"))
    highest = tl.max(scores, 1)
    weights = tl.exp(scores - highest[:, None])
    total = tl.sum(weights, 1)
    return weights / total[:, None], highest, total


@triton.jit(do_not_specialize=NUMBERS)
def attend(
    keys, kept, layer, size, stride, T, M, Q, below,
    D: tl.constexpr, HEAD: tl.constexpr, TB: tl.constexpr, MB: tl.constexpr,
    IS_DROPPED: tl.constexpr,
):  # fmt: skip
    """Store a head's outputs for a segment; of the queries, only the last Q are needed."""
    head, rows, others = tl.program_id(1), tl.arange(0, TB), tl.arange(0, MB)
    begin = head * HEAD
    at = kept + tl.program_id(0).to(tl.int64) * size + layer * stride
    context_at, q_at = at + (D + begin) * TB, at + (2 * D + begin) * TB
    k_at = at + 3 * D * TB + begin * MB
    p, _highest, _total = _attention(q_at, k_at, M, others, HEAD, TB, MB)
    p *= _dropout(keys, layer, head, Q, T - Q, M, below, rows, others, IS_DROPPED)
    for channel in tl.range(HEAD, loop_unroll_factor=4):
        v = _channel(k_at, D + channel, MB)
        tl.store(context_at + channel * TB + rows, tl.sum(p * v[None, :], 1))


@triton.jit(do_not_specialize=NUMBERS)
def attend_backward(
    keys, kept, grads, layer, size, stride, T, M, Q, below,
    D: tl.constexpr, HEAD: tl.constexpr, TB: tl.constexpr, MB: tl.constexpr,
    IS_DROPPED: tl.constexpr,
):  # fmt: skip
    """Store the gradients of a head's queries, keys and values."""
    segment, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows, others, begin = tl.arange(0, TB), tl.arange(0, MB), head * HEAD
    at, grads = kept + segment * size + layer * stride, grads + segment * 3 * (TB + MB) * D
    q_at, k_at = at + (2 * D + begin) * TB, at + 3 * D * TB + begin * MB
    grad_at, grad_q_at = grads + (D + begin) * TB, grads + (2 * D + begin) * TB
    grad_k_at = grads + 3 * D * TB + begin * MB
    p, highest, total = _attention(q_at, k_at, M, others, HEAD, TB, MB)
    factors = _dropout(keys, layer, head, Q, T - Q, M, below, rows, others, IS_DROPPED)
    grad_p = _outer(grad_at, k_at + D * MB, HEAD, TB, MB) * factors
    common = tl.sum(grad_p * p, 1)
    grad_scores = p * (grad_p - common[:, None])
    for channel in tl.range(HEAD, loop_unroll_factor=4):
        k = _channel(k_at, channel, MB)
        tl.store(grad_q_at + channel * TB + rows, tl.sum(grad_scores * k[None, :], 1))
    # The same transposed, for sums over the queries.
    p = tl.exp(_outer(k_at, q_at, HEAD, MB, TB) - highest[None, :]) / total[None, :]
    p = tl.where(others[:, None] < M, p, 0.0)
    factors = tl.trans(factors)
    grad_p = _outer(k_at + D * MB, grad_at, HEAD, MB, TB) * factors
    grad_scores = p * (grad_p - common[None, :])
    p *= factors
    for channel in tl.range(HEAD, loop_unroll_factor=4):
        q, grad = _channel(q_at, channel, TB), _channel(grad_at, channel, TB)
        tl.store(grad_k_at + channel * MB + others, tl.sum(grad_scores * q[None, :], 1))
        tl.store(grad_k_at + (D + channel) * MB + others, tl.sum(p * grad[None, :], 1))
