"""Evaluation: eager PyTorch against this program, without and with its C++.

    python -m benchmarks.evaluate [--cases 50@16x12 50@128 500/375@16] [--rounds 7] [--device cpu]
                                  [--precision float32]

A case is rows of audio/visual and a batch size; the paper's experiments have 50 and 500/375 rows.

Data of CMU-MOSEI's shape is made up. Peak memory is that of a process that runs only one round.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from benchmarks import record, sides
from data.loading.on_device import DeviceSplit, place_splits
from data.loading.split import Split
from utils.reports.evaluation import Predictor, evaluate, evaluation_options
from utils.tasks import SENTIMENT


def eager(setting: sides.Setting) -> sides.OnePass:
    """Evaluate eagerly, fetching every batch's predictions."""
    model = sides.eager_model(setting).eval()
    loader = sides.one_at_a_time(setting, shuffle=False)

    @torch.no_grad()
    def one_pass() -> None:
        for *inputs, _ in loader:
            model(*(x.to(setting.device) for x in inputs)).cpu()

    return one_pass


def program(setting: sides.Setting, model: nn.Module) -> sides.OnePass:
    """Evaluate as main_msaf.py does."""
    split = sides.open_split(setting)

    def placed() -> Split | DeviceSplit:
        return place_splits({"test": split}, setting.options)["test"]

    options = evaluation_options(setting.options, placed())
    predictor = Predictor(model, setting.precision, options)

    def one_pass() -> None:
        evaluate(predictor, placed(), SENTIMENT, options)

    return one_pass


if __name__ == "__main__":
    measure = partial(sides.measure, eager, program)
    record.main(__doc__, sides.COLUMNS, sides.add_arguments, measure)
