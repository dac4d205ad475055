"""What a training records of its epochs: metrics.csv, TensorBoard logs, lines on screen."""

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
    """What one pass over the training split gave."""

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
                f"{folder}: TensorBoard's logs need a folder whose name is UTF-8; give another "
                "--checkpointdir."
            ) from error
        self._table = folder / HISTORY

    def write(self, epochs: Sequence[Epoch]) -> None:
        """Write the table of all epochs anew, and log the last of them."""
        names = list(epochs[-1].scores["val"])
        header = ["epoch", "lr", "samples_per_second", "loss", "split", *names]
        rows = [
            [one.number, one.lr, one.speed, one.loss, split, *scores.values()]
            for one in epochs
            for split, scores in one.scores.items()
        ]
        write_csv(self._table, [header, *rows])
        epoch, add = epochs[-1], self._log.add_scalar
        add("loss/train", epoch.loss, epoch.number)
        add("learning_rate", epoch.lr, epoch.number)
        add("samples_per_second", epoch.speed, epoch.number)
        for split, scores in epoch.scores.items():
            for name, value in scores.items():
                add(f"{name}/{split}", value, epoch.number)
        self._log.flush()


def picked_on_test(epochs: Sequence[Epoch], task: Task) -> list[str]:
    """Return the released code's own best lines: each score's best epoch on the test split."""
    measures = {measure.key: measure for measure in task.measures}
    lines = []
    for name, key in task.released_names.items():
        choose = min if measures[key].lower_is_better else max
        best = choose(epochs, key=lambda epoch: epoch.scores["test"][key])
        shown = measures[key].text(best.scores["test"][key])
        lines.append(f"Best {name} {shown} at epoch {best.number}")
    return lines
