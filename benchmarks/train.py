"""Training: eager PyTorch against this program, without and with its C++.

    python -m benchmarks.train [--cases 50@16x12 50@128 500/375@16] [--rounds 7] [--device cpu]
                               [--precision float32]

A case is rows of audio/visual and a batch size; the paper's experiments have 50 and 500/375 rows.

Data of CMU-MOSEI's shape is made up. Peak memory is that of a process that runs only one round.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import record, sides
from utils.tasks import SENTIMENT
from utils.training.trainer import Trainer


def eager(setting: sides.Setting) -> sides.OnePass:
    """Train eagerly, reading every loss."""
    model = sides.eager_model(setting).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=False)
    loader = sides.one_at_a_time(setting, shuffle=True)

    def one_pass() -> None:
        for batch in loader:
            *inputs, label = (x.to(setting.device) for x in batch)
            loss = F.mse_loss(model(*inputs), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return one_pass


def program(setting: sides.Setting, model: nn.Module) -> sides.OnePass:
    """Train as main_msaf.py does."""
    splits = {"train": sides.open_split(setting)}
    trainer = Trainer(model, splits, SENTIMENT, setting.config, setting.options, data={})

    def one_pass() -> None:
        trainer.state.begin_epoch(1)
        trainer.run_pass()

    return one_pass


if __name__ == "__main__":
    measure = partial(sides.measure, eager, program)
    record.main(__doc__, sides.COLUMNS, sides.add_arguments, measure)
