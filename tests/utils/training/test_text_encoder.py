"""A text encoder that is trained along: rates and decay, warm-up, parts of a batch, resuming."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from data.layout import SPLITS
from data.loading.options import LoaderOptions
from models.checkpoint import read_checkpoint
from system.errors import InputError
from system.processes import Processes
from tests.utils.training.test_resume import assert_a_stop_changes_nothing, assert_same
from tests.utils.training.test_several_processes import ends_of, started
from utils.reports.about import describe_data
from utils.run_config import AS_PREPARED, RunConfig
from utils.running.setup import open_training
from utils.training.run_folder import epoch_file
from utils.training.trainer import Trainer

CPU = LoaderOptions(torch.device("cpu"), batch_size=64, num_workers=0, verbose=False)
STEPS = 8  # an epoch of the demo's 466 segments


def make_trainer(datadir, folder=None, options=CPU, **changes):
    """A training on the demo with its BERT; without a folder it saves nothing."""
    where = {"save": False} if folder is None else {"checkpointdir": folder}
    settings = {"epochs": 2, "batch_size": 64, "finetune_bert": AS_PREPARED, "model": "lf_dnn"}
    config = RunConfig(datadir=datadir, **{**settings, **where, **changes})
    config, splits, model, task = open_training(config)
    return Trainer(model, splits, task, config, options, describe_data(datadir, splits))


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def take_steps(trainer, count=1):
    """Take the first steps of a training; returns the weights before, and after each."""
    found = [weights(trainer)]
    take = trainer.step._step_alone

    def counted(*tensors):
        if len(found) > count:
            raise KeyboardInterrupt
        result = take(*tensors)
        found.append(weights(trainer))
        return result

    trainer.step._step_alone = counted
    with pytest.raises(KeyboardInterrupt):
        trainer.run_pass()
    return found


# ---------------------------------------------------------------- the optimizer


def test_the_text_encoder_has_rates_and_decay_of_its_own(demo):
    trainer = make_trainer(demo, lr=1e-3, weight_decay=0.2, bert_lr=3e-5, bert_weight_decay=0.05)
    names = {id(value): name for name, value in trainer.model.named_parameters()}
    own, decayed, plain = trainer.step.optimizer.param_groups
    settings = [
        (group["lr"], group["weight_decay"], group["decoupled_weight_decay"])
        for group in (own, decayed, plain)
    ]
    assert settings == [(1e-3, 0.2, False), (3e-5, 0.05, True), (3e-5, 0.0, True)]
    of_group = [{names[id(one)] for one in group["params"]} for group in (own, decayed, plain)]
    assert all(name.startswith("model.") for name in of_group[0])
    assert all(name.startswith("text_encoder.") for name in of_group[1] | of_group[2])
    assert all(name.endswith(".bias") or "LayerNorm" in name for name in of_group[2])
    assert not any(name.endswith(".bias") or "LayerNorm" in name for name in of_group[1])
    assert sum(map(len, of_group)) == len(names)


def test_frozen_parts_are_not_in_the_optimizer_and_stay(demo):
    before, after = take_steps(make_trainer(demo, freeze_layers=1, bert_lr=1e-2))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    learnt = {name for name in changed if name.startswith("text_encoder.")}
    assert learnt and all(".encoder.layer.1." in name for name in learnt)


def test_the_rate_rises_over_the_warm_up(demo):
    """Adam's first step is as long as its rate: so is the change of any weight."""
    name = "text_encoder.bert.encoder.layer.1.output.dense.bias"
    lengths = {}
    for warmup in (0.0, 0.5, 1.0):
        trainer = make_trainer(demo, bert_lr=1e-3, bert_warmup=warmup)
        before, after = take_steps(trainer)
        lengths[warmup] = (after[name] - before[name]).abs().max().item()
        own = [
            (after[x] - before[x]).abs().max().item() for x, _ in trainer.model.named_parameters()
        ]
        assert max(own) == pytest.approx(1e-3, rel=1e-2)
        assert [group["lr"] for group in trainer.step.optimizer.param_groups] == [1e-3] * 3
    assert lengths[0.0] == pytest.approx(1e-3, rel=1e-2)
    assert lengths[0.5] == pytest.approx(1e-3 * 2 / STEPS, rel=1e-2)
    assert lengths[1.0] == pytest.approx(1e-3 / STEPS, rel=1e-2)


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_schedules_lower_both_rates(demo, schedule):
    trainer = make_trainer(demo, scheduler=schedule, plateau_patience=0, bert_lr=4e-5, epochs=4)
    for score in (1.0, 2.0, 3.0):
        trainer.step.optimizer.step()
        trainer.step.end_epoch(score)
    own, *of_bert = (group["lr"] for group in trainer.step.optimizer.param_groups)
    assert own < 1e-3
    assert [lr / 4e-5 for lr in of_bert] == pytest.approx([own / 1e-3] * 2)


# ---------------------------------------------------------------- one step


def test_it_learns(demo):
    trainer = make_trainer(demo, bert_lr=1e-3, epochs=3)
    before = weights(trainer)
    trainer.run()
    assert trainer.epochs[-1].loss < 0.8 * trainer.epochs[0].loss
    name = "text_encoder.bert.embeddings.word_embeddings.weight"
    assert not torch.equal(before[name], weights(trainer)[name])


@pytest.mark.parametrize("changes", [{}, {"finetune_bert": None}])
@pytest.mark.parametrize("parts", [3, 64, 1000])
def test_a_batch_in_parts_gives_the_same_step(demo, monkeypatch, changes, parts):
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda _, x: x)
    changes = {"model": "nhfnet", "set": {"layers": 1}, **changes}
    if "finetune_bert" not in changes:
        changes |= {"bert_warmup": 0.0, "bert_lr": 1e-3}
    settings = {"grad_clip": 0.1, **changes}
    losses, found = [], []
    for count in (1, parts):
        trainer = make_trainer(demo, accumulation_steps=count, **settings)
        batch = trainer.splits["train"][range(64)]
        if trainer.step.draws:
            trainer.model.text_encoder.bert.eval()
        keys = torch.arange(64)
        prediction, loss = trainer.step(batch, keys, 64, 1.0)
        losses.append(loss.item())
        found.append([prediction, *(one.grad for one in trainer.model.parameters())])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("parts", [2, 64])
def test_parts_are_large_enough_for_the_statistics_of_a_batch(demo, parts):
    """One segment has no variance: its part would be normalised by what other batches had."""
    trainer = make_trainer(demo, model="lf_dnn", accumulation_steps=parts)
    norms = [x for x in trainer.model.modules() if isinstance(x, torch.nn.BatchNorm1d)]
    sizes = {norm: [] for norm in norms}
    for norm in norms:
        norm.register_forward_hook(lambda it, inputs, _: sizes[it].append(len(inputs[0])))
    trainer.step(trainer.splits["train"][range(64)], torch.arange(64), 64, 1.0)
    assert norms
    for norm in norms:
        assert sizes[norm] == {2: [32] * 2, 64: [2] * 32}[parts]
        assert norm.running_mean.abs().sum() > 0
    trainer.step(
        trainer.splits["train"][range(1)], torch.arange(1), 1, 1.0
    )  # as a last batch may be
    assert sizes[norms[0]][-1] == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bfloat16_trains_too(demo, precision):
    trainer = make_trainer(demo, precision=precision, epochs=1)
    found = set()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: found.add(str(output.dtype)))
    trainer.run_pass()
    assert found == {f"torch.{precision}"}
    assert all(np.isfinite(x).all() for x in map(torch.Tensor.numpy, weights(trainer).values()))


def test_computing_layers_again_trains_to_the_same_weights(demo):
    found = []
    for again in (False, True):
        trainer = make_trainer(demo, gradient_checkpointing=again, epochs=1)
        assert trainer.model.text_encoder.bert.checkpoints is again
        trainer.run()
        found.append(weights(trainer))
    assert_same(*found)


@pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
def test_its_dropout_is_decided_by_the_seed_alone(demo, model):
    """Whether the model has keys for its own dropout or not."""
    settings = {"text_only": {"layers": 1}}.get(model, {})
    losses = []
    for drawn in (1, 2):
        trainer = make_trainer(demo, model=model, set=settings)
        torch.manual_seed(drawn)  # whatever else has drawn meanwhile
        losses.append(trainer.run_pass()[0])
    assert losses[0] == losses[1]


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("model", ["nhfnet", "lf_dnn"])
def test_stopped_within_an_epoch_it_ends_bit_for_bit_the_same(demo, tmp_path, monkeypatch, model):
    """With dropout in the text encoder, within the warm-up, and a schedule."""
    options = {"model": model, "save_every": 1, "scheduler": "cosine", "bert_warmup": 1.5}
    options |= {"set": {"layers": 1}} if model == "nhfnet" else {}
    make = partial(make_trainer, demo, **options)
    assert_a_stop_changes_nothing(make, STEPS, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bert_lr": 1e-3}, "bert_lr"),
        ({"bert_warmup": 0.0}, "bert_warmup"),
        ({"freeze_layers": 1}, "freeze_layers"),
        ({"accumulation_steps": 2}, "accumulation_steps"),
        ({"finetune_bert": None}, "with text encoder {.*, this is None"),
        (
            {"finetune_bert": "other"},
            "text encoder origin=.*demo_bert, .*, this is origin=other",
        ),
    ],
)
def test_other_settings_are_refused(demo, tmp_path, monkeypatch, change, message):
    make_trainer(demo, tmp_path, epochs=1).run()
    if change.get("finetune_bert"):
        monkeypatch.chdir(tmp_path)
        shutil.copytree(demo / "demo_bert", "other")
    with pytest.raises(InputError, match=message):
        make_trainer(demo, tmp_path, **change).resume(tmp_path / "last.pth")


def test_other_word_pieces_are_refused(demo, tmp_path):
    shutil.copytree(demo, tmp_path / "data")
    make_trainer(tmp_path / "data", tmp_path, epochs=1).run()
    path = tmp_path / "data" / "val" / "pieces50.npy"
    np.save(path, np.load(path)[::-1])
    with pytest.raises(InputError, match=r"with val word pieces of digest .*, this is"):
        make_trainer(tmp_path / "data", tmp_path).resume(tmp_path / "last.pth")


def test_an_epoch_holds_weights_alone_and_frozen_features_more(demo, tmp_path):
    for name, changes in (("along", {}), ("frozen", {"finetune_bert": None})):
        make_trainer(demo, tmp_path / name, epochs=1, **changes).run()
        details = read_checkpoint(tmp_path / name / epoch_file(1)).details
        assert ("optimizer_state_dict" in details) == (name == "frozen")


def test_features_stay_as_they_were_prepared_unless_it_is_said(demo):
    config, splits, model, _ = open_training(RunConfig(datadir=demo))
    assert config.finetune_bert is None
    assert not any(split.takes_pieces for split in splits.values())
    assert model.widths["text"] == 64
    assert tuple(splits) == SPLITS


# ---------------------------------------------------------------- several processes


def test_two_processes_and_an_interrupt_end_with_the_same_weights(demo, tmp_path):
    options = ("--finetune_bert", "--model", "text_only", "--accumulation_steps", 2, "--epochs", 1)
    options += ("--batch_size", 64, "--set", "layers=1")
    for folder in ("whole", "two"):
        with started([demo, demo], tmp_path / folder, *options) as processes:
            if folder == "two":
                processes[0].wait_for("  step 3")
                processes[1].send(signal.SIGTERM)
            codes, errors, _ = ends_of(processes)
        assert codes == ([0, 0] if folder == "whole" else [143, 143]), errors
    with started([demo, demo], tmp_path / "two", *options) as processes:
        codes, errors, output = ends_of(processes)
    assert codes == [0, 0], errors
    assert "Resumed from" in output
    found, expected = (read_checkpoint(tmp_path / x / "best.pth").weights for x in ("two", "whole"))
    assert_same(found, expected)


def gradients(rank, count, rows, parts, datadir, folder):
    """Write the gradients of a step of one of `count` processes, without dropout."""
    torch.set_num_threads(1)
    if count > 1:
        store = f"file://{folder / 'store'}"
        torch.distributed.init_process_group("gloo", store, rank=rank, world_size=count)
    options = replace(CPU, processes=Processes(count, rank, rank))
    settings = {"model": "text_only", "set": {"layers": 1}, "accumulation_steps": parts}
    trainer = make_trainer(datadir, options=options, **settings)
    trainer.model.eval()
    share = options.share(np.arange(rows))
    trainer.step(trainer.splits["train"][share], torch.from_numpy(share), rows, 1.0)
    found = {name: x.grad for name, x in trainer.model.named_parameters() if x.grad is not None}
    torch.save(found, folder / f"{count}_{rank}.pth")


@pytest.mark.parametrize(("rows", "parts"), [(64, 3), (5, 4), (1, 2)])
def test_two_processes_add_up_the_gradients_of_their_parts(demo, tmp_path, rows, parts):
    """They exchange them with the last part's alone; of one segment, the second has none."""
    gradients(0, 1, rows, 1, demo, tmp_path)
    arguments = (2, rows, parts, demo, tmp_path)
    torch.multiprocessing.start_processes(gradients, arguments, nprocs=2, start_method="fork")
    expected, *found = (torch.load(tmp_path / f"{x}.pth") for x in ("1_0", "2_0", "2_1"))
    for of_process in found:
        for name, gradient in expected.items():
            torch.testing.assert_close(of_process[name], gradient, atol=1e-6, rtol=1e-4)
