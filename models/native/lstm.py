"""`LSTM` with its recurrence in C++: the same numbers, faster.

The share of the input in the gates of all steps is one product, and the input has a gradient only
where one is wanted; oneDNN's LSTM, PyTorch's own way on a CPU, always makes it, and its threads
wait for each other at every step.

Shapes: B batch, T steps, I inputs, H hidden channels.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers.lstm import LSTM
from models.native import compiler
from models.native.call import forked
from models.native.plain_call import Native, as_new, grads_by_formula, is_plain_call, may_be_kept
from system import onednn

_SOURCE = Path(__file__).parent / "lstm.cpp"
_PANEL = 32  # columns of a weight that stand together for the compiled code


class _Call(ctypes.Structure):
    """The `Call` of lstm.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("threads", "has_own_threads")),
        *((name, ctypes.c_int64) for name in ("batch", "steps", "hidden")),
        *((name, ctypes.c_void_p) for name in ("weight", "gates", "cells", "out")),
        *((name, ctypes.c_void_p) for name in ("grad_out", "grad_cell", "grad_sums")),
    )


class NativeLSTM(Native, LSTM):
    """An `LSTM` whose calls the compiled code answers, where it can; else PyTorch does."""

    def forward(  # type: ignore[override]  # torch's takes packed sequences too
        self, input: Tensor, *states: Any
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over `(B, T, I)` as `LSTM.forward` does."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = [getattr(self, name) for name in names]
        if states or not (is_plain_call() and self._takes(input, weights)):
            return super().forward(input, *states)
        code = library()
        if isinstance(code, str):
            return super().forward(input)
        of_input, recurrent, bias, other_bias = weights
        with torch.autocast("cpu", enabled=False):
            inputs = input.float().contiguous(), of_input, recurrent, bias + other_bias
            out, cell = _run(code, self.most_threads, *inputs)
        return out, (out[None, :, -1].clone(), cell[None])

    def _takes(self, input: Tensor, weights: list[Tensor]) -> bool:
        """Tell whether the compiled code takes these tensors; PyTorch says what fits nothing."""
        gates = 4 * self.hidden_size
        shapes = (gates, self.input_size), (gates, self.hidden_size), (gates,), (gates,)
        return (
            all(
                type(value) in (Tensor, nn.Parameter)
                and value.device.type == "cpu"
                and value.layout is torch.strided
                for value in (input, *weights)
            )
            and all(
                value.dtype is torch.float32 and value.shape == shape
                for value, shape in zip(weights, shapes, strict=True)
            )
            and may_be_kept(input, *weights)
            and (input.dtype is torch.float32 or torch.is_autocast_enabled("cpu"))
            and input.dim() == 3
            and input.numel() > 0
            and input.shape[2] == self.input_size
        )


def is_compiled(lstm: LSTM) -> bool:
    """Tell whether there is compiled code for an LSTM like this."""
    return (
        lstm.hidden_size % _PANEL == 0
        and lstm.num_layers == 1
        and lstm.bias
        and lstm.batch_first
        and not (lstm.bidirectional or lstm.proj_size)
        and not isinstance(library(), str)
    )


@cache
def library() -> ctypes.CDLL | str:
    """Return the compiled code, or why there is none; a failure brings one warning."""
    return compiler.load_or_warn(_SOURCE, _tested, PANEL=_PANEL)


@torch.inference_mode(False)
@torch.enable_grad()
@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def _tested(code: ctypes.CDLL) -> ctypes.CDLL:
    """Return the library, whose outputs and gradients are the formula's, or raise Unavailable."""
    if not (hasattr(code, "lstm_forward") and hasattr(code, "lstm_backward")):
        raise compiler.Unavailable(f"{code._name} is no LSTM")
    shapes = (11, 5, 7), (128, 7), (128, 32), (128,)
    numbers = (torch.arange(math.prod(s), dtype=torch.float32, device="cpu") for s in shapes)
    inputs = [n.sin().view(s).requires_grad_() for n, s in zip(numbers, shapes, strict=True)]
    outcomes = []
    for out, cell in (_run(code, 2, *inputs), _formula(*inputs)):
        loss = (out.square() + cell[:, None].cos()).sum()
        outcomes.append([out, cell, *torch.autograd.grad(loss, inputs)])
    compiler.require_same("LSTM", *outcomes)
    return code


def _run(
    code: ctypes.CDLL, threads: int, x: Tensor, of_input: Tensor, recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what `_formula` returns. Nothing is checked here; `x` is contiguous."""
    out: tuple[Tensor, Tensor] = _Run.apply(  # type: ignore[no-untyped-call]  # torch has none
        code, threads, x, of_input, recurrent, bias
    )
    return out


def _formula(x: Tensor, of_input: Tensor, recurrent: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Map `x` `(B, T, I)` to the states of all steps `(B, T, H)` and the last cell `(B, H)`.

    The weights are `(4 H, I)`, `(4 H, H)` and `(4 H,)`.
    """
    state = cell = x.new_zeros(x.shape[0], recurrent.shape[1])
    states = []
    for of_step in F.linear(x, of_input, bias).unbind(1):
        entry, forget, fresh, output = (of_step + F.linear(state, recurrent)).chunk(4, dim=1)
        cell = forget.sigmoid() * cell + entry.sigmoid() * fresh.tanh()
        state = output.sigmoid() * cell.tanh()
        states.append(state)
    return torch.stack(states, dim=1), cell


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        code: ctypes.CDLL,
        threads: int,
        x: Tensor,
        of_input: Tensor,
        recurrent: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gates = _product(x, of_input, bias)
        out = x.new_empty(*x.shape[:2], recurrent.shape[1])
        cells = torch.empty_like(out)
        _call(code.lstm_forward, threads, recurrent.t(), gates=gates, cells=cells, out=out)
        ctx.save_for_backward(x, of_input, recurrent, bias, gates, cells, out)
        ctx.rest = code, threads
        return out, cells[:, -1].clone()

    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, gates, cells, out = ctx.saved_tensors
        code, threads = ctx.rest
        is_wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or not is_plain_call(*grads):
            return None, None, *grads_by_formula(_formula, inputs, is_wanted, grads)
        x, of_input, recurrent, _ = inputs
        gates, cells, grad_out, grad_cell = map(as_new, (gates, cells, *grads))
        sums = torch.empty_like(gates)
        given = {"gates": gates, "cells": cells, "grad_out": grad_out, "grad_cell": grad_cell}
        _call(code.lstm_backward, threads, recurrent, **given, grad_sums=sums)
        before = F.pad(out[:, :-1], (0, 0, 1, 0))
        by_gate = sums.flatten(0, 1).t()
        return (
            None,
            None,
            _product(sums, of_input.t()) if is_wanted[0] else None,
            _product(by_gate, x.flatten(0, 1).t()),
            _product(by_gate, before.flatten(0, 1).t()),
            by_gate.sum(1),
        )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map `x` as a linear layer does, without gradients."""
    return (onednn.linear if onednn.multiplies(x) else F.linear)(x, weight, bias)


def _call(function: Any, threads: int, weight: Tensor, **tensors: Tensor) -> None:
    """Go through the steps; `tensors` are named in lstm.cpp's Call."""
    panels = weight.view(len(weight), -1, _PANEL).transpose(0, 1)
    # A copy: vectors are read from it, so that it must begin where new tensors do.
    panels = panels.clone(memory_format=torch.contiguous_format)
    places = {name: value.data_ptr() for name, value in tensors.items()}
    call = _Call(threads, bool(forked), *tensors["cells"].shape, panels.data_ptr(), **places)
    function(ctypes.byref(call))
