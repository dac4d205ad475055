"""Training on the small dataset of the fixture `small`."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.layout import SPLITS
from data.loading.options import LoaderOptions
from data.loading.split import Split
from models.checkpoint import read_checkpoint
from models.nhfnet import NHFNet
from models.registry import build
from system.errors import InputError
from tests.cuda import needs_cuda
from utils.reports.evaluation import evaluate
from utils.run_config import RunConfig
from utils.tasks import SENTIMENT
from utils.training.history import best_on_test
from utils.training.losses import Diverged
from utils.training.step import TrainingStep
from utils.training.trainer import Trainer

CPU = LoaderOptions(torch.device("cpu"), batch_size=10, num_workers=0, verbose=False)


def make_trainer(small, folder=None, options=CPU, model="nhfnet", **changes):
    """Return a training on the small dataset; without a folder it saves nothing.

    NHFNet has one layer of each kind, which trains four times as fast.
    """
    saving = {"save": False} if folder is None else {"checkpointdir": folder}
    settings = {"epochs": 2, "log_interval": 100, "batch_size": options.batch_size, **saving}
    config = RunConfig(datadir=small, model=model, task="sentiment", **settings | changes)
    splits = {name: Split(small / name) for name in SPLITS}
    torch.manual_seed(20)
    sizes = {"layers": 1} if model == "nhfnet" else {}
    built = build(model, sizes, splits["train"].widths, 1)
    data = {"dataset": "made up", "alignment": "segment", "digests": {"train": "0"}}
    return Trainer(built, splits, SENTIMENT, config, options, data)


def test_the_error_of_an_infinite_loss_names_the_values_that_cause_it(small, tmp_path):
    """numpy.nan_to_num makes such values from COVAREP's -inf; a smaller --lr does not help."""
    shutil.copytree(small, tmp_path / "data")
    path = tmp_path / "data/train/audio50.npy"
    values = np.load(path).astype(np.float32)
    values[:, -1, 5] = np.finfo(np.float32).min
    np.save(path, values)
    with pytest.raises(Diverged, match=r"audio50.npy has values up to 3.403e\+38 there"):
        make_trainer(tmp_path / "data").run()


def test_training_that_diverges_ends_with_advice(small):
    """The message names three of the ten segments in the batch."""
    names = r"on the segments [^,]+, [^,]+, [^,]+ and 7 more\. Try a smaller --lr"
    with pytest.raises(Diverged, match=rf"training has diverged, {names}"):
        make_trainer(small, lr=1e30).run()


def test_weights_that_diverge_in_an_epochs_last_step_end_it_as_other_steps_do(small, tmp_path):
    """Their predictions show it, not the loss: a study records the run, and goes on."""
    trainer = make_trainer(small, tmp_path, replace(CPU, batch_size=100), lr=1e38)
    message = r"predicts (nan|-?inf) for segment .* smaller --lr, .* after epoch 1; earlier check"
    with pytest.raises(Diverged, match=message):
        trainer.run()
    assert not (tmp_path / "last.pth").exists()


def weights(path):
    return read_checkpoint(path).weights


def test_the_same_seed_gives_the_same_checkpoint(small, tmp_path):
    for run in ("first", "second"):
        make_trainer(small, tmp_path / run).run()
    first, second = (weights(tmp_path / run / "best.pth") for run in ("first", "second"))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_another_seed_gives_another_order(small, tmp_path):
    for seed in (20, 21):
        make_trainer(small, tmp_path / str(seed), epochs=1, seed=seed).run()
    first, second = (weights(tmp_path / str(seed) / "best.pth") for seed in (20, 21))
    assert not torch.equal(first["output.weight"], second["output.weight"])


def test_checkpoints_are_written_and_best_is_by_validation_mae(small, tmp_path, monkeypatch):
    trainer = make_trainer(small, tmp_path, epochs=3, lr=3e-3)
    # A last epoch that spoils the model must not become the best.
    step, batches = TrainingStep.__call__, []

    def step_then_spoil(self, batch, keys, rows, epochs):
        batches.append(batch)
        if len(batches) > 2 * 8:
            self.optimizer.param_groups[0]["lr"] = 0.5
        return step(self, batch, keys, rows, epochs)

    monkeypatch.setattr(TrainingStep, "__call__", step_then_spoil)
    trainer.run()
    val = [epoch.scores["val"]["mae"] for epoch in trainer.epochs]
    assert trainer.best.number == int(np.argmin(val)) + 1 < 3
    for number in (1, 2, 3):
        checkpoint = read_checkpoint(tmp_path / f"msaf_mosei_epoch{number}.pth")
        assert checkpoint.details["epoch"] == number
    best = read_checkpoint(tmp_path / "best.pth")
    assert best.details["epoch"] == trainer.best.number
    assert best.details["dataset"]["alignment"] == "segment"
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, best.weights[name]), name
    model = NHFNet.from_checkpoint(tmp_path / "best.pth")
    assert evaluate(model, trainer.splits["val"], SENTIMENT, trainer.evaluating).scores[
        "mae"
    ] == min(val)


def test_tensorboard_logs_hold_loss_and_scores(small, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(small, tmp_path, epochs=2)
    trainer.run()
    (folder,) = (tmp_path / "logs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    logged = [event.value for event in events.Scalars("loss/train")]
    np.testing.assert_allclose(logged, [epoch.loss for epoch in trainer.epochs], rtol=1e-6)
    assert {"mae/val", "corr/test", "acc7/train"} <= set(events.Tags()["scalars"])


def test_nothing_is_saved_without_a_folder(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_trainer(small, epochs=1).run()
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_the_run(small, tmp_path):
    (tmp_path / "best.pth").write_bytes(b"an earlier run's")
    trainer = make_trainer(small, tmp_path, lr=1e30, epochs=3)
    with pytest.raises(InputError, match=r"loss is (nan|inf) at epoch \d, step \d"):
        trainer.run()
    assert (tmp_path / "best.pth").read_bytes() == b"an earlier run's"


def test_running_loss_is_printed_by_interval(small, capsys):
    options = LoaderOptions(torch.device("cpu"), batch_size=10, num_workers=0, verbose=True)
    make_trainer(small, options=options, epochs=1, log_interval=3).run()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if "step" in line] == ["3/8", "6/8", "8/8"]
    for name in ("train", "val", "test"):
        assert any(line.split()[0] == name and "Acc-7" in line and "Corr" in line for line in lines)
    assert sum("read as 0" in line for line in lines) == 1


def test_lines_of_the_best_test_scores(small):
    trainer = make_trainer(small, epochs=2)
    trainer.run()
    lines = best_on_test(trainer.epochs, SENTIMENT)
    assert [line.split()[1] for line in lines] == ["Acc7", "Acc2", "F1", "Corr", "MAE"]
    lowest = min(trainer.epochs, key=lambda epoch: epoch.scores["test"]["mae"])
    value = lowest.scores["test"]["mae"]
    assert lines[-1] == f"Best MAE {value:.4f} at epoch {lowest.number}"


@needs_cuda
def test_trains_on_cuda(small):
    cuda = LoaderOptions(torch.device("cuda"), batch_size=10, num_workers=0, verbose=False)
    trainer = make_trainer(small, options=cuda)
    trainer.run()
    assert trainer.epochs[-1].loss < trainer.epochs[0].loss
