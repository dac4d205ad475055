"""Evaluation: this program against the literal model, loading one segment at a time.

    python benchmarks/evaluate.py [--batch_size 16 128] [--rounds 7] [--device cpu]
                                  [--precision float32]

Data of CMU-MOSEI's shape is made up. Peak memory is of a process that does a round alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

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
from utils.reports.evaluation import evaluate
from utils.reports.predict import Predictor
from utils.tasks import SENTIMENT


def plain(setting: Setting) -> Side:
    """Evaluate eagerly, fetching every batch's predictions."""
    model = new_plain_model().to(setting.device).eval()
    loader = plain_loader(setting, shuffle=False)

    @torch.no_grad()
    def one_pass() -> None:
        for *inputs, _ in loader:
            model(*(x.to(setting.device) for x in inputs)).cpu()

    return one_pass


def program(setting: Setting) -> Side:
    """Evaluate as main_msaf.py does."""
    model = new_fast_model(setting)
    predictor = Predictor(model, setting.execution, setting.batch_size)
    split = open_split(setting)

    def one_pass() -> None:
        evaluate(predictor, split, SENTIMENT, setting.options)

    return one_pass


if __name__ == "__main__":
    run(__doc__, {"plain": plain, "this program": program})
