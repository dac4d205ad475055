"""A training that is interrupted after its second step, as main_msaf.py's options say."""

from __future__ import annotations

import main_msaf
from utils.training.trainer import Trainer

STEPS = 2


def main() -> None:
    """Train, and return when the training has saved its position."""
    look = Trainer._look_at_loss

    def stopping(self, *arguments):
        look(self, *arguments)
        if self.state.step == STEPS:
            raise KeyboardInterrupt

    Trainer._look_at_loss = stopping
    try:
        main_msaf.main()
    except KeyboardInterrupt:
        Trainer._look_at_loss = look
