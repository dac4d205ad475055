"""A training that is killed and resumed ends with the same checkpoint as without interruption."""

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
from system import interrupts, program
from system.devices import pick_device
from system.errors import InputError
from system.torch_file import load_torch_file
from tests.cuda import DEVICES
from tests.forked_programs import Program
from tests.own_model import OWN_MODEL
from tests.utils.training.test_trainer import CPU, make_trainer
from utils.training import trainer
from utils.training.step import TrainingStep

KILLS = 4


def training(small, folder):
    """Start or resume the training in a program, which prints and saves each step."""
    train = ["--train", "--resume", "auto", "--epochs", KILLS + 1, "--batch_size", 15]
    train += ["--scheduler", "cosine", "--grad_clip", 0.5, "--save_every", 1, "--log_interval", 1]
    paths = ["--checkpointdir", folder, "--resultdir", folder / "result", "--datadir", small]
    return Program("main_msaf.py", *train, *paths, "--device", "cpu")


def run_to_the_end(small, folder):
    with training(small, folder) as program:
        assert program.end() == 0, program.text


def kill_training(small, folder, moment):
    """Start the training and kill it some seconds after it has printed `text` `count` times."""
    text, count, seconds = moment
    with training(small, folder) as program:
        program.wait_for(text, count)
        time.sleep(seconds)
        program.send(signal.SIGKILL)
        return program.end()


def draw_moment(rng):
    """Draw when to kill: during a step or while it is saved, or while an epoch is saved."""
    text, count = rng.choice([("  step", rng.randint(1, 5)), ("  test", 1)])
    return text, count, rng.uniform(0, 0.08)


def assert_same(first, second, where=""):
    """Check that two values are equal bit for bit; only an epoch's speed may differ."""
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
        expected, resumed = (vars(read_checkpoint(folder / name)) for folder in (whole, killed))
        del expected["path"], resumed["path"]
        assert_same(resumed, expected, name)
    hidden_files = {path.name for path in killed.glob(".*")}
    assert hidden_files <= {".run.lock"}  # nothing half-written


def test_a_training_that_resumes_in_another_folder_has_its_best_there(main, small, tmp_path):
    options = ("--datadir", small, "--train", "--epochs", 1, "--no_verbose")
    main(*options, "--checkpointdir", tmp_path / "one")
    main(*options, "--checkpointdir", tmp_path / "two", "--resume", tmp_path / "one" / "last.pth")
    one, two = (read_checkpoint(tmp_path / name / "best.pth") for name in ("one", "two"))
    assert_same(two.weights, one.weights)
    assert two.details["scores"] == one.details["scores"]
    tables = [(tmp_path / name / "metrics.csv").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1]


def stop_at_step(patch, number):
    """Interrupt a training at its step of this number."""
    taken, step = [], TrainingStep.__call__

    def stop(self, *arguments):
        taken.append(arguments)
        if len(taken) == number:
            raise KeyboardInterrupt
        return step(self, *arguments)

    patch.setattr(TrainingStep, "__call__", stop)


def assert_same_files(tmp_path):
    """Check that the runs in `two` and `whole` have the same checkpoints."""
    for name in ("last.pth", "best.pth"):
        resumed, expected = (
            vars(read_checkpoint(tmp_path / folder / name)) for folder in ("two", "whole")
        )
        del expected["path"], resumed["path"]
        assert_same(resumed, expected, name)


def resume(make, folder, position):
    """Resume the training `make(folder)`, which was saved at this epoch and step."""
    trainer = make(folder)
    trainer.resume(folder / "last.pth")
    assert (trainer.state.epoch, trainer.state.step) == position
    return trainer


def assert_a_stop_changes_nothing(make, steps, tmp_path, monkeypatch):
    """Stop `make(folder)` at the third step of its second epoch; an epoch has `steps` steps."""
    make(tmp_path / "whole").run()
    stopped = make(tmp_path / "two")
    stop_at_step(monkeypatch, steps + 3)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    torch.manual_seed(1)  # the generator's state may have changed in the meantime
    resume(make, tmp_path / "two", (2, 2)).run()
    assert_same_files(tmp_path)
    # The files have to be equal too: results are named by their bytes.
    two, whole = ((tmp_path / folder / "best.pth").read_bytes() for folder in ("two", "whole"))
    assert two == whole


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["nhfnet", "lf_dnn"])
def test_stopped_within_an_epoch_it_ends_bit_for_bit_the_same(
    small, tmp_path, monkeypatch, model, device
):
    """A model with dropout keys, and one whose dropout draws from PyTorch's generator."""
    loading = replace(CPU, device=pick_device(device))
    make = partial(make_trainer, small, options=loading, model=model, save_every=1)
    assert_a_stop_changes_nothing(make, 8, tmp_path, monkeypatch)


@pytest.fixture
def make(small):
    """Make a training without dropout keys: `make(folder)`."""
    return partial(make_trainer, small, model="lf_dnn")


def test_best_is_of_the_runs_best_epoch_after_a_kill_before_last(make, tmp_path):
    """The second epoch is the best one, but the run that resumes ends after the first."""
    folders = one, two = tmp_path / "one", tmp_path / "two"
    for epochs, folder in enumerate(folders, start=1):
        trainer = make(folder, epochs=epochs)
        trainer.run()
        assert trainer.best.number == epochs
    shutil.copy(one / "last.pth", two)
    before = (two / "best.pth").read_bytes()
    resumed = make(two, epochs=1)
    resumed.resume(two / "last.pth")
    resumed.run()
    best, expected = (read_checkpoint(folder / "best.pth") for folder in (two, one))
    assert best.details["epoch"] == 1
    assert_same(best.weights, expected.weights)
    assert (two / "metrics.csv").read_text().count("val") == 1
    # With its epochs it takes the second one again, and the file is as it was.
    resumed = make(two, epochs=2)
    resumed.resume(two / "last.pth")
    resumed.run()
    assert (two / "best.pth").read_bytes() == before


@pytest.mark.parametrize("change", ["weights", "damage"])
def test_a_best_file_of_other_weights_is_written_again(make, tmp_path, change):
    make(tmp_path, epochs=1).run()
    path = tmp_path / "best.pth"
    before, content = read_checkpoint(path), torch.load(path)
    next(iter(content["model_state_dict"].values())).add_(1)
    if change == "weights":
        torch.save(content, path)
    else:
        path.write_bytes(path.read_bytes()[:-9])
    resumed = make(tmp_path, epochs=1)
    resumed.resume(tmp_path / "last.pth")
    resumed.run()
    assert_same(read_checkpoint(path).weights, before.weights)


def test_a_best_file_that_is_removed_during_the_training_is_written_again(make, tmp_path):
    trainer, path = make(tmp_path, epochs=1), tmp_path / "best.pth"
    trainer._after_epoch = lambda epoch: path.unlink()
    trainer.run()
    assert_same(read_checkpoint(path).weights, dict(trainer.model.state_dict()))


@contextmanager
def handled(number, monkeypatch):
    """Handle the signal as the programs do, until the block ends."""
    before = signal.signal(number, program._interrupt)
    monkeypatch.setattr(interrupts, "_received", [])
    try:
        yield
    finally:
        signal.signal(number, before)
        interrupts._received.clear()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_the_current_step(make, tmp_path, monkeypatch, number):
    """The step is completed, saved, and not taken again."""
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
        assert interrupts.interrupt_exit_code() == 128 + number
    resume(make, tmp_path / "two", (2, 3)).run()
    assert len(taken) == 16
    two, whole = (read_checkpoint(tmp_path / name / "best.pth") for name in ("two", "whole"))
    assert_same(two.weights, whole.weights)


@pytest.fixture
def spoil(monkeypatch):
    """Make weights NaN by the 11th step, with its loss or after it; `also` is called with it."""

    def do(in_the_loss, also=lambda: None):
        taken, step = [], TrainingStep.__call__

        def spoiled(self, *arguments):
            taken.append(arguments)
            if len(taken) != 11:
                return step(self, *arguments)
            prediction, loss = step(self, *arguments)
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))
            also()
            return prediction, loss * float("nan") if in_the_loss else loss

        monkeypatch.setattr(TrainingStep, "__call__", spoiled)

    return do


@pytest.mark.parametrize("in_the_loss", [True, False])
def test_an_interrupt_keeps_the_position_before_a_divergence(
    make, tmp_path, monkeypatch, spoil, in_the_loss
):
    spoil(in_the_loss, also=lambda: signal.raise_signal(signal.SIGTERM))
    with handled(signal.SIGTERM, monkeypatch), pytest.raises(KeyboardInterrupt):
        make(tmp_path).run()
    resume(make, tmp_path, (2, 0))


def test_saving_at_intervals_keeps_the_position_before_a_divergence(make, tmp_path, spoil):
    spoil(in_the_loss=False)
    make = partial(make, save_every=1)
    with pytest.raises(InputError, match=r"loss is nan at epoch 2, step 4: .* checkpoints are"):
        make(tmp_path).run()
    resume(make, tmp_path, (2, 2))


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
    resume(make, tmp_path / "two", (2, 8)).run()
    assert_same_files(tmp_path)


def test_a_complete_epoch_is_saved_whole(make, tmp_path, monkeypatch):
    """An interrupt while it is being saved waits until all its files are written."""
    stopped, number = make(tmp_path / "two"), signal.SIGINT
    save = stopped.saver.save_epoch
    monkeypatch.setattr(
        stopped.saver, "save_epoch", lambda *a: (signal.raise_signal(number), save(*a))
    )
    with handled(number, monkeypatch), pytest.raises(KeyboardInterrupt):
        stopped.run()
    resume(make, tmp_path / "two", (2, 0))
    assert (tmp_path / "two" / "metrics.csv").is_file()


def test_a_second_interrupt_saves_no_half_step(small, tmp_path, monkeypatch):
    stopped, step, taken = make_trainer(small, tmp_path / "two"), TrainingStep.__call__, []

    def broken_off(self, *arguments):
        taken.append(1)
        if len(taken) == 3:
            raise KeyboardInterrupt  # as a second interrupt does; the first would wait
        return step(self, *arguments)

    monkeypatch.setattr(TrainingStep, "__call__", broken_off)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert not (tmp_path / "two" / "last.pth").exists()


def test_a_checkpoint_without_a_training_is_refused(small, tmp_path):
    make_trainer(small, tmp_path, epochs=1).run()
    with pytest.raises(InputError, match=r"no training to resume.*last.pth"):
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


@pytest.mark.parametrize(("first", "second"), [(None, "mse"), ("mse", None)])
def test_the_default_loss_may_be_named_or_not(small, tmp_path, first, second):
    make_trainer(small, tmp_path, epochs=1, loss=first).run()
    make_trainer(small, tmp_path, epochs=2, loss=second).resume(tmp_path / "last.pth")


def test_a_number_that_an_older_file_has_as_text_is_the_same(small, tmp_path):
    """Of an own model, where it may be None too."""
    (tmp_path / "mine.py").write_text(OWN_MODEL.replace("int = 16", "int | None = 16"))
    model = f"{tmp_path / 'mine.py'}:Mean"
    make_trainer(small, tmp_path, epochs=1, model=model).run()
    content = torch.load(tmp_path / "last.pth")
    for settings in content["config"], content["training"]["must_match"]["model settings"]:
        settings["hidden"] = "16"
    torch.save(content, tmp_path / "older.pth")
    make_trainer(small, tmp_path, model=model).resume(tmp_path / "older.pth")


def test_a_setting_missing_from_an_older_file_has_its_default(small, tmp_path):
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
def test_the_learning_rate_of_a_gpu_is_accepted(small, tmp_path, lr, scheduler):
    """On a GPU it is a float32 tensor, which may be a little above the configured rate."""
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


def test_a_resumed_training_tells_where_its_end_has_moved(small, tmp_path, capsys):
    make_trainer(small, tmp_path, epochs=1).run()
    make_trainer(small, tmp_path, epochs=1).resume(tmp_path / "last.pth")
    assert "than before" not in capsys.readouterr().out
    make_trainer(small, tmp_path, epochs=4, patience=2).resume(tmp_path / "last.pth")
    line = "Other settings than before: --epochs was 1, now 4; --patience was None, now 2\n"
    assert capsys.readouterr().out.endswith(line)


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
def test_settings_that_would_have_ended_it_earlier_are_refused(small, tmp_path, change, message):
    """If they were accepted, run.json would not have the settings that made the checkpoints."""
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


def test_only_model_settings_that_differ_are_named(small, tmp_path):
    make_trainer(small, tmp_path, epochs=1).run()
    trainer = make_trainer(small, tmp_path)
    trainer.step.model.config = replace(trainer.step.model.config, layers=2)
    message = r"was trained with model settings layers=1, this is layers=2; resume"
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


def key_paths(value, path=()):
    """Yield the path of keys to each value in a tree of dicts and lists."""
    yield path
    if isinstance(value, (dict, list, tuple)):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from key_paths(value[name], (*path, name))


def changed(value, path, new):
    """Return a copy of a tree with a new value at one path."""
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return tuple(copied) if isinstance(value, tuple) else copied


DAMAGED = 20  # values, one at a time
WRONG = [None, "text", float("nan"), [], {}, torch.tensor(float("nan")), {"a": [1]}]


@pytest.mark.parametrize("scheduler", ["plateau", "cosine"])
def test_a_damaged_training_is_refused_before_it_resumes(small, tmp_path, saved, scheduler):
    path, content = tmp_path / "last.pth", saved[scheduler]
    trainer = make_trainer(small, scheduler=scheduler, model="lf_dnn")
    torch.save(content, path)
    trainer.resume(path)
    rng, accepted = random.Random(0), []
    not_read = ("run", "dataset", "task")
    paths = [keys for keys in key_paths(content) if not keys or keys[0] not in not_read]
    for keys in rng.sample(paths, DAMAGED):
        new = rng.choice(WRONG)
        torch.save(changed(content, keys, new), path)
        try:
            trainer.resume(path)
        except InputError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            assert len(str(error)) < 1200
        else:
            accepted.append((keys, new))
    assert accepted == []


def test_a_file_of_a_pytorch_with_other_options_of_adam(small, tmp_path, saved):
    path, trainer = tmp_path / "last.pth", make_trainer(small, scheduler="plateau", model="lf_dnn")
    keys = ("training", "optimizer", "param_groups", 0)
    group = saved["plateau"]["training"]["optimizer"]["param_groups"][0]

    def resume_with(group):
        torch.save(changed(saved["plateau"], keys, group), path)
        trainer.resume(path)

    def without(name):
        return {key: value for key, value in group.items() if key != name}

    resume_with(without("decoupled_weight_decay"))  # as PyTorch 2.6 writes it
    with pytest.raises(InputError, match="optimizer has no 'lr'"):
        resume_with(without("lr"))
    with pytest.raises(InputError, match=r"has 'later', .* another version of PyTorch, or"):
        resume_with({**group, "later": False})
