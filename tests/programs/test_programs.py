"""The two programs as people start them: first the usual work, then the mistakes."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from data.fetching import download
from data.layout import LOCK
from tests.csd_files import random_dataset, write_dataset
from tests.forked_programs import ROOT, run_program
from tests.golden import GOLDEN


@pytest.fixture(scope="session")
def trained(demo, tmp_path_factory):
    """A folder with the checkpoints and results of a short training on the demo."""
    folder = tmp_path_factory.mktemp("trained")
    command = ["main_msaf.py", "--train", "--datadir", demo]
    command += ["--epochs", "2", "--batch_size", "32", "--log_interval", "5"]
    done = run_program(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def assert_one_line(done, *parts, code=2):
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0]


def test_demo_from_nothing(program, tmp_path):
    done = program("dataset_prep.py", "--demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "made-up" in done.stdout
    assert (tmp_path / "CMU_MOSEI" / "train" / "bert50.npy").is_file()
    again = program("dataset_prep.py", "--demo", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


def test_training_prints_and_writes_everything(trained):
    folder, output = trained
    assert "step 5/15" in output
    assert "Chosen on the test set" in output
    assert "Best Acc7" in output
    names = {path.name for path in (folder / "checkpoints").glob("*.pth")}
    epochs = {"msaf_mosei_epoch1.pth", "msaf_mosei_epoch2.pth"}
    assert names == epochs | {"best.pth", "last.pth"}
    assert list((folder / "checkpoints" / "logs").glob("*/events*"))
    (results,) = (folder / "result").iterdir()
    assert f"results in {results.relative_to(folder)}" in output
    assert {path.name for path in results.iterdir()} == {"test", "curves.png", "report.html"}
    written = {path.name for path in (results / "test").iterdir()}
    pictures = {"confusion_matrix.png", "predictions.png"}
    assert written == {"metrics.json", "predictions.csv"} | pictures


def test_evaluation_gives_the_scores_of_training(program, trained, demo, tmp_path):
    folder, _ = trained
    best = folder / "checkpoints" / "best.pth"
    done = program("main_msaf.py", "--datadir", demo, "--checkpoint", best, "--resultdir", tmp_path)
    assert done.returncode == 0, done.stderr
    (results,) = tmp_path.glob("checkpoints-best-*/test")
    assert f"Results are in {results}" in done.stdout
    found = json.loads((results / "metrics.json").read_text())
    (trained_results,) = (folder / "result").glob("*/test")
    expected = json.loads((trained_results / "metrics.json").read_text())
    keys = "mae corr acc7 acc5 acc2 f1 acc2_nonneg f1_nonneg n".split()
    assert {key: found[key] for key in keys} == pytest.approx({k: expected[k] for k in keys})
    with (results / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.load(demo / "test" / "label50.npy")[:, 0, 0]
    np.testing.assert_array_equal([np.float32(row["label"]) for row in rows], labels)
    error = np.mean([abs(float(row["label"]) - float(row["prediction"])) for row in rows])
    assert error == pytest.approx(found["mae"], rel=1e-5)


def test_split_chooses_val(program, trained, demo, tmp_path):
    best = trained[0] / "checkpoints" / "best.pth"
    options = ["--checkpoint", best, "--split", "val", "--resultdir", tmp_path]
    assert program("main_msaf.py", "--datadir", demo, *options).returncode == 0
    (path,) = tmp_path.glob("*/val/metrics.json")
    metrics = json.loads(path.read_text())
    assert (metrics["split"], metrics["n"]) == ("val", len(np.load(demo / "val" / "label50.npy")))


def write_released_data(folder, n=6, text_width=768, dtype=np.float64):
    """Arrays as the released script writes them: float64, no table, no manifest."""
    rng = np.random.default_rng(0)
    shapes = {"visual": (n, 50, 35), "audio": (n, 50, 74), "bert": (n, 50, text_width)}
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        for kind, shape in shapes.items():
            np.save(folder / split / f"{kind}50.npy", rng.normal(size=shape).astype(dtype))
        labels = rng.uniform(-3, 3, (n, 1, 7)).astype(dtype)
        np.save(folder / split / "label50.npy", labels)
    return folder


def test_a_released_checkpoint_evaluates_on_released_data(program, tmp_path):
    data = write_released_data(tmp_path / "data")
    with np.load(GOLDEN / "forward.npz") as golden:
        for kind in ("visual", "audio", "bert"):
            values = golden[f"aligned_{kind}"].astype(np.float64)
            np.save(data / "test" / f"{kind}50.npy", values)
        np.save(data / "test" / "label50.npy", np.ones((4, 1, 7)))
        expected = golden["aligned_output"][:, 0]
    checkpoint = GOLDEN / "released_format.pth"
    done = program(
        "main_msaf.py", "--datadir", data, "--checkpoint", checkpoint, "--resultdir", tmp_path
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("golden-released_format-*/test/predictions.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    predictions = [float(row["prediction"]) for row in rows]
    np.testing.assert_allclose(predictions, expected, atol=1e-5)


def test_no_save_writes_nothing(program, demo, tmp_path):
    options = ["--train", "--epochs", "1", "--batch_size", "64", "--no_save", "--no_verbose"]
    done = program("main_msaf.py", "--datadir", demo, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    assert "step" not in done.stdout


@pytest.mark.parametrize("name", ["dataset_prep.py", "main_msaf.py"])
def test_help_needs_no_torch(name):
    code = f"import sys; sys.argv = ['{name}', '--help']; import runpy\n"
    code += f"try: runpy.run_path('{name}', run_name='__main__')\n"
    code += "except SystemExit: print(sorted({'torch', 'h5py', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "usage" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_a_preparation_without_text_needs_no_torch(demo, tmp_path):
    arguments = ["--datadir", str(tmp_path), "--csd", str(demo / "csd"), "--no_bert"]
    code = f"import sys; sys.argv = {['dataset_prep.py', *arguments]}; import runpy\n"
    code += "try: runpy.run_path('dataset_prep.py', run_name='__main__')\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--train"),
        (["--train", "--epochs", "0"], "at least 1"),
        (["--train", "--batch_size", "x"], "'x'"),
        (["--train", "--lr", "-1"], "above 0"),
        (["--train", "--lr", "nan"], "above 0"),
        (["--train", "--num_workers", "-1"], "at least 0"),
        (["--train", "--log_interval", "0"], "at least 1"),
        (["--train", "--seed", "-3"], "at least 0"),
        (["--train", "--device", "tpu"], "cuda:N"),
        (["--train", "--split", "all"], "all"),
        (["--train", "--alignment", "words"], "segment or word or unaligned"),
        (["--train", "--seed", "4294967296"], "at most 4294967295"),
        (["--resume", "auto"], "--train"),
        (["--train", "--resume", "auto", "--overwrite"], "--overwrite"),
        (["--train", "--resume", "a.pth", "--seeds", "1", "2"], "--resume auto"),
        (["--train", "--unknown"], "--unknown"),
        (["--train", "--datadir", "nowhere"], "nowhere/train"),
        (["--checkpoint", "nothing.pth"], "nothing.pth"),
        (["--checkpoint", "~/nothing.pth"], f"{Path.home()}/nothing.pth"),
    ],
)
def test_mistakes_in_arguments(program, tmp_path, arguments, message):
    assert_one_line(program("main_msaf.py", *arguments, cwd=tmp_path), message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_cuda(program, demo):
    done = program("main_msaf.py", "--datadir", demo, "--train", "--device", "cuda")
    assert_one_line(done, "--device cuda", "--device cpu")


def test_a_checkpoint_of_another_width(program, demo):
    done = program(
        "main_msaf.py", "--datadir", demo, "--checkpoint", GOLDEN / "released_format.pth"
    )
    assert_one_line(done, "text is 64 wide", "768", "--bert")


def test_a_checkpoint_that_is_none(program, demo, tmp_path):
    path = tmp_path / "fake.pth"
    path.write_text("weights")
    done = program("main_msaf.py", "--datadir", demo, "--checkpoint", path)
    assert_one_line(done, str(path), "not a checkpoint")


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_checkpoint_that_would_run_code(program, demo, tmp_path):
    path, marker = tmp_path / "hostile.pth", tmp_path / "ran"
    torch.save({"model_state_dict": Hostile(marker)}, path, pickle_module=pickle)
    done = program("main_msaf.py", "--datadir", demo, "--checkpoint", path)
    assert_one_line(done, "posix.system", "refused")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "audio50.npy").unlink(), "audio50.npy"),
        (lambda folder: np.save(folder / "label50.npy", np.zeros((3, 1, 7))), "label50.npy 3"),
        (lambda folder: (folder / "bert50.npy").write_bytes(b"half"), "bert50.npy"),
        (lambda folder: np.save(folder / "visual50.npy", np.zeros((6, 35))), "(6, 35)"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_mistakes_in_arrays(program, tmp_path, change, message, split):
    data = write_released_data(tmp_path / "data")
    change(data / split)
    done = program("main_msaf.py", "--datadir", data, "--train", cwd=tmp_path)
    assert_one_line(done, str(data / split), message)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_preparing_without_a_folder(program, tmp_path):
    done = program("dataset_prep.py", "--datadir", "nowhere", cwd=tmp_path)
    assert_one_line(done, "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def datadir(tmp_path):
    write_dataset(tmp_path / "data" / "csd", random_dataset())
    return tmp_path / "data"


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != LOCK}


def test_a_truncated_csd(program, datadir, demo):
    path = datadir / "csd" / "CMU_MOSEI_COVAREP.csd"
    path.write_bytes(path.read_bytes()[:100_000])
    before = files_below(datadir)
    done = program("dataset_prep.py", "--datadir", datadir, "--bert", demo / "demo_bert")
    assert_one_line(done, str(path), "truncated", "100,000 bytes")
    assert files_below(datadir) == before


@pytest.mark.parametrize("file", ["vocab.txt", "config.json", "model.safetensors"])
def test_a_bert_folder_that_lacks_a_file(program, datadir, demo, tmp_path, file):
    bert = shutil.copytree(demo / "demo_bert", tmp_path / "bert")
    (bert / file).unlink()
    before = files_below(datadir)
    done = program("dataset_prep.py", "--datadir", datadir, "--bert", bert)
    assert_one_line(done, str(bert), file)
    assert files_below(datadir) == before


def without_pauses():
    download.sleep = lambda _: None


def test_a_csd_that_is_missing_and_a_server_that_is_down(program, datadir, demo):
    """The host is one that cannot be resolved or reached; the file stays missing."""
    (datadir / "csd" / "CMU_MOSEI_Labels.csd").unlink()
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
    options = ("--datadir", datadir, "--bert", demo / "demo_bert")
    done = program("dataset_prep.py", *options, env=environment, before=without_pauses)
    assert_one_line(done, "immortal.multicomp.cs.cmu.edu")
    assert not (datadir / "csd" / "CMU_MOSEI_Labels.csd").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(program, demo, tmp_path):
    tmp_path.chmod(0o500)
    done = program("main_msaf.py", "--datadir", demo, "--train", "--epochs", "1", cwd=tmp_path)
    assert_one_line(done, "No permission")


def limit_file_size():
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def test_a_full_disk_keeps_the_last_good_checkpoint(demo, tmp_path):
    """A limit on file size acts as a full disk: the weights no longer fit."""
    pytest.importorskip("resource")
    command = ["main_msaf.py", "--datadir", demo, "--train"]
    command += ["--model", "lf_dnn", "--batch_size", "64", "--resume", "auto", "--epochs"]
    done = run_program(*command, "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "checkpoints"
    before = {path: path.read_bytes() for path in folder.glob("*.pth")}
    assert len(before) == 3
    done = run_program(*command, "2", cwd=tmp_path, before=limit_file_size)
    assert_one_line(done, "larger than this shell allows", ".pth", "ulimit -f")
    assert {path: path.read_bytes() for path in folder.glob("*.p*")} == before
    assert {path.name for path in folder.glob(".*")} <= {".run.lock"}


def test_interrupting_ends_with_one_line(interruptible, demo, tmp_path):
    command = [sys.executable, ROOT / "main_msaf.py", "--datadir", demo, "--train"]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "Epoch 1" in running.stdout.readline()
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=200)
    assert running.returncode == 130
    assert [line for line in errors.splitlines() if line.strip()] == [
        "error: Interrupted; what was finished is kept."
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["dataset_prep.py --demo", "main_msaf.py --train --no_save"])
def test_interrupting_early_shows_no_traceback(interruptible, small, tmp_path, name, number):
    name, *options = name.split()
    lines = enumerate((ROOT / name).read_text().splitlines(), start=1)
    first_import = next(number for number, line in lines if "system.early_interrupt" in line)
    # Where coverage is measured, Python imports it first, and what interrupts that is passed over.
    measured = {"COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}
    env = {key: value for key, value in os.environ.items() if key not in measured}

    def interrupt_after(milliseconds):
        """Python itself may lose a signal while it starts: then try again."""
        for attempt in range(3):
            errors, code = interrupt(milliseconds, tmp_path / f"{milliseconds}_{attempt}")
            if code != 0:
                break
        return errors, code

    def interrupt(milliseconds, new_folder):
        datadir = new_folder if name == "dataset_prep.py" else small
        running = subprocess.Popen(
            [sys.executable, ROOT / name, *options, "--datadir", datadir],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(milliseconds / 1000)
        running.send_signal(number)
        return running.communicate(timeout=200)[1], running.returncode

    with ThreadPoolExecutor() as executor:
        for errors, code in executor.map(interrupt_after, range(0, 400, 20)):
            assert code != 0
            assert "fault of this program" not in errors
            if "Traceback" in errors:  # Python's own start: nothing of the program has run
                assert all(
                    int(line) <= first_import
                    for line in re.findall(rf'{name}", line ([0-9]+)', errors)
                ), errors
