"""The encoder of models/layers for GPUs, forward and backward, in Triton.

Two kinds of kernels alternate: one with a program per segment, for everything between two
attentions, and one with a program per segment and head. PyTorch would start some 15 kernels per
layer. A float32 product is computed from three TF32 products, which is as exact. Heads are too
narrow for matrix units: their scores are summed up channel by channel.

T tokens, M memory tokens, Q output tokens; L layers, D width, HEAD a head's width, F feed-forward
width. TB and MB are T and M rounded up to powers of two; rows of zeros fill the difference. The
weights are one array: layer after layer, then the last norm. A layer has LAYER values; the weights
of its modules begin at OUT, FC1, FC2 and NORMS.

`kept` passes values between kernels: `size` values per segment, of these `stride` per layer: the
layer's input (TB, D), the heads' outputs (D, TB), queries (D, TB), keys and values (2 D, MB); after
the last layer, its output. `grads` does so in the backward pass, per segment: the gradient so far
(TB, D), and those of heads' outputs (D, TB), queries (D, TB), keys and values (2 D, MB), and of the
normalised memory (MB, D).
"""

from __future__ import annotations

import triton
import triton.language as tl

_NUMBERS = ["T", "M", "Q", "L", "below", "layer", "size", "stride"]  # a new value compiles nothing
_EPSILON = tl.constexpr(1e-5)  # of the layer norms


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _matrix(at, D: tl.constexpr, rows, columns):
    """Load the given rows and columns of a matrix whose rows have D values."""
    return tl.load(at + rows[:, None] * D + columns[None, :])


@triton.jit
def _normed(x, D: tl.constexpr):
    """Return rows normalised to mean 0 and variance 1, and the factors of this."""
    x = x - tl.sum(x, 1)[:, None] / D
    variance = tl.sum(x * x, 1) / D
    # NaN, not 0, where the variance is beyond float32.
    scale = 1 / tl.sqrt(variance + _EPSILON) + 0.0 * variance
    return x * scale[:, None], scale


@triton.jit
def _scaled(normed, at, channels, D: tl.constexpr):
    """Multiply rows by a norm's weights, and add its biases, which follow them in memory."""
    return normed * tl.load(at + channels)[None, :] + tl.load(at + D + channels)[None, :]


@triton.jit
def _normed_grad(grad, normed, scale, D: tl.constexpr):
    """Return the gradient of the input of `_normed` from that of its output."""
    along = tl.sum(grad * normed, 1)[:, None] / D
    return scale[:, None] * (grad - tl.sum(grad, 1)[:, None] / D - normed * along)


@triton.jit
def _tokens(at, count, positions, rows, channels, D: tl.constexpr):
    """Load tokens, scale them and add their positions; a first channel of 0 gets none."""
    offsets = rows[:, None] * D + channels[None, :]
    is_there = rows[:, None] < count
    x = tl.load(at + offsets, mask=is_there, other=0.0)
    first = tl.load(at + rows * D, mask=rows < count, other=0.0)
    position = tl.load(positions + offsets, mask=is_there & (first[:, None] != 0), other=0.0)
    return x * D**0.5 + position


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
    product = _dot(tl.zeros((TB, 16), tl.float32), tl.zeros((16, MB), tl.float32))
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


@triton.jit
def _projected(x, weight, bias, channels, D: tl.constexpr):
    """Return `x` mapped by a linear layer `(D, D)`."""
    product = _dot(x, tl.trans(_matrix(weight, D, channels, channels)))
    return product + tl.load(bias + channels)[None, :]


@triton.jit
def _across(x, weight, bias, rows, channels, D: tl.constexpr):
    """Return the same for the given rows of a weight, transposed: channels by tokens."""
    product = _dot(_matrix(weight, D, rows, channels), tl.trans(x))
    return product + tl.load(bias + rows)[:, None]


@triton.jit
def _hidden(x, w1, b1, begin, channels, D: tl.constexpr, CHUNK: tl.constexpr):
    """Return a chunk of the feed-forward's hidden channels, the chunk's weights and its rows."""
    rows = begin + tl.arange(0, CHUNK)
    weight = _matrix(w1, D, rows, channels)
    hidden = _dot(x, tl.trans(weight)) + tl.load(b1 + rows)[None, :]
    return tl.where(hidden <= 0, 0.0, hidden), weight, rows  # NaN stays NaN


@triton.jit(do_not_specialize=_NUMBERS)
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


@triton.jit(do_not_specialize=_NUMBERS)
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
        x = _tokens(x_at + segment * T * D, T, positions, rows, channels, D)
    else:
        w_out, w1, w2 = weights - LAYER + OUT, weights - LAYER + FC1, weights - LAYER + FC2
        context = tl.trans(tl.load(at - stride + TB * D + transposed_offsets))
        x = tl.load(at - stride + offsets)
        x += _projected(context, w_out, w_out + D * D, channels, D)
        n, _scale = _normed(x, D)
        n = _scaled(n, weights - LAYER + NORMS + 2 * D, channels, D)
        x += tl.load(w2 + D * F + channels)[None, :]
        for begin in range(0, F, CHUNK):
            hidden, _weight, chunk = _hidden(n, w1, w1 + D * F, begin, channels, D, CHUNK)
            x += _dot(hidden, tl.trans(_matrix(w2, F, channels, chunk)))
    tl.store(at + offsets, x)
    n, _scale = _normed(x, D)
    if IS_LAST:
        is_out = (rows[:, None] < T) & (rows[:, None] >= T - Q)
        n = _scaled(n, weights, channels, D)
        tl.store(out + segment * Q * D + offsets - (T - Q) * D, n, mask=is_out)
    else:
        n = _scaled(n, weights + NORMS, channels, D)
        m = n
        if HAS_MEMORY:
            m = _tokens(memory_at + segment * M * D, M, positions, others, channels, D)
            m, _scale = _normed(m, D)
            m = _scaled(m, weights + NORMS, channels, D)
        both, bias = tl.arange(0, 2 * D), weights + 3 * D * D
        q = _across(n, weights, bias, channels, channels, D) * HEAD**-0.5
        k_and_v = _across(m, weights + D * D, bias + D, both, channels, D)
        tl.store(at + 2 * D * TB + transposed_offsets, q)
        tl.store(at + 3 * D * TB + both[:, None] * MB + others[None, :], k_and_v)


@triton.jit(do_not_specialize=_NUMBERS)
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


@triton.jit(do_not_specialize=_NUMBERS)
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
    n, scale = _normed(tl.load(at + offsets), D)
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
        tl.store(to + square, _dot(grad_q, n * gamma + beta))
        tl.store(to_bias + channels, tl.sum(grad_q, 1))
        tl.store(to_bias + D + both, tl.sum(grad_k_and_v, 1))
        inner = _dot(tl.trans(grad_q), tl.load(weights + square))
        of_memory = _dot(tl.trans(grad_k_and_v), tl.load(weights + both_offsets))
        if HAS_MEMORY:
            m = _tokens(memory_at + segment * M * D, M, positions, others, channels, D)
            m, m_scale = _normed(m, D)
            tl.store(to + both_offsets, _dot(grad_k_and_v, m * gamma + beta))
            grad_gamma = tl.sum(inner * n, 0) + tl.sum(of_memory * m, 0)
            grad_beta = tl.sum(inner, 0) + tl.sum(of_memory, 0)
            memory_offsets = others[:, None] * D + channels[None, :]
            grad_m_at = grads + (3 * TB + 2 * MB) * D + memory_offsets
            is_begun = tl.zeros((MB, 1), tl.int32) + layer < L - 1
            grad_m = tl.load(grad_m_at, mask=is_begun, other=0.0)
            grad_m += _normed_grad(of_memory * gamma, m, m_scale, D)
            if IS_FIRST:
                tl.store(
                    grad_memory + segment * M * D + memory_offsets,
                    grad_m * D**0.5,
                    mask=others[:, None] < M,
                )
            else:
                tl.store(grad_m_at, grad_m)
        else:
            tl.store(to + both_offsets, _dot(grad_k_and_v, n * gamma + beta))
            inner += of_memory
            grad_gamma, grad_beta = tl.sum(inner * n, 0), tl.sum(inner, 0)
    tl.store(to_norm + channels, grad_gamma)
    tl.store(to_norm + D + channels, grad_beta)
    grad += _normed_grad(inner * gamma, n, scale, D)
    if IS_FIRST:
        tl.store(grad_x + segment * T * D + offsets, grad * D**0.5, mask=is_there)
    else:
        at, weights, to = at - stride, weights - LAYER, to - LAYER
        w_out, w1, w2, norm = weights + OUT, weights + FC1, weights + FC2, weights + NORMS + 2 * D
        to_out, to_1, to_2, to_norm = to + OUT, to + FC1, to + FC2, to + NORMS + 2 * D
        context = tl.load(at + TB * D + transposed_offsets)
        n = _projected(tl.trans(context), w_out, w_out + D * D, channels, D)
        n, scale = _normed(tl.load(at + offsets) + n, D)
        gamma = tl.load(norm + channels)[None, :]
        scaled = n * gamma + tl.load(norm + D + channels)[None, :]
        tl.store(to_2 + D * F + channels, tl.sum(grad, 0))
        inner = tl.zeros((TB, D), tl.float32)
        for begin in range(0, F, CHUNK):
            hidden, weight, chunk = _hidden(scaled, w1, w1 + D * F, begin, channels, D, CHUNK)
            w2_offsets = channels[None, :] * F + chunk[:, None]
            tl.store(to_2 + w2_offsets, _dot(tl.trans(hidden), grad))
            grad_hidden = _dot(grad, tl.trans(tl.load(w2 + w2_offsets)))
            grad_hidden = tl.where(hidden <= 0, 0.0, grad_hidden)
            chunk_offsets = chunk[:, None] * D + channels[None, :]
            tl.store(to_1 + chunk_offsets, _dot(tl.trans(grad_hidden), scaled))
            tl.store(to_1 + D * F + chunk, tl.sum(grad_hidden, 0))
            inner += _dot(grad_hidden, weight)
        tl.store(to_norm + channels, tl.sum(inner * n, 0))
        tl.store(to_norm + D + channels, tl.sum(inner, 0))
        grad += _normed_grad(inner * gamma, n, scale, D)
        tl.store(to_out + square, _dot(tl.trans(grad), tl.trans(context)))
        tl.store(to_out + D * D + channels, tl.sum(grad, 0))
        grad_context = _dot(tl.trans(tl.load(w_out + square)), tl.trans(grad))
        tl.store(grads + offsets, grad)
        tl.store(grads + D * TB + transposed_offsets, grad_context)
