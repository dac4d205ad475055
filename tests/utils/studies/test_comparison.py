"""Comparisons and ablations: which runs are trained, with which settings, and how they resume."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from filelock import FileLock
from optuna.trial import TrialState

import main_msaf
from models.registry import MODELS, build
from system.errors import InputError
from system.processes import SINGLE_PROCESS, Processes
from tests.own_model import OWN_MODEL
from tests.programs.test_runs import contents, with_other_labels
from utils.run_config import RunConfig
from utils.studies import comparison, comparison_queue, plot, run_states
from utils.studies.ablations import ABLATIONS, ablation_name
from utils.studies.comparison import plan_runs, run_study
from utils.studies.queue import Queue, run_of
from utils.studies.storage import Storage
from utils.training import run as training
from utils.training.losses import Diverged
from utils.training.run_folder import RUN_FILE, lock_run_folder
from utils.training.step import TrainingStep
from utils.training.trainer import Trainer


def study(*arguments):
    """The configurations of a command line."""
    parser = main_msaf.build_parser()
    return main_msaf.parse_study(parser, vars(parser.parse_args(list(map(str, arguments)))))


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The folders of the trainings that are started; pictures, which take long, are not drawn."""
    folders, train = [], run_states.train

    def note(config, *arguments, **options):
        folders.append("/".join(config.checkpointdir.parts[-2:]))
        return train(config, *arguments, **options)

    monkeypatch.setattr(run_states, "train", note)
    monkeypatch.setattr(training, "_write_results", lambda *_: (tmp_path, []))
    monkeypatch.setattr(training, "write_training_report", lambda *_: None)
    monkeypatch.setattr(plot, "plot_comparison", lambda path, *_: path.touch())
    return folders


@pytest.fixture
def compare(small, tmp_path, trained):
    """Compare small models: `compare("lf_dnn", "--lr", 0.1, seeds=[1])` returns the new runs."""

    def run(
        *arguments,
        seeds=(1, 2),
        folder="study",
        datadir=small,
        processes=SINGLE_PROCESS,
        **options,
    ):
        paths = ["--datadir", datadir, "--checkpointdir", tmp_path / folder, "--no_verbose"]
        configs = study("--compare", *arguments, "--epochs", 2, *paths)
        trained.clear()
        run_study(configs, seeds, processes, **options)
        return trained[:]

    return run


@pytest.fixture
def begun_run(compare, tmp_path):
    """The folder of a run of lf_dnn that was interrupted after its last epoch."""
    compare("lf_dnn", seeds=[1])
    folder = tmp_path / "study" / "lf_dnn" / "seed1"
    record = json.loads((folder / RUN_FILE).read_text())
    (folder / RUN_FILE).write_text(json.dumps({**record, "result": None}))
    return folder


def table_of(folder):
    """The rows of a study's table, without speeds, which differ between runs."""
    rows = json.loads((folder / "comparison.json").read_text())["rows"]
    return {row["model"]: {**row, "samples_per_second": 0, "runs": [*row["runs"]]} for row in rows}


def test_each_model_is_trained_once_a_seed_and_tabulated(compare, tmp_path):
    assert compare("lf_dnn", "lmf") == ["lf_dnn/seed1", "lf_dnn/seed2", "lmf/seed1", "lmf/seed2"]
    rows = table_of(tmp_path / "study")
    assert list(rows) == ["lf_dnn", "lmf"]
    for name, row in rows.items():
        records = [
            json.loads((tmp_path / "study" / name / f"seed{seed}" / RUN_FILE).read_text())
            for seed in row["runs"]
        ]
        maes = [record["result"]["scores"]["mae"] for record in records]
        assert row["scores"]["mae"]["mean"] == pytest.approx(sum(maes) / 2)
        assert maes[0] != maes[1]
        assert row["parameters"] > 1000
        assert row["flops"] > row["parameters"]


def test_what_is_complete_is_not_trained_again_unless_overwritten(compare, tmp_path):
    compare("lf_dnn", seeds=[1])
    before = contents(tmp_path / "study" / "lf_dnn")
    assert compare("lf_dnn", seeds=[1]) == []
    assert contents(tmp_path / "study" / "lf_dnn") == before
    assert compare("lf_dnn", seeds=[1], overwrite=True) == ["lf_dnn/seed1"]


def test_no_run_is_removed_for_a_comparison_that_cannot_start(compare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare("lf_dnn")
    runs = tmp_path / "study" / "lf_dnn"
    shutil.copytree(runs, tmp_path / "search" / "lf_dnn")
    Storage(tmp_path / "search", None).create("search", {})
    before = contents(runs)
    with pytest.raises(InputError, match="search holds a search, this is a comparison"):
        compare("lf_dnn", folder="search", overwrite=True)
    (tmp_path / "file").touch()
    for processes in (SINGLE_PROCESS, Processes(2, 0, 0)):
        with pytest.raises(FileExistsError):
            compare("lf_dnn", "--resultdir", "file", overwrite=True, processes=processes)
    with lock_run_folder(runs / "seed2"), pytest.raises(InputError, match=r"Another .*seed2"):
        compare("lf_dnn", overwrite=True)
    assert contents(tmp_path / "search" / "lf_dnn") == contents(runs) == before


def test_models_and_seeds_may_be_added_on_later_days(compare, tmp_path):
    compare("lf_dnn", seeds=[1])
    assert compare("lmf", seeds=[1]) == ["lmf/seed1"]
    assert compare("lmf", seeds=[1, 2]) == ["lmf/seed2"]
    rows = table_of(tmp_path / "study")
    assert {name: row["runs"] for name, row in rows.items()} == {"lf_dnn": ["1"], "lmf": ["1", "2"]}


def test_what_a_table_lacks_is_told_once_not_after_every_run(compare, capsys):
    compare("lf_dnn")  # of which no predictions are written here
    assert capsys.readouterr().out.count("Differences and errors leave out these models") == 1


def test_processes_under_torchrun_train_each_run_together(small, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(run_states, "train", lambda config, *_, **__: taken.append(config))
    monkeypatch.setattr(comparison, "tabulate", lambda *_: None)
    monkeypatch.setattr(run_states, "write_study", lambda *_: None)
    paths = ["--datadir", small, "--checkpointdir", tmp_path / "study"]
    run_study(study("--compare", "lf_dnn", "lmf", *paths), [1, 2], Processes(2, 0, 0))
    names = ["lf_dnn/seed1", "lf_dnn/seed2", "lmf/seed1", "lmf/seed2"]
    assert ["/".join(config.checkpointdir.parts[-2:]) for config in taken] == names
    assert not (tmp_path / "study").exists()  # nothing is enqueued


@pytest.mark.parametrize("step", [3, 7])  # of 5 in an epoch
def test_an_interrupted_comparison_resumes_its_unfinished_run(compare, tmp_path, monkeypatch, step):
    options = ["lf_dnn", "lmf", "--same_settings"]
    compare(*options, seeds=[1], folder="whole")
    taken, take = [], TrainingStep.__call__

    after_step = Trainer._after_step

    def count(self, *arguments):
        taken.append(1)
        return take(self, *arguments)

    def stop(self, *arguments):
        after_step(self, *arguments)
        if len(taken) == 10 + step:  # in the second run
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingStep, "__call__", count)
    monkeypatch.setattr(Trainer, "_after_step", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(*options, seeds=[1])
    assert list(table_of(tmp_path / "study")) == ["lf_dnn"]
    assert compare(*options, seeds=[1]) == ["lmf/seed1"]
    assert len(taken) == 20  # each step of both once
    assert table_of(tmp_path / "study") == table_of(tmp_path / "whole")


def test_a_run_killed_during_its_first_save_begins_again_in_its_place(compare, tmp_path):
    compare("lmf", "lf_dnn", seeds=[1], folder="whole")
    study = shutil.copytree(tmp_path / "whole", tmp_path / "study")
    for day, name in enumerate(("lmf", "lf_dnn"), start=1):
        path = study / name / "seed1" / RUN_FILE
        began = {"started": f"2020-01-0{day}T00:00:00+00:00"}
        began |= {"result": None, "ended": None} if name == "lmf" else {}
        path.write_text(json.dumps(json.loads(path.read_text()) | began))
    (study / "lmf" / "seed1" / "last.pth").unlink()
    assert compare("lmf", "lf_dnn", seeds=[1]) == ["lmf/seed1"]
    assert table_of(study) == table_of(tmp_path / "whole")
    assert list(table_of(study)) == ["lmf", "lf_dnn"]  # the first is what others are compared with


def test_a_run_without_a_result_gets_it_without_training_again(compare, tmp_path, monkeypatch):
    compare("lf_dnn", seeds=[1])
    before, path = table_of(tmp_path / "study"), tmp_path / "study" / "lf_dnn" / "seed1" / RUN_FILE
    record = json.loads(path.read_text())
    del record["result"]  # as runs were written before there was one
    path.write_text(json.dumps(record))
    monkeypatch.setattr(TrainingStep, "__call__", None)
    assert compare("lf_dnn", seeds=[1]) == ["lf_dnn/seed1"]
    assert table_of(tmp_path / "study") == before


def test_a_folder_with_a_run_of_other_settings_or_data_is_refused(compare, small, tmp_path):
    compare("lf_dnn", seeds=[1])
    before = contents(tmp_path)
    for options, message in {
        ("--lr", "0.5"): r"lr 0.002, this one is 0.5; give .*--checkpointdir",
        ("--set", "dropout=0.5"): "set the defaults, this one is dropout=0.5; ",
    }.items():
        with pytest.raises(InputError, match=message):
            compare("lmf", "lf_dnn", *options, seeds=[1])
    other = shutil.copytree(small, tmp_path.parent / f"{tmp_path.name}-other")
    with_other_labels(other)
    with pytest.raises(InputError, match=r"lf_dnn/seed1 holds a run with train [0-9a-f]+"):
        compare("lmf", "lf_dnn", seeds=[1], datadir=other)
    assert contents(tmp_path) == before  # nothing was trained before the error


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_folder_with_a_run_of_another_task_is_refused_before_training(compare, tmp_path, dry_run):
    """One table cannot have both."""
    compare("lf_dnn", seeds=[1])
    folder = tmp_path / "study" / "emotion" / "seed1"
    (tmp_path / "study" / "lf_dnn" / "seed1").rename(folder.parent.mkdir() or folder)
    record = json.loads((folder / RUN_FILE).read_text())
    record["config"]["task"] = "emotion"
    (folder / RUN_FILE).write_text(json.dumps({**record, "result": None}))
    compare("lmf", seeds=[1], dry_run=True)  # one that has not ended is in no table
    (folder / RUN_FILE).write_text(json.dumps(record))
    before = contents(tmp_path)
    message = r"emotion/seed1 has other .* emotion of mosei, .*give another --checkpointdir than"
    with pytest.raises(InputError, match=message):
        compare("lmf", seeds=[1], dry_run=dry_run)
    assert contents(tmp_path) == before


def test_a_folder_with_a_damaged_record_is_refused_before_training(compare, tmp_path):
    folder = tmp_path / "study" / "mult" / "seed1"
    folder.mkdir(parents=True)
    (folder / RUN_FILE).write_text("{")
    with pytest.raises(InputError, match=r"mult/seed1/run.json cannot be read .*--checkpointdir"):
        compare("lf_dnn", seeds=[1])
    assert not (tmp_path / "study" / "lf_dnn").exists()


def test_runs_of_different_tasks_are_not_compared(small, tmp_path):
    (tmp_path / "a.json").write_text('{"model": "lf_dnn", "task": "emotion"}')
    with pytest.raises(InputError, match=r"^a/seed20 is for the task emotion, lmf/seed20 for sent"):
        run_study(
            study("--compare", "lmf", tmp_path / "a.json", "--datadir", small), None, SINGLE_PROCESS
        )


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_model_that_cannot_be_built_is_refused_before_training(small, tmp_path, dry_run):
    paths = ["--datadir", small, "--checkpointdir", tmp_path / "study"]
    configs = study("--ablate", *paths)
    configs["width=16"] = replace(configs["width=16"], set={"width": 16, "heads": 16})
    with pytest.raises(InputError, match=r"^width=16/seed1: .*width 16 is not divisible") as caught:
        run_study(configs, [1, 2], SINGLE_PROCESS, dry_run=dry_run)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_a_complete_run_is_kept_when_its_model_can_no_longer_be_built(compare, monkeypatch):
    compare("lf_dnn", seeds=[1])
    monkeypatch.setattr(comparison, "open_training", None)
    assert compare("lf_dnn", seeds=[1]) == []


def test_models_are_tried_as_they_will_be_trained(compare, begun_run, monkeypatch):
    """One that goes on takes its text encoder from its file; several processes share batches."""
    tried = []
    monkeypatch.setattr(comparison, "open_training", lambda *_, **options: tried.append(options))
    compare("lf_dnn", seeds=[1, 2, 3], dry_run=True, processes=Processes(2, 0, 0))
    assert [options["resumed"] for options in tried] == [begun_run / "last.pth", None]
    assert {options["processes"].count for options in tried} == {2}


def test_a_folder_with_weights_but_no_record_is_refused_before_training(compare, tmp_path):
    folder = tmp_path / "study" / "lf_dnn" / "seed1"
    folder.mkdir(parents=True)
    (folder / "best.pth").touch()
    with pytest.raises(InputError, match=r"seed1 holds best.pth, but no run.json .*; move"):
        compare("lmf", "lf_dnn", seeds=[1], dry_run=True)


def test_an_edited_model_of_ones_own_is_refused(compare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    assert compare("mine.py:Mean", "--same_settings", seeds=[1]) == ["mine.py_Mean/seed1"]
    (tmp_path / "mine.py").write_text(OWN_MODEL.replace("ReLU", "Tanh"))
    with pytest.raises(InputError, match=r"seed1 holds a run with model file [0-9a-f]{64}, this"):
        compare("mine.py:Mean", "--same_settings")
    path = tmp_path / "study/mine.py_Mean/seed1" / RUN_FILE
    record = json.loads(path.read_text())
    del record["model_digest"]  # as earlier versions wrote it
    path.write_text(json.dumps(record))
    assert compare("mine.py:Mean", "--same_settings") == ["mine.py_Mean/seed2"]


@pytest.fixture
def begun(compare, monkeypatch):
    """Begin a comparison of which no run is taken; same arguments as `compare`."""

    def begin(*arguments, **options):
        with monkeypatch.context() as patch:
            patch.setattr(comparison_queue, "work_on_runs", lambda *_: None)
            with pytest.raises(InputError, match="has not ended: it was taken back"):
                compare(*arguments, **options)

    return begin


def queue_in(folder):
    storage = Storage(folder, None)
    return Queue(storage.load(comparison_queue.NAME), storage)


def waiting_in(folder):
    """The runs that wait, with their learning rates."""
    waiting = [one for one in queue_in(folder).trials if one.state == TrialState.WAITING]
    return [(run_of(one), one.user_attrs["config"]["lr"]) for one in waiting]


def test_the_last_command_decides_which_runs_wait(begun, tmp_path):
    begun("lf_dnn", "lmf", "--lr", 0.1, seeds=[1])
    begun("lf_dnn", "--lr", 0.1, seeds=[1, 2])
    assert waiting_in(tmp_path / "study") == [("lf_dnn/seed1", 0.1), ("lf_dnn/seed2", 0.1)]
    begun("lf_dnn", "--lr", 0.2, seeds=[1])
    assert waiting_in(tmp_path / "study") == [("lf_dnn/seed1", 0.2)]


def test_runs_of_other_processes_are_left_to_them(begun, compare, tmp_path):
    begun("lf_dnn", "lmf", "--lr", 0.1, seeds=[1])
    queue_in(tmp_path / "study").study.ask()  # a worker takes lf_dnn
    begun("lf_dnn", "--lr", 0.1, seeds=[1])
    assert waiting_in(tmp_path / "study") == [("lmf/seed1", 0.1)]
    assert queue_in(tmp_path / "study").open_runs == ["lf_dnn/seed1", "lmf/seed1"]
    folder = tmp_path / "study" / "lf_dnn" / "seed1"
    folder.mkdir(parents=True)
    (folder / "last.pth").touch()
    with pytest.raises(InputError, match=r"Another process trains .*lf_dnn/seed1 with other"):
        compare("lf_dnn", "--lr", 0.2, seeds=[1], overwrite=True)
    assert (folder / "last.pth").exists()


def test_a_running_model_of_an_earlier_version_may_be_that_of_its_file(
    begun, compare, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    options = ["mine.py:Mean", "--same_settings"]
    with monkeypatch.context() as patch:
        patch.setattr(run_states, "model_digest", lambda _: None)
        begun(*options, seeds=[1])
    queue_in(tmp_path / "study").study.ask()  # a worker takes it
    begun(*options, seeds=[1])
    with pytest.raises(InputError, match=r"Another process trains .*seed1 with other"):
        compare(*options, "--lr", 0.2, seeds=[1])


def test_a_run_whose_folder_is_in_use_is_tried_again(compare, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "study" / "lf_dnn" / "seed1"
    folder.mkdir(parents=True)
    lock = FileLock(folder / ".run.lock")
    lock.acquire()
    monkeypatch.setattr("utils.studies.queue.time.sleep", lambda _: lock.release())
    compare("lf_dnn", seeds=[1])
    assert json.loads((folder / RUN_FILE).read_text())["result"] is not None
    assert f"Another training is writing into {folder}: its run waits" in capsys.readouterr().out


def test_a_training_ends_when_its_run_is_taken_back(compare, tmp_path, monkeypatch, capsys):
    train = run_states.train

    def lose(config, options, resume, overwrite, after_epoch):
        def take_and_go_on(epoch):
            queue = queue_in(tmp_path / "study")
            queue.take_back(queue.trials[0], "taken")
            after_epoch(epoch)

        return train(config, options, resume, overwrite, take_and_go_on)

    monkeypatch.setattr(run_states, "train", lose)
    with pytest.raises(InputError, match=r"lf_dnn/seed1 has not ended: taken; run the same"):
        compare("lf_dnn", seeds=[1])
    assert "lf_dnn/seed1 was taken from this process" in capsys.readouterr().err
    assert (
        json.loads((tmp_path / "study/lf_dnn/seed1" / RUN_FILE).read_text()).get("result") is None
    )


def test_each_run_that_failed_is_named_and_the_others_are_tabulated(compare, tmp_path, monkeypatch):
    train = run_states.train

    def diverge(config, *arguments):
        if "lmf" in str(config.checkpointdir):
            raise Diverged("The loss is nan")
        return train(config, *arguments)

    monkeypatch.setattr(run_states, "train", diverge)
    with pytest.raises(InputError, match=r"lmf/seed1 has not .* nan; .*lmf/seed2 has not .* nan;"):
        compare("lmf", "lf_dnn")
    assert list(table_of(tmp_path / "study")) == ["lf_dnn"]


def test_two_names_of_one_folder_are_refused():
    configs = {"a b": RunConfig(), "a_b": RunConfig()}
    with pytest.raises(InputError, match=r"a b and a_b would share the folder a_b; rename one"):
        plan_runs(configs)


def test_a_dry_run_of_a_comparison_writes_nothing(compare, tmp_path, capsys):
    compare("lf_dnn", seeds=[1])
    before = contents(tmp_path)
    capsys.readouterr()
    assert compare("lf_dnn", "lmf", seeds=[1], dry_run=True) == []
    first, second = capsys.readouterr().out.splitlines()
    assert "Run 1 of 2" in first
    assert "lf_dnn/seed1: complete" in first
    assert "lmf/seed1: new, 2 epochs in batches of 32" in second
    assert contents(tmp_path) == before


def test_models_are_compared_as_published_but_options_take_precedence():
    configs = study("--compare", *MODELS)
    assert (configs["tfn"].lr, configs["tfn"].batch_size, configs["mult"].grad_clip) == (
        *(0.005, 128),
        0.8,
    )
    assert {config.lr for config in study("--compare", *MODELS, "--lr", 0.5).values()} == {0.5}


def test_with_same_settings_configurations_differ_in_the_model_alone():
    configs = study("--compare", "mult", "tfn", "--same_settings", "--batch_size", 7)
    first, second = (config.outcome | {"model": None} for config in configs.values())
    assert first == second
    assert configs["tfn"].batch_size == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "lf_dnn", "--train"], "not allowed with argument"),
        (["--compare", "lf_dnn", "--ablate"], "not allowed with argument"),
        (["--compare", "lf_dnn", "--model", "mult"], "without --model"),
        (["--compare", "lf_dnn", "--config", "a.json"], "--config for --same_settings"),
        (["--compare", "lf_dnn", "--resume", "auto"], "--resume goes with --train"),
        (["--ablate", "--same_settings"], "--same_settings goes with --compare"),
    ],
)
def test_options_that_exclude_each_other_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        study(*arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "lf_dnn", "--no_save"], "leave --checkpoint and --no_save out"),
        (["--compare", "lf_dnn", "--checkpoint", "a.pth"], "leave --checkpoint"),
        (["--compare", "lf_dmn"], "no such model"),
        (
            ["--compare", "nhfnet", "lmf", "--set", "rank=4"],
            r"^--compare nhfnet \(--set counts for all models\): --set rank=4: .* setting 'rank'",
        ),
        (["--ablate", "--model", "mult"], "takes nhfnet apart, not mult"),
    ],
)
def test_configurations_that_cannot_be_compared_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        plan_runs(study(*arguments))


def test_a_run_that_started_from_a_checkpoint_is_not_compared(tmp_path):
    """Trained from scratch, it would be another experiment."""
    path = tmp_path / "run.json"
    path.write_text('{"config": {"model": "lf_dnn", "checkpoint": "a.pth"}}')
    with pytest.raises(InputError, match=rf"^--compare {path}: this run started from a.pth, but"):
        study("--compare", path)
    with pytest.raises(InputError, match="leave --checkpoint and --no_save out"):
        plan_runs(study("--compare", path, "--checkpoint", "b.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "^No file .*run.json; give the run.json of a run"),
        ("[]", "^/.*run.json holds no settings"),
        ('{"lr": "fast"}', "^/.*run.json: lr is 'fast'"),
    ],
)
def test_a_file_that_cannot_be_compared_is_named_without_config(tmp_path, content, message):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        study("--compare", path)


def test_a_folder_in_place_of_a_run_json_is_told_as_such(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(InputError, match=r"run.json is a folder, pipe or device; give the run.jso"):
        study("--compare", tmp_path / "run.json")


def test_a_model_of_ones_own_is_compared_with_its_settings_or_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    message = r"not known how mine.py:Mean was trained .*without --config, or .* --same_settings"
    with pytest.raises(InputError, match=message):
        study("--compare", "mine.py:Mean")
    (run,) = plan_runs(study("--compare", "mine.py:Mean", "--same_settings"))
    assert run.checkpointdir.parts[-2:] == ("mine.py_Mean", "seed20")


def test_every_ablation_is_a_different_nhfnet():
    runs = plan_runs(study("--ablate", "--set", "feedforward=16"), [1])
    assert len({run.checkpointdir for run in runs}) == len(ABLATIONS) == len(runs)
    assert "set" not in {key for run in runs for key in run.set}
    for run in runs:
        assert run.set["feedforward"] == 16
        build(run.model, run.set, {"visual": 35, "audio": 74, "text": 8}, 1)
    assert "aggregation_tokens=0" in str(runs[1].checkpointdir)


def test_an_ablation_that_the_configuration_already_has_is_left_out():
    runs = plan_runs(study("--ablate", "--set", "heads=4"))
    names = [run.checkpointdir.parts[-2] for run in runs]
    assert len(names) == len(ABLATIONS) - 1
    assert names[0] == "nhfnet"
    assert "heads=4" not in names


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        (
            "modalities=text",
            "aggregation_tokens=0 token_init=learned fusion_passes=1 cross_modal=False "
            "modalities=text wiring=figure",
        ),
        ("modalities=audio,text", "aggregation_tokens=0 token_init=learned modalities=text,audio"),
        ("aggregation_tokens=0", "aggregation_tokens=0 token_init=learned"),
        ("heads=6 width=48", "width=16"),
    ],
)
def test_changes_that_change_no_model_or_cannot_be_built_are_left_out(settings, left_out, capsys):
    runs = study("--ablate", "--set", *settings.split())
    names, left_out = map(ablation_name, ABLATIONS), left_out.split()
    assert list(runs) == [name for name in names if name not in left_out]
    lines = capsys.readouterr().out.splitlines()
    for line, name in zip(lines, left_out, strict=True):
        assert line.startswith(f"Left out: {name}")


def test_an_ablation_of_impossible_settings_is_refused():
    with pytest.raises(InputError, match="width 32 is not divisible by twice 6 heads"):
        study("--ablate", "--set", "heads=6")
