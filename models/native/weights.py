"""An encoder's parameters, in the order in which the compiled code takes them.

They go by name, and their shapes are compared with the code's.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.layers.encoder import Encoder, EncoderLayer, MultiHeadAttention

_PLAIN = {EncoderLayer, MultiHeadAttention, nn.Linear, nn.LayerNorm, nn.ModuleList, nn.Softmax}
_EPSILON = 1e-5  # of the layer norms in sizes.h
_SOFTMAX_AXIS = -1
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Weight(NamedTuple):
    """A parameter that the compiled code takes."""

    module: str  # within the layer, or the encoder
    name: str
    shape: tuple[int, ...]


class _ListedWeight(ctypes.Structure):
    """The `Weight` of encoder.cpp; a matrix has columns."""

    _fields_ = (("name", ctypes.c_char_p), ("rows", ctypes.c_int64), ("columns", ctypes.c_int64))


def listed_weights(function: Any) -> tuple[Weight, ...]:
    """Return the list of weights that a function of the library returns."""
    function.restype = ctypes.POINTER(_ListedWeight)
    listed, weights = function(), []
    while listed[len(weights)].name is not None:  # the list's end
        entry = listed[len(weights)]
        module, _, name = entry.name.decode().rpartition(".")
        shape = (entry.rows, entry.columns) if entry.columns else (entry.rows,)
        weights.append(Weight(module, name, shape))
    return tuple(weights)


def plain_weights(
    encoder: Encoder, of_a_layer: tuple[Weight, ...], of_the_norm: tuple[Weight, ...]
) -> list[Tensor] | None:
    """Return the parameters of each layer, then those of the last norm.

    None where a module does other than its formula (hooks, a parametrisation, a class or a
    `forward` of its own, another epsilon), or a parameter is not as the compiled code takes it:
    of another shape, not float32, not on the CPU, not contiguous.
    """
    first, weights = encoder.layers[0].self_attn, []
    for layer in encoder.layers:
        modules = dict(layer.named_modules())
        if not all(map(_is_plain, modules.values())):
            return None
        attention = layer.self_attn
        if (attention.heads, attention.dropout) != (first.heads, first.dropout):
            return None
        weights += [_parameter(modules, weight) for weight in of_a_layer]
    if not _is_plain(encoder.layer_norm):
        return None
    modules = {"layer_norm": encoder.layer_norm}
    weights += [_parameter(modules, weight) for weight in of_the_norm]
    return None if any(weight is None for weight in weights) else weights


def _is_plain(module: nn.Module) -> bool:
    state = module.__dict__
    return (
        type(module) in _PLAIN
        and "forward" not in state
        and state.get("eps", _EPSILON) == _EPSILON
        and state.get("dim", _SOFTMAX_AXIS) == _SOFTMAX_AXIS
        and not any(state[hooks] for hooks in _HOOKS)
    )


def _parameter(modules: dict[str, nn.Module], weight: Weight) -> Tensor | None:
    module = modules.get(weight.module)
    value = None if module is None else module._parameters.get(weight.name)
    fits = (
        type(value) in (nn.Parameter, Tensor)
        and value.shape == weight.shape
        and value.dtype is torch.float32
        and value.is_cpu
        and value.is_contiguous()
    )
    return value if fits else None
