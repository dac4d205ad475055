"""A text encoder that is fine-tuned: rates and decay, warm-up, parts of a batch, resuming."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import Adam

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
from utils.training import optimizer
from utils.training.run_folder import epoch_file
from utils.training.trainer import Trainer

CPU = LoaderOptions(torch.device("cpu"), batch_size=64, num_workers=0, verbose=False)
STEPS = 8  # an epoch of the demo's 466 segments


def make_trainer(datadir, folder=None, options=CPU, **changes):
    """Return a training on the demo with its BERT; without a folder it saves nothing."""
    saving = {"save": False} if folder is None else {"checkpointdir": folder}
    settings = {"epochs": 2, "batch_size": 64, "finetune_bert": AS_PREPARED, "model": "lf_dnn"}
    config = RunConfig(datadir=datadir, **{**settings, **saving, **changes})
    config, splits, model, task = open_training(config)
    return Trainer(model, splits, task, config, options, describe_data(datadir, splits))


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def take_steps(trainer, count=1):
    """Take the first steps of a training; returns the weights before, and after each."""
    weights_by_step = [weights(trainer)]
    step_alone = trainer.step._step_alone

    def counted(*tensors):
        if len(weights_by_step) > count:
            raise KeyboardInterrupt
        result = step_alone(*tensors)
        weights_by_step.append(weights(trainer))
        return result

    trainer.step._step_alone = counted
    with pytest.raises(KeyboardInterrupt):
        trainer.run_pass()
    return weights_by_step


# ---------------------------------------------------------------- the optimizer


def test_the_text_encoder_has_rates_and_decay_of_its_own(demo):
    trainer = make_trainer(demo, lr=1e-3, weight_decay=0.2, bert_lr=3e-5, bert_weight_decay=0.05)
    names = {id(value): name for name, value in trainer.model.named_parameters()}
    groups = trainer.step.optimizer.param_groups
    settings = [
        (group["lr"], group["weight_decay"], group["decoupled_weight_decay"]) for group in groups
    ]
    assert settings == [(1e-3, 0.2, False), (3e-5, 0.05, True), (3e-5, 0.0, True)]
    own, decayed, plain = ({names[id(p)] for p in group["params"]} for group in groups)
    assert all(name.startswith("model.") for name in own)
    assert all(name.startswith("text_encoder.") for name in decayed | plain)
    assert all(name.endswith(".bias") or "LayerNorm" in name for name in plain)
    assert not any(name.endswith(".bias") or "LayerNorm" in name for name in decayed)
    assert len(own) + len(decayed) + len(plain) == len(names)


def test_an_adam_without_decoupled_decay_is_refused_unless_there_is_none(demo, monkeypatch):
    """PyTorch 2.6 ignores the option in silence, and decays by the gradient."""

    class OldAdam(Adam):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            del self.defaults["decoupled_weight_decay"]

    monkeypatch.setattr(optimizer, "Adam", OldAdam)
    with pytest.raises(InputError, match=r"--bert_weight_decay 0.05 needs PyTorch 2.7 or newer"):
        make_trainer(demo, bert_weight_decay=0.05)
    make_trainer(demo, bert_weight_decay=0.0)


def test_frozen_parts_are_not_in_the_optimizer_and_stay(demo):
    before, after = take_steps(make_trainer(demo, freeze_layers=1, bert_lr=1e-2))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    learnt = {name for name in changed if name.startswith("text_encoder.")}
    assert learnt and all(".encoder.layer.1." in name for name in learnt)


def test_the_rate_rises_over_the_warm_up(demo):
    """In Adam's first step, each weight changes by about the learning rate."""
    name = "text_encoder.bert.encoder.layer.1.output.dense.bias"
    changes = {}
    for warmup in (0.0, 0.5, 1.0):
        trainer = make_trainer(demo, bert_lr=1e-3, bert_warmup=warmup)
        before, after = take_steps(trainer)
        changes[warmup] = (after[name] - before[name]).abs().max().item()
        all_changes = [
            (after[x] - before[x]).abs().max().item() for x, _ in trainer.model.named_parameters()
        ]
        assert max(all_changes) == pytest.approx(1e-3, rel=1e-2)
        assert [group["lr"] for group in trainer.step.optimizer.param_groups] == [1e-3] * 3
    assert changes[0.0] == pytest.approx(1e-3, rel=1e-2)
    assert changes[0.5] == pytest.approx(1e-3 * 2 / STEPS, rel=1e-2)
    assert changes[1.0] == pytest.approx(1e-3 / STEPS, rel=1e-2)


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_schedules_lower_both_rates(demo, schedule):
    trainer = make_trainer(demo, scheduler=schedule, plateau_patience=0, bert_lr=4e-5, epochs=4)
    for score in (1.0, 2.0, 3.0):
        trainer.step.optimizer.step()
        trainer.step.end_epoch(score)
    lr, *bert_lrs = (group["lr"] for group in trainer.step.optimizer.param_groups)
    assert lr < 1e-3
    assert [bert_lr / 4e-5 for bert_lr in bert_lrs] == pytest.approx([lr / 1e-3] * 2)


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
    losses, tensors = [], []
    for count in (1, parts):
        trainer = make_trainer(demo, accumulation_steps=count, **settings)
        batch = trainer.splits["train"][range(64)]
        if trainer.step.draws:
            trainer.model.text_encoder.bert.eval()
        keys = torch.arange(64)
        prediction, loss = trainer.step(batch, keys, 64, 1.0)
        losses.append(loss.item())
        tensors.append([prediction, *(p.grad for p in trainer.model.parameters())])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for expected, in_parts in zip(*tensors, strict=True):
        torch.testing.assert_close(in_parts, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("parts", [2, 64])
def test_parts_are_large_enough_for_the_statistics_of_a_batch(demo, parts):
    """A part of one segment has no variance to normalise by."""
    trainer = make_trainer(demo, model="lf_dnn", accumulation_steps=parts)
    norms = [x for x in trainer.model.modules() if isinstance(x, torch.nn.BatchNorm1d)]
    sizes = {norm: [] for norm in norms}
    for norm in norms:
        norm.register_forward_hook(lambda norm, inputs, _: sizes[norm].append(len(inputs[0])))
    trainer.step(trainer.splits["train"][range(64)], torch.arange(64), 64, 1.0)
    assert norms
    for norm in norms:
        assert sizes[norm] == {2: [32] * 2, 64: [2] * 32}[parts]
        assert norm.running_mean.abs().sum() > 0
    # The last batch of an epoch may have one segment.
    trainer.step(trainer.splits["train"][range(1)], torch.arange(1), 1, 1.0)
    assert sizes[norms[0]][-1] == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_bfloat16_trains_too(demo, precision):
    trainer = make_trainer(demo, precision=precision, epochs=1)
    dtypes = set()
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: dtypes.add(str(output.dtype)))
    trainer.run_pass()
    assert dtypes == {f"torch.{precision}"}
    assert all(np.isfinite(x).all() for x in map(torch.Tensor.numpy, weights(trainer).values()))


def test_computing_layers_again_trains_to_the_same_weights(demo):
    trained = []
    for checkpointing in (False, True):
        trainer = make_trainer(demo, gradient_checkpointing=checkpointing, epochs=1)
        assert trainer.model.text_encoder.bert.checkpoints is checkpointing
        trainer.run()
        trained.append(weights(trainer))
    assert_same(*trained)


@pytest.mark.parametrize("model", ["text_only", "lf_dnn"])
def test_its_dropout_is_decided_by_the_seed_alone(demo, model):
    """For models with dropout keys, and without."""
    settings = {"text_only": {"layers": 1}}.get(model, {})
    losses = []
    for other_seed in (1, 2):
        trainer = make_trainer(demo, model=model, set=settings)
        torch.manual_seed(other_seed)  # must have no effect
        losses.append(trainer.run_pass()[0])
    assert losses[0] == losses[1]


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("model", ["nhfnet", "lf_dnn"])
def test_stopped_within_an_epoch_it_ends_bit_for_bit_the_same(demo, tmp_path, monkeypatch, model):
    """With dropout in the text encoder, during the warm-up, and with a schedule."""
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


def test_an_epochs_checkpoint_has_optimizer_state_only_without_a_text_encoder(demo, tmp_path):
    for name, changes in (("finetuned", {}), ("frozen", {"finetune_bert": None})):
        make_trainer(demo, tmp_path / name, epochs=1, **changes).run()
        details = read_checkpoint(tmp_path / name / epoch_file(1)).details
        assert ("optimizer_state_dict" in details) == (name == "frozen")


def test_without_the_option_text_features_stay_as_prepared(demo):
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
    two, whole = (read_checkpoint(tmp_path / x / "best.pth").weights for x in ("two", "whole"))
    assert_same(two, whole)


def write_gradients(rank, count, rows, parts, datadir, folder):
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
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    torch.save(gradients, folder / f"{count}_{rank}.pth")


@pytest.mark.parametrize(("rows", "parts"), [(64, 3), (5, 4), (1, 2)])
def test_two_processes_add_up_the_gradients_of_their_parts(demo, tmp_path, rows, parts):
    """They exchange gradients only at the last part; of one segment, the second has none."""
    write_gradients(0, 1, rows, 1, demo, tmp_path)
    arguments = (2, rows, parts, demo, tmp_path)
    torch.multiprocessing.start_processes(write_gradients, arguments, nprocs=2, start_method="fork")
    expected, *by_process = (torch.load(tmp_path / f"{x}.pth") for x in ("1_0", "2_0", "2_1"))
    for gradients in by_process:
        for name, gradient in expected.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)
