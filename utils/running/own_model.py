"""A user's own model, tried on a few segments before anything is done with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from data.loading.split import Split
from models.contract import Model
from system.errors import InputError, described
from utils.running.execution import leaving_no_trace
from utils.tasks import Task

_TRIED = 2  # segments


def try_to_predict(name: str, model: Model, split: Split) -> None:
    """Raise InputError unless a model predicts segments as the contract says; leaves no trace."""
    _refuse_unmade(name, [each for each, tensor in _tensors(model) if is_lazy(tensor)])
    built = set(model.state_dict())
    inputs = split[range(min(_TRIED, len(split)))].inputs
    with _telling(name, "does not predict"), torch.no_grad(), leaving_no_trace(model):
        _check_shape(name, model, model.eval()(*inputs), len(inputs[0]))
    _refuse_unmade(name, sorted(set(model.state_dict()) - built))


def try_to_train(name: str, model: Model, split: Split, task: Task, batch_size: int) -> None:
    """Raise InputError unless a model learns from the batches of `split`; leaves no trace.

    It is tried on two segments, and on one where the last batch has no more.
    """
    least = len(split) % batch_size or batch_size
    for size in sorted({min(_TRIED, n, len(split)) for n in (batch_size, least)}, reverse=True):
        batch = split[range(size)]
        keys = [torch.arange(size)] if getattr(model, "takes_dropout_keys", False) else []
        advice = " on a batch of one segment, as there is; give another --batch_size"
        what = f"does not train{advice if size == 1 else ''}"
        with _telling(name, what), leaving_no_trace(model):
            prediction = model.train()(*batch.inputs, *keys)
            _check_shape(name, model, prediction, size)
            if not prediction.requires_grad:
                raise InputError(
                    f"--model {name} does not train: no weight that learns takes part in what it "
                    "predicts."
                )
            loss = task.loss(prediction.float(), batch.labels[:, task.columns]).sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it


def _refuse_unmade(name: str, weights: Sequence[str]) -> None:
    if weights:
        raise InputError(
            f"--model {name} makes weights only when it is called ({', '.join(weights)}), and so "
            "could not read its own checkpoint; make them in __init__, from widths."
        )


def _tensors(model: Model) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _check_shape(name: str, model: Model, prediction: Tensor, segments: int) -> None:
    found, expected = tuple(prediction.shape), (segments, model.outputs)
    if found != expected:
        raise InputError(f"--model {name} predicts shape {found}, expected {expected}.")


@contextmanager
def _telling(name: str, what: str) -> Iterator[None]:
    """Raise InputError for whatever goes wrong in somebody's own code."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"--model {name} {what} ({described(error)}).") from error
