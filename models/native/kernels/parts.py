"""What the kernels are made of: rows of tokens through norms and linear layers."""

from __future__ import annotations

import triton
import triton.language as tl

NUMBERS = ["T", "M", "Q", "L", "below", "layer", "size", "stride"]  # a new value compiles nothing
_EPSILON = tl.constexpr(1e-5)  # of the layer norms


@triton.jit
def dot(a, b):
    """Return a matrix product, as exact as one in float32."""
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def load_matrix(at, D: tl.constexpr, rows, columns):
    """Load the given rows and columns of a matrix whose rows have D values."""
    return tl.load(at + rows[:, None] * D + columns[None, :])


@triton.jit
def normalise(x, D: tl.constexpr):
    """Return rows normalised to mean 0 and variance 1, and the factors of this."""
    x = x - tl.sum(x, 1)[:, None] / D
    variance = tl.sum(x * x, 1) / D
    # NaN, not 0, where the variance is beyond float32.
    scale = 1 / tl.sqrt(variance + _EPSILON) + 0.0 * variance
    return x * scale[:, None], scale


@triton.jit
def scale_and_shift(normed, at, channels, D: tl.constexpr):
    """Multiply rows by a norm's weights, and add its biases, which follow them in memory."""
    return normed * tl.load(at + channels)[None, :] + tl.load(at + D + channels)[None, :]


@triton.jit
def normalise_grad(grad, normed, scale, D: tl.constexpr):
    """Return the gradient of the input of `normalise` from that of its output."""
    along = tl.sum(grad * normed, 1)[:, None] / D
    return scale[:, None] * (grad - tl.sum(grad, 1)[:, None] / D - normed * along)


@triton.jit
def load_tokens(at, count, positions, rows, channels, D: tl.constexpr):
    """Load tokens, scale them and add their positions; a first channel of 0 gets none."""
    offsets = rows[:, None] * D + channels[None, :]
    is_there = rows[:, None] < count
    x = tl.load(at + offsets, mask=is_there, other=0.0)
    first = tl.load(at + rows * D, mask=rows < count, other=0.0)
    position = tl.load(positions + offsets, mask=is_there & (first[:, None] != 0), other=0.0)
    return x * D**0.5 + position


@triton.jit
def project(x, weight, bias, channels, D: tl.constexpr):
    """Return `x` mapped by a linear layer `(D, D)`."""
    product = dot(x, tl.trans(load_matrix(weight, D, channels, channels)))
    return product + tl.load(bias + channels)[None, :]


@triton.jit
def project_across(x, weight, bias, rows, channels, D: tl.constexpr):
    """Return the same for the given rows of a weight, transposed: channels by tokens."""
    product = dot(load_matrix(weight, D, rows, channels), tl.trans(x))
    return product + tl.load(bias + rows)[:, None]


@triton.jit
def hidden_chunk(x, w1, b1, begin, channels, D: tl.constexpr, CHUNK: tl.constexpr):
    """Return a chunk of the feed-forward's hidden channels, the chunk's weights and its rows."""
    rows = begin + tl.arange(0, CHUNK)
    weight = load_matrix(w1, D, rows, channels)
    hidden = dot(x, tl.trans(weight)) + tl.load(b1 + rows)[None, :]
    return tl.where(hidden <= 0, 0.0, hidden), weight, rows  # NaN stays NaN
