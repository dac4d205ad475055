"""Several processes end together when one is interrupted or fails, with the right messages."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest

from data.loading.split import Split
from models.checkpoint import read_checkpoint
from models.registry import restore
from tests.cuda import needs_cuda
from tests.forked_programs import ROOT, Program
from tests.own_model import OWN_MODEL
from tests.utils.training.test_resume import assert_same
from tests.utils.training.test_trainer import CPU
from utils.reports.evaluation import evaluate
from utils.tasks import SENTIMENT

EPOCHS, STEPS = 3, 10


def environments(count):
    """Return the environment of each of several processes, as torchrun sets it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    several = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        {**os.environ, **several, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(count)
    ]


@contextmanager
def started(datadirs, folder, *options):
    """Start a process for each data folder, without torchrun, which would end them itself."""
    train = ["--train", "--resume", "auto", "--model", "lf_dnn", "--batch_size", 8]
    train += ["--epochs", EPOCHS, "--log_interval", 1, "--device", "cpu"]
    train += ["--checkpointdir", folder, "--resultdir", folder / "result", *options]
    with ExitStack() as stack:
        programs = []
        for datadir, env in zip(datadirs, environments(len(datadirs)), strict=True):
            program = Program("main_msaf.py", *train, "--datadir", datadir, env=env)
            programs.append(stack.enter_context(program))
        yield programs


def ends_of(programs):
    """Return each process's exit code and error lines, and the output of the first process."""
    codes = [program.end() for program in programs]
    errors = [
        [line for line in program.errors.splitlines() if not line.startswith("warning: ")]
        for program in programs
    ]
    return codes, errors, programs[0].output


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The best checkpoint of a training without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    with started([small, small], folder) as processes:
        codes, errors, _ = ends_of(processes)
    assert codes == [0, 0], errors
    return read_checkpoint(folder / "best.pth")


def test_the_scores_of_a_model_with_batch_norm_are_those_of_its_file(small, whole):
    """Each process has statistics of its own after a step, until the next one."""
    _, model = restore(whole)
    for name in ("val", "test"):
        evaluation = evaluate(model, Split(small / name), SENTIMENT, CPU)
        assert evaluation.scores == pytest.approx(whole.details["scores"][name], rel=1e-5), name


@needs_cuda
@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-3), ("bfloat16", 3e-2)])
def test_processes_that_share_a_gpu_train_as_one_process_does(small, tmp_path, precision, limit):
    """Both use cuda:0, even if there are more GPUs."""
    options = ["--model", "nhfnet", "--device", "cuda:0", "--precision", precision]
    losses = []
    for number in (1, 2):
        with started([small] * number, tmp_path / str(number), *options) as processes:
            codes, errors, _ = ends_of(processes)
        assert codes == [0] * number, errors
        last = read_checkpoint(tmp_path / str(number) / "last.pth").details["training"]
        losses.append([epoch["loss"] for epoch in last["epochs"]])
    assert losses[1] == pytest.approx(losses[0], rel=limit)


@pytest.mark.parametrize(
    ("number", "rank", "workers"), [(signal.SIGTERM, 1, 2), (signal.SIGINT, 0, 0)]
)
def test_an_interrupt_of_one_saves_the_position_once(small, tmp_path, whole, number, rank, workers):
    with started([small, small], tmp_path, "--num_workers", workers) as processes:
        processes[0].wait_for("  step", STEPS + 3)
        processes[rank].send(number)
        codes, errors, output = ends_of(processes)
    steps_before = output.count("  step")
    assert codes == [128 + number] * 2
    assert errors == [["error: Interrupted; what was finished is kept."], []]
    with started([small, small], tmp_path) as processes:
        codes, errors, output = ends_of(processes)
    assert codes == [0, 0], errors
    epoch, step = divmod(steps_before, STEPS)
    assert f"epoch {epoch + 1}, step {step}\n" in output
    assert output.count("  step") == EPOCHS * STEPS - steps_before
    assert_same(read_checkpoint(tmp_path / "best.pth").weights, whole.weights)


def test_where_another_fails_the_first_ends_too(small, tmp_path):
    with started([small, tmp_path / "nowhere"], tmp_path / "run") as processes:
        codes, errors, _ = ends_of(processes)
    assert codes == [1, 2]
    assert errors[0] == ["error: Another of the processes has ended; its own line says why."]
    (line,) = errors[1]
    assert "nowhere" in line


def under_torchrun(folder, *options, env=None):
    """Run two processes under torchrun itself, which also prints lines of its own."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        list(map(str, [sys.executable, *launch, ROOT / "main_msaf.py", *options])),
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )


def error_under_torchrun(folder, *options, env=None):
    """Run two processes that must fail; returns the one error line that they print."""
    done = under_torchrun(folder, *options, env=env)
    assert done.returncode != 0
    assert "fault of this program" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("options", "message"), [(["--epochs", "0"], "--epochs"), (["--datadir", "nowhere"], "nowhere")]
)
def test_an_error_of_all_processes_is_printed_by_the_first_only(tmp_path, options, message):
    assert message in error_under_torchrun(tmp_path, "--train", *options)


# Makes the disk full for the first process when it writes a file whose name begins with `name`.
FULL = """
import errno, os, sys

def fail(event, arguments):
    if event == "open" and os.environ.get("RANK") == "0":
        path, _, flags = arguments
        has_name = os.path.basename(str(path)).lstrip(".").startswith({name!r} + ".")
        if has_name and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.ENOSPC, "No space left on device", path)

sys.addaudithook(fail)
"""


@pytest.mark.parametrize("name", ["best", "predictions"])
def test_if_only_the_first_fails_late_all_end(small, tmp_path, name):
    """It fails while the others wait for it: at the end of an epoch, or of the training."""
    (tmp_path / "sitecustomize.py").write_text(FULL.format(name=name))
    options = ["--datadir", small, "--model", "lf_dnn", "--epochs", 2, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    line = error_under_torchrun(tmp_path, "--train", *options, env=environment)
    assert line.startswith("error: The disk is full (")
    assert name in line


def test_a_users_own_model_may_have_weights_that_it_does_not_use(small, tmp_path):
    unused = "hidden = nn.Linear(sum"
    (tmp_path / "mine.py").write_text(
        OWN_MODEL.replace(unused, f"self.never = nn.Linear(3, 3)\n        {unused}")
    )
    with started([small, small], tmp_path, "--model", f"{tmp_path / 'mine.py'}:Mean") as processes:
        codes, errors, _ = ends_of(processes)
    assert codes == [0, 0], errors


def test_pytorch_warns_of_no_model_that_uses_all_its_weights(small, tmp_path):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    options = ["--model", "mine.py:Mean", "--epochs", 1, "--device", "cpu", "--datadir", small]
    done = under_torchrun(tmp_path, "--train", "--no_verbose", *options)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
