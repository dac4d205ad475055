"""Differences of a comparison's models, and how likely they are by chance."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from data.loading.split import Split
from tests.data.loading.test_split import write_split
from utils.studies.differences import difference_section, find_differences, write_differences
from utils.studies.predicted import Predicted
from utils.tasks import SENTIMENT


@pytest.fixture
def split(tmp_path):
    """A split of 11 segments without a table: each is a video of its own."""
    write_split(tmp_path / "test")
    return Split(tmp_path / "test")


def predicted(name, split, *errors):
    """Return a model's predictions: in each run, all are off by one error."""
    labels = split.labels[:, :1]
    return Predicted(name, [labels + np.float32(error) for error in errors], labels, labels, [])


def of_mae(differences):
    return next(each for each in differences if each.measure.key == "mae")


def test_a_difference_in_every_video_and_run_is_significant(split):
    rows = [predicted("a", split, 0.5, 0.5), predicted("b", split, 0.75, 0.75)]
    differences = find_differences(SENTIMENT, split, rows)
    assert [each.measure for each in differences] == list(SENTIMENT.measures)
    mae = of_mae(differences)
    assert mae.model == "b"
    assert [mae.value, *mae.ends] == pytest.approx([0.25] * 3, abs=1e-5)
    assert mae.p == pytest.approx(2 / 1001)


def test_equal_means_tie_whatever_the_weights_of_their_runs(split):
    """With four runs, the weights are thirds, and sums of the same scores differ by rounding."""
    rows = [predicted(name, split, 0.3, 0.3, 0.3, 0.3) for name in "ab"]
    for each in find_differences(SENTIMENT, split, rows):
        assert (each.value, each.ends, each.p) == (0, [0, 0], 1)


def test_variation_between_runs_widens_the_interval(split):
    """Each video has the same error, so only the draw of runs varies."""
    rows = [predicted("a", split, 1, 1), predicted("b", split, 0.5, 2)]
    mae = of_mae(find_differences(SENTIMENT, split, rows))
    assert mae.value == pytest.approx(0.25, abs=1e-5)
    assert mae.ends == pytest.approx([-0.5, 1], abs=1e-5)  # either run alone
    assert mae.p == pytest.approx(1, abs=0.1)  # half of the draws are on each side


def test_resampled_means_of_runs_have_the_standard_error_of_the_mean(split):
    errors = [0, 1, 2, 3, 4]
    rows = [predicted("a", split, 9), predicted("b", split, *errors)]
    low, high = of_mae(find_differences(SENTIMENT, split, rows)).ends
    standard_error = np.std(errors, ddof=1) / len(errors) ** 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * standard_error, rel=0.2)


def test_variation_between_videos_widens_the_interval(split):
    first, other = predicted("a", split, 0), predicted("b", split, 0)
    other.predictions[0][0] += 1  # one segment, whose video is not in every resample
    low, high = of_mae(find_differences(SENTIMENT, split, [first, other])).ends
    assert low == 0
    assert high > 1 / len(split)  # the difference itself


def test_a_single_video_or_a_task_without_sums_has_no_differences(split, tmp_path):
    rows = [predicted("a", split, 0), predicted("b", split, 1)]
    assert find_differences(replace(SENTIMENT, sums=None), split, rows) == []
    assert find_differences(SENTIMENT, split, rows[:1]) == []
    write_split(tmp_path / "one", 3, ids=["v[0]", "v[1]", "v[2]"])
    alone = Split(tmp_path / "one")
    rows = [predicted("a", alone, 0), predicted("b", alone, 1)]
    assert find_differences(SENTIMENT, alone, rows) == []


def test_differences_are_written_and_reported(split, tmp_path):
    rows = [predicted("a", split, 0), predicted("b", split, 1)]
    differences = find_differences(SENTIMENT, split, rows)
    write_differences(tmp_path / "differences.csv", differences)
    with (tmp_path / "differences.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["model"], first["score"]) == ("b", "mae")
    assert [float(first[key]) for key in ("difference", "low", "high")] == pytest.approx([1] * 3)
    section = difference_section("a", differences, "videos")
    assert section.title == "Differences from a"
    long, *_ = difference_section("name" * 99, differences, "segments").parts
    assert long.startswith(f"Mean minus that of {'name' * 25}…, and")
    assert "resamples of the segments" in long
    text, table = section.parts
    assert "1,000 resamples" in text
    assert table.header == ["model", *(one.name for one in SENTIMENT.measures)]
    name, mae, *_ = table.rows[0]
    assert (name, mae.value, mae.is_best) == ("b", "1.0000, p 0.002", True)
