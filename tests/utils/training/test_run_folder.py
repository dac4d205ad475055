"""A run's folder is taken, replaced and resumed only where that loses nothing."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from system.errors import InputError
from tests.programs.test_runs import TRAIN, contents
from utils.training import run as run_module
from utils.training.run_folder import read_record
from utils.training.saved_state import TrainingSaver
from utils.training.seeds import write_scores


@pytest.fixture
def train(main, small):
    """Train a small model: `train("folder", "--lr", 0.1)`, in tmp_path."""

    def run(folder, *options):
        main(*TRAIN, "--datadir", small, "--checkpointdir", folder, *options)

    return run


def test_a_run_is_not_removed_for_one_that_cannot_start(train, tmp_path):
    train("run")
    (tmp_path / "file").touch()
    shutil.rmtree(tmp_path / "run" / "logs")
    (tmp_path / "run" / "logs").touch()
    before = contents(tmp_path / "run")
    for resultdir in ("file", "result"):
        with pytest.raises(FileExistsError):
            train("run", "--overwrite", "--resultdir", resultdir)
    assert contents(tmp_path / "run") == before


def test_overwrite_does_not_remove_the_weights_that_it_starts_from(train, tmp_path):
    train("all", "--seeds", 1, 2)
    before = contents(tmp_path / "all")
    start = "all/seed2/best.pth"
    for options in (["all/seed2"], ["all/seed2", "--dry_run"], ["all", "--seeds", 1, 2]):
        with pytest.raises(InputError, match=rf"--overwrite would remove {start}, which this run"):
            train(*options, "--overwrite", "--checkpoint", start)
    assert contents(tmp_path / "all") == before
    train("new", "--overwrite", "--checkpoint", start)


def test_a_run_that_another_process_saves_meanwhile_is_not_replaced(train, tmp_path, monkeypatch):
    opened = run_module.open_training

    def open_slowly(*arguments, **options):
        monkeypatch.setattr(run_module, "open_training", opened)
        train("run")  # as another process
        return opened(*arguments, **options)

    monkeypatch.setattr(run_module, "open_training", open_slowly)
    with pytest.raises(InputError, match=r"holds a run .best.pth.; resume it \(--resume auto\)"):
        train("run", "--resume", "auto", "--epochs", 2)
    assert not (tmp_path / "run" / "msaf_mosei_epoch2.pth").exists()


def test_all_folders_of_seeds_are_checked_before_the_first_training(train, tmp_path):
    train("all", "--seeds", 1)
    with pytest.raises(InputError, match=r"seed1 holds a run"):
        train("all", "--seeds", 5, 1)
    assert not (tmp_path / "all" / "seed5").exists()


def test_scores_of_other_seeds_do_not_vanish_in_silence(tmp_path, capsys):
    scores = {seed: {"mae": 1.0} for seed in (1, 2, 3)}
    write_scores(tmp_path, {1: scores[1], 2: scores[2]})
    assert capsys.readouterr().err == ""
    write_scores(tmp_path, {2: scores[2], 3: scores[3]})
    message = r"seeds.json no longer has the seeds 1, .* give --seeds 1 2 3 --resume auto"
    assert re.search(message, capsys.readouterr().err)
    for damaged in ("[", "[" * 200_000):
        (tmp_path / "seeds.json").write_text(damaged)
        write_scores(tmp_path, scores)
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", [["--resume", "auto"], ["--overwrite"]])
def test_a_training_does_not_replace_the_record_of_a_search(train, tmp_path, option):
    path = tmp_path / "search" / "run.json"
    path.parent.mkdir()
    path.write_text('{"search": {"trial": 3}, "config": {}}')
    with pytest.raises(InputError, match=r"search holds a search \(run.json\); give another"):
        train("search", *option)
    assert "trial" in path.read_text()


@pytest.fixture
def fill_disk(monkeypatch, train):
    """Train until the disk is full, as the first epoch's last.pth is written."""

    def fill(*arguments):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
            patch.setattr(TrainingSaver, "save_last", save_nothing)
            train(*arguments)

    return fill


def save_nothing(*_):
    raise OSError("the disk is full")


@pytest.mark.parametrize("seeds", [[], ["--seeds", 1, 2]])
def test_after_a_full_disk_in_its_first_epoch_a_run_starts_anew(
    train, fill_disk, tmp_path, capsys, seeds
):
    train("whole", *seeds)
    fill_disk("run", *seeds)
    for path in (tmp_path / "run").rglob("best.pth"):
        path.write_bytes(b"of another try")
    with pytest.raises(InputError, match=r"holds a run .best.pth.; resume it \(--resume auto\), "):
        train("run", *seeds)
    train("run", *seeds, "--resume", "auto", "--dry_run")
    train("run", *seeds, "--resume", "auto")
    assert "last.pth yet: starting anew" in capsys.readouterr().out
    whole, again = (sorted((tmp_path / name).rglob("best.pth")) for name in ("whole", "run"))
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in again]


@pytest.mark.parametrize("change", ["settings", "data", "epoch", "table", "record", "no record"])
def test_weights_that_it_would_not_write_again_are_not_replaced(train, fill_disk, tmp_path, change):
    fill_disk("run")
    folder, options = tmp_path / "run", []
    record = json.loads((folder / "run.json").read_text())
    if change == "settings":
        options = ["--lr", 0.1]
    elif change == "data":
        record["dataset"]["digests"]["val"] = "0" * 64
    elif change == "epoch":
        shutil.copy(folder / "best.pth", folder / "msaf_mosei_epoch2.pth")
    elif change == "table":  # of a run whose best.pth alone was kept
        with (folder / "metrics.csv").open("a") as file:
            file.write("2,0.001,1.0,1.0,val,0.5\n")
    elif change == "record":
        record["dataset"] = record["config"] = []
    (folder / "run.json").write_text(json.dumps(record))
    if change == "no record":
        (folder / "run.json").unlink()
    before = contents(folder)
    with pytest.raises(InputError, match=r"holds a run \(best.pth\); remove what it wrote"):
        train("run", "--resume", "auto", *options)
    assert contents(folder) == before


def test_a_record_nested_without_end_is_none(tmp_path):
    (tmp_path / "run.json").write_text("[" * 200_000)
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("damaged", [None, 5, "abc"])
def test_damaged_times_in_a_record_do_not_stop_the_run_that_goes_on(train, tmp_path, damaged):
    train("run")
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"started": [5], "resumed": damaged}))
    train("run", "--resume", "auto")
    record = json.loads(path.read_text())
    assert len(record["resumed"]) == 1
    assert record["started"] <= record["resumed"][0]
