"""Workers: which runs they take, and what happens to runs of killed or stopped processes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from system.errors import InputError
from tests.forked_programs import Program
from tests.own_model import OWN_MODEL
from tests.programs.test_runs import with_other_labels
from tests.utils.studies.postgresql import needs_postgresql, postgresql, server
from tests.utils.studies.test_search import trials_of
from utils.studies import comparison_queue, database, plot, search_plot
from utils.studies.queue import Queue, run_of
from utils.studies.storage import Storage
from utils.training import run as training
from utils.training.trainer import Trainer

__all__ = ["postgresql", "server"]


def slow_with_a_short_lease():
    """Make leases short and epochs slow enough to be interrupted; draw no pictures."""
    database.BEAT, database.LEASE = 1, 3
    run_epoch = Trainer._run_epoch

    def run_slowly(trainer):
        time.sleep(0.2)
        return run_epoch(trainer)

    Trainer._run_epoch = run_slowly
    training._write_results = lambda *_: (Path(), [])
    training.write_training_report = lambda *_: None
    plot.plot_comparison = search_plot.plot_search = lambda path, *_: path.touch()


@pytest.fixture
def start(tmp_path):
    """Start main_msaf.py in tmp_path: `start("--worker", "search")`."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:

        def begin(*arguments):
            program = Program(
                "main_msaf.py", *arguments, cwd=tmp_path, env=env, before=slow_with_a_short_lease
            )
            return stack.enter_context(program)

        yield begin


@pytest.fixture
def tune(small, tmp_path):
    """The arguments of a search whose trials take a while."""
    (tmp_path / "space.json").write_text(json.dumps({"lr": [1e-3, 2e-3, 3e-3], "dropout": [0.1]}))
    paths = ["--checkpointdir", "search", "--datadir", small, "--resultdir", "result"]

    def arguments(count, epochs=6):
        space = ["--model", "lf_dnn", "--space", "space.json", "--patience", epochs]
        return ["--tune", count, *space, *paths, "--epochs", epochs, "--no_verbose"]

    return arguments


def ends_of(folder):
    return Counter((row["trial"], row["state"]) for row in trials_of(folder))


def test_a_search_that_is_killed_is_resumed(start, tune, tmp_path):
    first = start(*tune(3))
    first.wait_for("Trial 2 of 3")
    first.wait_for("Epoch 2/6", 2)
    first.send(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    again = start(*tune(3))
    assert again.end() == 0, again.text
    assert "Trial 1 of 3" not in again.text
    rows = {(row["trial"], row["attempt"]): row for row in trials_of(tmp_path / "search")}
    states = {key: row["state"] for key, row in rows.items()}
    assert states == {
        ("1", "1"): "complete",
        ("2", "1"): "failed",
        ("3", "1"): "complete",
        ("2", "2"): "complete",
    }
    assert rows["2", "1"]["why"] == "its process ended"
    assert rows["2", "1"]["lr"] == rows["2", "2"]["lr"]
    assert (tmp_path / "search" / "tuned" / "lf_dnn" / "seed20" / "best.pth").exists()


def killed(program):
    """Kill a program, once it has begun a run."""
    program.wait_for("Epoch 2/6")
    program.send(signal.SIGKILL)
    assert program.end() == -signal.SIGKILL


@pytest.mark.parametrize("database", ["SQLite", pytest.param("PostgreSQL", marks=needs_postgresql)])
def test_workers_share_a_search_and_a_killed_one_gives_its_trial_back(
    start, tune, tmp_path, request, database
):
    """The first process is killed, then a worker; two other workers do the rest together."""
    storage = []
    if database == "PostgreSQL":
        storage = ["--storage", request.getfixturevalue("postgresql")]
    worker = ["--worker", "search", "--no_verbose", *storage]
    killed(start(*tune(5), *storage))
    killed(start(*worker))
    others = [start(*worker), start(*worker)]
    for other in others:
        assert other.end() == 0, other.text
        assert "Nothing waits in search any more" in other.text
    again = start(*tune(5), *storage)
    assert again.end() == 0, again.text
    assert "Trial" not in again.text
    complete = {(str(number), "complete"): 1 for number in range(1, 6)}
    ends = ends_of(tmp_path / "search")
    assert ends == {**complete, ("1", "failed"): 1, ("2", "failed"): 1}
    if database == "PostgreSQL":
        assert "secret" not in (tmp_path / "search" / "study.json").read_text()
        assert f"{tmp_path / 'search'}: search" in optuna.get_all_study_names(storage[1])


def test_two_workers_share_a_comparison_and_a_killed_one_gives_its_run_back(start, small, tmp_path):
    options = ["--epochs", 6, "--datadir", small, "--no_verbose"]
    compare = ["--compare", "lf_dnn", "lmf", "--seeds", 1, 2, "--checkpointdir", "compared"]
    first = start(*compare, *options, "--resultdir", "result")
    first.wait_for("Epoch 1/6")
    other = start("--worker", "compared", "--no_verbose")
    other.wait_for("Epoch 3/6")
    other.send(signal.SIGKILL)
    assert other.end() == -signal.SIGKILL
    third = start("--worker", "compared", "--no_verbose")
    assert (first.end(), third.end()) == (0, 0), first.text + third.text
    rows = json.loads((tmp_path / "compared" / "comparison.json").read_text())["rows"]
    seeds = {row["model"]: sorted(row["runs"]) for row in rows}  # which starts first is chance
    assert seeds == {"lf_dnn": ["1", "2"], "lmf": ["1", "2"]}
    assert "Resumed from" in first.text + third.text  # from the last epoch of the killed one


def test_a_process_that_was_stopped_for_too_long_leaves_its_trial_to_others(start, tune, tmp_path):
    first = start(*tune(2))
    first.wait_for("Epoch 1/6")
    first.send(signal.SIGSTOP)
    other = start("--worker", "search", "--no_verbose")
    assert other.end() == 0, other.text
    first.send(signal.SIGCONT)
    assert first.end() == 0, first.text
    assert "run 1 was taken from this process" in first.text
    assert ends_of(tmp_path / "search") == {
        **{("1", "failed"): 1, ("1", "complete"): 1, ("2", "complete"): 1}
    }


def test_an_interrupted_search_gives_its_trial_back_at_once(start, tune, tmp_path):
    search = start(*tune(2))
    search.wait_for("Epoch 2/6")
    search.send(signal.SIGTERM)
    assert search.end() == 128 + signal.SIGTERM
    states = states_of(Storage(tmp_path / "search", None), "search")
    assert states == {TrialState.FAIL: 1, TrialState.WAITING: 2}


def states_of(storage, name):
    return Counter(trial.state for trial in Queue(storage.load(name), storage).trials)


@pytest.fixture
def queue_of(tmp_path):
    """A queue of runs in tmp_path / "folder": `queue_of(["a", "b"])`."""

    def make(runs=(), url=None):
        storage = Storage(tmp_path / "folder", url)
        queue = Queue(storage.create("comparison", {}), storage)
        for run in runs:
            queue.add(run, {})
        return queue

    return make


def take_all(make, folder, count):
    """Take all runs in several threads, each with its own queue; return the names of the runs."""
    taken, ready = [], threading.Barrier(count)

    def work():
        queue = make()
        ready.wait()
        queue.work(lambda trial: taken.append(trial.user_attrs["run"]) or 0.0, _nothing, _nothing)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def _nothing(*_):
    pass


def test_no_run_is_taken_twice(queue_of, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BEAT", 0.01)
    runs = [str(number) for number in range(24)]
    queue_of(runs)
    assert sorted(take_all(queue_of, tmp_path, 4)) == sorted(runs)


def test_a_run_whose_processes_are_killed_waits_three_times_more(queue_of, monkeypatch):
    monkeypatch.setattr(database, "LEASE", 1)
    queue = queue_of(["a"])
    storage = queue.study._storage
    for _ in range(4):
        storage.record_heartbeat(queue.study.ask()._trial_id)  # the last one
        time.sleep(2.1)
        assert queue.open_runs == ["a"]
        queue.requeue_lost()
    queue.work(_nothing, _nothing, _nothing)
    assert [trial.state for trial in queue.trials] == [TrialState.FAIL] * 4
    assert {run_of(trial) for trial in queue.trials} == {"a"}


def test_a_run_that_is_interrupted_waits_again_however_often(queue_of):
    queue = queue_of(["a"])

    def interrupt(trial):
        raise KeyboardInterrupt

    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            queue.work(interrupt, _nothing, _nothing)
    assert queue.open_runs == ["a"]


def test_a_database_that_goes_away_is_reported_in_one_line(queue_of, tmp_path, monkeypatch):
    tracebacks = []
    monkeypatch.setattr(threading, "excepthook", tracebacks.append)
    monkeypatch.setattr(database, "BEAT", 0.01)
    queue = queue_of(["a"])

    def go_away(trial):
        (tmp_path / "folder" / "study.db").write_bytes(b"x" * 4096)
        time.sleep(0.1)  # until a heartbeat
        trial.report(0.5, 1)
        return 0.0

    with pytest.raises(InputError, match=r"study.db: the study's database cannot") as caught:
        queue.work(go_away, _nothing, _nothing)
    assert "\n" not in str(caught.value)
    assert tracebacks == []


def test_a_worker_needs_a_folder_with_runs(main, tmp_path):
    with pytest.raises(InputError, match="gone holds no comparison and no search; begin one"):
        main("--worker", "gone")
    assert not (tmp_path / "gone").exists()


def test_a_worker_with_other_data_takes_nothing(main, small, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr("utils.studies.comparison_queue.work_on_runs", _nothing)
    with pytest.raises(InputError, match="has not ended: it was taken back"):
        main("--compare", "lf_dnn", "--datadir", small, "--checkpointdir", "compared")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(small, tmp_path / "other")
    with_other_labels(other)
    with pytest.raises(InputError, match="other/train differs from that of the comparison"):
        main("--worker", "compared", "--datadir", other)
    storage = Storage(tmp_path / "compared", None)
    assert states_of(storage, storage.names[0]) == {TrialState.WAITING: 1}


@pytest.mark.parametrize("is_of_an_earlier_version", [False, True])
def test_a_worker_of_another_working_directory_writes_results_where_the_study_does(
    main, small, tmp_path, monkeypatch, is_of_an_earlier_version
):
    with monkeypatch.context() as patch:
        patch.setattr(comparison_queue, "work_on_runs", _nothing)
        if is_of_an_earlier_version:
            attributes = comparison_queue._attributes
            patch.setattr(
                *(comparison_queue, "_attributes"),
                lambda config: {k: v for k, v in attributes(config).items() if k != "results"},
            )
        with pytest.raises(InputError, match="has not ended: it was taken back"):
            paths = ["--datadir", small, "--checkpointdir", "compared"]
            main("--compare", "lf_dnn", *paths, "--epochs", 1, "--no_verbose")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    main("--worker", "../compared")
    expected = (elsewhere if is_of_an_earlier_version else tmp_path) / "result"
    (path,) = tmp_path.rglob("predictions.csv")
    assert path.parents[2] == expected


def test_a_worker_that_may_not_write_where_the_study_does_writes_into_its_own_folder(
    tmp_path, monkeypatch
):
    attributes = {"config": {"resultdir": "result"}, "results": str(tmp_path)}
    assert comparison_queue._resultdir(attributes) == {"resultdir": str(tmp_path)}

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.access", lambda *_: False)  # as root may write anywhere
    monkeypatch.setattr(Path, "is_dir", refuse)
    assert comparison_queue._resultdir(attributes) == {}


def test_a_worker_with_another_file_of_the_model_takes_nothing(main, small, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    with monkeypatch.context() as patch:
        patch.setattr("utils.studies.comparison_queue.work_on_runs", _nothing)
        compare = ["--compare", "mine.py:Mean", "--same_settings", "--datadir", small]
        with pytest.raises(InputError, match="has not ended: it was taken back"):
            main(*compare, "--checkpointdir", "compared")
    (tmp_path / "mine.py").write_text(OWN_MODEL.replace("ReLU", "Tanh"))
    with pytest.raises(InputError, match=r"mine.py:Mean differs from that of the comparison"):
        main("--worker", "compared")


def test_a_run_without_a_configuration_is_reported_as_damage(queue_of, main):
    queue_of(["lf_dnn/seed1"])
    with pytest.raises(
        InputError, match=r"study.db: the study is damaged \(KeyError: no 'config'\)"
    ):
        main("--worker", "folder")


@needs_postgresql
def test_workers_share_runs_by_postgresql(postgresql, queue_of, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BEAT", 0.01)
    runs = [str(number) for number in range(24)]
    queue_of(runs, postgresql)
    assert sorted(take_all(lambda: queue_of(url=postgresql), tmp_path, 4)) == sorted(runs)
    pointer = json.loads((tmp_path / "folder" / "study.json").read_text())
    assert "secret" not in pointer["storage"]
    assert not (tmp_path / "folder" / "study.db").exists()


@needs_postgresql
def test_a_server_that_cannot_be_reached_is_reported_without_the_password(main, small, postgresql):
    url = postgresql.replace("secret", "secrets")
    with pytest.raises(InputError, match=r"postgresql\+psycopg://.*cannot be used") as caught:
        main("--tune", 1, "--model", "lf_dnn", "--datadir", small, "--storage", url)
    assert "secrets" not in str(caught.value)
    assert "\n" not in str(caught.value)
