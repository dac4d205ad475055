"""Training: this program against the literal model, loading one segment at a time.

    python benchmarks/train.py [--batch_size 16 128] [--rounds 7] [--device cpu]
                               [--precision float32]

Data of CMU-MOSEI's shape is made up. Peak memory is of a process that does a round alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))


from benchmarks.against_plain import (
    Setting,
    Side,
    new_fast_model,
    new_plain_model,
    open_split,
    plain_loader,
    run,
)
from utils.tasks import SENTIMENT
from utils.training.trainer import Trainer

LR = 1e-3


def plain(setting: Setting) -> Side:
    """Train eagerly, looking at every loss."""
    model = new_plain_model().to(setting.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    loader = plain_loader(setting, shuffle=True)

    def one_pass() -> None:
        for batch in loader:
            *inputs, label = (x.to(setting.device) for x in batch)
            loss = F.mse_loss(model(*inputs), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return one_pass


def program(setting: Setting) -> Side:
    """Train as main_msaf.py does."""
    splits, model = {"train": open_split(setting)}, new_fast_model(setting)
    trainer = Trainer(model, splits, SENTIMENT, setting.config, setting.options, data={})

    def one_pass() -> None:
        trainer.state.begin_epoch(1)
        trainer.run_pass()

    return one_pass


if __name__ == "__main__":
    run(__doc__, {"plain": plain, "this program": program})
