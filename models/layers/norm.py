"""Normalisation over a batch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm(nn.BatchNorm1d):
    """PyTorch's BatchNorm1d; a training batch of one segment has its running statistics.

    One segment has no variance, and a split may leave one over as its last batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of `x` `(B, channels)`."""
        if self.training and len(x) == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)
