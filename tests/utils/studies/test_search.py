"""Searches: how they choose, which files they write, how they resume, and what they refuse."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sqlite3
from dataclasses import replace

import optuna
import pytest
import torch
from optuna.trial import TrialState

from system.errors import InputError
from tests.pages import check_page, texts
from tests.programs.test_runs import contents, with_other_labels
from tests.utils.reports.test_evaluation import check_png
from utils.run_config import RunConfig
from utils.studies import database, plot, search, search_plot
from utils.studies.queue import Queue
from utils.studies.search_plot import plot_search
from utils.studies.storage import FILE, Storage
from utils.tasks import SENTIMENT, Measure
from utils.training import run as training
from utils.training.history import Epoch
from utils.training.losses import Diverged

SPACE = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "dropout": [0.1, 0.3]}


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Trainings without pictures, which take long."""
    monkeypatch.setattr(training, "_write_results", lambda *_: (tmp_path, []))
    monkeypatch.setattr(training, "write_training_report", lambda *_: None)
    monkeypatch.setattr(plot, "plot_comparison", lambda path, *_: path.touch())
    monkeypatch.setattr(search_plot, "plot_search", lambda path, *_: path.touch())


@pytest.fixture
def tune(main, small, tmp_path, quick):
    """Search on small data: `tune(3, "--lr", 0.1, space={...})`, in tmp_path / "search"."""

    def run(count, *arguments, space=SPACE, datadir=small, model="lf_dnn", folder="search"):
        (tmp_path / "space.json").write_text(json.dumps(space))
        options = ["--model", model, "--space", "space.json", "--datadir", datadir]
        paths = ["--checkpointdir", folder, "--no_verbose", "--epochs", 2, "--resultdir", "result"]
        main("--tune", count, *options, *paths, *arguments)

    return run


def trials_of(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def scored(monkeypatch):
    """Replace training: `scored([[0.5, 0.4], error, ...])` gives each trial's scores by epoch."""

    def prepare(outcomes, key="mae"):
        remaining = iter(outcomes)

        def train(config, options, after_epoch):
            outcome = next(remaining)
            if isinstance(outcome, BaseException):
                raise outcome
            epochs = [Epoch(n, 0, 0, 0, {"val": {key: x}}) for n, x in enumerate(outcome, 1)]
            for epoch in epochs:
                after_epoch(epoch)
            return min(epochs, key=lambda epoch: epoch.scores["val"][key])

        monkeypatch.setattr(search, "train_and_validate", train)

    return prepare


@pytest.fixture
def untested(monkeypatch):
    """Searches that end before the test split is opened."""
    monkeypatch.setattr("utils.studies.tune.run_study", lambda *_, **__: None)
    monkeypatch.setattr("utils.studies.tune._close", lambda *_: None)


@pytest.mark.painted
def test_a_search_writes_trials_the_best_configuration_a_picture_and_a_report(
    tune, main, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(search_plot, "plot_search", plot_search)
    tune(3, "--seeds", 1, 2)
    folder, out = tmp_path / "search", capsys.readouterr().out
    rows = trials_of(folder)
    assert [(row["trial"], row["state"], row["epochs"]) for row in rows] == [
        (str(number), "complete", "2") for number in (1, 2, 3)
    ]
    best = min(rows, key=lambda row: float(row["val_mae"]))
    chosen = json.loads((folder / "run.json").read_text())
    assert chosen["search"]["trial"] == best["trial"]
    assert chosen["config"]["lr"] == float(best["lr"])
    assert chosen["config"]["set"] == {"dropout": float(best["dropout"])}
    assert "3 of 3 trials have ended; best validation MAE" in out
    assert "left\n" in out
    check_png(folder / "search.png", 1200, 480)
    page = check_page(folder / "report.html")
    assert any("Search of 3 trials" in text for text in texts(page, "h1"))
    assert any(
        re.match(r"3 trials in \d+ s of work: 3 complete", text) for text in texts(page, "p")
    )
    runs = [json.loads((folder / f"tuned/lf_dnn/seed{n}/run.json").read_text()) for n in (1, 2)]
    assert {run["config"]["lr"] for run in runs} == {chosen["config"]["lr"]}
    table = json.loads((folder / "tuned" / "comparison.json").read_text())["rows"]
    mean = f"{table[0]['scores']['mae']['mean']:.3f}"
    assert any(text.startswith(mean) for text in texts(page, "td"))
    main("--train", "--config", folder / "run.json", "--seed", 1, "--checkpointdir", "again")
    again = json.loads((tmp_path / "again" / "run.json").read_text())
    assert again["result"]["scores"] == runs[0]["result"]["scores"]


def test_a_setting_of_the_name_of_another_column_has_its_own(
    main, small, tmp_path, scored, untested
):
    scored([[0.5, 0.4]])
    (tmp_path / "space.json").write_text('{"epochs": [3]}')
    main("--tune", 1, "--model", "lf_dnn", "--space", "space.json", "--datadir", small)
    (row,) = trials_of(tmp_path / "checkpoints")
    assert (row["epochs"], row["epochs (setting)"]) == ("2", "3")
    page = check_page(tmp_path / "checkpoints/report.html")
    assert texts(page, "th").count("epochs (setting)") == 1


def test_no_trial_opens_the_test_split(tune, small, tmp_path):
    """The data have none, which raises only after the last trial."""
    datadir = shutil.copytree(small, tmp_path / "data")
    shutil.rmtree(datadir / "test")
    with pytest.raises(InputError, match=r"data/test"):
        tune(2, datadir=datadir)
    assert [row["state"] for row in trials_of(tmp_path / "search")] == ["complete"] * 2
    assert (tmp_path / "search" / "run.json").is_file()
    assert not list(tmp_path.glob("search/tuned/*/*"))


def test_a_search_that_was_stopped_resumes_with_the_values_drawn(tune, tmp_path, monkeypatch):
    tune(4, folder="whole")
    train, begun = search.train_and_validate, []

    def stop_in_the_third(*arguments):
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(search, "train_and_validate", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        tune(4)
    assert [row["state"] for row in trials_of(tmp_path / "search")] == ["complete"] * 2 + [
        *("waiting", "waiting")
    ]
    tune(4)
    assert len(begun) == 5
    whole, resumed = trials_of(tmp_path / "whole"), trials_of(tmp_path / "search")
    assert [row["why"] for row in resumed if row["state"] == "failed"] == ["it was given back"]
    values = {row["trial"]: (row["lr"], row["dropout"], row["val_mae"]) for row in whole}
    assert {
        row["trial"]: (row["lr"], row["dropout"], row["val_mae"])
        for row in resumed
        if row["state"] == "complete"
    } == values
    assert len({row["lr"] for row in whole}) == 4


def test_trials_can_be_added_until_the_test_split_is_opened(tune, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("utils.studies.tune.run_study", lambda *_, **__: None)
        patch.setattr("utils.studies.tune._close", lambda *_: None)
        tune(1)
        tune(2)
    assert len(trials_of(tmp_path / "search")) == 2
    tune(2)
    before = contents(tmp_path / "search" / "tuned" / "lf_dnn")
    with pytest.raises(InputError, match=r"opened for the best of 2 trials, so no more"):
        tune(3)
    tune(1, "--seeds", 20, 21)  # more seeds of the chosen configuration
    assert contents(tmp_path / "search" / "tuned" / "lf_dnn").items() > before.items()


def test_a_failed_trial_is_recorded_and_the_search_continues(
    tune, tmp_path, scored, untested, capsys
):
    scored(
        [
            Diverged("The loss is nan at epoch 1"),
            MemoryError(),
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            InputError("width 3 is odd"),
            [0.5, float("nan")],
            [0.7, 0.6],
        ]
    )
    tune(6)
    rows = trials_of(tmp_path / "search")
    assert [row["state"] for row in rows] == ["failed"] * 5 + ["complete"]
    assert [row["why"] for row in rows] == [
        "The loss is nan at epoch 1",
        *["out of memory"] * 2,
        "width 3 is odd",
        "the validation MAE is nan",
        "",
    ]
    assert json.loads((tmp_path / "search" / "run.json").read_text())["search"]["val_mae"] == 0.6
    assert "run 2 failed: out of memory" in capsys.readouterr().err
    page = check_page(tmp_path / "search" / "report.html")
    assert "width 3 is odd" in texts(page, "td")


def test_any_other_error_ends_the_search_and_the_trial_waits_again(
    tune, tmp_path, scored, untested
):
    scored([[0.5], OSError(28, "No space left on device"), [0.4]])
    with pytest.raises(OSError, match="No space"):
        tune(2)
    tune(2)
    assert [row["state"] for row in trials_of(tmp_path / "search")] == [
        *("complete", "failed", "complete")
    ]


def test_a_higher_score_is_chosen_where_it_is_better(tune, tmp_path, scored, untested, monkeypatch):
    key = "corr"
    task = replace(SENTIMENT, chosen_by=Measure(key, "Corr"))
    monkeypatch.setattr(search, "find_task", lambda *_: task)
    scored([[0.3], [0.6], [0.5]], key)
    tune(3)
    chosen = json.loads((tmp_path / "search" / "run.json").read_text())["search"]
    assert (chosen["trial"], chosen[f"val_{key}"]) == ("2", 0.6)
    page = check_page(tmp_path / "search" / "report.html")
    assert [text for text in texts(page, "th") if text in "123"] == ["2", "3", "1"]


def test_a_search_without_a_good_trial_says_so(tune, scored):
    scored([Diverged("The loss is nan")] * 2)
    with pytest.raises(InputError, match=r"No trial of search ended well; .* failed: The loss is"):
        tune(2)


def test_trials_worse_than_the_median_are_pruned(tune, tmp_path, scored, untested):
    good, bad = [0.5, 0.4, 0.3], [0.9, 0.8, 0.1]
    scored([good] * 5 + [bad, good])
    tune(7, "--epochs", 3)
    rows = trials_of(tmp_path / "search")
    assert [row["state"] for row in rows] == ["complete"] * 5 + ["pruned", "complete"]
    assert (rows[5]["epochs"], rows[5]["val_mae"]) == ("2", "0.8")
    assert json.loads((tmp_path / "search" / "run.json").read_text())["search"]["val_mae"] == 0.3


def test_the_folder_of_another_search_is_refused_naming_both(tune, small, tmp_path, untested):
    tune(1)
    before = contents(tmp_path / "search")
    other = shutil.copytree(small, tmp_path / "other")
    with_other_labels(other)
    for arguments, options, message in (
        (["--weight_decay", 0.5], {}, r"weight_decay 0.001, this one is 0.5"),
        ([], {"model": "lmf"}, r"model lf_dnn, this one is lmf"),
        ([], {"space": {"lr": [0.1, 0.2]}}, r"space of lr .*0.0001.*, this one is .*0.1"),
        ([], {"space": SPACE | {"batch_size": [8, 16]}}, r"batch_size None, this one is .*16"),
        ([], {"datadir": other}, r"train data [0-9a-f]+, this one is [0-9a-f]+"),
    ):
        for dry_run in ["--dry_run"], []:
            with pytest.raises(InputError, match=rf"search holds a search with .*{message}"):
                tune(1, *arguments, *dry_run, **options)
    after = contents(tmp_path / "search")
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} <= {FILE}


def test_a_comparison_and_a_search_do_not_share_a_folder(tune, main, small, tmp_path, untested):
    tune(1)
    compare = ["--compare", "lf_dnn", "--datadir", small, "--epochs", 1, "--no_verbose"]
    for dry_run in ["--dry_run"], []:
        with pytest.raises(InputError, match="search holds a search, this is a comparison"):
            main(*compare, *dry_run, "--checkpointdir", "search")
    main(*compare, "--checkpointdir", "compared")
    main(*compare, "--checkpointdir", "compared", "--dry_run")
    before = contents(tmp_path / "compared")
    for dry_run in ["--dry_run"], []:
        with pytest.raises(InputError, match="compared holds a comparison, this is a search"):
            tune(1, *dry_run, folder="compared")
    assert contents(tmp_path / "compared") == before


@pytest.mark.parametrize("dry_run", [[], ["--dry_run"]])
def test_a_search_in_the_folder_of_a_training_is_refused(tune, main, small, tmp_path, dry_run):
    """It would replace the run.json of the training."""
    train = ["--train", "--model", "lf_dnn", "--datadir", small, "--epochs", 1, "--no_verbose"]
    main(*train, "--checkpointdir", "search")
    before = contents(tmp_path / "search")
    with pytest.raises(InputError, match=r"^search holds a run \(best.pth\); give another --check"):
        tune(1, *dry_run)
    assert contents(tmp_path / "search") == before


def test_a_training_that_begins_in_the_folder_of_a_search_keeps_its_record(
    tune, tmp_path, monkeypatch
):
    """Before the first trial has ended, nothing keeps a training out of the folder."""
    path, train = tmp_path / "search" / "run.json", search.train_and_validate

    def let_one_begin(*arguments):
        path.write_text('{"config": {}}')
        return train(*arguments)

    monkeypatch.setattr(search, "train_and_validate", let_one_begin)
    with pytest.raises(InputError, match=r"^search holds a run \(run.json\); give another"):
        tune(1)
    assert path.read_text() == '{"config": {}}'
    path.unlink()  # the training is moved elsewhere
    tune(1)
    assert json.loads(path.read_text())["search"]["trial"] == "1"


def waiting_in(folder):
    storage = Storage(folder, None)
    trials = Queue(storage.load("search"), storage).trials
    return [trial.state == TrialState.WAITING for trial in trials]


@pytest.fixture
def begun(tune, monkeypatch):
    """Begin a search of which no trial is taken: `begun(2, model="mine.py:Mean")`."""

    def begin(*arguments, **options):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(search.Search, "work", _interrupt)
            tune(*arguments, **options)

    return begin


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_worker_without_the_model_or_the_device_takes_nothing(begun, main, tmp_path, monkeypatch):
    from tests.own_model import OWN_MODEL

    (tmp_path / "mine.py").write_text(OWN_MODEL)
    begun(3, model="mine.py:Mean", space={"hidden": [4, 8]})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"mine.py"):
        main("--worker", tmp_path / "search")
    monkeypatch.chdir(tmp_path)

    def refuse(*_):
        raise InputError("--device cuda: there is none")

    monkeypatch.setattr(search, "make_options", refuse)
    with pytest.raises(InputError, match=r"--device cuda"):
        main("--worker", "search")
    assert waiting_in(tmp_path / "search") == [True] * 3


def test_a_model_that_is_gone_fails_no_trial(tune, tmp_path, monkeypatch):
    def lose(*_):
        monkeypatch.setattr(search, "open_training", _gone)
        raise InputError("no file mine.py")

    monkeypatch.setattr(search, "train_and_validate", lose)
    with pytest.raises(InputError, match=r"^no file mine.py, for all$"):
        tune(2)
    assert waiting_in(tmp_path / "search") == [False, True, True]


def _gone(*_):
    raise InputError("no file mine.py, for all")


@pytest.fixture
def placed(monkeypatch):
    """The options with which the models of trainings are placed on a device, in order."""
    options, place = [], training.place_model
    monkeypatch.setattr(training, "place_model", lambda *a: options.append(a[1]) or place(*a))
    return options


OF_A_MACHINE = ("--device", "cpu", "--num_workers", 1, "--no_native", "--compile")


def is_this_machines(options):
    return (str(options.device), options.num_workers, options.native, options.compiles) == (
        *("cpu", 1, False, True),
    )


def test_a_search_finished_by_workers_alone_writes_the_same_files(
    begun, main, small, tmp_path, quick, placed, monkeypatch
):
    """The workers' data are elsewhere, and their devices differ."""
    begun(2)
    monkeypatch.setattr(database, "LEASE", 0.1)  # nobody enqueues the final trainings
    monkeypatch.setattr(database, "BEAT", 0.1)
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    other = shutil.copytree(small, tmp_path / "other")
    main("--worker", "search", "--datadir", other, "--no_verbose", *OF_A_MACHINE)
    assert list(map(is_this_machines, placed)) == [True] * 2
    folder = tmp_path / "search"
    begun_with = Storage(folder, None).load("search").user_attrs["config"]
    chosen = json.loads((folder / "run.json").read_text())["config"]
    for name in ("datadir", "device", "native", "compile"):
        assert chosen[name] == begun_with[name], name
    assert chosen["datadir"] == str(small)
    assert [row["state"] for row in trials_of(folder)] == ["complete"] * 2
    assert (folder / "search.png").is_file()
    assert "It has not been trained and tested yet." in texts(
        check_page(folder / "report.html"), "p"
    )
    assert not (folder / "tuned").exists()


def test_a_worker_takes_the_final_trainings_too(tune, main, tmp_path, placed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("utils.studies.comparison_queue.work_on_runs", lambda *_: None)
        with pytest.raises(InputError, match="has not ended: it was taken back"):
            tune(1)
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    main("--worker", "search", "--no_verbose", *OF_A_MACHINE)
    assert is_this_machines(placed[-1])
    run = json.loads((tmp_path / "search/tuned/lf_dnn/seed20/run.json").read_text())
    own = {name: run["config"][name] for name in ("device", "num_workers", "native", "compile")}
    assert own == {"device": "auto", "num_workers": None, "native": True, "compile": False}
    mae = SENTIMENT.chosen_by.text(run["result"]["scores"]["mae"])
    cells = texts(check_page(tmp_path / "search" / "report.html"), "td")
    assert any(f"{float(mae):.3f}" == cell for cell in cells)
    tune(1)  # nothing is left to train


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_worker_without_the_device_that_it_is_given_takes_nothing(begun, main, tmp_path):
    begun(1)
    with pytest.raises(InputError, match=r"--device cuda:1: .* sees no CUDA device here"):
        main("--worker", "search", "--device", "cuda:1")
    assert waiting_in(tmp_path / "search") == [True]


def test_a_worker_does_not_wait_for_final_trainings_for_ever(tune, main, untested, monkeypatch):
    tune(1)
    monkeypatch.setattr(database, "LEASE", 0.1)
    monkeypatch.setattr(database, "BEAT", 0.01)
    main("--worker", "search", "--no_verbose")


def test_a_worker_takes_trials_that_are_added_while_it_waits(
    tune, main, untested, tmp_path, monkeypatch
):
    tune(1)
    add = [lambda: None, lambda: _add_one(tmp_path / "search")]
    monkeypatch.setattr("utils.studies.worker._runs_of_chosen", lambda *_: add.pop()())
    main("--worker", "search", "--no_verbose")
    assert [row["state"] for row in trials_of(tmp_path / "search")] == ["complete"] * 2


def _add_one(folder):
    storage = Storage(folder, None)
    Queue(storage.load("search"), storage).add("2", {})


def test_no_trial_can_be_added_once_one_is_chosen(tune, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("utils.studies.tune.run_study", _interrupt)
        tune(1)
    for dry_run in ["--dry_run"], []:
        with pytest.raises(InputError, match=r"^search: .* of 1 trials, so no more can be added"):
            tune(2, *dry_run)
    tune(1, "--dry_run")


def test_trials_that_are_added_meanwhile_are_waited_for(tune, tmp_path, monkeypatch):
    work = search.Search.work

    def let_one_join(self, queue, *arguments):
        work(self, queue, *arguments)
        if len(queue.runs) == 1:
            queue.add("2", {})

    monkeypatch.setattr(search.Search, "work", let_one_join)
    tune(1)
    assert [row["state"] for row in trials_of(tmp_path / "search")] == ["complete"] * 2


def test_the_final_trainings_are_in_the_same_database(tune, tmp_path):
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    tune(1, "--storage", url)
    pointer = json.loads((tmp_path / "search" / "tuned" / "study.json").read_text())
    assert pointer["storage"] == url
    assert not (tmp_path / "search" / "tuned" / FILE).exists()


def test_asking_for_fewer_trials_than_exist_keeps_them_all(tune, untested, capsys):
    tune(2)
    capsys.readouterr()
    tune(1)
    assert "Goes on: 2 of 2 trials have ended" in capsys.readouterr().out


def test_a_dry_run_shows_no_password(tune, capsys):
    tune(1, "--dry_run", "--storage", "postgresql+psycopg://me:secret@a/b")
    out = capsys.readouterr().out
    assert "postgresql+psycopg://me@a/b" in out
    assert "secret" not in out


def damaged(path):
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)


def truncated(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def foreign(path):
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE pupils (name TEXT)")


def of_another_program(path):
    path.unlink()
    optuna.create_study(storage=f"sqlite:///{path}", study_name="mine")


def changed(*commands):
    """Return what changes a database by SQL."""

    def change(path):
        with sqlite3.connect(path) as database:
            for command in commands:
                database.execute(command)

    return change


without_a_study = changed("UPDATE study_user_attributes SET value_json = '[1' WHERE key = 'about'")
nested = changed(f"UPDATE study_user_attributes SET value_json = '{'[' * 100_000}'")
in_no_state = changed("UPDATE trials SET state = 'ODD'")
without_config = changed("UPDATE study_user_attributes SET value_json = '5' WHERE key = 'config'")
without_time = changed("UPDATE trials SET datetime_start = 'x'")
with_a_trigger = changed("CREATE TRIGGER t AFTER UPDATE ON trials BEGIN DELETE FROM trials; END")
endless = changed(
    "ALTER TABLE studies RENAME TO others",
    "CREATE VIEW studies AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT x AS study_id, 'search' AS study_name FROM c",
)


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged, "study.db: the study's database cannot be used"),
        (truncated, "study.db: the study"),
        (foreign, "study.db is a database of another program"),
        (of_another_program, "holds a study of another program, 'mine'"),
        (without_a_study, "study.db: the study's database cannot be used .*Expecting"),
        (a_folder, "study.db: the study's database cannot be used .*unable to open"),
        (nested, "study.db: the study's database cannot be used .*recursion"),
        (in_no_state, "study.db: the study's database cannot be used .*'ODD'"),
        (without_config, "study.db: the study is damaged .*'int' object is not"),
        (without_time, "study.db: the study's database cannot be used .*'x'"),
        (with_a_trigger, "study.db is a database of another program"),
        (endless, "study.db is a database of another program"),
    ],
)
@pytest.mark.parametrize("way", ["tune", "worker"])
def test_a_damaged_or_foreign_database_is_reported_in_one_line(
    tune, main, tmp_path, untested, damage, message, way
):
    tune(1)
    path = tmp_path / "search" / FILE
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InputError, match=message) as caught:
        tune(1) if way == "tune" else main("--worker", "search")
    assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_tuned_configurations_are_compared(tune, main, small, tmp_path, untested):
    tune(2)
    compare = ["--compare", "search/run.json", "lf_dnn", "--datadir", small, "--no_verbose"]
    main(*compare, "--epochs", 1, "--seeds", 1, "--checkpointdir", "compared")
    chosen = json.loads((tmp_path / "search" / "run.json").read_text())["config"]
    of_file, published = (
        json.loads((tmp_path / "compared" / name / "seed1" / "run.json").read_text())["config"]
        for name in ("search", "lf_dnn")
    )
    assert (of_file["lr"], of_file["set"]) == (chosen["lr"], chosen["set"])
    assert (published["lr"], published["set"]) == (0.002, {})
    assert of_file["epochs"] == 1
    main("--table", ".", "--resultdir", "table")  # a search's run.json is not a run


def test_files_that_would_share_a_folder_are_refused(tune, main, capsys, untested):
    tune(1)
    with pytest.raises(SystemExit):
        main("--compare", "search/run.json", "search/run.json")
    assert "two runs have the name search; rename" in capsys.readouterr().err


def test_a_dry_run_of_a_search_writes_nothing(tune, tmp_path, capsys, untested):
    tune(5, "--dry_run")
    out = capsys.readouterr().out
    assert "Search of 5 trials in search: new" in out
    assert "lr: 0.0001 to 0.01, by its logarithm" in out
    assert not (tmp_path / "search").exists()
    tune(1)
    before = contents(tmp_path / "search")
    tune(5, "--dry_run")
    assert "Search of 5 trials in search: goes on" in capsys.readouterr().out
    assert contents(tmp_path / "search") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train"], "not allowed with argument"),
        (["--worker", "a"], "not allowed with argument"),
        (["--resume", "auto"], "--resume goes with --train"),
        (["--overwrite"], "--overwrite goes with --train, --compare or --ablate"),
        (["--predict", "a"], "--predict and --tune exclude each other"),
        (["--robustness"], "--robustness and --tune exclude each other"),
        (["--export", "a.onnx"], "--export and --tune exclude each other"),
        (["--same_settings"], "--same_settings goes with --compare"),
    ],
)
def test_options_that_do_not_fit_a_search_are_refused(tune, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        tune(1, *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "a.json", "--train"], "--space goes with --tune"),
        (
            ["--storage", "sqlite:///a.db", "--train"],
            "--storage goes with --compare, --ablate, --tune or --worker",
        ),
        (["--tune", "0"], "expected a whole number of at least 1 and at most 2147483647, got '0'"),
        (["--worker", "a", "--lr", "0.1"], "takes its settings from a: leave --lr out"),
        (["--worker", "a", "--checkpointdir", "b"], "leave --checkpointdir out"),
        (["--worker", "a", "--dry_run"], "--worker and --dry_run exclude each other"),
        (["--worker", "a", "--seeds", "1"], "--worker and --seeds exclude each other"),
        (["--worker", "a", "--config", "b.json"], "--worker and --config exclude each other"),
    ],
)
def test_options_of_searches_and_workers_that_do_not_fit_are_refused(
    main, tmp_path, arguments, message, capsys
):
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        main(*arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no_save"], "leave --checkpoint and --no_save out"),
        (["--checkpoint", "a.pth"], "leave --checkpoint and --no_save out"),
        (["--set", "dropout=0.1", "--lr", "0.1"], "space.json leaves nothing to search"),
        (["--model", "lf_dmn"], "there is no such model"),
        (["--finetune_bert"], "has no pieces50.npy"),
        (["--config", "gone.json"], "^No file gone.json; give"),
        (["--datadir", "gone"], "No folder gone/train"),
        (["--storage", "nothing"], "--storage: the study's database cannot be used"),
        (["--storage", "sqlite:////gone/a.db"], "gone/a.db: the study's database cannot be used"),
        (["--storage", "nosuch://a/b"], "--storage: the study's database|nosuch://a/b: the study"),
    ],
)
def test_a_search_that_cannot_run_is_refused_before_anything_is_written(
    tune, tmp_path, arguments, message
):
    with pytest.raises(InputError, match=message) as caught:
        tune(1, *arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "search").exists()


def test_a_model_without_a_space_is_refused(main, small, tmp_path):
    from tests.own_model import OWN_MODEL

    (tmp_path / "mine.py").write_text(OWN_MODEL)
    with pytest.raises(InputError, match=r"no search space for mine.py:Mean .*give one: --space"):
        main("--tune", 1, "--model", "mine.py:Mean", "--datadir", small)


def test_a_model_of_ones_own_is_searched(tune, tmp_path, untested):
    from tests.own_model import OWN_MODEL

    own = tmp_path / "mine.py"
    own.write_text(OWN_MODEL)
    options = {"model": "mine.py:Mean", "space": {"hidden": [4, 8], "lr": [0.01, 0.001]}}
    tune(2, **options)
    assert {row["state"] for row in trials_of(tmp_path / "search")} == {"complete"}
    own.write_text(OWN_MODEL.replace("nn.ReLU", "nn.Tanh"))
    with pytest.raises(InputError, match=r"a search with model file [0-9a-f]+, this one is"):
        tune(2, **options)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")
    about = study.user_attrs["about"]
    del about["model file"]  # as older studies
    study.set_user_attr("about", about)
    tune(2, **options)


def test_another_database_is_named_in_the_folder_and_used_from_then_on(tune, tmp_path, untested):
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    tune(1, "--storage", url)
    assert not (tmp_path / "search" / FILE).exists()
    pointer = json.loads((tmp_path / "search" / "study.json").read_text())
    assert pointer["storage"] == url
    tune(2)
    tune(2, "--storage", url)
    assert len(trials_of(tmp_path / "search")) == 2
    tune(1, "--storage", url, folder="second")  # in the same database
    assert len(trials_of(tmp_path / "second")) == 1
    with pytest.raises(InputError, match=r"study in '.*elsewhere.db', but --storage says .*b.db"):
        tune(2, "--storage", f"sqlite:///{tmp_path / 'b.db'}")
    tune(1, folder="third")
    with pytest.raises(InputError, match=r"third has its study in study.db; leave --storage out"):
        tune(1, "--storage", url, folder="third")


def test_a_search_is_not_for_torchrun(small, tmp_path):
    from system.processes import Processes
    from utils.studies.search import Search
    from utils.studies.tune import tune as run_search
    from utils.studies.worker import work_in

    folder = tmp_path / "my search"
    search_of_two = Search(RunConfig(datadir=small, checkpointdir=folder), {})
    for function in (
        lambda: run_search(search_of_two, 1, processes=Processes(2, 0, 0)),
        lambda: work_in(folder, {}, None, Processes(2, 0, 0)),
    ):
        message = rf"--worker go without torchrun; .* with --worker '{folder}'\."
        with pytest.raises(InputError, match=message):
            function()


@pytest.mark.painted
@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_picture_is_drawn_of_any_number_of_trials(tmp_path, count):
    states = [TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE]
    trials = [
        optuna.create_trial(
            state=states[number % 3], value=1 / number, user_attrs={"run": str(number)}
        )
        for number in range(1, count + 1)
    ]
    importance = {"lr": 0.8, "a_$name$": 0.2} if count > 1 else {}
    plot_search(tmp_path / "search.png", trials, importance, SENTIMENT.chosen_by)
    check_png(tmp_path / "search.png", 1200, 480)
