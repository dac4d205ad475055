"""Intervals and paired differences over resamples of videos."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from data.loading.split import Split
from system.errors import InputError
from tests.data.loading.test_split import write_split
from tests.utils.reports.test_evaluation import IDS, SEGMENTS
from utils.reports.bootstrap import (
    Bootstrap,
    interval,
    p_value,
    read_predictions,
    resampled_scores,
    score_table,
)
from utils.reports.evaluation import Evaluation
from utils.reports.results import write_evaluation
from utils.run_config import RunConfig
from utils.tasks import SENTIMENT

RESAMPLES = 4000


def drawn(labels, predictions, video_of, resamples=RESAMPLES, task=SENTIMENT):
    n = len(set(video_of))
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), resamples)
    columns = (np.float32(values)[:, None] for values in (labels, predictions))
    return resampled_scores(*columns, task, counts, np.array(video_of))


def test_intervals_of_a_mean_agree_with_scipy():
    rng = np.random.default_rng(1)
    labels, predictions = rng.normal(size=(2, 80))
    values = drawn(labels, predictions, range(80))["mae"]
    errors = abs(labels - predictions)
    expected = stats.bootstrap(
        (errors,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(2)
    )
    assert interval(values) == pytest.approx(list(expected.confidence_interval), rel=0.02)
    assert values.std() == pytest.approx(errors.std() / np.sqrt(80), rel=0.05)  # exact


def test_whole_videos_are_drawn():
    """Of 10 videos of 20 equal segments, the mean varies like that of 10 values, not of 200."""
    rng = np.random.default_rng(1)
    errors = rng.uniform(0, 1, 10)
    values = drawn(np.zeros(200), errors.repeat(20), np.arange(10).repeat(20))["mae"]
    assert values.std() == pytest.approx(errors.std() / np.sqrt(10), rel=0.05)


def test_scores_without_sums_are_resampled_one_by_one():
    rng = np.random.default_rng(1)
    labels, predictions = rng.normal(size=(2, 30))
    videos = np.arange(30) // 3
    fast, slow = (
        drawn(labels, predictions, videos, 50, task)
        for task in (SENTIMENT, replace(SENTIMENT, sums=None))
    )
    assert fast.keys() == slow.keys()
    for key, values in fast.items():
        np.testing.assert_allclose(values, slow[key], atol=1e-6)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [([0.0] * 99, 1.0), ([1.0] * 99, 0.02), ([-1.0] * 99, 0.02), ([1.0] * 89 + [-1.0] * 10, 0.22)],
)
def test_p_is_twice_the_smaller_side(differences, expected):
    assert p_value(np.array(differences)) == pytest.approx(expected)


def test_p_of_a_mean_is_that_of_a_t_test():
    rng = np.random.default_rng(4)
    labels, ours = np.zeros(300), abs(rng.normal(1, 0.4, 300))
    theirs = ours + rng.normal(0.05, 0.5, 300)
    both = [drawn(labels, predictions, range(300))["mae"] for predictions in (ours, theirs)]
    expected = stats.ttest_rel(abs(ours), abs(theirs)).pvalue
    assert 0.05 < expected < 0.3
    assert p_value(both[0] - both[1]) == pytest.approx(expected, rel=0.2)


# Bootstrap of an evaluation


@pytest.fixture
def split(tmp_path):
    """11 segments of 4 videos, with a table."""
    write_split(tmp_path / "test", SEGMENTS, ids=IDS)
    table = tmp_path / "test" / "segments.csv"
    table.write_text(re.sub(r'"(.*)\[(.*)\]",0', r'"\1[\2]","\1"', table.read_text()))
    return Split(tmp_path / "test")


def evaluation_of(split, noise):
    labels = split.labels[:, :1]
    predictions = labels + np.float32(noise) * np.arange(SEGMENTS, dtype=np.float32)[:, None]
    return Evaluation(split.ids, labels, predictions, SENTIMENT.score(labels, predictions), 0)


@pytest.fixture
def other(split, tmp_path):
    """The predictions.csv of another evaluation, its rows in another order."""
    write_evaluation(tmp_path / "other", evaluation_of(split, 0.3), SENTIMENT, {})
    path = tmp_path / "other" / "predictions.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(rows)]))
    return path


def test_nothing_is_measured_unless_it_is_requested(split, capsys):
    assert Bootstrap(RunConfig(), split, SENTIMENT).measure(evaluation_of(split, 0.1)) == {}
    assert capsys.readouterr().out == ""


def test_intervals_are_seeded_and_contain_the_score(split, capsys):
    evaluation = evaluation_of(split, 0.1)
    first, again, seeded = (
        Bootstrap(RunConfig(bootstrap=200, seed=seed), split, SENTIMENT).measure(evaluation)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first["bootstrap"]["intervals"] != seeded["bootstrap"]["intervals"]
    assert first["bootstrap"]["videos"] == 4
    assert first["bootstrap"]["intervals"].keys() == evaluation.scores.keys()
    low, high = first["bootstrap"]["intervals"]["mae"]
    assert low < evaluation.scores["mae"] < high
    assert json.loads(json.dumps(first)) == first
    assert f"{low:.4f} to {high:.4f}" in capsys.readouterr().out


def test_segments_are_drawn_with_a_warning_where_videos_are_not_known(tmp_path, capsys):
    write_split(tmp_path / "test", SEGMENTS)
    split = Split(tmp_path / "test")
    Bootstrap(RunConfig(), split, SENTIMENT)
    assert capsys.readouterr().err == ""
    bootstrap = Bootstrap(RunConfig(bootstrap=100), split, SENTIMENT)
    facts = bootstrap.measure(evaluation_of(split, 0.1))["bootstrap"]
    assert (facts["segments"], "videos" in facts) == (SEGMENTS, False)
    captured = capsys.readouterr()
    assert "Over 100 resamples of the segments:" in captured.out
    (warning,) = captured.err.splitlines()
    assert "has no segments.csv that names the videos: segments are drawn" in warning


def test_a_p_that_rounds_to_0_is_shown_as_less(split, other):
    config, evaluation = RunConfig(against=other, bootstrap=100_000), evaluation_of(split, 0.1)
    certainty = Bootstrap(config, split, SENTIMENT).find(evaluation)
    _, (mae, *_) = score_table(SENTIMENT, evaluation.scores, certainty)
    assert mae[-1] == "< 0.0001"


def test_a_single_video_is_refused(tmp_path):
    write_split(tmp_path / "test", SEGMENTS, ids=IDS)  # all are of video 0
    with pytest.raises(InputError, match=r"test has 1 video; .* need several"):
        Bootstrap(RunConfig(bootstrap=100), Split(tmp_path / "test"), SENTIMENT)


def test_differences_are_paired(split, other, capsys):
    config, evaluation = RunConfig(against=other), evaluation_of(split, 0.1)
    against = Bootstrap(config, split, SENTIMENT).measure(evaluation)["against"]
    theirs = evaluation_of(split, 0.3).scores
    mae = against["scores"]["mae"]
    assert mae["other"] == pytest.approx(theirs["mae"])
    assert mae["difference"] == pytest.approx(evaluation.scores["mae"] - theirs["mae"])
    assert mae["interval"][1] < 0  # the other's error is three times as large in every resample
    assert mae["p"] == pytest.approx(2 / 1001)
    assert "difference" in capsys.readouterr().out


def test_repeated_ids_are_matched_by_their_order(split, other):
    split.ids = [IDS[0], *IDS[:-1]]
    evaluation = evaluation_of(split, 0.3)
    write_evaluation(other.parent, evaluation, SENTIMENT, {})
    np.testing.assert_allclose(
        read_predictions(other, split, SENTIMENT), evaluation.predictions, rtol=1e-6
    )
    header, *rows = other.read_text().splitlines()
    other.write_text("\n".join([header, *reversed(rows)]))
    with pytest.raises(InputError, match="is in it more than once; give"):
        read_predictions(other, split, SENTIMENT)


def test_an_extra_row_is_refused(split, other):
    other.write_text(other.read_text() + "\n" + other.read_text().splitlines()[-1])
    with pytest.raises(InputError, match="is in it more than once; give"):
        read_predictions(other, split, SENTIMENT)


def test_the_same_predictions_do_not_differ(split, other):
    other.write_bytes(b"\xef\xbb\xbf" + other.read_bytes())  # as Excel saves a table
    config = RunConfig(against=other, bootstrap=100)
    against = Bootstrap(config, split, SENTIMENT).measure(evaluation_of(split, 0.3))["against"]
    for score in against["scores"].values():
        assert (score["difference"], score["interval"], score["p"]) == (0, [0, 0], 1)


def test_labels_may_have_been_saved_with_fewer_digits(split, other):
    split.labels = split.labels.copy()
    split.labels[:, 0] = 1 / 3
    with other.open("w", newline="") as file:
        rows = [[id_, "0.333333", "0.123457"] for id_ in IDS]
        csv.writer(file).writerows([["id", "label", "prediction"], *rows])
    np.testing.assert_allclose(read_predictions(other, split, SENTIMENT), 0.123457)


def test_large_labels_may_have_been_saved_with_the_digits_of_float32(split, other):
    split.labels = split.labels.copy()
    split.labels[:, 0] = 123456.78
    with other.open("w", newline="") as file:
        rows = [[id_, "123456.78", "1"] for id_ in IDS]
        csv.writer(file).writerows([["id", "label", "prediction"], *rows])
    np.testing.assert_array_equal(read_predictions(other, split, SENTIMENT), 1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [row[:2] for row in rows], "columns 'id, label', expected id, label, pred"),
        (lambda rows: [[";".join(row)] for row in rows], "columns 'id;label;prediction'"),
        (lambda rows: rows[:-1], "has 10 segments, .* has 11, and only one of them has"),
        (lambda rows: [*rows, ["more", "0", "0"]], "only one of them has more; give"),
        (lambda rows: [*rows[:-1], [rows[-1][0], "9", "0"]], "label 9 .*expected the label"),
        (lambda rows: [*rows[:-1], [*rows[-1][:2], "nan"]], "prediction nan"),
        (lambda rows: [*rows[:-1], [*rows[-1][:2], ""]], "prediction nan"),
        (lambda rows: [*rows[:-1], rows[-1][:2]], "prediction nan"),
        (lambda rows: [*rows[:-1], [*rows[-1][:2], "1e39"]], r"prediction 1e\+39.* of float32"),
        (lambda rows: [*rows[:-1], [*rows[-1][:2], "x"]], "not a table of predictions: .*'x'"),
    ],
)
def test_predictions_of_other_segments_or_labels_are_refused(split, other, change, message):
    with other.open(newline="") as file:
        rows = change(list(csv.reader(file)))
    with other.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(InputError, match=message):
        read_predictions(other, split, SENTIMENT)


def test_a_file_without_predictions_is_refused(split, tmp_path):
    with pytest.raises(InputError, match=r"is a folder, .* give a predictions\.csv"):
        read_predictions(tmp_path, split, SENTIMENT)
    with pytest.raises(InputError, match="No file"):
        read_predictions(tmp_path / "none.csv", split, SENTIMENT)
    os.mkfifo(tmp_path / "pipe.csv")  # reading it would wait without end
    with pytest.raises(InputError, match="is a folder, pipe or device"):
        read_predictions(tmp_path / "pipe.csv", split, SENTIMENT)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a table of predictions"):
        read_predictions(tmp_path / "bytes.csv", split, SENTIMENT)
