"""From a batch to a prediction. Of all files, it reads and writes checkpoints and exports only."""

from models.nhfnet import NHFNet

__all__ = ["NHFNet"]
