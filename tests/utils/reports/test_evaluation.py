from __future__ import annotations

import csv
import errno
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from data.labels import SCALES
from data.loading.split import Split
from models.registry import build
from system.errors import InputError
from system.processes import Processes
from tests.data.loading.test_split import FILES, on_cpu, write_split
from utils.reports.evaluation import (
    Predictor,
    append_predictions,
    evaluate,
    evaluation_options,
    gather_rows,
    report_not_finite,
)
from utils.reports.plots import plot_confusion_matrix, plot_curves, plot_predictions
from utils.reports.results import result_folder, write_evaluation, written_certainty
from utils.tasks import SENTIMENT
from utils.tasks.sentiment import score

SEGMENTS = 11
IDS = [f"video,{row // 3}[{row % 3}]" for row in reversed(range(SEGMENTS))]
PLOTS = ("confusion_matrix.png", "predictions.png")
KEYS = "mae corr acc7 acc5 acc2 f1 acc2_nonneg f1_nonneg".split()


class First(nn.Module):
    """Predicts the last visual value of a segment."""

    def forward(self, visual, audio, text):
        assert not self.training
        return visual[:, -1, -1:]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keep these small models from waiting for busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def split(tmp_path):
    write_split(tmp_path / "test", SEGMENTS, ids=IDS)
    return Split(tmp_path / "test")


@pytest.fixture
def evaluation(split):
    return evaluate(First(), split, SENTIMENT, on_cpu())


# Predicting


def test_predictions_labels_and_ids_are_in_file_order(split):
    evaluation = evaluate(First().train(), split, SENTIMENT, on_cpu(batch_size=4))
    visual = np.load(split.folder / FILES["visual"])
    labels = np.load(split.folder / "label50.npy")
    np.testing.assert_array_equal(evaluation.predictions, visual[:, -1, -1:])
    np.testing.assert_array_equal(evaluation.labels, labels[:, 0, :1])
    assert evaluation.ids == IDS
    assert evaluation.not_finite == 0
    assert evaluation.scores == score(labels[:, 0, 0], visual[:, -1, -1])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build("nhfnet", {}, {"visual": 35, "audio": 74, "text": 16}, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 2**31 - 1])
def test_scores_do_not_depend_on_the_batch_size(split, model, batch_size):
    whole = evaluate(model, split, SENTIMENT, on_cpu(batch_size=SEGMENTS))
    evaluation = evaluate(model.train(), split, SENTIMENT, on_cpu(batch_size=batch_size))
    np.testing.assert_allclose(evaluation.predictions, whole.predictions, atol=1e-5)
    assert evaluation.scores == pytest.approx(whole.scores, abs=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "audio", "expected"),
    [(16, 50, 128), (1, 54, 118), (16, 500, 16), (8, 500, 12), (256, 50, 256), (1, 10**4, 1)],
)
def test_short_segments_are_evaluated_in_large_batches(batch_size, audio, expected):
    split = SimpleNamespace(shapes=[(50, 35), (audio, 74), (50, 768)])
    assert evaluation_options(on_cpu(batch_size), split) == on_cpu(expected)


def test_batches_of_loading_processes_stay_small():
    split, options = SimpleNamespace(shapes=[(50, 35)]), on_cpu(16, num_workers=4)
    assert evaluation_options(options, split) == options


@pytest.fixture
def sizes(monkeypatch):
    """Note how many segments are evaluated at once."""
    sizes, forward = [], Predictor.forward

    def note(self, *inputs):
        sizes.append(len(inputs[0]))
        return forward(self, *inputs)

    monkeypatch.setattr(Predictor, "forward", note)
    return sizes


def test_splits_on_a_device_are_loaded_by_no_process(main, small, monkeypatch, sizes, capsys):
    started = []
    monkeypatch.setattr("data.loading.on_device.has_room", lambda splits, options: True)
    monkeypatch.setattr("utils.training.dry_run.has_room", lambda splits, options: True)
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", started.append)
    loading = ("--datadir", small, "--batch_size", 4, "--num_workers", 2, "--no_verbose")
    best = ("--checkpoint", "run/best.pth", *loading)
    main("--train", "--model", "lf_dnn", "--epochs", 1, "--checkpointdir", "run", *loading)
    main(*best)
    main(*best, "--predict", small)
    main(*best, "--dry_run")
    assert (sizes, started) == ([21, 23, 23, 23, 75, 21, 23], [])
    assert "Inputs at once (23, 6, 35)" in capsys.readouterr().out


def test_the_programs_evaluate_in_large_batches(main, small, sizes):
    small_batches = ("--datadir", small, "--batch_size", 4, "--no_verbose")
    best = ("--checkpoint", "run/best.pth", *small_batches)
    main("--train", "--model", "lf_dnn", "--epochs", 1, "--checkpointdir", "run", *small_batches)
    main(*best)
    main(*best, "--predict", small / "val")
    main(*best, "--robustness")
    val, test = 21, 23
    assert sizes[:5] == [val, test, test, test, val]
    assert set(sizes[5:]) == {test}


def test_parts_are_joined_in_order_when_they_are_many():
    parts, most = [], 0
    for number in range(2500):
        append_predictions(parts, torch.tensor([float(number), -1.0]))
        most = max(most, len(parts))
    assert most < 1001
    expected = torch.arange(2500.0)
    assert torch.equal(torch.cat(parts), torch.stack([expected, -torch.ones(2500)], 1).flatten())


@given(st.integers(1, 40), st.integers(1, 45), st.integers(1, 5))
def test_the_shares_of_all_processes_are_put_together(n, batch_size, count):
    class Together(Processes):
        def gather(self, value):
            return [value if rank == self.rank else shares[rank] for rank in range(self.count)]

    order = torch.arange(2.0 * n).view(n, 2)
    ranks = [replace(on_cpu(batch_size), processes=Together(count, k, k)) for k in range(count)]
    parts = [[each.share(batch) for batch in each.rows(order)] for each in ranks]
    shares = [torch.cat(part).numpy() for part in parts]
    for options, mine in zip(ranks, parts, strict=True):
        np.testing.assert_array_equal(gather_rows(torch.cat(mine), n, options), order)


def test_scores_do_not_depend_on_loading_processes(split, model):
    alone = evaluate(model, split, SENTIMENT, on_cpu(num_workers=0))
    np.testing.assert_array_equal(
        evaluate(model, split, SENTIMENT, on_cpu(num_workers=2)).predictions, alone.predictions
    )


def test_infinite_and_nan_values_are_read_as_0_and_counted(split, capsys):
    visual = np.load(split.folder / FILES["visual"])
    visual[2, -1, -1] = np.nan
    visual[5, -1, -1] = visual[6, 0, 0] = -np.inf
    np.save(split.folder / FILES["visual"], visual)
    evaluation = evaluate(First(), Split(split.folder), SENTIMENT, on_cpu())
    assert evaluation.predictions[[2, 5]].tolist() == [[0], [0]]
    assert evaluation.not_finite == 3
    report_not_finite({"train": 12345, "val": 0, "test": evaluation.not_finite})
    assert "read as 0: 12,345 in train, 3 in test\n" in capsys.readouterr().out


def test_nothing_is_printed_about_finite_values(capsys):
    report_not_finite({"val": 0, "test": 0})
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_are_refused(split, model, value):
    class Broken(nn.Module):
        def forward(self, visual, audio, text):
            prediction = visual[:, 0, :1].clone()
            prediction[3] = value
            return prediction

    message = rf"predicts {value} for segment video,2\[1\] of .*test \(1 such predictions\)"
    with pytest.raises(InputError, match=message) as caught:
        evaluate(Broken(), split, SENTIMENT, on_cpu(batch_size=SEGMENTS))
    assert "\n" not in str(caught.value)


# Writing


def test_predictions_are_written_in_file_order_with_their_ids(tmp_path, evaluation):
    write_evaluation(tmp_path / "result", evaluation, SENTIMENT, {})
    with (tmp_path / "result" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "label", "prediction"]
    ids, labels, predictions = zip(*rows, strict=True)
    assert list(ids) == IDS
    assert [float(text) for text in labels] == evaluation.labels[:, 0].tolist()
    assert [float(text) for text in predictions] == evaluation.predictions[:, 0].tolist()


def test_metrics_are_written_with_what_was_evaluated(tmp_path, evaluation):
    details = {"dataset": "CMU-MOSEI", "alignment": None, "split": "test", "checkpoint": "a.pth"}
    write_evaluation(tmp_path / "new" / "result", evaluation, SENTIMENT, details)
    metrics = json.loads((tmp_path / "new" / "result" / "metrics.json").read_text("utf-8"))
    assert list(metrics) == [*KEYS, "n", *details]
    assert metrics == {**evaluation.scores, "n": SEGMENTS, **details}


def test_four_files_are_written_and_replaced(tmp_path, split, evaluation):
    folder = tmp_path / "result"
    write_evaluation(folder, evaluation, SENTIMENT, {})
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(["metrics.json", "predictions.csv", *PLOTS])
    old = {name: (folder / name).read_bytes() for name in names}
    np.save(split.folder / FILES["visual"], np.ones((SEGMENTS, 1, 35), np.float32))
    with pytest.warns(UserWarning, match="Corr is given as 0"):
        other = evaluate(First(), Split(split.folder), SENTIMENT, on_cpu())
    write_evaluation(folder, other, SENTIMENT, {})
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all((folder / name).read_bytes() != old[name] for name in names)


@pytest.mark.parametrize("content", ["[]", "null", "{"])
def test_damaged_metrics_are_replaced(tmp_path, evaluation, content):
    (tmp_path / "metrics.json").write_text(content)
    assert written_certainty(tmp_path, evaluation) == {}
    write_evaluation(tmp_path, evaluation, SENTIMENT, {"bootstrap": [], "against": {"a": 1}})
    assert written_certainty(tmp_path, evaluation) == {"against": {"a": 1}}


def full_disk(_, path, **__):
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_plot(tmp_path, evaluation, monkeypatch):
    write_evaluation(tmp_path, evaluation, SENTIMENT, {})
    old = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_evaluation(tmp_path, evaluation, SENTIMENT, {})
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == old


# Plots


def check_png(path, width, height):
    """The file is a PNG of about this many pixels, and something is drawn on it."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        assert image.size == pytest.approx((width, height), rel=0.2)
        colours = image.convert("RGB").getcolors(maxcolors=image.width * image.height)
    assert len(colours) > 10
    assert max(count for count, _ in colours) < 0.95 * width * height


@pytest.mark.filterwarnings("error")
def test_plots_of_an_evaluation_are_pngs(tmp_path, evaluation):
    write_evaluation(tmp_path, evaluation, SENTIMENT, {})
    for name in PLOTS:
        check_png(tmp_path / name, 720, 624)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "predictions"),
    [([0], [0]), ([1, 1], [2, 2]), ([-3, 3], [1e30, -1e30]), ([-3, 3] * 1500, [1, 2] * 1500)],
    ids=["one segment", "all the same", "far out", "many"],
)
def test_awkward_predictions_are_plotted(tmp_path, labels, predictions):
    pair = np.float32(labels), np.float32(predictions)
    plot_confusion_matrix(tmp_path / "matrix.png", *pair, SCALES["mosei"])
    check_png(tmp_path / "matrix.png", 720, 624)
    plot_predictions(tmp_path / "points.png", *pair, "sentiment")
    check_png(tmp_path / "points.png", 720, 624)


def test_a_plot_of_very_many_predictions_is_a_small_file(tmp_path):
    labels, noise = np.random.default_rng(0).uniform(-3, 3, (2, 22_000))
    plot_predictions(tmp_path / "points.png", labels, labels / 2 + noise / 2, "sentiment")
    check_png(tmp_path / "points.png", 720, 624)
    assert (tmp_path / "points.png").stat().st_size < 200_000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("epochs", [1, 10])
def test_curves_are_plotted(tmp_path, epochs):
    losses = [1 / epoch for epoch in range(1, epochs + 1)]
    maes = {"train": losses, "val": losses[::-1], "test": losses}
    plot_curves(tmp_path / "curves.png", losses, maes, best_epoch=epochs, measure="MAE")
    check_png(tmp_path / "curves.png", 1200, 480)


def test_one_epoch_has_one_tick(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("utils.reports.plots.save_figure", lambda figure, _: figures.append(figure))
    plot_curves(tmp_path / "curves.png", [1.0], {"val": [2.0]}, best_epoch=1, measure="MAE")
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_the_confusion_matrix_counts_rounded_classes(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "matplotlib.axes.Axes.text",
        lambda self, x, y, text, **_: drawn.update({(y - 3, x - 3): text} if text else {}),
    )
    labels = np.float32([-3, -2.9, -0.4, 1.5, 1.5, 3])
    predictions = np.float32([-9, 3, 0.4, 2.2, 1.4, 4])
    plot_confusion_matrix(tmp_path / "matrix.png", labels, predictions, SCALES["mosei"])
    assert drawn == {(-3, -3): 1, (-3, 3): 1, (0, 0): 1, (2, 2): 1, (2, 1): 1, (3, 3): 1}


def test_a_checkpoint_in_a_folder_of_a_long_name_has_results_of_its_own(tmp_path):
    folders = []
    for number in range(2):
        checkpoint = tmp_path / ("é" * 126 + str(number)) / "best.pth"
        checkpoint.parent.mkdir()
        checkpoint.write_bytes(b"weights")
        folders.append(result_folder(tmp_path, checkpoint, "data"))
        folders[-1].mkdir()
    assert folders[0] != folders[1]
