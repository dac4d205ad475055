"""`LSTM` with its recurrence in C++: the same numbers, faster.

The input's part of the gates of all steps is one matrix product, and the input's gradient is only
computed where it is needed. oneDNN's LSTM, which PyTorch uses on a CPU, always computes it, and its
threads wait for each other at every step.

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
from models.native.plain_call import Native, aligned, grads_by_formula, is_plain_call, may_be_saved
from system import onednn

_SOURCE = Path(__file__).parent / "lstm.cpp"
_PANEL = 32  # columns of a weight that are contiguous for the compiled code


class _Call(ctypes.Structure):
    """The struct `Call` of lstm.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("threads", "has_own_threads")),
        *((name, ctypes.c_int64) for name in ("batch", "steps", "hidden")),
        *((name, ctypes.c_void_p) for name in ("weight", "gates", "cells", "out")),
        *((name, ctypes.c_void_p) for name in ("grad_out", "grad_cell", "grad_sums")),
    )


class NativeLSTM(Native, LSTM):
    """An `LSTM` that uses the compiled code where it can, else PyTorch."""

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
        w_input, w_hidden, bias, other_bias = weights
        with torch.autocast("cpu", enabled=False):
            inputs = input.float().contiguous(), w_input, w_hidden, bias + other_bias
            out, cell = _run(code, min(self.max_threads, len(input)), *inputs)
        return out, (out[None, :, -1].clone(), cell[None])

    def _takes(self, input: Tensor, weights: list[Tensor]) -> bool:
        """Return whether the compiled code can take these tensors; PyTorch gets the others."""
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
            and may_be_saved(input, *weights)
            and (input.dtype is torch.float32 or torch.is_autocast_enabled("cpu"))
            and input.dim() == 3
            and input.numel() > 0
            and input.shape[2] == self.input_size
        )


def is_compiled(lstm: LSTM) -> bool:
    """Return whether there is compiled code for an LSTM like this."""
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
    """Return the compiled code, or, after a warning on failure, why there is none."""
    return compiler.load_or_warn(_SOURCE, _make_tested, PANEL=_PANEL)


@torch.inference_mode(False)
@torch.enable_grad()
@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
def _make_tested(code: ctypes.CDLL) -> ctypes.CDLL:
    """Return the library; raises Unavailable unless its outputs and gradients are the formula's."""
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
    code: ctypes.CDLL, threads: int, x: Tensor, w_input: Tensor, w_hidden: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the results of `_formula`. Nothing is checked; `x` must be contiguous."""
    out: tuple[Tensor, Tensor] = _Run.apply(  # type: ignore[no-untyped-call]  # torch has none
        code, threads, x, w_input, w_hidden, bias
    )
    return out


def _formula(x: Tensor, w_input: Tensor, w_hidden: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Map `x` `(B, T, I)` to the states of all steps `(B, T, H)` and the last cell `(B, H)`.

    The weights are `(4 H, I)`, `(4 H, H)` and `(4 H,)`.
    """
    state = cell = x.new_zeros(x.shape[0], w_hidden.shape[1])
    states = []
    for step_gates in F.linear(x, w_input, bias).unbind(1):
        gates = step_gates + F.linear(state, w_hidden)
        entry, forget, candidate, output = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + entry.sigmoid() * candidate.tanh()
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
        w_input: Tensor,
        w_hidden: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gates = _linear(x, w_input, bias)
        out = x.new_empty(*x.shape[:2], w_hidden.shape[1])
        cells = torch.empty_like(out)
        _call(code.lstm_forward, threads, w_hidden.t(), gates=gates, cells=cells, out=out)
        ctx.save_for_backward(x, w_input, w_hidden, bias, gates, cells, out)
        ctx.code, ctx.threads = code, threads
        return out, cells[:, -1].clone()

    @staticmethod
    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, gates, cells, out = ctx.saved_tensors
        needs_grad = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or not is_plain_call(*grads):
            return None, None, *grads_by_formula(_formula, inputs, needs_grad, grads)
        x, w_input, w_hidden, _ = inputs
        gates, cells, grad_out, grad_cell = map(aligned, (gates, cells, *grads))
        sums = torch.empty_like(gates)
        tensors = {"gates": gates, "cells": cells, "grad_out": grad_out, "grad_cell": grad_cell}
        _call(ctx.code.lstm_backward, ctx.threads, w_hidden, **tensors, grad_sums=sums)
        previous_states = F.pad(out[:, :-1], (0, 0, 1, 0))
        by_gate = sums.flatten(0, 1).t()
        return (
            None,
            None,
            _linear(sums, w_input.t()) if needs_grad[0] else None,
            _linear(by_gate, x.flatten(0, 1).t()),
            _linear(by_gate, previous_states.flatten(0, 1).t()),
            by_gate.sum(1),
        )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Map `x` like a linear layer, without gradients."""
    return (onednn.linear if onednn.multiplies(x) else F.linear)(x, weight, bias)


def _call(function: Any, threads: int, weight: Tensor, **tensors: Tensor) -> None:
    """Run all steps; `tensors` have the names of lstm.cpp's Call."""
    panels = weight.view(len(weight), -1, _PANEL).transpose(0, 1)
    # A copy, which is aligned: the code reads vectors from it.
    panels = panels.clone(memory_format=torch.contiguous_format)
    addresses = {name: value.data_ptr() for name, value in tensors.items()}
    call = _Call(threads, bool(forked), *tensors["cells"].shape, panels.data_ptr(), **addresses)
    function(ctypes.byref(call))
