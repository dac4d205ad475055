"""How sure scores are: the bootstrap over videos.

Segments of a video are not independent, so whole videos are drawn. Source: Efron and Tibshirani,
An Introduction to the Bootstrap, 1993 (percentile intervals).
"""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.loading.split import Split
from system.console import format_table, print_line
from system.errors import InputError, shown
from system.progress import progress
from utils.reports.evaluation import Evaluation
from utils.run_config import RunConfig
from utils.tasks import Measure, Scores, Task

RESAMPLES = 1000  # without --bootstrap
_SHARES = (0.025, 0.975)  # between them lie 95 %


class Bootstrap:
    """What `--bootstrap` and `--against` ask about the scores of one split.

    Raises InputError when the other predictions are not of this split.
    """

    def __init__(self, config: RunConfig, split: Split, task: Task) -> None:
        self._config, self._task, self._videos = config, task, split.videos
        is_asked = config.bootstrap is not None or config.against is not None
        if is_asked and len(set(self._videos)) == 1:
            raise InputError(f"{split.folder} has 1 video; --bootstrap and --against need several.")
        self._other = (
            None if config.against is None else read_predictions(config.against, split, task)
        )

    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        """Print what is asked, and return it for metrics.json; nothing where nothing is."""
        if self._config.bootstrap is None and self._other is None:
            return {}
        found = self.find(evaluation)
        print_line(f"\nOver {found['bootstrap']['resamples']:,} resamples of the videos:")
        print_line(format_table(*score_table(self._task, evaluation.scores, found)))
        return found

    def find(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the intervals, asked or not, and the differences; nothing of a single video."""
        config, task = self._config, self._task
        resamples = config.bootstrap or RESAMPLES
        counts, video_of = draw_videos(self._videos, resamples, config.seed)
        videos = counts.shape[1]
        if videos == 1:
            return {}
        labels = evaluation.labels
        drawn = resampled_scores(labels, evaluation.predictions, task, counts, video_of)
        about = {"resamples": resamples, "videos": videos, "seed": config.seed}
        intervals = {key: interval(values) for key, values in drawn.items()}
        found: dict[str, Any] = {"bootstrap": {**about, "intervals": intervals}}
        if self._other is not None:
            others = resampled_scores(labels, self._other, task, counts, video_of)
            theirs = task.score(labels, self._other)
            found["against"] = {
                "file": str(config.against),
                "scores": {
                    key: {
                        "other": theirs[key],
                        "difference": evaluation.scores[key] - theirs[key],
                        "interval": interval(drawn[key] - others[key]),
                        "p": p_value(drawn[key] - others[key]),
                    }
                    for key in theirs
                },
            }
        return found


def score_table(
    task: Task, scores: Scores, found: dict[str, Any]
) -> tuple[list[str], list[list[str]]]:
    """Lay out scores with what `Bootstrap.find` found of them: header and rows."""
    header, rows = ["score", "value"], []
    intervals = found.get("bootstrap", {}).get("intervals")
    against = found.get("against", {}).get("scores")
    header += ["95 % interval"] * bool(intervals)
    header += ["other", "difference", "95 % interval", "p"] * bool(against)
    for one in task.measures:
        cells = [one.name, one.text(scores[one.key])]
        if intervals:
            cells.append(_range(one, intervals[one.key]))
        if against:
            of = against[one.key]
            cells += [one.text(of["other"]), one.text(of["difference"])]
            cells += [_range(one, of["interval"]), f"{of['p']:.4f}"]
        rows.append(cells)
    return header, rows


def _range(measure: Measure, ends: Sequence[float]) -> str:
    return " to ".join(measure.text(end) for end in ends)


def draw_videos(videos: Sequence[str], resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each of V videos is drawn `(R, V)`, of V draws, and each segment's `(N,)`.

    `videos` are the segments' own.
    """
    names, video_of = np.unique(videos, return_inverse=True)
    shares = np.full(len(names), 1 / len(names))
    return np.random.default_rng(seed).multinomial(len(names), shares, resamples), video_of


def resampled_scores(
    labels: np.ndarray,
    predictions: np.ndarray,
    task: Task,
    counts: np.ndarray,
    video_of: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return each score `(R,)` of R resamples of `predictions` and `labels` `(N, outputs)`.

    `counts` `(R, V)` is how often a resample has each video, `video_of` `(N,)` a segment's.
    """
    if task.sums is not None:
        terms = task.sums.terms(labels, predictions).T
        of_videos = [np.bincount(video_of, term, counts.shape[1]) for term in terms]
        return task.sums.scores(counts @ np.transpose(of_videos))
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scores that some resample leaves undefined
        for count in progress(counts, desc="Resampling", unit="resample", leave=False):
            rows = np.repeat(np.arange(len(labels)), count[video_of])
            scores.append(task.score(labels[rows], predictions[rows]))
    return {key: np.array([one[key] for one in scores]) for key in scores[0]}


def interval(values: np.ndarray) -> list[float]:
    """Return between which two values 95 % of the resamples' lie."""
    ends: list[float] = np.quantile(values, _SHARES).tolist()
    return ends


def p_value(differences: np.ndarray) -> float:
    """Return how likely chance alone gives such a difference, in either direction.

    It is twice the smaller share of resamples on one side of 0, counting what was observed as
    one more; so R resamples show no less than 2 / (R + 1).
    """
    least = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return min(1.0, 2 * (int(least) + 1) / (len(differences) + 1))


def read_predictions(path: Path, split: Split, task: Task) -> np.ndarray:
    """Read the predictions `(N, outputs)` of another evaluation of `split`, in its order.

    Raises InputError when the file is no such `predictions.csv`, or of other segments or labels.
    """
    columns = task.column_names("label", "prediction")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            found_columns = reader.fieldnames or []
            if not {"id", *columns} <= set(found_columns):
                raise InputError(
                    f"--against {path} has the columns {shown(', '.join(found_columns))}, expected "
                    f"id, {', '.join(columns)}, with commas between; give the predictions.csv of "
                    f"an evaluation of the task {task.name}."
                )
            rows = [(row["id"], [float(row[name] or "nan") for name in columns]) for row in reader]
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"--against: no file {path}; give a predictions.csv.") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"--against {path} is no table of predictions: {error}.") from error
    ids, found = [id_ for id_, _ in rows], dict(rows)
    if ids == split.ids:  # of which some may be the same
        return _checked(path, split, task, [values for _, values in rows])
    if len(found) < len(rows):
        repeated = next(id_ for id_, count in Counter(ids).items() if count > 1)
        raise InputError(
            f"--against {path}: {repeated} is in it more than once; give an evaluation of the "
            "same split, in its order."
        )
    other = [id_ for id_ in split.ids if id_ not in found] or list(found.keys() - set(split.ids))
    if other:
        raise InputError(
            f"--against {path}: {other[0]} is not in it and {split.folder} alike ({len(found)} "
            f"and {len(split)} segments); give an evaluation of the same split."
        )
    return _checked(path, split, task, [found[id_] for id_ in split.ids])


def _checked(path: Path, split: Split, task: Task, rows: list[list[float]]) -> np.ndarray:
    """Return the predictions of rows of labels and predictions; the labels are the split's."""
    values = np.array(rows, dtype=np.float32)
    labels, predictions = values[:, ::2], values[:, 1::2]
    wrong = np.argwhere((labels != split.labels[:, task.columns]) | ~np.isfinite(predictions))
    if len(wrong):
        row, output = wrong[0]
        raise InputError(
            f"--against {path}: segment {split.ids[row]} has the label {labels[row, output]:g} and "
            f"the prediction {predictions[row, output]:g}, expected the label "
            f"{split.labels[row, task.columns[output]]:g} and a number."
        )
    return predictions
