"""A training that is killed and resumed ends with the checkpoint it would have had."""

from __future__ import annotations

import random
import shutil

import pytest
import torch

from data.errors import InputError
from models.checkpoint import read_checkpoint
from tests.test_training import make_trainer


class Killed(BaseException):
    """Ends the training as a kill would: nothing else catches it."""


def die_after(trainer, steps, moment):
    """Let the training end at a moment around its `steps`-th step."""
    step, save_last, taken = trainer._step, trainer.save_last, []

    def counted_step(batch, rows):
        if moment == "before" and len(taken) == steps:
            raise Killed
        taken.append(rows)
        return step(batch, rows)

    def dying_save(folder):
        if moment == "saving" and len(taken) >= steps:
            raise Killed  # the epoch's checkpoint is written, last.pth is not
        save_last(folder)

    trainer._step, trainer.save_last = counted_step, dying_save


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("options", [{}, {"scheduler": "cosine", "grad_clip": 0.5}])
def test_resumed_at_random_moments_it_ends_bit_for_bit_the_same(small, tmp_path, options):
    options = {**options, "epochs": 3, "save_every": 3}
    make_trainer(small, tmp_path / "whole", **options).run()
    expected = {
        name: read_checkpoint(tmp_path / "whole" / name)
        for name in ("best.pth", "msaf_mosei_epoch3.pth")
    }
    moments, folder = random.Random(1), tmp_path / "killed"
    for _ in range(8):
        trainer = make_trainer(small, folder, **options)
        if (folder / "last.pth").exists():
            trainer.resume(folder / "last.pth")
        die_after(trainer, moments.randint(1, 9), moments.choice(["before", "saving"]))
        try:
            trainer.run()
        except Killed:
            continue
        break
    trainer = make_trainer(small, folder, **options)
    trainer.resume(folder / "last.pth")
    trainer.run()
    for name, checkpoint in expected.items():
        found = read_checkpoint(folder / name)
        assert_same(found.weights, checkpoint.weights)
        assert found.details["scores"] == checkpoint.details["scores"]
    assert_same(trainer.model.state_dict(), expected["best.pth"].weights)


def test_a_checkpoint_without_a_training_is_refused(small, tmp_path):
    make_trainer(small, tmp_path, epochs=1).run()
    with pytest.raises(InputError, match=r"no training to go on with.*last.pth"):
        make_trainer(small, tmp_path).resume(tmp_path / "best.pth")


@pytest.mark.parametrize("change", [{"lr": 1e-2}, {"seed": 3}, {"scheduler": "plateau"}])
def test_other_settings_are_refused(small, tmp_path, change):
    make_trainer(small, tmp_path, epochs=1).run()
    with pytest.raises(InputError, match=next(iter(change))):
        make_trainer(small, tmp_path, **change).resume(tmp_path / "last.pth")


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
