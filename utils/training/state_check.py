"""Checks a saved training state against the training that resumes it, before restoring it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from data.layout import SPLITS
from system.errors import shown
from utils.training.history import Epoch
from utils.training.optimizer import DECOUPLED
from utils.training.step import TrainingStep

# The parts of a learning-rate schedule's state that change during training; the others are fixed.
_CHANGING = (
    *("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr"),
    *("_step_count", "_is_initial", "_get_lr_called_within_step"),
)
_ROUNDING = float(torch.finfo(torch.float32).eps)  # on CUDA, a learning rate is a float32


def check_progress(content: Mapping[str, Any], training: TrainingStep, segments: int) -> None:
    """Raise ValueError unless epochs, step and predictions fit together and fit the training.

    An epoch has `segments` segments; each of the processes has its own predictions.
    """
    task, batch_size = training.task, training.config.batch_size
    processes = training.options.processes.count
    scores = {split: {measure.key: 0.0 for measure in task.measures} for split in SPLITS}
    for number, epoch in enumerate(_list_of(content, "epochs"), start=1):
        _check_like(epoch, asdict(Epoch(number, 0.0, 0.0, 0.0, scores)), f"epoch {number}")
        _require(epoch["number"] == number, "number of an epoch", epoch["number"], number)
    step, current = content["step"], len(content["epochs"]) + 1
    _require(content["epoch"] == current, "epoch", content["epoch"], current)
    steps = math.ceil(segments / batch_size)  # the step may be the last: scoring was interrupted
    is_within = type(step) is int and 0 <= step <= steps
    _require(is_within, "step", step, f"a whole number, at most {steps}")
    counts, predicted = content["not_finite"], _list_of(content, "predicted")
    _check_like(counts, [0] * processes, "not_finite")
    _require(min(counts) >= 0, "not_finite", counts, "a count a process")
    for part in predicted:
        _check_like(part, torch.empty(len(part), len(task.outputs)), "predicted")
    rows = sum(map(len, predicted)), len(predicted)
    expected = min(step * batch_size, segments), processes
    _require(rows == expected, "predicted", rows, "a row a segment so far")


def check_step(content: Mapping[str, Any], step: TrainingStep) -> None:
    """Raise ValueError unless the saved optimizer and schedule states fit those of `step`."""
    current, optimizer = step.state_dict(), content["optimizer"]
    groups, expected_groups = optimizer["param_groups"], current["optimizer"]["param_groups"]
    _require(len(groups) == len(expected_groups), "optimizer", groups, "a group")
    for group, expected, highest in zip(groups, expected_groups, step.highest_lrs, strict=True):
        if DECOUPLED in expected:  # which PyTorch too takes to be False where an older one wrote
            group = {DECOUPLED: False, **group}
        _check_like(group, expected, "optimizer")
        _check_same(group, expected, ("lr",), "optimizer")
        is_rate = 0 <= group["lr"] <= highest * (1 + _ROUNDING)
        _require(is_rate, "lr", group["lr"], "a learning rate")
    parameters = [p for group in step.optimizer.param_groups for p in group["params"]]
    has_learnt = content["epoch"] > 1 or content["step"] > 0
    _require(bool(optimizer["state"]) is has_learnt, "optimizer", optimizer["state"], "its state")
    for number, state in optimizer["state"].items():
        where = f"optimizer state {number}"
        moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), parameters[number].detach())
        _check_like(state, {"step": torch.tensor(0.0), **moments}, where)
        is_valid = bool(state["step"] >= 1) and not bool((state["exp_avg_sq"] < 0).any())
        _require(is_valid, where, "below 0", "a step and squares")
    schedule = content["scheduler"]
    _check_like(schedule, current["scheduler"], "scheduler")
    if schedule is not None:
        _check_same(schedule, current["scheduler"], _CHANGING, "scheduler")
        epochs = len(content["epochs"])
        _require(schedule["last_epoch"] == epochs, "scheduler", schedule["last_epoch"], epochs)


def _require(condition: bool, where: str, found: Any, expected: Any) -> None:
    if not condition:
        raise ValueError(f"{where} is {shown(found)}, expected {shown(expected)}")


def _list_of(content: Mapping[str, Any], name: str) -> list[Any]:
    values: list[Any] = content[name]
    _require(type(values) is list, name, values, "list")
    return values


def _check_same(
    found: Mapping[str, Any], expected: Mapping[str, Any], ignored: tuple[str, ...], where: str
) -> None:
    for name in expected.keys() - set(ignored):
        _require(found[name] == expected[name], f"{where} {name}", found[name], expected[name])


def _check_like(found: Any, expected: Any, where: str) -> None:
    """Raise ValueError unless `found` has the types, keys and shapes of `expected`, and no NaN."""
    if isinstance(expected, Tensor):
        is_like = isinstance(found, Tensor) and found.dtype == expected.dtype
        _require(is_like, where, found, str(expected.dtype))
        _require(found.shape == expected.shape, where, tuple(found.shape), tuple(expected.shape))
        _require(not found.isnan().any(), where, "NaN", "a number")
        return
    is_number = type(expected) is float and type(found) is int
    _require(type(found) is type(expected) or is_number, where, found, type(expected).__name__)
    _require(found == found, where, found, "a number")
    if isinstance(expected, dict):
        for name in found.keys() - expected.keys():
            raise ValueError(
                f"{where} has {shown(name)}, which is unknown here: another version of PyTorch, "
                "or of this program, may have written it"
            )
        for name in expected:
            if name not in found:
                raise ValueError(f"{where} has no {shown(name)}")
            _check_like(found[name], expected[name], f"{where} {name}")
    elif isinstance(expected, (list, tuple)):
        _require(len(found) == len(expected), where, found, f"{len(expected)} values")
        for found_value, expected_value in zip(found, expected, strict=True):
            _check_like(found_value, expected_value, where)
