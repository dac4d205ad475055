"""A training that is killed and resumed ends with the checkpoint it would have had."""

from __future__ import annotations

import random
import shutil
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from models.checkpoint import read_checkpoint
from system import console
from system.devices import pick_device
from system.errors import InputError
from system.torch_file import load_torch_file
from tests.cuda import DEVICES
from tests.forked_programs import Program
from tests.utils.training.test_trainer import CPU, make_trainer
from utils.training import trainer
from utils.training.step import TrainingStep

KILLS = 4


def training(small, folder):
    """Start the program, or let it go on; it tells each step, and saves after each."""
    train = ["--train", "--resume", "auto", "--epochs", KILLS + 1, "--batch_size", 15]
    train += ["--scheduler", "cosine", "--grad_clip", 0.5, "--save_every", 1, "--log_interval", 1]
    places = ["--checkpointdir", folder, "--resultdir", folder / "result", "--datadir", small]
    return Program("main_msaf.py", *train, *places, "--device", "cpu")


def run_to_the_end(small, folder):
    with training(small, folder) as program:
        assert program.end() == 0, program.text


def kill_training(small, folder, moment):
    """Start the training and kill it at a moment: so many such lines later, so many seconds."""
    line, times, seconds = moment
    with training(small, folder) as program:
        program.wait_for(line, times)
        time.sleep(seconds)
        program.send(signal.SIGKILL)
        return program.end()


def draw_moment(rng):
    """Draw when to kill: about a step and its saving, or about the savings after an epoch."""
    line, times = rng.choice([("  step", rng.randint(1, 5)), ("  test", 1)])
    return line, times, rng.uniform(0, 0.08)


def assert_same(first, second, where=""):
    """Hold two values against each other bit for bit; only an epoch's speed may differ."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for name in first.keys() - {"speed"}:
            assert_same(first[name], second[name], f"{where}/{name}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert first == second, where


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments_it_ends_bit_for_bit_the_same(small, tmp_path, seed):
    whole, killed, rng = tmp_path / "whole", tmp_path / "killed", random.Random(seed)
    run_to_the_end(small, whole)
    for _ in range(KILLS):
        moment = draw_moment(rng)
        print("Killing it at", moment)
        assert kill_training(small, killed, moment) == -signal.SIGKILL
    run_to_the_end(small, killed)
    for name in ("last.pth", "best.pth"):
        expected, found = (vars(read_checkpoint(folder / name)) for folder in (whole, killed))
        del expected["path"], found["path"]
        assert_same(found, expected, name)
    left = {path.name for path in killed.glob(".*")}
    assert left <= {".run.lock"}  # nothing half-written


def test_a_training_that_goes_on_in_another_folder_has_its_best_there(main, small, tmp_path):
    options = ("--datadir", small, "--train", "--epochs", 1, "--no_verbose")
    main(*options, "--checkpointdir", tmp_path / "one")
    main(*options, "--checkpointdir", tmp_path / "two", "--resume", tmp_path / "one" / "last.pth")
    one, two = (read_checkpoint(tmp_path / name / "best.pth") for name in ("one", "two"))
    assert_same(two.weights, one.weights)
    assert two.details["scores"] == one.details["scores"]
    tables = [(tmp_path / name / "metrics.csv").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1]


def stop_at_step(patch, number):
    """Interrupt trainings at a step of all that are taken."""
    taken, step = [], TrainingStep.__call__

    def stop(self, *arguments):
        taken.append(arguments)
        if len(taken) == number:
            raise KeyboardInterrupt
        return step(self, *arguments)

    patch.setattr(TrainingStep, "__call__", stop)


def assert_same_files(tmp_path):
    """Compare all that the run in `two` has kept with that in `whole`."""
    for name in ("last.pth", "best.pth"):
        found, expected = (
            vars(read_checkpoint(tmp_path / folder / name)) for folder in ("two", "whole")
        )
        del expected["path"], found["path"]
        assert_same(found, expected, name)


def resumed(make, folder, position):
    """Take up the training `make(folder)`, which was saved at this epoch and step."""
    trainer = make(folder)
    trainer.resume(folder / "last.pth")
    assert (trainer.state.epoch, trainer.state.step) == position
    return trainer


def assert_a_stop_changes_nothing(make, steps, tmp_path, monkeypatch):
    """Stop `make(folder)` at the third step of its second epoch; an epoch has so many `steps`."""
    make(tmp_path / "whole").run()
    stopped = make(tmp_path / "two")
    stop_at_step(monkeypatch, steps + 3)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    torch.manual_seed(1)  # whatever else has drawn meanwhile
    resumed(make, tmp_path / "two", (2, 2)).run()
    assert_same_files(tmp_path)
    # Results are named by the file's bytes.
    both = ((tmp_path / folder / "best.pth").read_bytes() for folder in ("two", "whole"))
    assert next(both) == next(both)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["nhfnet", "lf_dnn"])
def test_stopped_within_an_epoch_it_ends_bit_for_bit_the_same(
    small, tmp_path, monkeypatch, model, device
):
    """Models with dropout keys of their own, and those that draw from PyTorch's generator."""
    loading = replace(CPU, device=pick_device(device))
    make = partial(make_trainer, small, options=loading, model=model, save_every=1)
    assert_a_stop_changes_nothing(make, 8, tmp_path, monkeypatch)


@pytest.fixture
def make(small):
    """Make a training without dropout keys: `make(folder)`."""
    return partial(make_trainer, small, model="lf_dnn")


@contextmanager
def handled(number, monkeypatch):
    """Have the signal handled as in the programs until the block ends."""
    before = signal.signal(number, console._interrupt)
    monkeypatch.setattr(console, "_interrupts", [])
    try:
        yield
    finally:
        signal.signal(number, before)
        console._interrupts.clear()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_the_step_that_it_met(make, tmp_path, monkeypatch, number):
    """The step is taken to its end, saved, and not taken again."""
    make(tmp_path / "whole").run()
    stopped, taken = make(tmp_path / "two"), []
    step = TrainingStep.__call__

    def interrupted(self, *arguments):
        taken.append(arguments)
        if len(taken) == 11:
            signal.raise_signal(number)
        return step(self, *arguments)

    monkeypatch.setattr(TrainingStep, "__call__", interrupted)
    with handled(number, monkeypatch):
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        assert console._exit_code() == 128 + number
    resumed(make, tmp_path / "two", (2, 3)).run()
    assert len(taken) == 16
    found, expected = (read_checkpoint(tmp_path / name / "best.pth") for name in ("two", "whole"))
    assert_same(found.weights, expected.weights)


def test_stopped_while_it_scores_no_step_is_lost(make, tmp_path, monkeypatch):
    make(tmp_path / "whole").run()
    stopped, scored = make(tmp_path / "two"), []
    score = trainer.evaluate

    def interrupted(*arguments):
        scored.append(arguments)
        if len(scored) == 4:  # the test split of the second epoch
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    monkeypatch.setattr(TrainingStep, "__call__", None)
    resumed(make, tmp_path / "two", (2, 8)).run()
    assert_same_files(tmp_path)


def test_an_epoch_that_is_over_is_saved_whole(make, tmp_path, monkeypatch):
    """An interrupt that comes while it is saved waits until it is."""
    stopped, number = make(tmp_path / "two"), signal.SIGINT
    save = stopped.saver.save_epoch
    monkeypatch.setattr(
        stopped.saver, "save_epoch", lambda *a: (signal.raise_signal(number), save(*a))
    )
    with handled(number, monkeypatch), pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed(make, tmp_path / "two", (2, 0))
    assert (tmp_path / "two" / "metrics.csv").is_file()


def test_a_second_interrupt_saves_no_half_step(small, tmp_path, monkeypatch):
    stopped, step, taken = make_trainer(small, tmp_path / "two"), TrainingStep.__call__, []

    def broken_off(self, *arguments):
        taken.append(1)
        if len(taken) == 3:
            raise KeyboardInterrupt  # a first one would have waited
        return step(self, *arguments)

    monkeypatch.setattr(TrainingStep, "__call__", broken_off)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert not (tmp_path / "two" / "last.pth").exists()


def test_a_checkpoint_without_a_training_is_refused(small, tmp_path):
    make_trainer(small, tmp_path, epochs=1).run()
    with pytest.raises(InputError, match=r"no training to go on with.*last.pth"):
        make_trainer(small, tmp_path).resume(tmp_path / "best.pth")


@pytest.mark.parametrize(
    "change",
    [{"lr": 1e-2}, {"seed": 3}, {"loss": "l1"}, {"scheduler": "cosine"}, {"plateau_factor": 0.1}],
)
def test_other_settings_are_refused(small, tmp_path, change):
    make_trainer(small, tmp_path, epochs=1, scheduler="plateau").run()
    with pytest.raises(InputError, match=next(iter(change))):
        make_trainer(small, tmp_path, **{"scheduler": "plateau", **change}).resume(
            tmp_path / "last.pth"
        )


def test_a_setting_that_there_was_not_yet_is_at_its_default(small, tmp_path):
    make_trainer(small, tmp_path, epochs=1).run()
    content = torch.load(tmp_path / "last.pth")
    must_match = content["training"]["must_match"]
    del must_match["loss"], must_match["model settings"]["wiring"]
    torch.save(content, tmp_path / "older.pth")
    make_trainer(small, tmp_path).resume(tmp_path / "older.pth")
    with pytest.raises(InputError, match="loss"):
        make_trainer(small, tmp_path, loss="l1").resume(tmp_path / "older.pth")
    must_match["model settings"] = 3
    torch.save(content, tmp_path / "damaged.pth")
    with pytest.raises(InputError, match="model settings 3"):
        make_trainer(small, tmp_path).resume(tmp_path / "damaged.pth")


@pytest.mark.parametrize("scheduler", ["plateau", "cosine"])
@pytest.mark.parametrize("lr", [1e-3, 3e-4, 0.1, 7e-5])
def test_the_learning_rate_of_a_gpu_is_taken(small, tmp_path, lr, scheduler):
    """There it is a float32 in a tensor, perhaps a little above the one that was given."""
    trainer = make_trainer(small, tmp_path, lr=lr, scheduler=scheduler)
    trainer.run()
    step = trainer.step
    for group in step.optimizer.param_groups:
        group.update(lr=torch.tensor(group["lr"]), capturable=True)
    step.scheduler._last_lr = list(map(torch.tensor, step.scheduler._last_lr))
    trainer.saver.save_last(trainer.state)
    resumed = make_trainer(small, tmp_path, lr=lr, scheduler=scheduler)
    resumed.resume(tmp_path / "last.pth")
    assert resumed.step.lr == pytest.approx(trainer.step.lr, rel=1e-6)


def test_more_epochs_may_follow(small, tmp_path):
    make_trainer(small, tmp_path / "two", epochs=2).run()
    make_trainer(small, tmp_path / "one", epochs=1).run()
    shutil.copytree(tmp_path / "one", tmp_path / "more")
    trainer = make_trainer(small, tmp_path / "more", epochs=2)
    trainer.resume(tmp_path / "more" / "last.pth")
    trainer.run()
    two, more = (
        read_checkpoint(tmp_path / name / "msaf_mosei_epoch2.pth") for name in ("two", "more")
    )
    assert_same(two.weights, more.weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 1}, "has 3 epochs, but with --epochs 1 its training ends after epoch 1; give"),
        ({"patience": 1}, "has 3 epochs, but with --patience 1 its training ends after epoch 2"),
    ],
)
def test_settings_that_would_have_ended_it_before_are_refused(small, tmp_path, change, message):
    """Or run.json would have other settings than those that made the checkpoints."""
    trainer = make_trainer(small, tmp_path, epochs=3, lr=1e-9)  # nothing gets better
    trainer.run()
    for number, epoch in enumerate(trainer.epochs):
        epoch.scores["val"]["mae"] = [1.0, 1.1, 0.9][number]
    trainer.saver.save_last(trainer.state)
    with pytest.raises(InputError, match=message):
        make_trainer(small, tmp_path, lr=1e-9, **{"epochs": 3, **change}).resume(
            tmp_path / "last.pth"
        )
    make_trainer(small, tmp_path, lr=1e-9, epochs=3, patience=2).resume(tmp_path / "last.pth")


def test_of_model_settings_those_that_differ_are_named(small, tmp_path):
    make_trainer(small, tmp_path, epochs=1).run()
    trainer = make_trainer(small, tmp_path)
    trainer.step.model.config = replace(trainer.step.model.config, layers=2)
    message = r"was trained with model settings layers=4, this is layers=2; resume"
    with pytest.raises(InputError, match=message):
        trainer.resume(tmp_path / "last.pth")


# Damaged files to resume


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    """The content of a training's file, saved within its second epoch, by schedule."""
    contents = {}
    for scheduler in ("plateau", "cosine"):
        folder = tmp_path_factory.mktemp(scheduler)
        trainer = make_trainer(small, folder, save_every=1, scheduler=scheduler, model="lf_dnn")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_at_step(patch, 11)
            trainer.run()
        contents[scheduler] = load_torch_file(folder / "last.pth", "a checkpoint", "")
    return contents


def places_in(value, path=()):
    """Every place in a tree of dicts and lists."""
    yield path
    if isinstance(value, (dict, list, tuple)):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from places_in(value[name], (*path, name))


def changed(value, path, new):
    """A copy of a tree with a new value in one place."""
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return tuple(copied) if isinstance(value, tuple) else copied


PLACES = 20  # damaged in turn
WRONG = [None, "text", float("nan"), [], {}, torch.tensor(float("nan")), {"a": [1]}]


@pytest.mark.parametrize("scheduler", ["plateau", "cosine"])
def test_damage_to_a_training_is_told_before_it_goes_on(small, tmp_path, saved, scheduler):
    path, content = tmp_path / "last.pth", saved[scheduler]
    trainer = make_trainer(small, scheduler=scheduler, model="lf_dnn")
    torch.save(content, path)
    trainer.resume(path)
    rng, passed = random.Random(0), []
    unread = ("run", "dataset", "task")
    places = [place for place in places_in(content) if place[:1] not in zip(unread)]
    for place in rng.sample(places, PLACES):
        new = rng.choice(WRONG)
        torch.save(changed(content, place, new), path)
        try:
            trainer.resume(path)
        except InputError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            assert len(str(error)) < 1200
        else:
            passed.append((place, new))
    assert passed == []
