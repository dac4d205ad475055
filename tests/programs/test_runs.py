"""Runs do not overwrite each other, and a run's configuration reproduces it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from models.checkpoint import read_checkpoint
from system.errors import InputError
from tests.forked_programs import ROOT
from tests.own_model import OWN_MODEL
from tests.programs.test_programs import assert_one_line

TRAIN = ["--train", "--model", "lf_dnn", "--epochs", "1", "--batch_size", "25", "--no_verbose"]


@pytest.fixture
def train(program, small, tmp_path):
    """Train a small model: `train("folder", "--lr", 0.1)`, in tmp_path."""

    def run(folder, *options, datadir=small, ok=True):
        paths = ["--datadir", datadir, "--checkpointdir", folder, "--resultdir", "result"]
        done = program("main_msaf.py", *TRAIN, *paths, *options, cwd=tmp_path)
        assert not ok or done.returncode == 0, done.stderr
        return done

    return run


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_that_has_a_run_is_refused_with_the_ways_on(train, tmp_path):
    train("run")
    before = contents(tmp_path)
    assert_one_line(
        train("run", ok=False), "run holds a run", "--resume auto", "--overwrite", "--checkpointdir"
    )
    assert contents(tmp_path) == before
    train("run", "--resume", "auto", "--epochs", 2)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"] * 3 + ["2"] * 3


def test_a_run_that_cannot_go_on_is_refused_without_that_way(train, tmp_path):
    train("run")
    (tmp_path / "run" / "last.pth").unlink()
    for options in ((), ("--resume", "auto")):
        done = train("run", *options, ok=False)
        assert_one_line(done, "holds a run (best.pth); remove what it wrote (--overwrite)")


def test_overwrite_removes_what_that_run_wrote_and_nothing_else(train, tmp_path):
    folder = tmp_path / "run"
    train("run", "--epochs", 2)
    for name in ("notes.txt", "msaf_mosei_epoch_mine.pth", "logs/mine.txt"):
        (folder / name).write_text("mine")
    old_logs = set((folder / "logs").glob("*/events*"))
    train("run", "--overwrite")
    assert {path.name for path in folder.glob("*.pth")} == {
        *("best.pth", "last.pth", "msaf_mosei_epoch1.pth", "msaf_mosei_epoch_mine.pth")
    }
    assert not any(path.exists() for path in old_logs)
    for name in ("notes.txt", "logs/mine.txt"):
        assert (folder / name).read_text() == "mine"
    with (folder / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"] * 3


def test_a_running_training_has_its_folder_locked(train, small, tmp_path):
    command = [sys.executable, ROOT / "main_msaf.py", *TRAIN, "--epochs", "100000"]
    command += ["--datadir", small, "--checkpointdir", "run", "--resultdir", "result"]
    with subprocess.Popen(
        list(map(str, command)), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert "Epoch" in running.stdout.readline()
            done = train("run", "--overwrite", ok=False)
            assert_one_line(done, "Another training", "run", "--checkpointdir")
        finally:
            running.kill()
    train("run", "--overwrite")


def test_results_of_checkpoints_splits_and_data_never_share_a_folder(
    train, program, small, tmp_path
):
    train("a")
    for name in ("b", "deep/a"):
        shutil.copytree(tmp_path / "a", tmp_path / name)
    other = shutil.copytree(small, tmp_path / "other")
    np.save(other / "test" / "label50.npy", np.load(small / "test" / "label50.npy") / 2)
    shutil.rmtree(tmp_path / "result")
    folders = []
    evaluations = [
        ("a/best.pth", data, split) for data in (small, other) for split in ("val", "test")
    ]
    checkpoints = "b/best.pth", "deep/a/best.pth", "a/msaf_mosei_epoch1.pth"
    evaluations += [(checkpoint, small, "test") for checkpoint in checkpoints]
    for checkpoint, datadir, split in evaluations:
        options = ["--datadir", datadir, "--checkpoint", checkpoint, "--split", split]
        done = program("main_msaf.py", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        folders.append(done.stdout.splitlines()[-1].removeprefix("Results are in "))
    assert len(set(folders)) == len(folders) - 1  # the val splits of both datasets are the same
    for folder in folders:
        assert folder.endswith(("/val", "/test"))
        assert (tmp_path / folder / "metrics.json").is_file()


def test_a_training_and_an_evaluation_of_its_best_share_a_folder(train, program, small, tmp_path):
    train("a")
    before = contents(tmp_path / "result")
    options = ["--datadir", small, "--checkpoint", "a/best.pth"]
    assert program("main_msaf.py", *options, cwd=tmp_path).returncode == 0
    (report,) = contents(tmp_path / "result").keys() - before.keys()  # beside the training's own
    assert report.endswith("/test/report.html")


def test_an_evaluation_leaves_results_of_another_precision(train, main, small, tmp_path):
    train("a", "--precision", "bfloat16")
    before = contents(tmp_path / "result")
    evaluate = ["--datadir", small, "--checkpoint", "a/best.pth"]
    main(*evaluate, "--bootstrap", 100)
    after = contents(tmp_path / "result")
    assert before.items() <= after.items()
    written = [name for name in after if name.endswith("metrics.json")]
    metrics = {each["precision"]: each for each in (json.loads(after[name]) for name in written)}
    assert metrics.keys() == {"bfloat16", "float32"}
    assert metrics["float32"]["mae"] != metrics["bfloat16"]["mae"]
    main(*evaluate, "--precision", "bfloat16")
    assert {name.partition("/")[0] for name in contents(tmp_path / "result")} == {
        name.partition("/")[0] for name in after
    }


def test_an_evaluation_by_a_model_of_ones_own_leaves_results_of_the_checkpoints(
    train, main, small, tmp_path
):
    train("a")
    before = contents(tmp_path / "result")
    code = "from models.registry import find_class\n\nclass Changed(find_class('{}')):\n"
    code += "    def forward(self, *inputs):\n        return 1 - super().forward(*inputs)\n"
    model = json.loads((tmp_path / "a" / "run.json").read_text())["config"]["model"]
    (tmp_path / "changed.py").write_text(code.format(model))
    evaluate = ["--datadir", small, "--checkpoint", "a/best.pth", "--model", "changed.py:Changed"]
    with pytest.warns(UserWarning, match="holds '.*', this is changed.py:Changed"):
        main(*evaluate)
    after = contents(tmp_path / "result")
    assert before.items() <= after.items()
    written = [json.loads(after[name])["model"] for name in after if name.endswith("metrics.json")]
    assert sorted(written) == sorted([model, "changed.py:Changed"])


def test_evaluating_again_keeps_intervals_and_differences(train, main, small, tmp_path):
    train("a")
    (path,) = (tmp_path / "result").glob("*/test/metrics.json")
    evaluate = ["--datadir", small, "--checkpoint", "a/best.pth", "--bootstrap"]
    main(*evaluate, 200, "--against", path.with_name("predictions.csv"))
    before = json.loads(path.read_text())
    main(*evaluate[:-1])
    assert json.loads(path.read_text()) == before
    assert "The other is " in path.with_name("report.html").read_text()
    main(*evaluate, 100)
    metrics = json.loads(path.read_text())
    assert metrics["bootstrap"]["resamples"] == 100
    assert metrics["against"]["resamples"] == 200
    path.write_text(json.dumps(metrics | {"mae": 0}))  # intervals of other scores
    main(*evaluate[:-1])
    assert not {"bootstrap", "against"} & json.loads(path.read_text()).keys()


def test_a_training_that_is_resumed_keeps_differences_in_its_report(train, main, small, tmp_path):
    train("a")
    (path,) = (tmp_path / "result").glob("*/test/metrics.json")
    other = path.with_name("predictions.csv")
    main("--datadir", small, "--checkpoint", "a/best.pth", "--bootstrap", 200, "--against", other)
    train("a", "--resume", "auto")
    assert "The other is " in (path.parent.parent / "report.html").read_text()


def with_other_labels(folder):
    for split in ("train", "val", "test"):
        path = folder / split / "label50.npy"
        np.save(path, np.load(path)[::-1])


def test_a_training_resumes_only_with_its_own_data_model_and_settings(train, small, tmp_path):
    train("run")
    other = shutil.copytree(small, tmp_path / "other")
    with_other_labels(other)
    before = contents(tmp_path / "run")
    resume = ("--resume", "auto", "--epochs", "2")
    for options, message in {
        ("--model", "nhfnet"): "model lf_dnn, this is nhfnet",
        ("--set", "dropout=0.1"): "model settings dropout=0.2, this is dropout=0.1; resume",
        ("--lr", "0.5"): "lr 0.001, this is 0.5",
        ("--batch_size", "7"): "batch_size 25, this is 7",
    }.items():
        assert_one_line(train("run", *resume, *options, ok=False), message)
    assert_one_line(train("run", *resume, datadir=other, ok=False), "data of digest")
    assert contents(tmp_path / "run") == before


def test_another_alignment_with_as_many_segments_is_refused(train, small, tmp_path):
    data = shutil.copytree(small, tmp_path / "data")
    shutil.copytree(small, data / "word")
    train("run", datadir=data)
    done = train("run", "--resume", "auto", "--alignment", "word", datadir=data, ok=False)
    assert_one_line(done, "alignment segment, this is word")


@pytest.mark.parametrize("model", ["lf_dnn", "nhfnet", "own"])
def test_the_run_file_makes_the_same_checkpoint_again(program, train, small, tmp_path, model):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    settings = {"lf_dnn": "text_hidden=8", "nhfnet": "layers=1", "own": "hidden=5"}[model]
    name = "mine.py:Mean" if model == "own" else model
    train("first", "--model", name, "--set", settings, "--lr", "0.002", "--seed", "7")
    record = json.loads((tmp_path / "first" / "run.json").read_text())
    assert record["config"]["set"] == {settings.split("=")[0]: int(settings.split("=")[1])}
    assert "--lr 0.002" in record["command"]
    assert record["started"] <= record["ended"]
    assert {"torch", "numpy", "python"} <= set(record["versions"])
    assert record["machine"]["threads"] > 0
    assert set(record["dataset"]["digests"]) == {"train", "val", "test"}
    again = ["--config", "first/run.json", "--train", "--checkpointdir", "second"]
    done = program("main_msaf.py", *again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (tmp_path / folder / "best.pth" for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    details = read_checkpoint(first).details
    assert details["run"]["lr"] == 0.002
    assert details["task"] == "sentiment"
    done = program("main_msaf.py", *again, "--checkpointdir", "third", "--seed", "8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "third" / "best.pth").read_bytes() != first.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No file run.json; give"),
        ("{", "; give the run.json of a run, or a JSON file of settings."),
        ("[" * 100_000, "is not JSON"),
        ("1" * 10_001, "is not JSON"),
        ("[]", "holds no settings"),
        ('{"config": 3}', "holds no settings"),
        ('{"config": {"lr": "fast"}}', "lr is 'fast'"),
        ('{"lr": NaN}', "lr is nan"),
        ('{"batch_size": 0}', "at least 1"),
        ('{"colour": "red"}', "no setting 'colour'"),
        ('{"set": [1]}', "set is [1]"),
        ('\ufeff{"colour": "red"}', "no setting 'colour'"),  # a byte order mark, as Windows puts
        ('{"set": {"colour": 1}}', "no setting 'colour', only: width"),
    ],
)
def test_a_config_file_that_is_none_is_refused(program, small, tmp_path, content, message):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    options = ["--train", "--datadir", small, "--config", "run.json"]
    done = program("main_msaf.py", *options, cwd=tmp_path)
    assert_one_line(done, "run.json" if "colour" not in message else "", message)


def test_a_users_own_model_trains_resumes_and_evaluates(train, program, small, tmp_path):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    own_model = ["--model", "mine.py:Mean"]
    train("run", *own_model)
    train("run", *own_model, "--resume", "auto", "--epochs", "2")
    options = ["--datadir", small, "--checkpoint", "run/best.pth"]
    assert_one_line(program("main_msaf.py", *options, cwd=tmp_path), "mine.py:Mean", "--model")
    done = program("main_msaf.py", *options, *own_model, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("return self.net", "return self.nut"), "does not predict (AttributeError"),
        (("dim=1))", "dim=1))[:, 0]"), "predicts shape (2,), expected (2, 1)"),
    ],
)
def test_a_users_own_model_that_does_not_predict_is_told(train, tmp_path, change, message):
    (tmp_path / "mine.py").write_text(OWN_MODEL.replace(*change))
    assert_one_line(train("run", "--model", "mine.py:Mean", ok=False), "mine.py:Mean", message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return self.net(", "self.last = self.net("),  # what has a graph has no copy
        ("(visual, audio, text)], dim", "(visual.float(), audio.float(), text.float())], dim"),
    ],
)
def test_a_dry_run_of_a_model_whose_operations_cannot_be_counted(
    main, small, tmp_path, capsys, old, new
):
    text = OWN_MODEL.replace(old, new) + "\n        return self.last" * ("last" in new)
    (tmp_path / "mine.py").write_text(text)
    main("--train", "--dry_run", "--datadir", small, "--model", "mine.py:Mean")
    assert re.search(r"all +\S+ +unknown", capsys.readouterr().out)


def test_models_are_listed_with_parameters_and_settings(program):
    done = program("main_msaf.py", "--models")
    assert done.returncode == 0, done.stderr
    assert "636,801" in done.stdout
    assert "lf_dnn, with --set:\n  audio_hidden=32  " in done.stdout
    assert "  initial aggregation tokens: zeros, learned\n" in done.stdout


def test_a_dry_run_of_a_training_is_refused_where_the_training_would_be(main, train, small, capsys):
    train("run")
    options = [*TRAIN, "--dry_run", "--datadir", small, "--checkpointdir"]
    with pytest.raises(InputError, match=r"run holds a run .best.pth.; resume it"):
        main(*options, "run")
    with pytest.raises(InputError, match=r"No checkpoint at nothing.pth"):
        main(*options, "new", "--resume", "nothing.pth")
    with pytest.raises(InputError, match=r"was trained with lr 0.001, this is 0.1"):
        main(*options, "run", "--resume", "auto", "--lr", 0.1)
    with pytest.raises(InputError, match=r"--against: No file nothing.csv"):
        main(*options, "new", "--against", "nothing.csv")
    main(*options, "run", "--overwrite")
    main(*options, "run", "--resume", "auto")
    assert "Resumed from run/last.pth: epoch 2, step 0" in capsys.readouterr().out
    main(*options, "new", "--seeds", 1, 2)
    assert "all this in seed1, seed2" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["train", "evaluate"])
def test_a_dry_run_says_what_would_be_done_and_touches_nothing(
    train, program, small, tmp_path, action
):
    train("run")
    before = contents(tmp_path)
    options = ["--dry_run", "--datadir", small, "--checkpointdir", "new"]
    options += ["--train"] if action == "train" else ["--checkpoint", "run/best.pth"]
    done = program("main_msaf.py", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == before
    expected = {
        "train": ("10 epochs of 5 steps", "Adam's moments", "(16, 6, 35)", "activations"),
        "evaluate": ("result/run-best-", "\nWeights ", "Inputs at once (23, 6, 35)"),
    }
    assert all(text in done.stdout for text in expected[action])
    assert ("Adam" in done.stdout) == (action == "train")
