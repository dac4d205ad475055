"""How a task checks labels, chooses the best epoch and formats scores."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.labels import SCALES
from data.loading.split import Split
from data.manifest import write_manifest
from system.errors import InputError
from tests.data.loading.test_split import LABELS, SEGMENTS, write_split
from utils.tasks import SENTIMENT, SIMS_SENTIMENT, TASKS, Measure

# A task with several outputs.
PAIR = replace(SENTIMENT, name="pair", outputs={"happy": 1, "sad": 2})


def with_labels(folder, labels):
    write_split(folder)
    np.save(folder / LABELS, labels)
    return Split(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_that_is_no_number_is_refused(tmp_path, value):
    labels = np.zeros((SEGMENTS, 1, 7))
    labels[3, 0, 2] = value
    split = with_labels(tmp_path, labels)
    SENTIMENT.check_labels(split)  # does not read the emotions' columns
    with pytest.raises(InputError, match=rf"label50.npy: .* segment 3 is {value} \(sad\)"):
        PAIR.check_labels(split)


def test_labels_without_the_columns_are_refused(tmp_path):
    split = with_labels(tmp_path, np.zeros((SEGMENTS, 1, 1)))
    SENTIMENT.check_labels(split)
    with pytest.raises(
        InputError, match=r"label50.npy has no labels .*pair: .* 1 columns, .* need 3"
    ):
        PAIR.check_labels(split)


@pytest.mark.parametrize("value", [0, 1])
def test_columns_that_nobody_labelled_are_refused(tmp_path, value):
    labels = np.full((SEGMENTS, 1, 7), value, np.float32)
    labels[:, 0, 0] = range(SEGMENTS)
    with pytest.raises(InputError, match=r"label50.npy has no labels .* happy, sad are the same"):
        PAIR.check_labels(with_labels(tmp_path, labels))
    labels[3, 0, 2] = 2
    PAIR.check_labels(with_labels(tmp_path, labels))


def test_the_loss_is_the_squared_error_value_by_value():
    predictions, targets = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert SENTIMENT.loss(predictions, targets).tolist() == [[1.0, 4.0]]


def test_the_epoch_is_chosen_by_what_is_better():
    assert SENTIMENT.to_minimise({"mae": 0.5}) < SENTIMENT.to_minimise({"mae": 0.6})
    by_f1 = replace(SENTIMENT, chosen_by=Measure("f1", "F1"))
    assert by_f1.to_minimise({"f1": 0.6}) < by_f1.to_minimise({"f1": 0.5})


def test_every_measure_is_scored_and_named():
    scores = SENTIMENT.score(np.float32([[1], [-1]]), np.float32([[2], [-2]]))
    assert list(scores) == [measure.key for measure in SENTIMENT.measures]
    assert SENTIMENT.line(scores).startswith("MAE 1.0000  Corr 1.0000  Acc-7 0.00 %  Acc-2 100")
    in_percent = [measure.key for measure in SENTIMENT.measures if "%" in measure.text(0.5)]
    assert in_percent == list(scores)[2:]
    assert TASKS["sentiment"]["mosei"] is SENTIMENT


def test_a_value_that_rounds_to_0_has_no_sign():
    assert [Measure("f1", "F1", is_percent).text(-1e-9) for is_percent in (False, True)] == [
        "0.0000",
        "0.00 %",
    ]


def test_the_scores_are_the_datasets():
    assert TASKS["sentiment"].keys() == SCALES.keys()
    assert TASKS["sentiment"]["mosi"] is SENTIMENT
    assert TASKS["sentiment"]["sims"] is SIMS_SENTIMENT


def test_labels_outside_the_scale_bring_a_warning(tmp_path):
    labels = np.zeros((SEGMENTS, 1, 1))
    labels[2:4, 0, 0] = 1.4, -2
    split = with_labels(tmp_path, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SENTIMENT.check_labels(split)
    message = rf"2 of {SEGMENTS} .* outside \[-1, 1\], the first 1.4 \(sentiment of segment 2\)"
    with pytest.warns(UserWarning, match=message):
        SIMS_SENTIMENT.check_labels(split)


def test_a_label_that_was_rounded_beyond_a_limit_is_in_the_scale(tmp_path):
    labels = np.full((SEGMENTS, 1, 1), np.nextafter(np.float32(3), np.float32(4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SENTIMENT.check_labels(with_labels(tmp_path, -labels))


def test_a_split_without_labels_has_nothing_to_score(tmp_path):
    split = with_labels(tmp_path, np.full((SEGMENTS, 1, 1), np.nan))
    with pytest.raises(InputError, match="is not labelled: there is nothing to score"):
        SENTIMENT.check_labels(split)


def test_scores_that_nobody_knows_are_refused(tmp_path):
    folder = tmp_path / "train"
    write_split(folder)
    made_from = {"scores": "iemocap"}
    write_manifest(tmp_path, {"made_from": made_from, "splits": {}, "left_out": {}, "text": None})
    with pytest.raises(InputError, match="expected mosei or mosi or sims"):
        Split(folder)
