"""The reports of every kind of run, with hostile names of data and folders."""

from __future__ import annotations

import base64
import csv
import json
import os

import numpy as np
import pytest

import main_msaf
from data.layout import SEGMENT_COLUMNS
from tests.data.loading.test_split import write_split
from tests.pages import HOSTILE, check_looks, check_page, needs_browser, texts
from utils.reports import perturbation

pytestmark = pytest.mark.painted

ODD = "odd <b>&\"' $x$"  # a folder's name
NO_UTF8 = f"{ODD} {os.fsdecode(bytes([255]))}"
SENTENCE = f"{HOSTILE} \x1b[31m \u202e {'long ' * 99}"
TRAIN = ["--model", "lf_dnn", "--epochs", "2", "--batch_size", "16", "--no_verbose"]
DATA = ["--datadir", "data"]
PLOTS = [
    f"plots.plot_{name}" for name in ("predictions", "confusion_matrix", "curves", "robustness")
]
FEW_LEVELS = {"missing_random": (0, 100), "missing_block": (0,), "noise": (0,), "shift": (0, 2)}
ABOUT = ["Data", "Configuration", "Environment"]
OF_CHECKPOINT = ["Data", "Checkpoint", "Configuration", "Environment"]
EVALUATED = [
    *("Scores of test", "Predicted against true", "Error by class"),
    *("Error by length of the segment", "The 12 worst segments"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a dataset with hostile ids and sentences and a manifest."""
    folder, rng = tmp_path_factory.mktemp("data") / NO_UTF8, np.random.default_rng(0)
    for split, n in {"train": 24, "val": 10, "test": 12}.items():
        write_split(folder / split, n)
        labels = np.clip(rng.uniform(-2, 3, (n, 1, 7)), 0, 3)
        labels[:2, 0, 1:] = [[0], [1]]
        np.save(folder / split / "label50.npy", labels)
        with (folder / split / "segments.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(SEGMENT_COLUMNS)
            for row in range(n):
                name = f"<i>{row % 3}"
                writer.writerow([f"{name}[{row}]", name, row, row + 3, SENTENCE, 0])
    manifest = {
        "made_from": {"dataset": HOSTILE, "scores": "mosei", "alignment": "segment"},
        "splits": {"train": {"segments": 24, "videos": 3}, "test": {"segments": 12, "videos": 3}},
        "left_out": {HOSTILE: 3},
        "text": {"encoder": HOSTILE, "width": 16, "per": "position"},
    }
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return folder


# A picture of one point.
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """Return a folder with the results of every kind of run of both tasks, by task."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for kind, levels in FEW_LEVELS.items():
            patch.setitem(perturbation.LEVELS, kind, levels)

        def main(task, *arguments):
            options = ["--datadir", data, "--resultdir", f"{task}/result", *arguments]
            patch.setattr("sys.argv", ["main_msaf.py", *map(str, options)])
            main_msaf.main()

        for task in ("sentiment", "emotion"):
            best = f"{task}/{ODD}/best.pth"
            main(task, "--train", "--task", task, "--checkpointdir", f"{task}/{ODD}", *TRAIN)
            main(task, "--checkpoint", best)
            main(task, "--checkpoint", best, "--predict", data / "test")
            main(task, "--checkpoint", best, "--robustness")
        for plot in PLOTS:  # which take a while, and have been drawn above
            patch.setattr(f"utils.reports.{plot}", lambda path, *_: path.write_bytes(DOT))
        for task in ("sentiment", "emotion"):
            study = ["--compare", "lf_dnn", "lmf", "--task", task, *TRAIN[2:]]
            main(task, *study, "--checkpointdir", f"{task}/study")
    return folder


PAGES = {
    f"{task} {name}": (f"{task}/{folder}/report.html", titles, pictures)
    for task, of_each, matrices in (
        ("sentiment", 2, ["Confusion matrices of each model's first run"]),
        ("emotion", 12, []),
    )
    for name, folder, titles, pictures in (
        ("training", "result/odd*", ["Training", *EVALUATED, *ABOUT], of_each + 1),
        ("evaluation", "result/odd*/test", [*EVALUATED, *OF_CHECKPOINT], of_each),
        (
            "prediction",
            "result/odd*/predicted/test",
            ["Scores", "Predictions", "The 12 strongest predictions", *OF_CHECKPOINT],
            0,
        ),
        (
            "robustness",
            "result/odd*/robustness/test",
            ["MAE without a modality", "MAE by disturbance", *OF_CHECKPOINT],
            1,
        ),
        (
            "comparison",
            "study",
            [
                *("Scores", "MAE by model and by epoch", "Runs", "Differences from lf_dnn"),
                *("MAE by true class", "MAE by length of the segment", *matrices),
                "The 12 segments that all models together predict worst",
                *ABOUT,
            ],
            1 + 2 * len(matrices),
        ),
    )
}


@pytest.mark.parametrize("name", PAGES)
def test_every_run_leaves_a_report_of_its_own(folder, name):
    pattern, titles, pictures = PAGES[name]
    (path,) = folder.glob(pattern)
    tree = check_page(path)
    assert texts(tree, "h2") == titles
    assert len(list(tree.iter("img"))) == pictures
    cells = texts(tree, "td") + texts(tree, "th")
    for text in ("torch", "revision", "batch_size", HOSTILE, "width", f"3 because the {HOSTILE}"):
        assert text in cells
    assert any(rf"{ODD} \udcff" in cell for cell in cells)


@needs_browser
def test_a_browser_shows_the_reports_on_every_screen(folder):
    pictures = {path: n for pattern, _, n in PAGES.values() for path in folder.glob(pattern)}
    assert len(pictures) == len(PAGES)
    check_looks(pictures)


@pytest.mark.parametrize("name", ["evaluation", "prediction", "robustness"])
def test_the_settings_of_a_training_are_those_of_the_checkpoint(folder, name):
    (path,) = folder.glob(PAGES[f"emotion {name}"][0])
    rows = [texts(row, "th") + texts(row, "td") for row in check_page(path).iter("tr")]
    for setting, value in {"epochs": "2", "lr": "0.001", "dropout": "0.2"}.items():
        assert [row for row in rows if row[:1] == [setting]] == [[setting, value]]
    assert "checkpointdir" not in [row[0] for row in rows if row]


def test_sentences_are_shown_unchanged_but_cut(folder):
    for name in ("sentiment training", "sentiment prediction"):
        (path,) = folder.glob(PAGES[name][0])
        cells = texts(check_page(path), "td")
        (shown,) = {cell for cell in cells if cell.startswith(HOSTILE) and "long" in cell}
        assert shown.startswith(rf"{HOSTILE} \x1b[31m \u202e long long")
        assert shown.endswith("…")
        assert len(shown) < 350


def test_a_prediction_without_labels_says_that_it_has_no_scores(folder):
    (path,) = folder.glob(PAGES["sentiment prediction"][0])
    tree = check_page(path)
    assert "None: --predict looks at no labels" in texts(tree, "p")[0]
    assert not any("label, mean" in title for title in texts(tree, "th"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train", "--checkpointdir", "new", *TRAIN, *DATA],
        ["--checkpoint", "run/best.pth", *DATA],
        ["--checkpoint", "run/best.pth", "--predict", "data/test"],
        ["--checkpoint", "run/best.pth", "--robustness", *DATA],
    ],
    ids=["training", "evaluation", "prediction", "robustness"],
)
def test_a_report_that_fails_is_a_warning_and_all_other_files_exist(
    main, data, tmp_path, monkeypatch, capsys, arguments
):
    for plot in PLOTS:  # which take a while
        monkeypatch.setattr(f"utils.reports.{plot}", lambda path, *_: path.touch())
    for kind, levels in FEW_LEVELS.items():
        monkeypatch.setitem(perturbation.LEVELS, kind, levels)
    (tmp_path / "data").symlink_to(data)
    main("--train", *TRAIN, "--datadir", "data", "--checkpointdir", "run")
    for path in tmp_path.rglob("report.html"):
        path.unlink()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.reports.html._plain", fail)
    capsys.readouterr()
    main(*arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert "report.html is not written (OSError: [Errno 28] No space left" in line
    assert list(tmp_path.rglob("report.html")) == []
    if "--train" in arguments:
        assert json.loads((tmp_path / "new" / "run.json").read_text())["result"]


def test_nothing_is_reported_without_saving(main, data, tmp_path):
    main("--train", *TRAIN, "--datadir", data, "--no_save")
    assert list(tmp_path.rglob("*")) == []
