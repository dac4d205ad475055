"""The report on an evaluation: scores, intervals, errors."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from data.layout import SEGMENT_COLUMNS
from data.loading.split import Split
from system.errors import InputError
from tests.data.loading.test_split import write_split
from utils.reports.bootstrap import Bootstrap
from utils.reports.evaluation import Evaluation
from utils.reports.evaluation_report import evaluation_sections
from utils.run_config import RunConfig
from utils.tasks import EMOTION, SENTIMENT

BY_LENGTH = "Error by length of the segment"
N = 40
LABELS = np.float32(np.resize([-3, -1.2, 0, 0.4, 2], N))
SECONDS = np.resize([1, 3, 5, 40], N)


@pytest.fixture
def split(tmp_path):
    """Return 40 segments of 4 videos, with times and sentences."""
    write_split(tmp_path / "test", N, labels=LABELS)
    with (tmp_path / "test" / "segments.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(SEGMENT_COLUMNS)
        for row in range(N):
            times = (row, row + SECONDS[row])
            writer.writerow([f"v{row % 4}[{row}]", f"v{row % 4}", *times, f"sentence {row}", 0])
    return Split(tmp_path / "test")


def report_of(split, wrong, task=SENTIMENT, **settings):
    """Return the parts of each section, of predictions that are off by `wrong`."""
    labels = split.labels[:, task.columns]
    predictions = labels + np.float32(wrong)
    scores = task.score(labels, predictions)
    evaluation = Evaluation(split.ids, labels, predictions, scores, 0)
    certainty = Bootstrap(RunConfig(**settings), split, task).find(evaluation)
    sections = evaluation_sections(evaluation, task, split, certainty, [])
    return {section.title: section.parts for section in sections}


def plain(table):
    return [[getattr(cell, "value", cell) for cell in row] for row in table.rows]


def test_scores_stand_beside_their_intervals(split):
    wrong = np.linspace(0, 1, N)[:, None]
    table, note = report_of(split, wrong, bootstrap=200, seed=3)["Scores of test"]
    assert table.header == ["score", "value", "95 % interval"]
    mae = table.rows[0]
    low, high = map(float, mae[2].split(" to "))
    assert low < float(mae[1]) == 0.5 < high
    assert "200 resamples of the 4 videos, drawn by the seed 3" in note


def test_intervals_are_reported_without_being_requested(split):
    _, note = report_of(split, 0.1)["Scores of test"]
    assert "1,000 resamples of the 4 videos" in note


def test_a_single_video_has_scores_without_intervals(split):
    path = split.folder / "segments.csv"
    path.write_text(path.read_text().replace(",v1,", ",v0,").replace(",v2,", ",v0,"))
    path.write_text(path.read_text().replace(",v3,", ",v0,"))
    table, note = report_of(Split(split.folder), 0.1)["Scores of test"]
    assert table.header == ["score", "value"]
    assert "several videos" in note


def test_errors_are_reported_by_class_of_the_label(split):
    wrong = np.where(LABELS == 2, -1, np.where(LABELS < -2, 0.5, 0))[:, None]
    (table,) = report_of(split, wrong)["Error by class"]
    assert plain(table) == [
        ["-3", "8", "0.500", "+0.500"],
        ["-1", "8", "0.000", "+0.000"],
        ["0", "16", "0.000", "+0.000"],
        ["+2", "8", "1.000", "-1.000"],
    ]
    assert [row[2].share for row in table.rows] == pytest.approx([0.5, 0, 0, 1], abs=1e-6)


def test_errors_are_reported_by_length_of_the_segment(split):
    (table,) = report_of(split, np.where(SECONDS == 40, 2, 1)[:, None])[BY_LENGTH]
    assert plain(table) == [
        ["under 2 s", "10", "1.000", "+1.000"],
        ["2 to 4 s", "10", "1.000", "+1.000"],
        ["4 to 8 s", "10", "1.000", "+1.000"],
        ["32 s and more", "10", "2.000", "+2.000"],
    ]


@pytest.mark.parametrize("times", ["x,y", "nan,nan", "5,5", "inf,inf", ","])
def test_segments_without_times_are_a_group_of_their_own(split, times):
    path = split.folder / "segments.csv"
    path.write_text(path.read_text().replace(",5,8,", f",{times},"))
    report = report_of(Split(split.folder), np.eye(N)[5][:, None])
    assert plain(report[BY_LENGTH][0])[-1] == [
        "not known",
        "1",
        "1.000",
        "+1.000",
    ]
    assert report["The 20 worst segments"][0].rows[0][:3] == ["v1[5]", "", "sentence 5"]


def test_the_worst_segments_come_first_with_times_and_sentences(split):
    wrong = np.zeros((N, 1))
    wrong[[30, 7, 12]] = [[1], [-3], [2]]
    (table,) = report_of(split, wrong)["The 20 worst segments"]
    assert len(table.rows) == 20
    assert table.rows[:3] == [
        ["v3[7]", "7.00 to 47.00 s", "sentence 7", "0.00", "-3.00", "3.00"],
        ["v0[12]", "12.00 to 13.00 s", "sentence 12", "0.00", "2.00", "2.00"],
        ["v2[30]", "30.00 to 35.00 s", "sentence 30", "-3.00", "-2.00", "1.00"],
    ]


def test_what_rounds_to_0_has_no_sign(split):
    split.labels[split.labels == 0] = -0.0
    report = report_of(split, np.where(split.labels[:, :1] == 0, -0.0001, 0))
    (worst,), (by_class,) = report["The 20 worst segments"], report["Error by class"]
    assert worst.rows[0][3:] == ["0.00", "0.00", "0.00"]
    assert plain(by_class)[2] == ["0", "16", "0.000", "+0.000"]


def test_a_split_without_a_table_has_neither_times_nor_sentences(split):
    (split.folder / "segments.csv").unlink()
    report = report_of(Split(split.folder), 0.5)
    assert "not known" in report[BY_LENGTH][0]
    assert report["The 20 worst segments"][0].rows[0][:3] == ["0", "", ""]
    assert "of the 40 segments, drawn" in report["Scores of test"][1]
    assert "may be too narrow" in report["Scores of test"][1]


def test_few_segments_are_all_shown(tmp_path):
    write_split(tmp_path / "test", 3)
    report = report_of(Split(tmp_path / "test"), 0.5)
    assert len(report["The 3 worst segments"][0].rows) == 3


def test_a_damaged_table_is_refused(split):
    (split.folder / "segments.csv").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match="no CSV table"):
        report_of(split, 0.5)


def test_each_emotion_has_its_classes_and_values(split):
    wrong = np.zeros((N, 6))
    wrong[9] = [0, 0, 6, 0, 0, 0]
    report = report_of(split, wrong, EMOTION)
    (table,) = report["Error by class"]
    assert len(table.rows) == 12
    assert table.rows[0][0] == "happy absent"
    first = report["The 20 worst segments"][0].rows[0]
    anger = split.labels[9, 3]
    assert first[0] == "v1[9]"
    assert f"anger {anger:.2f}" in first[3]
    assert f"anger {anger + 6:.2f}" in first[4]
    assert first[5] == "1.00"
    assert len(report["Scores of test"][0].rows) == 21


def test_a_task_without_classes_has_no_errors_by_class(split):
    report = report_of(split, 0.5, replace(SENTIMENT, scale=None))
    assert report["Error by class"] == ["The task has no classes."]
