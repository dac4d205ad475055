"""Splitting float32 values for TF32 products, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split(x_at, out_at, count, columns, IS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr):
    """Store each row of `x` three times: high, high, low; those of a weight as high, low, high.

    `high` is `x` rounded to the 11 significant bits of TF32, `low` what that leaves out.
    """
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_there = places < count
    x = tl.load(x_at + places, mask=is_there)
    high = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    low = x - high
    out = out_at + places + places // columns * (2 * columns)
    tl.store(out, high, mask=is_there)
    tl.store(out + columns, low if IS_WEIGHT else high, mask=is_there)
    tl.store(out + 2 * columns, high if IS_WEIGHT else low, mask=is_there)
