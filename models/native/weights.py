"""An encoder's parameters, in the order of weights.h and kernels.py."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from models.layers.encoder import Encoder, EncoderLayer, MultiHeadAttention

_TYPES = {EncoderLayer, MultiHeadAttention, nn.Linear, nn.LayerNorm, nn.ModuleList, nn.Softmax}
_EPSILON = 1e-5  # of the layer norms in sizes.h and kernels.py


class Weight(NamedTuple):
    """A parameter that the compiled code takes."""

    path: str  # its name within the layer or the encoder
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)


Weights = tuple[tuple[Weight, ...], tuple[Weight, ...]]  # of a layer, of the last norm


@cache
def listed_weights(width: int, feedforward: int) -> Weights:
    """Return the parameters of encoders of these sizes."""
    layer_weights = (
        Weight("self_attn.in_proj_weight", (3 * width, width)),
        Weight("self_attn.in_proj_bias", (3 * width,)),
        Weight("self_attn.out_proj.weight", (width, width)),
        Weight("self_attn.out_proj.bias", (width,)),
        Weight("fc1.weight", (feedforward, width)),
        Weight("fc1.bias", (feedforward,)),
        Weight("fc2.weight", (width, feedforward)),
        Weight("fc2.bias", (width,)),
        *_norm("layer_norms.0", width),
        *_norm("layer_norms.1", width),
    )
    return layer_weights, _norm("layer_norm", width)


def _norm(module: str, width: int) -> tuple[Weight, ...]:
    return tuple(Weight(f"{module}.{name}", (width,)) for name in ("weight", "bias"))


class WeightFinder:
    """Finds an encoder's parameters without walking through its modules again, which is slow."""

    def __init__(self, encoder: Encoder, weights: Weights) -> None:
        """Remember the modules with each layer's parameters, then with those of the last norm."""
        self._listed = weights
        layer_weights, norm_weights = weights
        modules = [*encoder.get_submodule("layers").modules(), encoder.layer_norm]
        self._modules = [(module, module.__dict__) for module in modules]
        parents = [encoder, *(module for module in modules if module._modules)]
        self._children = [(parent.__dict__, dict(parent._modules)) for parent in parents]
        attentions = [layer._modules.get("self_attn") for layer in encoder.layers]
        self._attentions = [module.__dict__ for module in attentions if module is not None]
        named = [(dict(layer.named_modules()), layer_weights) for layer in encoder.layers]
        named.append(({"layer_norm": encoder.layer_norm}, norm_weights))
        self._weights = []
        for modules_by_name, module_weights in named:
            for weight in module_weights:
                module_name, _, name = weight.path.rpartition(".")
                if module_name in modules_by_name:
                    state = modules_by_name[module_name].__dict__
                    self._weights.append((state, name, weight.shape))
        self._is_complete = len(self._weights) == sum(len(weights) for _, weights in named)

    def is_current(self, listed: Weights) -> bool:
        """Return whether this is for the `listed` weights, and the modules are still the same."""
        return self._listed is listed and all(
            state["_modules"] == children for state, children in self._children
        )

    def weights(self, device: torch.device) -> list[Tensor] | None:
        """Return the parameters, which are on `device`.

        None where a module does not compute its formula (hooks, a parametrisation, a class or a
        `forward` of its own, another epsilon), or the compiled code cannot take a parameter:
        missing, of another shape, not float32, on another device, not contiguous.
        """
        if not self._is_complete:
            return None
        for module, state in self._modules:
            if (
                type(module) not in _TYPES
                or "forward" in state
                or state["_forward_hooks"]
                or state["_forward_pre_hooks"]
                or state["_backward_hooks"]
                or state["_backward_pre_hooks"]
                or state.get("eps", _EPSILON) != _EPSILON
            ):
                return None
        first = self._attentions[0]
        if any(
            (state["heads"], state["dropout"]) != (first["heads"], first["dropout"])
            for state in self._attentions
        ):
            return None
        weights = []
        for state, name, shape in self._weights:
            value = state["_parameters"].get(name)
            if not (
                type(value) in (nn.Parameter, Tensor)
                and value.shape == shape
                and value.dtype is torch.float32
                and value.device == device
                and value.is_contiguous()
            ):
                return None
            weights.append(value)
        return weights


_finders: WeakKeyDictionary[Encoder, WeightFinder] = WeakKeyDictionary()


def plain_weights(encoder: Encoder, weights: Weights, device: torch.device) -> list[Tensor] | None:
    """Return the parameters of each layer, then those of the last norm; see WeightFinder."""
    finder = _finders.get(encoder)
    if finder is None or not finder.is_current(weights):
        finder = _finders[encoder] = WeightFinder(encoder, weights)
    return finder.weights(device)
