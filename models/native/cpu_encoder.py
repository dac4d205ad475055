"""`Encoder` on a CPU by native/encoder.cpp, compiled when first needed: the same numbers, faster.

Shapes: B batch, T tokens that come in, Q tokens that come out, M memory tokens, d width.
"""

from __future__ import annotations

import ctypes
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.layers.positions import sinusoids
from models.native import compiler

if TYPE_CHECKING:
    from models.layers.encoder import Encoder

_SOURCE = Path(__file__).parent / "encoder.cpp"


class _Call(ctypes.Structure):
    """The `Call` of native/call.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("threads", "batch", "tokens", "memory_tokens")),
        *((name, ctypes.c_int64) for name in ("queries", "layers")),
        *((name, ctypes.c_void_p) for name in ("x", "memory", "positions", "dropout_keys")),
        ("keep", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("kept", "out")),
        *((name, ctypes.c_void_p) for name in ("grad_out", "grad_x", "grad_memory")),
    )


def library(encoder: Encoder) -> ctypes.CDLL | str:
    """Return the compiled encoder for these sizes, or why there is none."""
    layer = encoder.layers[0]
    return _library(layer.fc1.in_features, layer.self_attn.heads, layer.fc1.out_features)


@cache
def _library(width: int, heads: int, feedforward: int) -> ctypes.CDLL | str:
    if width % 16 or feedforward % 16 or width // heads % 4:
        return f"{_SOURCE.name} is not for width {width}, {heads} heads, feedforward {feedforward}"
    try:
        made = compiler.load(_SOURCE, WIDTH=width, HEADS=heads, FEEDFORWARD=feedforward)
    except compiler.Unavailable as problem:
        warnings.warn(f"{problem}; a step takes about three times as long", stacklevel=2)
        return str(problem)
    made.kept_size.restype = ctypes.c_int64
    return made


def is_for(encoder: Encoder, x: Tensor, memory: Tensor | None, dropout_keys: Tensor | None) -> bool:
    """Tell whether `encode` can do what `encoder` does; all it takes for granted is checked here.

    What fits nothing is left to the formula, which says so.
    """
    weight = encoder.layer_norm.weight
    inputs = [x] if memory is None else [x, memory]
    return (
        not torch.compiler.is_compiling()
        and (weight.device.type, weight.dtype) == ("cpu", torch.float32)
        and all(
            value.device.type == "cpu"
            and value.dtype in (torch.float32, torch.bfloat16)  # the latter from under autocast
            and value.dim() == 3
            and value.shape[1] > 0
            and (value.shape[0], value.shape[2]) == (x.shape[0], len(weight))
            for value in inputs
        )
        and (
            dropout_keys is None
            or (dropout_keys.device.type == "cpu" and dropout_keys.shape == x.shape[:1])
        )
        and not isinstance(library(encoder), str)
    )


def encode(
    encoder: Encoder,
    x: Tensor,
    memory: Tensor | None,
    last_tokens_only: int | None,
    dropout_keys: Tensor | None,
) -> Tensor:
    """Do what `encoder` does, in float32; there is dropout where there are keys."""
    x, memory = x.float(), None if memory is None else memory.float()
    _, tokens, width = x.shape
    queries = tokens if last_tokens_only is None else min(last_tokens_only, tokens)
    longest = tokens if memory is None else max(tokens, memory.shape[1])
    positions = sinusoids(longest, width, x.device)
    keep = 1 - encoder.attention_dropout
    keys = None if dropout_keys is None else dropout_keys.to(torch.uint32)
    return _Encode.apply(
        library(encoder),
        torch.is_grad_enabled(),
        len(encoder.layers),
        *(keep, queries, positions, keys, x, memory),
        *encoder.parameters(),
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        library: ctypes.CDLL,
        is_training: bool,
        layers: int,
        keep: float,
        queries: int,
        positions: Tensor,
        keys: Tensor | None,
        x: Tensor,
        memory: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        x, memory = x.contiguous(), None if memory is None else memory.contiguous()
        weights = tuple(weight.contiguous() for weight in weights)
        out = x.new_empty(len(x), queries, x.shape[2])
        call = _Call(
            threads=min(torch.get_num_threads(), max(len(x), 1)),
            batch=len(x),
            tokens=x.shape[1],
            memory_tokens=0 if memory is None else memory.shape[1],
            queries=queries,
            layers=layers,
            keep=keep,
        )
        call.x, call.memory, call.positions = map(_address, (x, memory, positions))
        call.dropout_keys = _address(keys)
        call.out = _address(out)
        kept = None
        if is_training and any(ctx.needs_input_grad):
            kept = x.new_empty(len(x), library.kept_size(ctypes.byref(call)))
            call.kept = _address(kept)
            ctx.save_for_backward(x, memory, kept, *weights)
            # The positions may have been made in inference mode, and could not be saved.
            ctx.rest = library, call, positions, keys
        library.forward(ctypes.byref(call), _addresses(weights))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, memory, kept, *weights = ctx.saved_tensors
        library, call, _positions, _keys = ctx.rest  # the call has the latter's addresses
        # Hooks may have had the saved ones elsewhere meanwhile.
        call.x, call.memory, call.kept = map(_address, (x, memory, kept))
        grad_out = grad_out.contiguous()
        grads = [None if value is None else torch.empty_like(value) for value in (x, memory)]
        grad_weights = [torch.empty_like(weight) for weight in weights]
        call.grad_out, call.grad_x, call.grad_memory = map(_address, (grad_out, *grads))
        library.backward(ctypes.byref(call), _addresses(weights), _addresses(grad_weights))
        return *(None,) * 7, *grads, *grad_weights


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _addresses(tensors: tuple[Tensor, ...] | list[Tensor]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
