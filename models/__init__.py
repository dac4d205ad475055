"""From a batch to a prediction. The only files that it handles are checkpoints and exports."""

from models.nhfnet import NHFNet

__all__ = ["NHFNet"]
