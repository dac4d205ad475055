"""A training that is interrupted after its second step, as main_msaf.py's options say."""

from __future__ import annotations

import main_msaf
from utils.training.trainer import Trainer

STEPS = 2


def main() -> None:
    """Train, and return when the training has saved its position."""
    after_step = Trainer._after_step

    def stopping(self, *arguments):
        after_step(self, *arguments)
        if self.state.step == STEPS:
            raise KeyboardInterrupt

    Trainer._after_step = stopping
    try:
        main_msaf.main()
    except KeyboardInterrupt:
        Trainer._after_step = after_step
