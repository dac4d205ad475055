"""Tries a user's own model on a few segments, before it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from data.loading.split import Split
from models.checkpoint import load_weights, reread_checkpoint
from models.contract import Model
from models.registry import reporting_faults
from system.config import make_config, settings_of
from system.errors import InputError, shown
from system.torch_file import read_back
from utils.running.execution import count_parts, fewest_rows, restoring_state
from utils.tasks import Task

_TRIAL_SIZE = 2  # segments


def try_to_predict(name: str, model: Model, split: Split, size: int = _TRIAL_SIZE) -> None:
    """Raise InputError unless a model predicts as the contract says; restores its state."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    _refuse_late_weights(name, [weight for weight, tensor in tensors if is_lazy(tensor)])
    with reporting_faults(name, "has no state_dict() to save"):
        built = set(model.state_dict())
    inputs = split[range(min(size, len(split)))].inputs
    fault = "does not predict" if size > 1 else "does not predict one segment alone"
    with reporting_faults(name, fault), torch.no_grad(), restoring_state(model):
        _check_shape(name, model, model.eval()(*inputs), len(inputs[0]))
    _refuse_late_weights(name, sorted(set(model.state_dict()) - built))


def try_to_train(
    name: str,
    model: Model,
    split: Split,
    task: Task,
    batch_size: int,
    processes: int = 1,
    accumulation_steps: int = 1,
) -> None:
    """Raise InputError unless a model can train on the batches of `split`; restores its state.

    It is tried on two segments, and on one if a batch, the share of one of the `processes`, or a
    part of it has only one. A process without a share trains on one row of zeros.
    """
    fewest, sizes = fewest_rows(model), set[int]()
    for share in shares(len(split), batch_size, processes):
        rows = max(share, 1)
        parts = count_parts(rows, accumulation_steps, fewest)
        sizes |= {min(_TRIAL_SIZE, rows // parts), min(_TRIAL_SIZE, math.ceil(rows / parts))}
    for size in sorted(sizes, reverse=True):
        batch = split[range(size)]
        keys = [torch.arange(size)] if getattr(model, "takes_dropout_keys", False) else []
        fault = f"does not train{_where_one(processes, accumulation_steps) if size == 1 else ''}"
        with reporting_faults(name, fault), restoring_state(model):
            prediction = model.train()(*batch.inputs, *keys)
            _check_shape(name, model, prediction, size)
            if not prediction.requires_grad:
                raise InputError(
                    f"--model {name} does not train: its prediction depends on no trainable weight."
                )
            loss = task.loss(prediction.float(), batch.labels[:, task.columns]).sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            _refuse_sparse_gradients(name, model)


def shares(segments: int, batch_size: int, processes: int) -> set[int]:
    """Return the sizes of the processes' shares of the batches of a split."""
    batch_sizes = {min(batch_size, segments), segments % batch_size or batch_size}
    return {(size + rank) // processes for size in batch_sizes for rank in (0, processes - 1)}


def _where_one(processes: int, accumulation_steps: int) -> str:
    unit = "batch" if processes == 1 else "process's share of a batch"
    options = "--batch_size"
    if accumulation_steps > 1:
        unit, options = f"part of a {unit}", "--batch_size or --accumulation_steps"
    return f" on a {unit} of one segment, which this training has; give another {options}"


def _refuse_sparse_gradients(name: str, model: Model) -> None:
    for part, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise InputError(
                f"--model {name} does not train: {part} has sparse gradients, which Adam does not "
                "take; leave sparse=True out."
            )


def try_to_save(name: str, model: Model) -> None:
    """Raise InputError unless a checkpoint of the model can be read again; restores its state."""
    path = Path(f"--model {name}: its checkpoint")
    with reporting_faults(name, "could not load its own checkpoint"), restoring_state(model):
        try:
            checkpoint = reread_checkpoint(path, model, name)
        except Exception:
            _refuse_unreadable(name, model)
            raise
        make_config(type(model.config), checkpoint.config, str(path))
        load_weights(model, checkpoint.weights, path)


def _refuse_unreadable(name: str, model: Model) -> None:
    """Raise InputError that names a setting or a weight that a checkpoint cannot hold, if any."""
    for setting, value in settings_of(model.config).items():
        if not _is_readable(value):
            raise InputError(
                f"--model {name}: a checkpoint cannot hold {shown(value)}, the {setting} of its "
                "config; give it as numbers and text."
            )
    for part, value in model.state_dict().items():
        is_tensor = isinstance(value, Tensor)
        if not (is_tensor and _is_readable(value)):
            kind = f"{value.dtype}, {value.layout}" if is_tensor else type(value).__name__
            raise InputError(
                f"--model {name}: a checkpoint cannot hold {part} ({kind}), only dense tensors of "
                "whole or floating-point numbers that are not expanded; hold it in such tensors "
                "(torch.view_as_real, contiguous), or register it with persistent=False."
            )


def _is_readable(value: Any) -> bool:
    try:
        read_back(value)
    except Exception:  # as a damaged file, it can fail in any way
        return False
    return True


def _refuse_late_weights(name: str, weights: Sequence[str]) -> None:
    if weights:
        raise InputError(
            f"--model {name} makes weights only when it is called ({', '.join(weights)}), and so "
            "could not read its own checkpoint; make them in __init__, from widths."
        )


def _check_shape(name: str, model: Model, prediction: Tensor, segments: int) -> None:
    shape, expected = tuple(prediction.shape), (segments, model.outputs)
    if shape != expected:
        raise InputError(f"--model {name} predicts shape {shape}, expected {expected}.")
