"""The attributes of every model; see `models.registry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import nn

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Model(nn.Module):
    """The base of our models. A user's own model only needs the same attributes."""

    Config: ClassVar[type[DataclassInstance]]
    config: DataclassInstance
    widths: Mapping[str, int]  # of visual, audio and text
    outputs: int

    def __init__(self, config: DataclassInstance, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        self.config, self.widths, self.outputs = config, widths, outputs
