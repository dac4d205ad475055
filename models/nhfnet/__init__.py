"""NHFNet, its configuration, and the released checkpoint's format."""

from models.nhfnet.config import NHFNetConfig
from models.nhfnet.model import NHFNet

__all__ = ["NHFNet", "NHFNetConfig"]
