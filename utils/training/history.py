"""Records the epochs of a training: metrics.csv, TensorBoard logs, lines on screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from system.errors import InputError
from system.files import write_csv
from utils.tasks import Scores, Task
from utils.training.run_folder import HISTORY, LOGS


@dataclass(frozen=True)
class Epoch:
    """The results of one pass over the training split."""

    number: int  # from 1
    loss: float  # mean over the training split, while training
    lr: float
    speed: float  # training segments a second
    scores: dict[str, Scores]  # train (while training), val, test


class History:
    """Writes epochs to `metrics.csv` and `logs/<time>` of a run's folder.

    Raises InputError for a folder that TensorBoard cannot write to.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        try:
            self._log = SummaryWriter(str(folder / LOGS / started))
        except UnicodeEncodeError as error:
            raise InputError(
                f"{folder}: the name is not UTF-8, which TensorBoard's logs need; give another "
                "--checkpointdir."
            ) from error
        self._table = folder / HISTORY

    def write(self, epochs: Sequence[Epoch]) -> None:
        """Write the table of all epochs again, and log the last epoch."""
        names = list(epochs[-1].scores["val"])
        header = ["epoch", "lr", "samples_per_second", "loss", "split", *names]
        rows = [
            [epoch.number, epoch.lr, epoch.speed, epoch.loss, split, *scores.values()]
            for epoch in epochs
            for split, scores in epoch.scores.items()
        ]
        write_csv(self._table, [header, *rows])
        last, add = epochs[-1], self._log.add_scalar
        add("loss/train", last.loss, last.number)
        add("learning_rate", last.lr, last.number)
        add("samples_per_second", last.speed, last.number)
        for split, scores in last.scores.items():
            for name, value in scores.items():
                add(f"{name}/{split}", value, last.number)
        self._log.flush()


def best_on_test(epochs: Sequence[Epoch], task: Task) -> list[str]:
    """Return lines as the released code prints them: each score's best epoch on the test split."""
    measures = {measure.key: measure for measure in task.measures}
    lines = []
    for name, key in task.released_names.items():
        choose = min if measures[key].lower_is_better else max
        best = choose(epochs, key=lambda epoch: epoch.scores["test"][key])
        value = measures[key].text(best.scores["test"][key])
        lines.append(f"Best {name} {value} at epoch {best.number}")
    return lines
