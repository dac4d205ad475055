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

from models.native.kernels.attention import attend, attend_backward
from models.native.kernels.layers import backward, forward

__all__ = ["attend", "attend_backward", "backward", "forward"]
