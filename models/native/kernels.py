"""The encoder of models/layers for GPUs, forward and backward, in Triton: a segment is one program.

A segment's tokens stay in registers through all layers, where PyTorch would start some 15 kernels a
layer. Products are float32 from three of TF32, which is as exact. Heads are too narrow for matrix
units: their scores are summed up channel by channel, from queries, keys and values in memory, which
lie channel after channel.

T tokens, M memory tokens, Q tokens that come out; L layers, H heads, D width, HEAD a head's width,
F feed-forward width. TB and MB are T and M rounded up to powers of two, which rows of zeros fill.
Weights are one array: layer after layer, then the last norm. Within a layer, of LAYER values, OUT,
FC1, FC2 and NORMS are where those modules' weights begin. Of a layer is kept its input (TB, D), the
heads' outputs (D, TB), queries (D, TB), keys and values (2 D, MB); behind the last, what it gave.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LENGTHS = ["T", "M", "Q", "below"]  # for which nothing is compiled anew
_EPSILON = tl.constexpr(1e-5)  # of the layer norms


@triton.jit
def _dot(a, b):
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def _matrix(at, D: tl.constexpr, rows, columns):
    """Return a matrix's given rows and columns, where a row has D values."""
    return tl.load(at + rows[:, None] * D + columns[None, :])


@triton.jit
def _normed(x, D: tl.constexpr):
    """Return rows of mean 0 and variance 1, and what they were multiplied by."""
    x = x - tl.sum(x, 1)[:, None] / D
    scale = 1 / tl.sqrt(tl.sum(x * x, 1) / D + _EPSILON)
    return x * scale[:, None], scale


@triton.jit
def _scaled(normed, at, channels, D: tl.constexpr):
    """Multiply rows by a norm's weights, and add its biases, which lie behind those."""
    return normed * tl.load(at + channels)[None, :] + tl.load(at + D + channels)[None, :]


@triton.jit
def _normed_grad(grad, normed, scale, D: tl.constexpr):
    """Return the gradient of what `_normed` took from that of what it gave."""
    along = tl.sum(grad * normed, 1)[:, None] / D
    return scale[:, None] * (grad - tl.sum(grad, 1)[:, None] / D - normed * along)


@triton.jit
def _tokens(at, count, positions, rows, channels, D: tl.constexpr):
    """Load tokens, scale them and add their positions; a first channel of 0 gets none."""
    places = rows[:, None] * D + channels[None, :]
    is_there = rows[:, None] < count
    x = tl.load(at + places, mask=is_there, other=0.0)
    first = tl.load(at + rows * D, mask=rows < count, other=0.0)
    position = tl.load(positions + places, mask=is_there & (first[:, None] != 0), other=0.0)
    return x * D**0.5 + position


@triton.jit
def _scrambled(x):
    """Hash as models.layers.dropout.scramble does."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _kept(key, head, queries, first, M, below, rows, others, IS_DROPPED: tl.constexpr):
    """Return 1 / kept where a weight stays and 0 where it is dropped; see models.layers.dropout."""
    if IS_DROPPED:
        place = (head * M + others[None, :]) * queries + rows[:, None] - first
        hashed = _scrambled(_scrambled(key) + place.to(tl.uint32) * 0x9E3779B1)
        return tl.where(hashed < below, 4294967296.0 / below.to(tl.float32), 0.0)
    else:
        return tl.full((rows.shape[0], others.shape[0]), 1.0, tl.float32)


@triton.jit
def _channel(at, channel, BLOCK: tl.constexpr):
    """Return a channel of queries, keys or values for all tokens."""
    return tl.load(at + channel * BLOCK + tl.arange(0, BLOCK))


@triton.jit
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return zeros, as a product: along the rows of one, sums take few steps between threads."""
    return _dot(tl.zeros((ROWS, 16), tl.float32), tl.zeros((16, COLUMNS), tl.float32))


@triton.jit
def _outer(zeros, a_at, b_at, begin, HEAD: tl.constexpr, TB: tl.constexpr, MB: tl.constexpr):
    """Return a head's channels of `a`, from `begin` on, times those of `b`, `(TB, MB)`."""
    product = zeros
    for channel in tl.range(HEAD, loop_unroll_factor=4):
        a, b = _channel(a_at, begin + channel, TB), _channel(b_at, begin + channel, MB)
        product += a[:, None] * b[None, :]
    return product


@triton.jit
def _attention(
    zeros, q_at, k_at, begin, M, others, HEAD: tl.constexpr, TB: tl.constexpr, MB: tl.constexpr
):
    """Return the weights of the head whose channels begin there.

    Beside them each query's highest score, and the sum that its weights were divided by.
    """
    scores = _outer(zeros, q_at, k_at, begin, HEAD, TB, MB)
    scores = tl.where(others[None, :] < M, scores, -float("inf"))
    highest = tl.max(scores, 1)
    weights = tl.exp(scores - highest[:, None])
    total = tl.sum(weights, 1)
    return weights / total[:, None], highest, total


@triton.jit
def _projected(x, weight, bias, channels, D: tl.constexpr):
    """Return `x` times a weight `(D, D)`, and its bias."""
    product = _dot(x, tl.trans(_matrix(weight, D, channels, channels)))
    return product + tl.load(bias + channels)[None, :]


@triton.jit
def _across(x, weight, bias, rows, channels, D: tl.constexpr):
    """Return the same for the given rows of a weight `(rows, D)`, channel after channel."""
    product = _dot(_matrix(weight, D, rows, channels), tl.trans(x))
    return product + tl.load(bias + rows)[:, None]


@triton.jit
def _hidden(x, w1, b1, begin, channels, D: tl.constexpr, CHUNK: tl.constexpr):
    """Return a chunk of the feed-forward block's hidden channels, and the chunk's weights."""
    rows = begin + tl.arange(0, CHUNK)
    weight = _matrix(w1, D, rows, channels)
    hidden = _dot(x, tl.trans(weight)) + tl.load(b1 + rows)[None, :]
    return tl.where(hidden <= 0, 0.0, hidden), weight, rows  # what is no number stays none


@triton.jit(do_not_specialize=_LENGTHS)
def forward(
    x_at, memory_at, positions, keys, weights, kept, out,
    T, M, Q, L, H, F, below,
    D: tl.constexpr, HEAD: tl.constexpr, CHUNK: tl.constexpr,
    TB: tl.constexpr, MB: tl.constexpr,
    OUT: tl.constexpr, FC1: tl.constexpr, FC2: tl.constexpr, NORMS: tl.constexpr,
    LAYER: tl.constexpr,
    HAS_MEMORY: tl.constexpr, IS_DROPPED: tl.constexpr, IS_KEPT: tl.constexpr,
):  # fmt: skip
    """Encode a segment; where IS_KEPT, keep each layer's input and heads' outputs."""
    segment = tl.program_id(0).to(tl.int64)
    rows, channels, others = tl.arange(0, TB), tl.arange(0, D), tl.arange(0, MB)
    places, is_there = rows[:, None] * D + channels[None, :], rows[:, None] < T
    x = _tokens(x_at + segment * T * D, T, positions, rows, channels, D)
    if HAS_MEMORY:
        memory = _tokens(memory_at + segment * M * D, M, positions, others, channels, D)
        memory, _memory_scale = _normed(memory, D)
    of_a_layer = (3 * TB + 2 * MB) * D
    kept += segment * (L * of_a_layer + TB * D if IS_KEPT else of_a_layer)
    both, row_places = tl.arange(0, 2 * D), channels[:, None] * TB + rows[None, :]
    zeros = _zeros(TB, MB)
    for layer in range(L):
        w_in = weights + layer * LAYER
        w_out, w1, w2, norm = w_in + OUT, w_in + FC1, w_in + FC2, w_in + NORMS
        queries = tl.where(layer == L - 1, Q, T)
        n, _scale = _normed(x, D)
        n = _scaled(n, norm, channels, D)
        m = n
        if HAS_MEMORY:
            m = _scaled(memory, norm, channels, D)
        b_in = w_in + 3 * D * D
        q = _across(n, w_in, b_in, channels, channels, D) * HEAD**-0.5
        k_and_v = _across(m, w_in + D * D, b_in + D, both, channels, D)
        found_at = kept + TB * D
        q_at, k_at = found_at + TB * D, found_at + 2 * TB * D
        tl.store(q_at + row_places, q)
        tl.store(k_at + both[:, None] * MB + others[None, :], k_and_v)
        tl.debug_barrier()
        key = tl.load(keys + segment).to(tl.uint32) + layer if IS_DROPPED else 0
        for head in range(H):
            begin = head * HEAD
            p, _highest, _total = _attention(zeros, q_at, k_at, begin, M, others, HEAD, TB, MB)
            p *= _kept(key, head, queries, T - queries, M, below, rows, others, IS_DROPPED)
            for channel in tl.range(HEAD, loop_unroll_factor=4):
                v = _channel(k_at, D + begin + channel, MB)
                tl.store(found_at + (begin + channel) * TB + rows, tl.sum(p * v[None, :], 1))
        tl.debug_barrier()
        found = tl.trans(tl.load(found_at + row_places))
        if IS_KEPT:
            tl.store(kept + places, x)
            kept += of_a_layer
        x += _projected(found, w_out, w_out + D * D, channels, D)
        n, _scale = _normed(x, D)
        n = _scaled(n, norm + 2 * D, channels, D)
        x += tl.load(w2 + D * F + channels)[None, :]
        for begin in range(0, F, CHUNK):
            hidden, _weight, chunk = _hidden(n, w1, w1 + D * F, begin, channels, D, CHUNK)
            x += _dot(hidden, tl.trans(_matrix(w2, F, channels, chunk)))
    if IS_KEPT:
        tl.store(kept + places, x)
    norm = weights + L * LAYER
    n, _scale = _normed(x, D)
    n = _scaled(n, norm, channels, D)
    is_out = is_there & (rows[:, None] >= T - Q)
    tl.store(out + segment * Q * D + places - (T - Q) * D, n, mask=is_out)


@triton.jit(do_not_specialize=_LENGTHS)
def backward(
    x_at, memory_at, positions, keys, weights, kept, scratch,
    grad_out, grad_x, grad_memory, grad_weights,
    T, M, Q, L, H, F, below,
    D: tl.constexpr, HEAD: tl.constexpr, CHUNK: tl.constexpr,
    TB: tl.constexpr, MB: tl.constexpr,
    OUT: tl.constexpr, FC1: tl.constexpr, FC2: tl.constexpr, NORMS: tl.constexpr,
    LAYER: tl.constexpr,
    HAS_MEMORY: tl.constexpr, IS_DROPPED: tl.constexpr,
):  # fmt: skip
    """Give the gradients that a segment brings; those of weights are for the caller to add up."""
    segment = tl.program_id(0).to(tl.int64)
    grads = grad_weights + segment * (L * LAYER + 2 * D)
    rows, channels, others = tl.arange(0, TB), tl.arange(0, D), tl.arange(0, MB)
    square = channels[:, None] * D + channels[None, :]
    places, is_there = rows[:, None] * D + channels[None, :], rows[:, None] < T
    memory_places = others[:, None] * D + channels[None, :]
    both, row_places = tl.arange(0, 2 * D), channels[:, None] * TB + rows[None, :]
    of_a_layer = (3 * TB + 2 * MB) * D
    kept += segment * (L * of_a_layer + TB * D) + L * of_a_layer
    grad_found_at = scratch + segment * 2 * (TB + MB) * D
    grad_q_at, grad_k_at = grad_found_at + TB * D, grad_found_at + 2 * TB * D
    if HAS_MEMORY:
        memory = _tokens(memory_at + segment * M * D, M, positions, others, channels, D)
        memory, memory_scale = _normed(memory, D)
        grad_m = tl.zeros((MB, D), tl.float32)
    norm, to_norm = weights + L * LAYER, grads + L * LAYER
    n, scale = _normed(tl.load(kept + places), D)
    is_out = is_there & (rows[:, None] >= T - Q)
    grad = tl.load(grad_out + segment * Q * D + places - (T - Q) * D, mask=is_out, other=0.0)
    tl.store(to_norm + channels, tl.sum(grad * n, 0))
    tl.store(to_norm + D + channels, tl.sum(grad, 0))
    grad = _normed_grad(grad * tl.load(norm + channels)[None, :], n, scale, D)
    zeros, turned_zeros = _zeros(TB, MB), _zeros(MB, TB)
    for down in range(L):
        layer = L - 1 - down
        w_in = weights + layer * LAYER
        to_in = grads + layer * LAYER
        w_out, w1, w2, norm = w_in + OUT, w_in + FC1, w_in + FC2, w_in + NORMS
        to_out, to_1, to_2, to_norm = to_in + OUT, to_in + FC1, to_in + FC2, to_in + NORMS
        kept -= of_a_layer
        found_at = kept + TB * D
        q_at, k_at = found_at + TB * D, found_at + 2 * TB * D
        x, found = tl.load(kept + places), tl.trans(tl.load(found_at + row_places))
        # The feed-forward block.
        n, scale = _normed(x + _projected(found, w_out, w_out + D * D, channels, D), D)
        gain = tl.load(norm + 2 * D + channels)[None, :]
        ready = n * gain + tl.load(norm + 3 * D + channels)[None, :]
        tl.store(to_2 + D * F + channels, tl.sum(grad, 0))
        inner = tl.zeros((TB, D), tl.float32)
        for begin in range(0, F, CHUNK):
            hidden, weight, chunk = _hidden(ready, w1, w1 + D * F, begin, channels, D, CHUNK)
            at = channels[None, :] * F + chunk[:, None]
            tl.store(to_2 + at, _dot(tl.trans(hidden), grad))
            grad_hidden = _dot(grad, tl.trans(tl.load(w2 + at)))
            grad_hidden = tl.where(hidden <= 0, 0.0, grad_hidden)
            at = chunk[:, None] * D + channels[None, :]
            tl.store(to_1 + at, _dot(tl.trans(grad_hidden), ready))
            tl.store(to_1 + D * F + chunk, tl.sum(grad_hidden, 0))
            inner += _dot(grad_hidden, weight)
        tl.store(to_norm + 2 * D + channels, tl.sum(inner * n, 0))
        tl.store(to_norm + 3 * D + channels, tl.sum(inner, 0))
        grad += _normed_grad(inner * gain, n, scale, D)
        # Attention.
        tl.store(to_out + square, _dot(tl.trans(grad), found))
        tl.store(to_out + D * D + channels, tl.sum(grad, 0))
        grad_found = _dot(tl.trans(tl.load(w_out + square)), tl.trans(grad))
        tl.store(grad_found_at + row_places, grad_found)
        tl.debug_barrier()
        queries = tl.where(layer == L - 1, Q, T)
        key = tl.load(keys + segment).to(tl.uint32) + layer if IS_DROPPED else 0
        for head in range(H):
            begin = head * HEAD
            p, highest, total = _attention(zeros, q_at, k_at, begin, M, others, HEAD, TB, MB)
            stays = _kept(key, head, queries, T - queries, M, below, rows, others, IS_DROPPED)
            grad_p = _outer(zeros, grad_found_at, k_at + D * MB, begin, HEAD, TB, MB) * stays
            common = tl.sum(grad_p * p, 1)
            grad_scores = p * (grad_p - common[:, None])
            for channel in tl.range(HEAD, loop_unroll_factor=4):
                k = _channel(k_at, begin + channel, MB)
                at = grad_q_at + (begin + channel) * TB + rows
                tl.store(at, tl.sum(grad_scores * k[None, :], 1))
            # The same turned, for sums over the queries.
            p = _outer(turned_zeros, k_at, q_at, begin, HEAD, MB, TB)
            p = tl.exp(p - highest[None, :]) / total[None, :]
            p = tl.where(others[:, None] < M, p, 0.0)
            stays = tl.trans(stays)
            grad_p = _outer(turned_zeros, k_at + D * MB, grad_found_at, begin, HEAD, MB, TB) * stays
            grad_scores = p * (grad_p - common[None, :])
            p *= stays
            for channel in tl.range(HEAD, loop_unroll_factor=4):
                q = _channel(q_at, begin + channel, TB)
                g = _channel(grad_found_at, begin + channel, TB)
                at = grad_k_at + (begin + channel) * MB + others
                tl.store(at, tl.sum(grad_scores * q[None, :], 1))
                tl.store(at + D * MB, tl.sum(p * g[None, :], 1))
        tl.debug_barrier()
        grad_q = tl.load(grad_q_at + row_places) * HEAD**-0.5
        grad_k_and_v = tl.load(grad_k_at + both[:, None] * MB + others[None, :])
        n, scale = _normed(tl.load(kept + places), D)
        gain = tl.load(norm + channels)[None, :]
        offset = tl.load(norm + D + channels)[None, :]
        ready = n * gain + offset
        attended = ready
        if HAS_MEMORY:
            attended = memory * gain + offset
        to_bias = to_in + 3 * D * D
        tl.store(to_in + square, _dot(grad_q, ready))
        tl.store(to_bias + channels, tl.sum(grad_q, 1))
        both_places = D * D + both[:, None] * D + channels[None, :]
        tl.store(to_in + both_places, _dot(grad_k_and_v, attended))
        tl.store(to_bias + D + both, tl.sum(grad_k_and_v, 1))
        inner = _dot(tl.trans(grad_q), tl.load(w_in + square))
        of_memory = _dot(tl.trans(grad_k_and_v), tl.load(w_in + both_places))
        if HAS_MEMORY:
            grad_gain = tl.sum(inner * n, 0) + tl.sum(of_memory * memory, 0)
            grad_offset = tl.sum(inner, 0) + tl.sum(of_memory, 0)
            grad_m += _normed_grad(of_memory * gain, memory, memory_scale, D)
        else:
            inner += of_memory
            grad_gain, grad_offset = tl.sum(inner * n, 0), tl.sum(inner, 0)
        tl.store(to_norm + channels, grad_gain)
        tl.store(to_norm + D + channels, grad_offset)
        grad += _normed_grad(inner * gain, n, scale, D)
    tl.store(grad_x + segment * T * D + places, grad * D**0.5, mask=is_there)
    if HAS_MEMORY:
        tl.store(
            grad_memory + segment * M * D + memory_places,
            grad_m * D**0.5,
            mask=others[:, None] < M,
        )
