"""Robustness: scores of every model under perturbations, the same for every batch size."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from models.checkpoint import write_checkpoint
from models.registry import MODELS, build
from system.errors import InputError
from system.processes import SINGLE_PROCESS
from tests.own_model import OWN_MODEL
from tests.utils.reports.test_evaluation import check_png
from utils.reports import perturbation, plots
from utils.reports.perturbation import UNDISTURBED, Perturbation
from utils.reports.robustness import measure_robustness
from utils.run_config import RunConfig
from utils.running.setup import make_options
from utils.tasks import TASKS

WIDTHS = {"visual": 35, "audio": 74, "text": 16}


@pytest.fixture
def few_levels(monkeypatch):
    monkeypatch.setitem(perturbation.LEVELS, "missing_random", (0, 60, 100))
    monkeypatch.setitem(perturbation.LEVELS, "missing_block", (0, 60, 100))
    monkeypatch.setitem(perturbation.LEVELS, "noise", (0,))
    monkeypatch.setitem(perturbation.LEVELS, "shift", (-0.01, 0, 2))


@pytest.fixture
def no_picture(monkeypatch):
    """Do not draw the picture, which takes seconds."""
    monkeypatch.setattr(plots, "plot_robustness", lambda path, *_: path.touch())


def write(path, model, task="sentiment", name=None):
    torch.manual_seed(1)
    outputs = len(TASKS[task]["mosei"].outputs)
    write_checkpoint(path, build(model, {}, WIDTHS, outputs), name or model, task=task)
    return path


def measure(checkpoint, small, folder, *beside, **settings):
    config = RunConfig(datadir=small, checkpoint=checkpoint, resultdir=folder, **settings)
    config = RunConfig(**{**vars(config), "verbose": False, "device": "cpu"})
    return measure_robustness(config, "test", make_options(config, SINGLE_PROCESS), beside)


def read_table(folder):
    (path,) = folder.glob("*/robustness/test/robustness.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_and_task_has_a_table(small, tmp_path, few_levels, no_picture, model, task):
    results = measure(write(tmp_path / "a.pth", model, task), small, tmp_path / "result")
    rows = read_table(tmp_path / "result")
    assert len(rows) == len(perturbation.perturbations()) == 27
    keys = [one.key for one in TASKS[task]["mosei"].measures]
    assert list(rows[0]) == ["checkpoint", "model", "modality", "kind", "level", "rows", *keys]
    assert {row["model"] for row in rows} == {model}
    scores = results[0].scores
    for row, case in zip(rows, perturbation.perturbations(), strict=True):
        assert (row["modality"], row["kind"], float(row["level"])) == tuple(vars(case).values())
        assert {key: float(row[key]) for key in keys} == scores[case]


def test_levels_that_give_the_same_data_have_the_same_scores(
    small, tmp_path, few_levels, no_picture
):
    (result,) = measure(write(tmp_path / "a.pth", "lf_dnn"), small, tmp_path / "result")
    maes = {case: scores["mae"] for case, scores in result.scores.items()}
    for modality in ("text", "audio", "visual"):
        undisturbed = maes[Perturbation(modality, "missing_random", 0)]
        assert undisturbed == maes[UNDISTURBED]
        whole = maes[Perturbation(modality, "missing_random", 100)]
        assert whole == maes[Perturbation(modality, "missing_block", 100)] != undisturbed
        assert maes[Perturbation(modality, "missing_random", 60)] not in (whole, undisturbed)
    by_shift = {row["level"]: row["rows"] for row in read_table(tmp_path / "result")[-3:]}
    assert by_shift == {"-0.01": "0", "0": "0", "2": "60"}  # 30 rows of visual a second
    assert maes[Perturbation("visual", "shift", 2)] == whole  # of 6 rows


def test_the_scores_do_not_depend_on_the_batch_size_but_on_the_seed(
    small, tmp_path, few_levels, no_picture
):
    path = write(tmp_path / "a.pth", "lf_dnn")
    (result,) = measure(path, small, tmp_path, batch_size=4)
    (same,) = measure(path, small, tmp_path, batch_size=23)
    (other,) = measure(path, small, tmp_path, seed=21)
    for case, scores in result.scores.items():
        assert scores["mae"] == pytest.approx(same.scores[case]["mae"], abs=1e-6)
        is_random = case.kind == "noise" or case.level == 60
        assert (scores["mae"] != pytest.approx(other.scores[case]["mae"], abs=1e-6)) == is_random


def test_a_modality_that_the_model_leaves_out_changes_nothing(
    small, tmp_path, few_levels, no_picture
):
    (result,) = measure(write(tmp_path / "a.pth", "text_only"), small, tmp_path / "result")
    for case, scores in result.scores.items():
        if case.modality != "text":
            assert scores == result.scores[UNDISTURBED]


def test_several_checkpoints_are_scored_together_in_their_own_folder(
    small, tmp_path, few_levels, no_picture, capsys
):
    first = write(tmp_path / "a" / "best.pth", "lf_dnn")
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    own = f"{tmp_path / 'mine.py'}:Mean"
    second = write(tmp_path / "b" / "best.pth", own)
    third = write(tmp_path / "c" / "best.pth", "tfn")
    (alone,) = measure(first, small, tmp_path / "result")
    results = measure(second, small, tmp_path / "result", first, third, second, model=own)
    assert [one.model for one in results] == [own, "lf_dnn", "tfn"]
    assert len({one.name for one in results}) == 3
    assert results[1].scores == alone.scores
    assert len(list((tmp_path / "result").glob("*/robustness/test/robustness.csv"))) == 2
    assert all(str(one.checkpoint) in capsys.readouterr().out for one in results[:1])


def test_the_picture_names_files_only_where_models_are_the_same(
    small, tmp_path, few_levels, monkeypatch
):
    drawn = []
    monkeypatch.setattr(
        plots,
        "plot_robustness",
        lambda path, curves, _: (path.touch(), drawn.append([*curves])),
    )
    one, other = write(tmp_path / "a.pth", "lf_dnn"), write(tmp_path / "b.pth", "msaf")
    same = write(tmp_path / "c.pth", "lf_dnn")
    for beside in (other, same):
        measure(one, small, tmp_path / "result", beside)
    assert drawn == [["lf_dnn", "msaf"], [f"lf_dnn ({one})", f"lf_dnn ({same})"]]


def test_checkpoints_of_different_tasks_are_refused(small, tmp_path, few_levels, no_picture):
    if len(TASKS) < 2:
        pytest.skip("there is one task")
    paths = [write(tmp_path / f"{task}.pth", "lf_dnn", task) for task in TASKS]
    with pytest.raises(InputError, match=r"emotion.*give checkpoints of one task"):
        measure(paths[0], small, tmp_path, *paths[1:])


def test_the_report_has_scores_settings_and_environment(small, tmp_path, few_levels, no_picture):
    (result,) = measure(write(tmp_path / "<b>.pth", "lf_dnn"), small, tmp_path / "result")
    (path,) = (tmp_path / "result").glob("*/robustness/test/report.html")
    page = path.read_text(encoding="utf-8")
    for text in ("&lt;b&gt;.pth", "batch_size", "revision", "without audio"):
        assert text in page
    assert f"{result.scores[UNDISTURBED]['mae']:.4f}" in page
    assert "<b>" not in page
    assert "data:image/png;base64," in page


def test_nothing_is_written_without_saving(small, tmp_path, few_levels, no_picture):
    path = write(tmp_path / "a.pth", "lf_dnn")
    measure(path, small, tmp_path / "result", save=False)
    assert list(Path(tmp_path).iterdir()) == [path]


@pytest.mark.filterwarnings("error")
def test_the_picture_has_a_panel_for_each_modality_and_kind(tmp_path):
    curves = {
        name: {case: number + case.level / 100 for case in perturbation.perturbations()}
        for number, name in enumerate(("a", "$\\frac{a$ \ud800\n"))
    }
    plots.plot_robustness(tmp_path / "robustness.png", curves, "MAE")
    check_png(tmp_path / "robustness.png", 1320, 840)
