"""Two preparations in one folder: the second ends at once, and a killed one locks nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from data.fetching.download import download_missing
from data.fetching.server import MOSEI
from data.layout import LOCK
from system import locks as lock
from system.errors import InputError
from system.locks import lock_folder
from tests.csd_files import random_dataset, write_dataset
from tests.forked_programs import ROOT


def start_downloading(*options):
    """Start a preparation, and return its process once it downloads."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "dataset_prep.py", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "no_proxy": "*"},
    )
    assert "Downloading" in process.stdout.readline()
    return process


def test_the_second_preparation_ends_at_once_and_a_killed_one_locks_nothing(program, tmp_path):
    options = ["--no_bert", "--datadir", tmp_path]
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts, and never answers
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}"
        first = start_downloading(*options, "--mirror", mirror)
        second = program("dataset_prep.py", *options, "--from", "nothing.pkl")
        first.kill()
        first.communicate()
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == (
        f"error: Another preparation is working in {tmp_path}; wait until it has ended, or give "
        "another --datadir.\n"
    )
    write_dataset(tmp_path / "csd", random_dataset())
    third = program("dataset_prep.py", *options)
    assert third.returncode == 0, third.stderr


def test_two_preparations_do_not_download_into_one_folder(program, tmp_path):
    for name in ("first", "second", "csd"):
        (tmp_path / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts, and never answers
        mirror = f"http://127.0.0.1:{server.getsockname()[1]}"
        options = ["--no_bert", "--csd", tmp_path / "csd", "--mirror", mirror, "--datadir"]
        first = start_downloading(*options, tmp_path / "first")
        second = program("dataset_prep.py", *options, tmp_path / "second")
        write_dataset(tmp_path / "csd", random_dataset())  # nothing is left to download
        third = program("dataset_prep.py", *options, tmp_path / "second")
        first.kill()
        first.communicate()
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == (
        f"error: Another preparation is downloading into {tmp_path / 'csd'}; wait until it has "
        "ended, or give another --csd.\n"
    )
    assert third.returncode == 0, third.stderr


def test_a_download_goes_into_the_datasets_folder_too_but_not_again(tmp_path, capsys):
    path = tmp_path / MOSEI.sequences["words"].name
    path.touch()
    with lock_folder(tmp_path, LOCK, "Another is working in", "--datadir"):
        download_missing({path: MOSEI.sequences["words"]}, "http://127.0.0.1:9")
    assert capsys.readouterr().out == ""


def test_the_lock_ends_with_the_block(tmp_path):
    for _ in range(2):
        with lock_folder(tmp_path, ".lock", "Another is working in", "--datadir"):
            with (
                pytest.raises(InputError, match="Another"),
                lock_folder(tmp_path, ".lock", "Another is working in", "--datadir"),
            ):
                pass
            with lock_folder(tmp_path / "another", ".lock", "Another is working in", "--datadir"):
                pass


def test_a_folder_made_for_nothing_goes_again(program, tmp_path):
    done = program("dataset_prep.py", "--from", "nothing.pkl", "--datadir", tmp_path / "new")
    assert "No file nothing.pkl" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_file_where_a_folder_is_needed_is_told_in_one_line(program, tmp_path, folder):
    (tmp_path / "file").touch()
    done = program("dataset_prep.py", "--from", "nothing.pkl", "--datadir", tmp_path / folder)
    assert done.stderr.count("\n") == 1
    assert "is a file" in done.stderr or "a file where a folder is needed" in done.stderr


def test_where_there_are_no_locks_a_preparation_goes_on_with_a_warning(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.FileLock, "acquire", no_locks)
    with (
        pytest.warns(UserWarning, match="No locks available"),
        lock_folder(tmp_path, ".lock", "Another is working in", "--datadir"),
    ):
        pass
