"""The parser of dataset_prep.py: built without running, explained in full."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import dataset_prep
import main_msaf
from system.errors import InputError


def test_every_option_has_a_help_and_shows_its_default():
    parser = dataset_prep.build_parser()
    titles = [group.title for group in parser._action_groups if group._group_actions]
    assert titles == ["options", "what to do", "data", "text", "running"]
    for action in parser._actions:
        assert action.help, action.option_strings
        if action.default not in (None, False, "==SUPPRESS=="):
            assert "default: " in action.help, action.option_strings


def test_dry_run_excludes_what_does_not_prepare(program, tmp_path):
    for other in ("--check", "--plot"):
        done = program("dataset_prep.py", "--dry_run", other, "--datadir", tmp_path)
        assert done.returncode == 2
        assert done.stderr == f"error: --dry_run and {other} exclude each other (see --help)\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--check --force", "--force and --check exclude each other"),
        ("--demo --dataset mosi", "--demo and --dataset exclude each other"),
        ("--no_bert --bert_precision bfloat16", "--no_bert and --bert_precision exclude"),
    ],
)
def test_what_would_be_ignored_is_refused(capsys, monkeypatch, options, message):
    monkeypatch.setattr("sys.argv", ["dataset_prep.py", *options.split()])
    with pytest.raises(SystemExit):
        dataset_prep.parse_arguments()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["audio", "visual"])
def test_a_length_that_no_memory_holds_is_refused(capsys, kind):
    parser = dataset_prep.build_parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["--alignment", "unaligned", f"--{kind}_length", "99999999999"])
    assert f"--{kind}_length: expected a whole number of at least 1" in capsys.readouterr().err


def test_a_folder_for_downloads_is_not_made_but_may_be(tmp_path):
    message = "No folder .*gone; create it .missing .csd files are downloaded to it., or give the"
    with pytest.raises(InputError, match=message):
        dataset_prep.check_folders(tmp_path, tmp_path / "gone", may_be_new=False)


def test_made_up_files_are_named_so_without_demo_too(program, demo, tmp_path):
    done = program("dataset_prep.py", "--no_bert", "--datadir", tmp_path, "--csd", demo / "csd")
    assert done.returncode == 0, done.stderr
    assert "ready (CMU-MOSEI's shape, made-up data)" in done.stdout


def test_the_datasets_folder_is_made_where_the_files_are_elsewhere(program, demo, tmp_path):
    missing = program("dataset_prep.py", "--no_bert", "--datadir", tmp_path / "new")
    assert missing.returncode == 2
    assert f"No folder {tmp_path}/new; create it (the .csd files are downloaded" in missing.stderr
    options = ["--no_bert", "--datadir", tmp_path / "new", "--csd", demo / "csd"]
    assert program("dataset_prep.py", *options, "--dry_run").returncode == 0
    assert not (tmp_path / "new").exists()
    done = program("dataset_prep.py", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "train" / "visual50.npy").is_file()


def test_another_dataset_may_share_the_folder_of_made_up_files(program, demo, tmp_path):
    options = ["--dataset", "mosi", "--dry_run", "--datadir", tmp_path, "--csd", demo / "csd"]
    done = program("dataset_prep.py", "--no_bert", *options)
    assert done.returncode == 0, done.stderr
    assert "CMU_MOSI_COVAREP.csd" in done.stdout


def test_real_files_are_not_downloaded_beside_made_up_labels(program, demo, tmp_path):
    shutil.copytree(demo / "csd", tmp_path / "csd")
    (tmp_path / "csd" / "CMU_MOSEI_COVAREP.csd").unlink()
    done = program("dataset_prep.py", "--no_bert", "--datadir", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/csd holds the made-up labels of --demo, but")


def test_what_would_be_refused_is_so_before_anything_is_written(program, tmp_path):
    array = tmp_path / "train" / "visual50.npy"
    array.parent.mkdir()
    array.write_bytes(b"")
    done = program("dataset_prep.py", "--demo", "--datadir", tmp_path)
    assert done.returncode == 2
    assert "visual50.npy was not made by this program" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"train", ".preparing.lock"}


@pytest.mark.parametrize(
    ("program", "option"),
    [
        (dataset_prep, "bert"),
        *((main_msaf, name) for name in ("bert", "finetune_bert", "model", "resume", "compare")),
    ],
)
def test_what_is_named_or_given_by_its_path_may_lie_in_the_home_directory(program, option):
    """The shell expands no ~ after an equals sign."""
    options = program.build_parser().parse_args([f"--{option}=~/folder"])
    expected = str(Path.home() / "folder")
    assert getattr(options, option) in (expected, [expected])
