"""The queue: runs whose process dies, that are given back, that fail, or that are taken back."""

from __future__ import annotations

import gc
import shutil
import signal
import sqlite3
import time
import weakref
from collections import Counter

import pytest
from optuna.exceptions import TrialPruned
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from system.errors import InputError
from system.locks import FolderInUse
from tests.utils.training.test_resume import handled
from utils.studies import database
from utils.studies.queue import Queue, RunFailed, seconds_of, why_failed
from utils.studies.search import SeededTPE
from utils.studies.storage import Storage


@pytest.fixture
def queue_of(tmp_path):
    """A queue of runs: `queue_of("1", "2", sampler=...)`."""

    def make(*runs, **options):
        storage = Storage(tmp_path / "folder", None)
        queue = Queue(storage.create("search", {}, **options), storage)
        for run in runs:
            queue.add(run, {})
        return queue

    return make


def work(queue, function):
    queue.work(function, lambda _: None, lambda: None)


def interrupt(*_):
    raise KeyboardInterrupt


def states_of(queue):
    return Counter(trial.state for trial in queue.trials)


def kill(queue):
    """Take a run and die: its last heartbeat was long ago."""
    trial = queue.study.ask()
    queue.storage.database.record_heartbeat(trial._trial_id)
    with sqlite3.connect(queue.storage.folder / database.FILE) as connection:
        connection.execute("UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00'")
        connection.execute("UPDATE trials SET datetime_start = '2000-01-01 00:00:00'")


def test_interrupts_do_not_count_as_kills(queue_of):
    queue = queue_of("1")
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            work(queue, interrupt)
    kill(queue)
    queue.requeue_lost()
    assert queue.open_runs == ["1"]
    assert states_of(queue) == {TrialState.FAIL: 5, TrialState.WAITING: 1}


def test_a_run_is_not_lost_when_the_process_that_failed_its_trial_dies(queue_of):
    queue = queue_of("1")
    trial = queue.study.ask()
    queue.study.tell(trial, state=TrialState.FAIL)
    assert queue.open_runs == ["1"]
    work(queue, lambda _: 0.5)
    assert states_of(queue) == {TrialState.FAIL: 1, TrialState.COMPLETE: 1}


def test_an_interrupt_while_a_trial_is_taken_gives_it_back_at_once(queue_of, monkeypatch):
    class Interrupted(SeededTPE):
        def before_trial(self, study, trial):
            signal.raise_signal(signal.SIGINT)

    queue, begun = queue_of("1", sampler=Interrupted(1)), []
    with handled(signal.SIGINT, monkeypatch), pytest.raises(KeyboardInterrupt):
        work(queue, begun.append)
    assert begun == []
    assert states_of(queue) == {TrialState.FAIL: 1, TrialState.WAITING: 1}


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (None, TrialState.COMPLETE),
        (TrialPruned(), TrialState.PRUNED),
        (RunFailed("too wide"), TrialState.FAIL),
    ],
)
def test_an_interrupt_while_a_result_is_saved_repeats_no_run(queue_of, monkeypatch, outcome, state):
    class Interrupted(SeededTPE):
        def after_trial(self, *_):
            signal.raise_signal(signal.SIGINT)

    def train(trial):
        trial.report(0.5, 1)
        if outcome is not None:
            raise outcome
        return 0.5

    queue = queue_of("1", "2", sampler=Interrupted(1))
    with handled(signal.SIGINT, monkeypatch), pytest.raises(KeyboardInterrupt):
        work(queue, train)
    assert states_of(queue) == {state: 1, TrialState.WAITING: 1}
    assert queue.open_runs == ["2"]


def test_a_trial_taken_without_a_heartbeat_waits_again(queue_of, monkeypatch):
    class Interrupted(SeededTPE):
        before_trial = interrupt

    queue = queue_of("1", sampler=Interrupted(1))
    with pytest.raises(KeyboardInterrupt):
        work(queue, lambda _: 0.0)
    queue.requeue_lost()
    assert states_of(queue) == {TrialState.RUNNING: 1}  # another process may just have taken it
    monkeypatch.setattr(database, "LEASE", 0)
    queue.requeue_lost()
    assert states_of(queue) == {TrialState.FAIL: 1, TrialState.WAITING: 1}


def test_heartbeats_continue_after_one_fails(queue_of, monkeypatch):
    monkeypatch.setattr(database, "BEAT", 0.01)
    record, calls = RDBStorage.record_heartbeat, []

    def fail_once(storage, trial_id):
        calls.append(trial_id)
        if len(calls) == 2:
            raise sqlite3.OperationalError("database is locked")
        record(storage, trial_id)

    monkeypatch.setattr(RDBStorage, "record_heartbeat", fail_once)

    def wait_for_signs(_):
        end = time.monotonic() + 20
        while len(calls) < 4 and time.monotonic() < end:
            time.sleep(0.01)
        return 0.0

    work(queue_of("1"), wait_for_signs)
    assert len(calls) >= 4


@pytest.mark.parametrize("error", [MemoryError, None])
def test_memory_of_a_run_is_freed_before_the_next_one(queue_of, error):
    class Model:
        pass

    models, alive = [], []

    def run(trial):
        alive.extend(one() for one in models)
        if models:
            return 0.0
        model = Model()
        model.itself = model
        models.append(weakref.ref(model))
        if error:
            raise error
        return 0.0

    gc.disable()
    try:
        work(queue_of("1", "2"), run)
    finally:
        gc.enable()
    assert alive == [None]


def test_the_time_of_a_dead_process_is_not_known(queue_of):
    queue = queue_of("1", "2")
    kill(queue)
    queue.requeue_lost()

    def fail(_):
        raise RunFailed("too wide")

    work(queue, fail)
    assert [why_failed(one) for one in queue.trials] == ["its process ended", *["too wide"] * 2]
    dead, *others = queue.trials
    assert seconds_of(dead) is None
    assert all(seconds_of(one) < 1000 for one in others)


@pytest.mark.parametrize("error", [sqlite3.Error("mine"), ImportError("mine"), ValueError("mine")])
def test_an_error_of_a_training_is_not_taken_for_one_of_the_database(queue_of, error):
    queue = queue_of("1")

    def fail(_):
        raise error

    with pytest.raises(type(error), match=r"^mine$"):
        work(queue, fail)
    assert queue.open_runs == ["1"]


def test_an_error_after_a_run_is_not_taken_for_one_of_the_database(queue_of):
    queue = queue_of("1")

    def fail():
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        queue.work(lambda _: 1.0, lambda _: None, fail)


def test_a_run_whose_folder_is_in_use_waits_and_others_go_on(queue_of, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BEAT", 0.01)
    taken = []

    def be_in_use_once(trial):
        taken.append(trial.user_attrs["run"])
        if len(taken) == 1:
            raise FolderInUse("Another training is writing into", tmp_path, "--checkpointdir")
        return 0.0

    work(queue_of("1", "2"), be_in_use_once)
    assert taken == ["1", "2", "1"]


def test_a_run_that_is_taken_back_ends_after_an_epoch(queue_of, capsys):
    queue = queue_of("1", "2")
    epochs = []

    def train(trial):
        if trial.user_attrs["run"] == "1":
            queue.take_back(queue.trials[0], "a later command took it back")
        trial.report(0.5, 1)
        epochs.append(trial.user_attrs["run"])
        return 0.0

    work(queue, train)
    assert epochs == ["2"]
    assert "run 1 was taken from this process" in capsys.readouterr().err
    assert states_of(queue) == {TrialState.FAIL: 1, TrialState.COMPLETE: 1}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "is in memory"),
        ("sqlite:///:memory:", "is in memory"),
        ("oracle+nosuch_driver://a/b", "oracle.*cannot be used"),
        ("mysql+pymysql://me:secret@a/b", "mysql.pymysql://me@a/b needs the package pymysql"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused(tmp_path, url, message):
    with pytest.raises(InputError, match=message) as caught:
        Storage(tmp_path / "folder", url)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "folder").exists()


def test_a_relative_sqlite_file_is_the_same_from_everywhere(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    Storage(tmp_path / "folder", "sqlite:///mine.db").create("search", {})
    monkeypatch.chdir(tmp_path)
    assert Storage(tmp_path / "folder", None).names == ["search"]
    assert not (tmp_path / "mine.db").exists()


def test_a_copy_of_a_folder_does_not_share_its_study_but_a_moved_folder_keeps_it(tmp_path):
    folder, copy, moved = (tmp_path / name for name in ("folder", "copy", "moved"))
    Storage(folder, f"sqlite:///{tmp_path / 'mine.db'}").create("search", {})
    shutil.copytree(folder, copy)
    with pytest.raises(InputError, match=r"copy is a copy of .*folder, .*remove .*study.json") as e:
        Storage(copy, None)
    assert "\n" not in str(e.value)
    (tmp_path / "link").symlink_to(folder)
    assert Storage(tmp_path / "link", None).names == ["search"]
    folder.rename(moved)
    assert Storage(moved, None).names == ["search"]


def test_a_study_keeps_the_attributes_of_its_creation(tmp_path):
    for datadir in ("first", "second"):
        storage = Storage(tmp_path / "folder", None)
        study = storage.create("search", {}, {"config": {"datadir": datadir}})
    assert study.user_attrs["config"] == {"datadir": "first"}
