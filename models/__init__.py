"""Everything from a batch to a prediction. Knows no files but checkpoints."""

from models.nhfnet import NHFNet

__all__ = ["NHFNet"]
