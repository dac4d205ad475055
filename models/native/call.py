"""Calling the C++ encoder, as a function that PyTorch can differentiate.

Shapes: B batch, T tokens that come in, Q tokens that come out, M memory tokens, d width.
"""

from __future__ import annotations

import ctypes
import math
import os
from typing import Any

import torch
from torch import Tensor

from models.layers.positions import sinusoids
from models.native.compiler import Unavailable
from models.native.request import Request, differentiable_grads
from models.native.weights import Weights, listed_weights

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

    longest: float = math.inf

    def __init__(self, code: ctypes.CDLL) -> None:
        try:
            for function in (code.abi, code.call_size, code.kept_size):
                function.restype = ctypes.c_int64
            found, expected = (code.abi(), code.call_size()), (ABI, ctypes.sizeof(Call))
            if found != expected:
                raise Unavailable(f"{code._name} has ABI and size {found}, expected {expected}")
            self.weights: Weights = (
                listed_weights(code.layer_weight_list),
                listed_weights(code.norm_weight_list),
            )
            self.kept_size, self.forward, self.backward = (
                code.kept_size,
                code.forward,
                code.backward,
            )
        except AttributeError as error:
            raise Unavailable(f"{code._name} is no encoder: {error}") from error

    def encode(
        self, request: Request, x: Tensor, memory: Tensor | None, weights: list[Tensor]
    ) -> Tensor:
        """Encode as `CompiledEncoder` says."""
        x, memory = x.float().contiguous(), None if memory is None else memory.float().contiguous()
        out: Tensor = _Encode.apply(  # type: ignore[no-untyped-call]  # torch has no type for it
            self, request, torch.is_grad_enabled(), x, memory, *weights
        )
        return out


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        library: Library,
        request: Request,
        is_grad_enabled: bool,
        x: Tensor,
        memory: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        tokens, encoder, keys = x.shape[1], request.encoder, request.dropout_keys
        keys = None if keys is None else keys.to(torch.uint32)
        queries = request.queries(tokens)
        longest = tokens if memory is None else max(tokens, memory.shape[1])
        positions = sinusoids(longest, x.shape[2], x.device)
        out = x.new_empty(len(x), queries, x.shape[2])
        call = Call(
            threads=request.threads,
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
            kept = x.new_empty(len(x), library.kept_size(ctypes.byref(call)))
            call.kept = _address(kept)
            ctx.save_for_backward(x, memory, kept, *weights)
            # The positions may have been made in inference mode, and could not be saved.
            ctx.rest = library, request, call, (positions, keys)
        addresses = _addresses(weights)
        call.weights = ctypes.addressof(addresses)
        library.forward(ctypes.byref(call))
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, memory, kept, *weights = ctx.saved_tensors
        library, request, call, _alive = ctx.rest  # the call has the latter's addresses
        if torch.is_grad_enabled():  # the gradients are to be differentiated themselves
            out, inputs = request.formula(x, memory), (x, memory, *weights)
            wanted = ctx.needs_input_grad[3:]
            return None, None, None, *differentiable_grads(out, inputs, wanted, grad_out)
        grad_out = grad_out.contiguous()
        grads = [None if value is None else torch.empty_like(value) for value in (x, memory)]
        grad_weights = [torch.empty_like(weight) for weight in weights]
        # Hooks may have had the saved ones elsewhere meanwhile.
        call.x, call.memory, call.kept = map(_address, (x, memory, kept))
        call.grad_out, call.grad_x, call.grad_memory = map(_address, (grad_out, *grads))
        lists = [_addresses(weights), _addresses(grad_weights)]
        call.weights, call.grad_weights = map(ctypes.addressof, lists)
        library.backward(ctypes.byref(call))
        return None, None, None, *grads, *grad_weights


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(tensors: tuple[Tensor, ...] | list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
