"""Dropout of attention weights whose masks depend on nothing but a segment's key.

A mask is a hash of the key and of the position in the attention, not a draw from the device's
generator: it is the same on every device, in every batch and in any number of processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

_32_BITS = 0xFFFFFFFF
# Between the hashed numbers of neighbouring weights, whose masks would else correlate (8.7e-4
# instead of 2.8e-4, the latter within the errors of 86 million draws).
_STRIDE = 0x9E3779B1


def scramble(x: Tensor) -> Tensor:
    """Hash numbers below 2**32, int64 to int64 (Wellons' `lowbias32`)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _32_BITS
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _32_BITS
    return x ^ (x >> 16)


def layer_key(keys: Tensor, layer: int) -> Tensor:
    """Return the keys `(B,)` of a layer, from those of the encoder's call."""
    return (keys + layer) & _32_BITS


def segment_keys(rows: Tensor, seed: int) -> Tensor:
    """Return keys `(B,)` of the segments `rows` `(B,)` int64; `seed` is below 2**32."""
    return scramble((scramble(rows & _32_BITS) + seed) & _32_BITS)


def drop(weights: Tensor, probability: float, keys: Tensor) -> Tensor:
    """Set attention weights `(B, H, Q, M)` to 0 with `probability`; scale up the others.

    `keys` `(B,)` int64 below 2**32 determine which.
    """
    _, heads, queries, attended = weights.shape
    index = torch.arange(heads * attended * queries, device=weights.device)
    index = index.view(heads, attended, queries).transpose(1, 2)  # by head, key, query
    # `&` changes no value. Without it, torch.compile takes the product for one of indices, and
    # computes it for a GPU in 32 bits, where it overflows.
    offsets = (index & _32_BITS) * _STRIDE
    hashes = scramble((scramble(keys)[:, None, None, None] + offsets) & _32_BITS)
    share_kept = 1 - probability
    return weights * (hashes < int(share_kept * 2**32)) * (1 / share_kept)
