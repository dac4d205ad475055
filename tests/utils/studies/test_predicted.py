"""The errors of a comparison's models, from the predictions that their runs wrote."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from data.layout import BATCH_FILES
from data.loading.split import Split
from utils.reports.evaluation import Evaluation
from utils.reports.results import result_folder, write_evaluation
from utils.run_config import RunConfig
from utils.studies.predicted import error_sections, read_predicted
from utils.studies.runs import Run, have_same_test
from utils.studies.table import Comparison, Row
from utils.tasks import SENTIMENT
from utils.training.provenance import RunResult


@pytest.fixture
def study(small, tmp_path):
    """Two models over two seeds; the second is wrong by 1, in segment 5 by 3."""
    split = Split(small / "test")
    labels = split.labels[:, :1]
    rows = []
    for name, wrong in {"a": 0.0, "b": 1.0}.items():
        runs = []
        for seed, sign in ((1, 1), (2, -1)):
            folder = tmp_path / name / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "best.pth").write_bytes(f"{name} {seed}".encode())
            config = RunConfig(datadir=small, resultdir=tmp_path / "result", seed=seed)
            predictions = labels + np.float32(sign * wrong)
            predictions[5] += np.float32(2 * wrong * sign)
            evaluation = Evaluation(split.ids, labels, predictions, {}, 0)
            results = result_folder(config.resultdir, folder / "best.pth", split.digest) / "test"
            results.mkdir(parents=True)
            write_evaluation(results, evaluation, SENTIMENT, {})
            runs.append(Run(folder, config, "mosei", {"test": split.digest}, None, {}))
        rows.append(Row(name, runs, {}))
    return Comparison(SENTIMENT, rows)


def tables(study):
    sections = error_sections(study.task, *read_predicted(study))
    return {section.title: list(section.parts) for section in sections}


def test_errors_are_reported_by_model(study, small):
    sections = tables(study)
    (by_class,) = sections["MAE by true class"]
    assert by_class.header == ["true class", "segments", "a", "b"]
    labels = Split(small / "test").labels[:, 0]
    assert sum(int(row[1]) for row in by_class.rows) == len(labels)
    fifth = SENTIMENT.scale.class_names[SENTIMENT.scale.classes(labels)[5]]
    for row in by_class.rows:
        assert row[2].value == "0.000"
        expected = 1 + 2 / int(row[1]) if row[0] == fifth else 1
        assert row[3].value == f"{expected:.3f}"
    assert "MAE by length of the segment" not in sections  # no times are known
    assert len(sections["Confusion matrices of each model's first run"]) == 2


def test_the_segment_with_the_worst_mean_error_comes_first(study, small):
    split = Split(small / "test")
    (worst,) = tables(study)["The 20 segments that all models together predict worst"]
    first, label = worst.rows[0], f"{split.labels[5, 0]:.2f}"
    assert first == [split.ids[5], "", "", label, label, label]  # +3 and -3 cancel out


def test_runs_without_predictions_are_left_out(study, capsys):
    for run in study.rows[0].runs:
        (run.folder / "best.pth").unlink()
    (by_class,) = tables(study)["MAE by true class"]
    assert by_class.header == ["true class", "segments", "b"]
    advice = "best.pth with its --datadir, --resultdir and --precision writes them again): a\n"
    assert advice in capsys.readouterr().out


def with_result(run, mae):
    return replace(run, result=RunResult(1, {"mae": mae}, 1, None, 1.0))


def test_predictions_of_another_score_are_left_out(study, capsys):
    """Another evaluation may have written them, in an earlier version."""
    for row, recorded in zip(study.rows, ([0.0, 0.0], [25 / 23, 1.0869]), strict=True):
        row.runs[:] = map(with_result, row.runs, recorded)
    (by_class,) = tables(study)["MAE by true class"]
    assert by_class.header == ["true class", "segments", "a"]
    assert "do not have its score" in capsys.readouterr().out


def test_predictions_in_bfloat16_are_found_where_earlier_versions_wrote_them(study, small):
    run = study.rows[0].runs[0]
    study.rows[0].runs[0] = replace(run, config=replace(run.config, precision="bfloat16"))
    (by_class,) = tables(study)["MAE by true class"]
    assert by_class.header == ["true class", "segments", "a", "b"]


@pytest.fixture
def other_data(small, tmp_path):
    """A copy of the data with other features of audio."""
    folder = shutil.copytree(small, tmp_path / "other")
    path = folder / "test" / BATCH_FILES["audio"]
    np.save(path, np.load(path) + 1)
    return folder


def test_runs_of_other_features_are_compared(study, other_data, small):
    digests = {"test": Split(other_data / "test").digest}
    for number, run in enumerate(study.rows[1].runs):
        config = replace(run.config, datadir=other_data)
        about = config.resultdir, run.folder / "best.pth"
        results = result_folder(*about, run.digests["test"])
        results.rename(result_folder(*about, digests["test"]))
        study.rows[1].runs[number] = replace(run, config=config, digests=digests)
    assert have_same_test([row.runs[0] for row in study.rows])
    (by_class,) = tables(study)["MAE by true class"]
    assert by_class.header == ["true class", "segments", "a", "b"]


@pytest.mark.parametrize("is_gone", [False, True])
def test_runs_of_other_labels_or_of_data_that_are_gone_are_not_compared(study, other_data, is_gone):
    path = other_data / "test" / BATCH_FILES["label"]
    np.save(path, np.load(path) * (1 if is_gone else 0.5))
    first, second = (row.runs[0] for row in study.rows)
    digest = Split(other_data / "test").digest
    second = replace(
        second, config=replace(second.config, datadir=other_data), digests={"test": digest}
    )
    if is_gone:
        shutil.rmtree(other_data)
    assert not have_same_test([first, second])
    assert read_predicted(replace(study, is_of_one_test=False)) is None
