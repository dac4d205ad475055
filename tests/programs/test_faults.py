"""Faults made to happen, in forks of this process: each ends well, or in one line that names what.

Short memory, few file handles, a full disk, folders only to be read, files that vanish, and a
clock that jumps.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import random
import shutil
import signal
import sys
import time
import types
from functools import partial

import h5py
import numpy as np
import pytest
import torch

from data.formats.csd import ComputationalSequence
from data.formats.pickles import read_pickle
from data.layout import SEGMENT_COLUMNS, SEGMENTS_FILE, SPLITS, read_segments
from data.loading.split import Split
from data.npy import NpyReader
from data.text.bert_files import read_vocabulary
from models.checkpoint import read_checkpoint
from system.config import plain_values
from system.files import read_json
from system.safetensors_file import load_safetensors
from tests.csd_files import all_features
from tests.forked_programs import run_program
from tests.fuzz import programs
from tests.utils.training.test_resume import assert_same
from utils.run_config import RunConfig
from utils.studies.queue import Queue
from utils.studies.storage import Storage
from utils.training.step import TrainingStep

resource = pytest.importorskip("resource")

LARGE, SHORT = 64 * 2**20, 24 * 2**20  # bytes of a file, and of the memory for it


def run_in_fork(room, monkeypatch, main):
    """Run `main` as a program, in a fork with the working folder `cwd` of the room."""
    program = types.ModuleType("program")
    program.main = main
    monkeypatch.setitem(sys.modules, "program", program)
    return room.run(("program",))


@pytest.fixture
def room(tmp_path):
    return programs.Room(tmp_path / "room", {})


@pytest.fixture
def run(room, monkeypatch):
    """Run a program in a fork: `run("main_msaf", "--train", ..., before=limit)`."""

    def start(name, *arguments, before=lambda: None):
        def main():
            before()
            sys.argv = [name, *map(str, arguments)]
            importlib.import_module(name).main()

        return run_in_fork(room, monkeypatch, main)

    return start


def assert_one_line(outcome, *parts):
    errors = [line for line in outcome.output.splitlines() if line.startswith("error: ")]
    assert outcome.status == 2, outcome.output
    assert len(errors) == 1, outcome.output
    assert "Traceback" not in outcome.output
    for part in parts:
        assert str(part) in errors[0]


def training(small, *options):
    places = ["--datadir", small, "--checkpointdir", "run", "--resultdir", "result"]
    return [
        "--train",
        *places,
        "--epochs",
        "2",
        "--batch_size",
        "25",
        "--model",
        "lf_dnn",
        *options,
    ]


# Short memory


def large_csd(path, **how):
    rows = LARGE // 4000
    with h5py.File(path, "w") as file:
        video = file.create_group("sequence/data/video")
        video.create_dataset("features", data=np.zeros((rows, 1000), np.float32), **how)
        video["intervals"] = np.zeros((rows, 2))


def read_csd(path):
    with ComputationalSequence(path) as sequence:
        all_features(sequence.read("video"))


def large_array(path):
    np.save(path, np.zeros((4, LARGE // 4000, 250), np.float32))


def large_pickle(path):
    split = {"id": ["a$_$1"], "labels": np.zeros((1, 1)), "text": np.zeros((1, 2, 3), np.float32)}
    split |= {"vision": np.zeros((1, LARGE // 4000, 1000), np.float32), "audio": split["text"]}
    path.write_bytes(pickle.dumps({"test": split}, 4))


def large_checkpoint(path):
    torch.save({"model_state_dict": {"weight": torch.zeros(LARGE // 4)}}, path)


def large_safetensors(path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(LARGE // 4)}, path)


def large_json(path):
    path.write_text(f'["{"a" * LARGE}"]')


def large_vocabulary(path):
    path.write_text("a" * LARGE)


def large_table(path):
    path.write_text(f"{','.join(SEGMENT_COLUMNS)}\na,a,0,1,{'a' * LARGE},0\n")


READERS = {
    "plain.csd": (large_csd, read_csd),
    "gzipped.csd": (lambda path: large_csd(path, compression="gzip"), read_csd),
    "audio50.npy": (large_array, lambda path: NpyReader(path).read([0, 1, 2, 3])),
    "file.pkl": (large_pickle, read_pickle),
    "best.pth": (large_checkpoint, read_checkpoint),
    "best.safetensors": (large_safetensors, lambda path: load_safetensors(path, "")),
    "run.json": (large_json, read_json),
    "vocab.txt": (large_vocabulary, read_vocabulary),
    SEGMENTS_FILE: (large_table, lambda path: read_segments(path.parent)),
}


@pytest.mark.parametrize("name", READERS)
def test_short_memory_names_the_file(room, tmp_path, monkeypatch, name):
    write, read = READERS[name]
    path = tmp_path / name
    write(path)
    monkeypatch.setattr(programs, "MEMORY", SHORT // 8)
    outcome = run_in_fork(room, monkeypatch, lambda: read(path))
    assert_one_line(outcome, path, "takes more memory to read than is free")
    monkeypatch.undo()
    assert run_in_fork(room, monkeypatch, lambda: read(path)).status == 0


# Few handles


def allow_files(count):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    return limit


def test_few_file_handles_for_many_loading_processes(run, small):
    outcome = run("main_msaf", *training(small, "--num_workers", 8), before=allow_files(32))
    assert_one_line(outcome, "Too many files", "ulimit -n", "--num_workers")


def test_few_file_handles_for_a_preparation(run, demo, tmp_path):
    (tmp_path / "data").mkdir()
    options = ["--datadir", tmp_path / "data", "--csd", demo / "csd", "--no_bert"]
    next_number = os.dup(1)
    os.close(next_number)
    for more in (2, 4, 6, 8):
        outcome = run("dataset_prep", *options, before=allow_files(next_number + more))
        assert_one_line(outcome, "Too many files")
    assert run("dataset_prep", *options).status == 0


# Folders only to be read, and full disks


def without_rights():
    """Take from root the right to write everywhere."""
    ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())


@pytest.fixture
def closed(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's capabilities")
@pytest.mark.parametrize("option", ["--checkpointdir", "--resultdir"])
def test_a_folder_only_to_be_read_is_told_before_the_training(run, room, small, closed, option):
    outcome = run("main_msaf", *training(small, option, closed), before=without_rights)
    assert_one_line(outcome, "No permission", closed)
    assert "Epoch 1" not in outcome.output


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's capabilities")
@pytest.mark.parametrize("option", ["--checkpointdir", "--resultdir"])
@pytest.mark.parametrize("work", [["--tune", 1, "--model", "lf_dnn"], ["--compare", "lf_dnn"]])
def test_a_study_in_a_folder_only_to_be_read(run, room, small, closed, work, option):
    outcome = run("main_msaf", *work, "--datadir", small, option, closed, before=without_rights)
    assert_one_line(outcome, "No permission", closed)
    assert "Epoch 1" not in outcome.output


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's capabilities")
@pytest.mark.parametrize("way", [["--tune", 1, "--model", "lf_dnn"], ["--worker", "checkpoints"]])
def test_a_study_whose_database_is_only_to_be_read(run, room, small, way):
    folder = room.folder / "cwd" / "checkpoints"
    storage = Storage(folder, None)
    if way[0] == "--worker":
        config = RunConfig(datadir=small, model="lf_dnn", task="sentiment")
        digests = {name: Split(small / name).digest for name in SPLITS}
        about = {"config": plain_values(config), "digests": digests, "title": "Run 1 of 1"}
        Queue(storage.create("comparison", {}), storage).add("lf_dnn/seed1", about)
    (folder / "study.db").chmod(0o400)
    outcome = run("main_msaf", *way, "--datadir", small, before=without_rights)
    assert_one_line(outcome, "study.db: the study's database cannot be used", "readonly")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's capabilities")
@pytest.mark.parametrize("what", ["the folder", "a file"])
def test_data_without_permission(run, demo, tmp_path, what):
    datadir = tmp_path / "data"
    shutil.copytree(demo / "csd", datadir / "csd")
    path = datadir if what == "the folder" else datadir / "csd" / "CMU_MOSEI_COVAREP.csd"
    path.chmod(0o500 if path.is_dir() else 0)
    options = ["--datadir", datadir, "--csd", datadir / "csd", "--no_bert"]
    assert_one_line(run("dataset_prep", *options, before=without_rights), "No permission", path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's capabilities")
def test_a_split_only_to_be_read_is_told_before_the_manifest_is_removed(run, demo, tmp_path):
    datadir = shutil.copytree(demo, tmp_path / "data")
    before = (datadir / "dataset.json").read_bytes()
    (datadir / "val").chmod(0o500)
    options = ["--datadir", datadir, "--no_bert", "--force"]
    outcome = run("dataset_prep", *options, before=without_rights)
    assert_one_line(outcome, f"No permission ({datadir / 'val'})")
    assert (datadir / "dataset.json").read_bytes() == before
    (datadir / "val").chmod(0o700)
    assert run("dataset_prep", *options[:-1], before=without_rights).status == 0
    assert not (datadir / ".preparing").exists()


def test_a_preparation_on_a_full_disk_goes_on_when_there_is_room(run, demo, tmp_path):
    """A limit on the size of a file acts as a full disk."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    datadir = tmp_path / "data"
    for name in ("csd", "demo_bert"):
        shutil.copytree(demo / name, datadir / name)
    outcome = run("dataset_prep", "--datadir", datadir, "--demo", before=limit)
    assert_one_line(outcome, "larger than this shell allows")
    assert not (datadir / "dataset.json").exists()
    assert run("dataset_prep", "--datadir", datadir, "--demo").status == 0
    for path in demo.glob("*/*50.npy"):
        assert (datadir / path.relative_to(demo)).read_bytes() == path.read_bytes()


# Files that vanish


def at_step(number, do):
    """Do something at a step of a training."""
    taken, step = [], TrainingStep.__call__

    def call(self, *arguments):
        taken.append(arguments)
        if len(taken) == number:
            do()
        return step(self, *arguments)

    TrainingStep.__call__ = call


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", ["data", "room/cwd/run", "room/cwd"])
def test_a_folder_that_vanishes_from_a_training(run, small, tmp_path, what, workers):
    """Files that are open stay readable."""
    data = shutil.copytree(small, tmp_path / "data")
    options = training(data, "--num_workers", workers)
    outcome = run(
        "main_msaf", *options, before=lambda: at_step(2, lambda: shutil.rmtree(tmp_path / what))
    )
    if what == "data":
        assert outcome.status == 0, outcome.output
    else:
        assert_one_line(outcome, "No such file")
        assert "b'" not in outcome.output


def vanishing(path):
    """Have a file or folder vanish when the arrays are written and the text is not."""
    from data.preparing import pipeline

    write = pipeline._write_text

    def vanish(*arguments):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return write(*arguments)

    pipeline._write_text = vanish


def test_the_dataset_in_place_outlives_one_that_fails(run, demo, tmp_path):
    datadir = shutil.copytree(demo, tmp_path / "data")
    paths = [datadir / "dataset.json", *datadir.glob("*/*50.npy")]
    before = {path: path.read_bytes() for path in paths}
    vanish = partial(vanishing, datadir / ".preparing" / "train" / "visual50.npy")
    outcome = run("dataset_prep", "--datadir", datadir, "--demo", "--force", before=vanish)
    assert_one_line(outcome, "visual50.npy")
    assert {path: path.read_bytes() for path in paths} == before


@pytest.mark.parametrize("what", ["csd", "train/visual50.npy", ".preparing"])
def test_a_file_that_vanishes_from_a_preparation(run, demo, tmp_path, what):
    datadir = tmp_path / "data"
    for name in ("csd", "demo_bert"):
        shutil.copytree(demo / name, datadir / name)
    path = datadir / what if what != "train/visual50.npy" else datadir / ".preparing" / what

    options = ["--datadir", datadir, "--demo"]
    outcome = run("dataset_prep", *options, before=partial(vanishing, path))
    if what == "csd":
        assert outcome.status == 0, outcome.output
    else:
        assert_one_line(outcome, path)
        assert not (datadir / "dataset.json").exists()
        assert run("dataset_prep", *options).status == 0
    for array in demo.glob("*/*50.npy"):
        assert (datadir / array.relative_to(demo)).read_bytes() == array.read_bytes()


# A clock that jumps


def jump():
    """Let `time.time` jump, in modules too that have imported it."""
    rng, real = random.Random(0), time.time
    for module in [module for module in sys.modules.values() if vars(module).get("time") is real]:
        module.time = lambda: real() + rng.choice((-1e9, -3600, -7, 0, 7, 3600, 1e9))


def test_a_clock_that_jumps_changes_nothing(demo, tmp_path):
    """Times of files too: what is prepared stays, and a training is the same bit for bit."""
    datadir = shutil.copytree(demo, tmp_path / "data")
    train = ["main_msaf.py", "--datadir", datadir, "--resultdir", tmp_path / "result", "--train"]
    train += ["--model", "lf_dnn", "--epochs", "1", "--device", "cpu", "--checkpointdir"]
    weights = []
    for before in (None, jump):
        for number, path in enumerate(sorted(datadir.rglob("*"))):
            os.utime(path, (1, 1) if number % 2 else (4e9, 4e9))
        times = []
        for _ in range(2):
            done = run_program("dataset_prep.py", "--datadir", datadir, "--demo", before=before)
            assert done.returncode == 0, done.stderr
            times.append({path: path.stat().st_mtime for path in datadir.glob("*/*50.npy")})
        assert times[0] == times[1]  # made again once, as the times of its sources differ
        for path in demo.glob("*/*50.npy"):
            assert (datadir / path.relative_to(demo)).read_bytes() == path.read_bytes()
        run = tmp_path / f"run{len(weights)}"
        done = run_program(*train, run, before=before)
        assert done.returncode == 0, done.stderr
        weights.append(read_checkpoint(run / "best.pth").weights)
    assert_same(*weights)
