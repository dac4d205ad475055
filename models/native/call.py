"""Calling the C++ encoder, as a function that PyTorch can differentiate.

Shapes: B batch, T tokens that come in, Q tokens that come out, M memory tokens, d width.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.layers.encoder import Encoder
from models.layers.positions import sinusoids
from models.native.compiler import Unavailable
from models.native.weights import listed_weights

ABI = 2  # of Call and of the library's functions


_forked: list[bool] = []  # filled in a process that was forked: PyTorch's threads are not there
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forked.append(True))


class Call(ctypes.Structure):
    """The `Call` of call.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("threads", "has_own_threads", "batch", "tokens")),
        *((name, ctypes.c_int64) for name in ("memory_tokens", "queries", "layers")),
        *((name, ctypes.c_void_p) for name in ("x", "memory", "positions", "dropout_keys")),
        ("keep", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("kept", "out")),
        *((name, ctypes.c_void_p) for name in ("grad_out", "grad_x", "grad_memory")),
        *((name, ctypes.c_void_p) for name in ("weights", "grad_weights")),
    )


class Library:
    """The compiled encoder for some sizes. Raises Unavailable for code that is something else."""

    def __init__(self, code: ctypes.CDLL) -> None:
        try:
            for function in (code.abi, code.call_size, code.kept_size):
                function.restype = ctypes.c_int64
            found, expected = (code.abi(), code.call_size()), (ABI, ctypes.sizeof(Call))
            if found != expected:
                raise Unavailable(f"{code._name} has ABI and size {found}, expected {expected}")
            self.weights = tuple(
                map(listed_weights, (code.layer_weight_list, code.norm_weight_list))
            )  # of a layer, of the last norm
            self.kept_size, self.forward, self.backward = (
                code.kept_size,
                code.forward,
                code.backward,
            )
        except AttributeError as error:
            raise Unavailable(f"{code._name} is no encoder: {error}") from error


@dataclass(frozen=True)
class Options:
    """What a call is to do, besides its tensors."""

    library: Library
    encoder: Encoder  # whose formula it is
    last_tokens_only: int | None
    dropout_keys: Tensor | None  # (B,) int64 below 2**32; None: no dropout
    threads: int

    def formula(self, x: Tensor, memory: Tensor | None) -> Tensor:
        """Do the same in PyTorch's operators."""
        return self.encoder.formula(x, memory, self.last_tokens_only, self.dropout_keys)

    def encode(self, x: Tensor, memory: Tensor | None, weights: list[Tensor]) -> Tensor:
        """Encode `x` `(B, T, d)` with `memory` `(B, M, d)` to `(B, Q, d)`, in float32.

        `weights` are those of `plain_weights`. Nothing is checked here.
        """
        x, memory = x.float().contiguous(), None if memory is None else memory.float().contiguous()
        out: Tensor = _Encode.apply(  # type: ignore[no-untyped-call]  # torch has no type for it
            self, torch.is_grad_enabled(), x, memory, *weights
        )
        return out


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        options: Options,
        is_grad_enabled: bool,
        x: Tensor,
        memory: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        tokens, encoder, keys = x.shape[1], options.encoder, options.dropout_keys
        keys = None if keys is None else keys.to(torch.uint32)
        last = options.last_tokens_only
        queries = tokens if last is None else min(last, tokens)
        longest = tokens if memory is None else max(tokens, memory.shape[1])
        positions = sinusoids(longest, x.shape[2], x.device)
        out = x.new_empty(len(x), queries, x.shape[2])
        call = Call(
            threads=options.threads,
            has_own_threads=bool(_forked),
            batch=len(x),
            tokens=tokens,
            memory_tokens=0 if memory is None else memory.shape[1],
            queries=queries,
            layers=len(encoder.layers),
            keep=1 - encoder.attention_dropout,
        )
        call.x, call.memory, call.positions = map(_address, (x, memory, positions))
        call.dropout_keys, call.out = _address(keys), _address(out)
        if is_grad_enabled and any(ctx.needs_input_grad):
            kept = x.new_empty(len(x), options.library.kept_size(ctypes.byref(call)))
            call.kept = _address(kept)
            ctx.save_for_backward(x, memory, kept, *weights)
            # The positions may have been made in inference mode, and could not be saved.
            ctx.rest = options, call, (positions, keys)
        addresses = _addresses(weights)
        call.weights = ctypes.addressof(addresses)
        options.library.forward(ctypes.byref(call))
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, memory, kept, *weights = ctx.saved_tensors
        options, call, _alive = ctx.rest  # the call has the latter's addresses
        if torch.is_grad_enabled():  # the gradients are to be differentiated themselves
            is_wanted = ctx.needs_input_grad[2:]
            return None, None, *_formula_grads(options, is_wanted, x, memory, weights, grad_out)
        grad_out = grad_out.contiguous()
        grads = [None if value is None else torch.empty_like(value) for value in (x, memory)]
        grad_weights = [torch.empty_like(weight) for weight in weights]
        # Hooks may have had the saved ones elsewhere meanwhile.
        call.x, call.memory, call.kept = map(_address, (x, memory, kept))
        call.grad_out, call.grad_x, call.grad_memory = map(_address, (grad_out, *grads))
        lists = [_addresses(weights), _addresses(grad_weights)]
        call.weights, call.grad_weights = map(ctypes.addressof, lists)
        options.library.backward(ctypes.byref(call))
        return None, None, *grads, *grad_weights


def _formula_grads(
    options: Options,
    is_wanted: tuple[bool, ...],
    x: Tensor,
    memory: Tensor | None,
    weights: list[Tensor],
    grad_out: Tensor,
) -> list[Tensor | None]:
    out = options.formula(x, memory)
    inputs = zip((x, memory, *weights), is_wanted, strict=True)
    wanted = [value for value, wants in inputs if wants and value is not None]
    grads = iter(torch.autograd.grad(out, wanted, grad_out, create_graph=True))
    return [next(grads) if wants else None for wants in is_wanted]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(tensors: tuple[Tensor, ...] | list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
