"""`--task emotion` through every command."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from data.labels import EMOTIONS
from models.checkpoint import read_checkpoint
from system.errors import InputError
from tests.data.loading.test_split import write_split

TRAIN = ["--train", "--task", "emotion", "--model", "lf_dnn", "--epochs", "1", "--batch_size", "40"]
TRAIN += ["--no_verbose", "--datadir"]


@pytest.fixture(scope="module")
def emotions(tmp_path_factory):
    """Three splits with all emotions in each."""
    folder, rng = tmp_path_factory.mktemp("emotions"), np.random.default_rng(0)
    for split, n in {"train": 40, "val": 12, "test": 13}.items():
        write_split(folder / split, n)
        labels = np.clip(rng.uniform(-2, 3, (n, 1, 7)), 0, 3)
        labels[:2, 0, 1:] = [[0], [1]]
        np.save(folder / split / "label50.npy", labels)
    return folder


def test_emotions_are_trained_evaluated_and_written(main, emotions, tmp_path, capsys, monkeypatch):
    for plot in ("plot_confusion_matrix", "plot_predictions", "plot_curves"):  # which take a while
        monkeypatch.setattr(f"utils.reports.plots.{plot}", lambda path, *_: path.touch())
    main(*TRAIN, emotions, "--dry_run")
    assert "lf_dnn for emotion" in capsys.readouterr().out
    main(*TRAIN, emotions, "--seeds", "1")
    assert (
        "wacc_fear" in json.loads((tmp_path / "checkpoints" / "seeds.json").read_text())["spread"]
    )
    best = tmp_path / "checkpoints" / "seed1" / "best.pth"
    assert read_checkpoint(best).details["task"] == "emotion"
    assert read_checkpoint(best).outputs == 6
    main(*TRAIN, emotions, "--seeds", "1", "--resume", "auto", "--epochs", "2")
    assert "Resumed from" in capsys.readouterr().out
    main("--datadir", emotions, "--checkpoint", best, "--split", "val")
    (results,) = tmp_path.glob("result/checkpoints-seed1-best-*/val")
    metrics = json.loads((results / "metrics.json").read_text())
    assert 0 <= metrics["wacc_disgust"] <= 1
    with (results / "predictions.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert list(row) == [
        "id",
        *(f"{e}_{what}" for e in EMOTIONS for what in ("label", "prediction")),
    ]
    pictures = {path.name for path in results.glob("*.png")}
    assert {"confusion_matrix_fear.png", "predictions_happy.png"} <= pictures
    with pytest.raises(InputError, match=r"trained for the task emotion, but --task says sent"):
        main("--datadir", emotions, "--checkpoint", best, "--task", "sentiment")


def test_emotions_have_intervals_and_differences(main, emotions, tmp_path, capsys, monkeypatch):
    for plot in ("plot_confusion_matrix", "plot_predictions", "plot_curves"):
        monkeypatch.setattr(f"utils.reports.plots.{plot}", lambda path, *_: path.touch())
    for seed, folder in enumerate("ab"):
        main(*TRAIN, emotions, "--seed", seed, "--checkpointdir", folder)
    (other,) = tmp_path.glob("result/b-*/test/predictions.csv")
    capsys.readouterr()
    options = ["--bootstrap", 200, "--against", other]
    main("--datadir", emotions, "--checkpoint", "a/best.pth", *options)
    lines = capsys.readouterr().out.split("Over 200 resamples of the segments:")[1].splitlines()
    metrics, others = (
        json.loads(next(tmp_path.glob(f"result/{name}-*/test/metrics.json")).read_text())
        for name in "ab"
    )
    for key in ("mae", "wacc", "f1", "wacc_fear"):
        low, high = metrics["bootstrap"]["intervals"][key]
        assert low <= metrics[key] <= high
        against = metrics["against"]["scores"][key]
        assert against["other"] == pytest.approx(others[key])
        assert against["difference"] == pytest.approx(metrics[key] - others[key])
        assert 0 < against["p"] <= 1
    assert any(line.startswith("WAcc fear ") for line in lines)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (np.ones((6, 1, 1)), "mosei", "has no labels for the task emotion: it has 1 columns"),
        (np.zeros((6, 1, 7)), "mosei", "happy, sad, .* are the same in all segments"),
        (
            np.ones((6, 1, 7)),
            "mosi",
            "emotion: a dataset with the scores of mosi has no labels for it; use .* of mosei",
        ),
        (np.ones((6, 1, 7)), "sims", "with the scores of sims"),
        (np.full((6, 1, 7), np.nan), "mosei", "is not labelled"),
    ],
)
def test_data_without_emotions_are_refused(main, tmp_path, labels, scores, message):
    for split in ("train", "val", "test"):
        write_split(tmp_path / split, 6)
        np.save(tmp_path / split / "label50.npy", labels)
    manifest = {"made_from": {"scores": scores}, "splits": {}, "left_out": {}, "text": None}
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=message):
        main(*TRAIN, tmp_path)
    assert not (tmp_path / "checkpoints").exists()
