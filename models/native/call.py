"""Calling the C++ encoder."""

from __future__ import annotations

import ctypes
import os

import torch
from torch import Tensor

from models.layers.positions import sinusoids
from models.native.compiler import Unavailable
from models.native.encoding import Request
from models.native.weights import Weights, listed_weights

ABI = 4  # version of Call and of the library's functions

forked: list[bool] = []  # not empty in a forked process, which lacks PyTorch's threads
os.register_at_fork(after_in_child=lambda: forked.append(True))


class Call(ctypes.Structure):
    """The struct `Call` of call.h."""

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
    """The compiled encoder for given sizes. Raises Unavailable if `code` is not that encoder."""

    def __init__(self, code: ctypes.CDLL, width: int, feedforward: int) -> None:
        self._code = code
        self.weights: Weights = listed_weights(width, feedforward)
        try:
            for function in (code.abi, code.call_size, code.weights_size, code.kept_size):
                function.restype = ctypes.c_int64
            actual = code.abi(), code.call_size(), code.weights_size()
            size = sum(weight.size for part in self.weights for weight in part)
            expected = ABI, ctypes.sizeof(Call), size
            if actual != expected:
                raise Unavailable(f"{code._name} has ABI and sizes {actual}, expected {expected}")
            for function in (code.forward, code.backward):
                function.restype = None
        except AttributeError as error:
            raise Unavailable(f"{code._name} is no encoder: {error}") from error

    def forward(
        self, request: Request, x: Tensor, memory: Tensor | None, packed: Tensor, learns: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Encode as defined by `CompiledEncoder`."""
        call, _alive = _make_call(request, x, memory)
        out = x.new_empty(len(x), call.queries, x.shape[2])
        kept = x.new_empty(len(x), self._code.kept_size(ctypes.byref(call))) if learns else None
        call.weights, call.out, call.kept = map(_address, (packed, out, kept))
        self._code.forward(ctypes.byref(call))
        return out, kept

    def backward(
        self,
        request: Request,
        x: Tensor,
        memory: Tensor | None,
        packed: Tensor,
        kept: Tensor,
        grad_out: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return gradients as defined by `CompiledEncoder`."""
        call, _alive = _make_call(request, x, memory)
        grad_x, grad_packed = torch.empty_like(x), torch.empty_like(packed)
        grad_memory = None if memory is None else torch.empty_like(memory)
        call.kept, call.grad_out = _address(kept), _address(grad_out)
        call.grad_x, call.grad_memory = _address(grad_x), _address(grad_memory)
        call.weights, call.grad_weights = _address(packed), _address(grad_packed)
        self._code.backward(ctypes.byref(call))
        return grad_x, grad_memory, grad_packed


def _make_call(request: Request, x: Tensor, memory: Tensor | None) -> tuple[Call, object]:
    """Return the call, and the tensors that it points to and that must live as long."""
    tokens, keys = x.shape[1], request.dropout_keys
    keys = None if keys is None else keys.to(torch.uint32)
    longest = tokens if memory is None else max(tokens, memory.shape[1])
    positions = sinusoids(longest, x.shape[2], x.device)
    call = Call(
        threads=request.threads,
        has_own_threads=bool(forked),
        batch=len(x),
        tokens=tokens,
        memory_tokens=0 if memory is None else memory.shape[1],
        queries=request.queries(tokens),
        layers=len(request.encoder.layers),
        keep=1 - request.encoder.attention_dropout,
    )
    call.x, call.memory, call.positions = map(_address, (x, memory, positions))
    call.dropout_keys = _address(keys)
    return call, (positions, keys)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
