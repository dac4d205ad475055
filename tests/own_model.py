"""The example of a user's own model in docs/models.md."""

OWN_MODEL = """
from __future__ import annotations

from dataclasses import dataclass
import torch
from torch import nn


class Mean(nn.Module):
    @dataclass(frozen=True)
    class Config:
        hidden: int = 16

    def __init__(self, config, widths, outputs):
        super().__init__()
        self.config, self.widths, self.outputs = config, widths, outputs
        hidden = nn.Linear(sum(widths.values()), config.hidden)
        self.net = nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.hidden, outputs))

    def forward(self, visual, audio, text):
        return self.net(torch.cat([x.mean(dim=1) for x in (visual, audio, text)], dim=1))
"""
