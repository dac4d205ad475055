"""Confidence of scores: the bootstrap over videos.

Segments of a video are not independent, so whole videos are drawn; where the videos are not known,
segments are. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (percentile
intervals).
"""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.layout import SEGMENTS_FILE
from data.loading.split import Split
from system.console import format_table, print_line, print_warning
from system.errors import InputError, explain_reading, shown
from system.files import not_a_file
from system.progress import progress
from utils.reports.evaluation import Evaluation
from utils.run_config import RunConfig
from utils.tasks import Measure, Scores, Task

RESAMPLES = 1000  # without --bootstrap
_LABEL_TOLERANCE = 1e-4  # a file may have been saved again with fewer digits
_FLOAT32 = 1e-6  # the same, relative to large labels
_NOISE = 1e-12  # of a score, above what the order of a sum changes
_QUANTILES = (0.025, 0.975)  # the ends of a 95 % interval


class Bootstrap:
    """The intervals and differences of `--bootstrap` and `--against`, for the scores of one split.

    Raises InputError when the predictions of `--against` are not of this split.
    """

    def __init__(self, config: RunConfig, split: Split, task: Task) -> None:
        self._config, self._task, self._videos = config, task, split.videos
        self._drawn = what_is_drawn(split)
        is_requested = config.bootstrap is not None or config.against is not None
        if is_requested and len(set(self._videos)) == 1:
            raise InputError(f"{split.folder} has 1 video; --bootstrap and --against need several.")
        if is_requested and not split.knows_videos:
            print_warning(
                f"{split.folder} has no {SEGMENTS_FILE} that names the videos: segments are drawn "
                "instead, so intervals may be too narrow and p too small."
            )
        self._other = (
            None if config.against is None else read_predictions(config.against, split, task)
        )

    def measure(self, evaluation: Evaluation) -> dict[str, Any]:
        """Print and return what is requested, for metrics.json; an empty dict when nothing is."""
        if self._config.bootstrap is None and self._other is None:
            return {}
        certainty = self.find(evaluation)
        resamples = certainty["bootstrap"]["resamples"]
        print_line(f"\nOver {resamples:,} resamples of the {self._drawn}:")
        print_line(format_table(*score_table(self._task, evaluation.scores, certainty)))
        return certainty

    def find(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the intervals, requested or not, and any differences; {} for a single video."""
        config, task = self._config, self._task
        resamples = config.bootstrap or RESAMPLES
        counts, video_of = draw_videos(self._videos, resamples, config.seed)
        if counts.shape[1] == 1:
            return {}
        labels = evaluation.labels
        drawn = resampled_scores(labels, evaluation.predictions, task, counts, video_of)
        facts = {"resamples": resamples, self._drawn: counts.shape[1], "seed": config.seed}
        intervals = {key: interval(values) for key, values in drawn.items()}
        certainty: dict[str, Any] = {"bootstrap": {**facts, "intervals": intervals}}
        if self._other is not None:
            other_drawn = resampled_scores(labels, self._other, task, counts, video_of)
            other_scores = task.score(labels, self._other)
            certainty["against"] = {
                "file": str(config.against),
                **facts,
                "scores": {
                    key: {
                        "other": other_scores[key],
                        "difference": evaluation.scores[key] - other_scores[key],
                        "interval": interval(differences),
                        "p": p_value(differences),
                    }
                    for key in other_scores
                    for differences in [without_noise(drawn[key] - other_drawn[key])]
                },
            }
        return certainty


def what_is_drawn(split: Split) -> str:
    """Return what the resamples of a split draw: its videos, or segments of unknown videos."""
    return "videos" if split.knows_videos else "segments"


def score_table(
    task: Task, scores: Scores, certainty: dict[str, Any]
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table of scores, with the result of `Bootstrap.find`."""
    header, rows = ["score", "value"], []
    intervals = certainty.get("bootstrap", {}).get("intervals")
    against = certainty.get("against", {}).get("scores")
    header += ["95 % interval"] * bool(intervals)
    header += ["other", "difference", "95 % interval", "p"] * bool(against)
    for measure in task.measures:
        cells = [measure.name, measure.text(scores[measure.key])]
        if intervals:
            cells.append(_interval_text(measure, intervals[measure.key]))
        if against:
            other = against[measure.key]
            cells += [measure.text(other["other"]), measure.text(other["difference"])]
            cells += [_interval_text(measure, other["interval"]), _p_text(other["p"])]
        rows.append(cells)
    return header, rows


def _p_text(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"  # it is never 0


def _interval_text(measure: Measure, ends: Sequence[float]) -> str:
    return " to ".join(measure.text(end) for end in ends)


def draw_videos(videos: Sequence[str], resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each resample has each of V videos, `(R, V)`, and video indices, `(N,)`.

    A resample draws V videos with replacement. `videos` names the video of each segment.
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

    `counts` `(R, V)` is how often a resample has each video, `video_of` `(N,)` a segment's index.
    """
    if task.sums is not None:
        terms = task.sums.terms(labels, predictions).T
        video_sums = [np.bincount(video_of, term, counts.shape[1]) for term in terms]
        return task.sums.scores(counts @ np.transpose(video_sums))
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a score may be undefined for some resample
        for count in progress(counts, desc="Resampling", unit="resample", leave=False):
            rows = np.repeat(np.arange(len(labels)), count[video_of])
            scores.append(task.score(labels[rows], predictions[rows]))
    return {key: np.array([resample[key] for resample in scores]) for key in scores[0]}


def without_noise(differences: np.ndarray) -> np.ndarray:
    """Return differences of scores, 0 where they are no more than rounding: equal scores tie."""
    return np.where(np.abs(differences) < _NOISE, 0.0, differences)


def interval(values: np.ndarray) -> list[float]:
    """Return the two ends between which 95 % of the resamples' values lie."""
    ends: list[float] = np.quantile(values, _QUANTILES).tolist()
    return ends


def p_value(differences: np.ndarray) -> float:
    """Return the two-sided p-value of a difference from its resamples `(R,)`.

    It is twice the smaller share of resamples on one side of 0, with the observed difference
    counted as one more; so with R resamples it is at least 2 / (R + 1).
    """
    smaller_side = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return min(1.0, 2 * (int(smaller_side) + 1) / (len(differences) + 1))


def read_predictions(path: Path, split: Split, task: Task) -> np.ndarray:
    """Read the predictions `(N, outputs)` of another evaluation of `split`, in its order.

    Raises InputError when the file is not a `predictions.csv`, or has other segments or labels.
    """
    columns = task.column_names("label", "prediction")
    if not path.is_file():  # reading a pipe may wait without end
        raise InputError(f"--against: {not_a_file(path)}; give a predictions.csv.")
    try:
        with explain_reading(path), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            file_columns = reader.fieldnames or []
            if not {"id", *columns} <= set(file_columns):
                raise InputError(
                    f"--against {path} has the columns {shown(', '.join(file_columns))}, expected "
                    f"id, {', '.join(columns)}, with commas between; give the predictions.csv of "
                    f"an evaluation of the task {task.name}."
                )
            rows = [(row["id"], [float(row[name] or "nan") for name in columns]) for row in reader]
    except (ValueError, csv.Error) as error:
        raise InputError(f"--against {path} is not a table of predictions: {error}.") from error
    ids, values_by_id = [id_ for id_, _ in rows], dict(rows)
    if ids == split.ids:  # ids may repeat: only the order tells their segments apart
        return _check_rows(path, split, task, [values for _, values in rows])
    if len(values_by_id) < len(rows):
        repeated = next(id_ for id_, count in Counter(ids).items() if count > 1)
        raise InputError(
            f"--against {path}: {repeated} is in it more than once; give an evaluation of the "
            "same split, in its order."
        )
    unmatched = sorted(set(split.ids) ^ values_by_id.keys())
    if unmatched:
        raise InputError(
            f"--against {path} has {len(values_by_id)} segments, {split.folder} has {len(split)}, "
            f"and only one of them has {unmatched[0]}; give an evaluation of the same split."
        )
    return _check_rows(path, split, task, [values_by_id[id_] for id_ in split.ids])


def _check_rows(path: Path, split: Split, task: Task, rows: list[list[float]]) -> np.ndarray:
    """Return the predictions of rows of labels and predictions; raise when labels differ."""
    values = np.array(rows)
    labels, given = values[:, ::2], values[:, 1::2]
    with np.errstate(over="ignore"):  # such a prediction is refused below
        predictions = given.astype(np.float32)
    expected = split.labels[:, task.columns]
    is_same = np.isclose(labels, expected, rtol=_FLOAT32, atol=_LABEL_TOLERANCE)
    wrong = np.argwhere(~is_same | ~np.isfinite(predictions))
    if len(wrong):
        row, output = wrong[0]
        raise InputError(
            f"--against {path}: segment {split.ids[row]} has the label {labels[row, output]:g} and "
            f"the prediction {given[row, output]:g}, expected the label "
            f"{expected[row, output]:g} and a number of float32."
        )
    return predictions
