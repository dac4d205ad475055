"""NHFNet, its configuration, and the released checkpoint's format."""

from models.nhfnet.model import NHFNet, NHFNetSizes

__all__ = ["NHFNet", "NHFNetSizes"]
